"""The 2D landmarks of a data set, read without decoding a picture and without 3D."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from input_pipeline import crops
from input_pipeline.settings import DataSettings, check_split, data_settings
from input_pipeline.skeleton import Skeleton
from input_pipeline.sources.records import read_npz, read_skeleton


@dataclasses.dataclass(frozen=True)
class Landmarks:
    """N persons with P landmarks each; conventions in ``input_pipeline.crops``.

    Args:
        skeleton: names and structure of the P landmarks.
        sample_ids: (N,) int64, unique.
        keypoints: (N, P, 2) float32 pixels; 0 where not labelled.
        labelled: (N, P) bool, True where a landmark is labelled.
        centre: (N, 2) float32 pixels, middle of the crop.
        half_side: (N,) float32 pixels, half the side of the crop.
        names: what to call each sample in a message.
    """

    skeleton: Skeleton
    sample_ids: np.ndarray
    keypoints: np.ndarray
    labelled: np.ndarray
    centre: np.ndarray
    half_side: np.ndarray
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.sample_ids)

    def take(self, rows: np.ndarray | slice) -> Landmarks:
        """The samples of some rows."""
        fields = ("sample_ids", "keypoints", "labelled", "centre", "half_side")
        chosen = np.arange(len(self))[rows]
        return dataclasses.replace(
            self,
            names=tuple(self.names[i] for i in chosen),
            **{name: getattr(self, name)[chosen] for name in fields},
        )

    @functools.cached_property
    def patch(self) -> np.ndarray:
        """(N, P, 2) float32 patch coordinates; 0 where not labelled."""
        patch = crops.pixels_to_patch(self.keypoints, self.centre, self.half_side)
        return np.where(self.labelled[..., None], patch, np.float32(0))

    @functools.cached_property
    def centred(self) -> tuple[np.ndarray, np.ndarray]:
        """W (N, P, 2), ``patch`` less its mean over the labelled joints, and that mean.

        W is 0 where a joint is not labelled; the mean is (N, 2).
        """
        count = np.maximum(self.labelled.sum(axis=1, keepdims=True), 1)
        mean = (self.patch.sum(axis=1) / count).astype(np.float32)
        W = self.patch - mean[:, None]
        return np.where(self.labelled[..., None], W, np.float32(0)), mean


def read_landmarks(data: Mapping[str, Any] | DataSettings, split: str) -> Landmarks:
    """Reads all landmarks of a split; the data set is prepared where it is not.

    Args:
        data: ``config.data``.
        split: ``"train"`` or ``"val"``.

    Raises:
        ValueError: the first problem of the data, with place, value and remedy.
    """
    settings = data_settings(data)
    check_split(split)
    if settings.name == "mocap":
        from input_pipeline.sources.mocap import project

        return project(settings, split).landmarks
    if settings.name == "sequence":
        from input_pipeline.sources.sequence import read_sequence

        return read_sequence(settings, split).landmarks
    if settings.name == "landmarks":
        from input_pipeline.sources.memory_mapped import read_folder

        return read_folder(settings.landmarks, split, padding=settings.padding)
    from input_pipeline.sources.prepared import ensure_prepared

    file = ensure_prepared(settings).landmarks_file(split)
    if not file.is_file():
        raise ValueError(_no_split(settings, split))
    table = read_npz(file)
    return make_landmarks(
        skeleton=read_skeleton(table),
        sample_ids=table["sample_ids"],
        keypoints=table["keypoints"],
        labelled=table["labelled"],
        boxes=table["boxes"] if settings.box == "annotation" else None,
        names=tuple(str(name) for name in table["names"]),
        padding=settings.padding,
    )


def make_landmarks(
    *,
    skeleton: Skeleton,
    sample_ids: np.ndarray,
    keypoints: np.ndarray,
    labelled: np.ndarray,
    boxes: np.ndarray | None,
    names: tuple[str, ...],
    padding: float,
) -> Landmarks:
    """Landmarks with their crops around ``boxes``, or around the landmarks.

    Raises:
        ValueError: a box without area.
    """
    if boxes is None:
        boxes = crops.landmark_boxes(keypoints, labelled)
    centre, half_side = crops.square_crops(boxes, padding=padding)
    bad = np.flatnonzero(~(half_side > 0))
    if bad.size:
        i = int(bad[0])
        raise ValueError(
            f"{names[i]}, sample {sample_ids[i]}: zero-area box {boxes[i].tolist()}; "
            "label a second joint elsewhere or remove the sample"
        )
    return Landmarks(
        skeleton=skeleton,
        sample_ids=sample_ids.astype(np.int64),
        keypoints=keypoints.astype(np.float32),
        labelled=labelled.astype(bool),
        centre=centre,
        half_side=half_side,
        names=names,
    )


def _no_split(settings: DataSettings, split: str) -> str:
    if settings.name == "mannequin":
        return f"config.data.num_{split} = 0: no {split} samples; set it above 0"
    return (
        f"{settings.annotations}: no {split} pictures; set "
        "--config.data.annotations_val, or num_val above 0 and at least 10 pictures"
    )
