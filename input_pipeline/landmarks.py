"""The 2D landmarks of a split: the data of the teacher, without pictures."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from input_pipeline import crops
from input_pipeline.skeleton import Skeleton

_ARRAYS = ("keypoints", "labelled", "centre", "half_side")


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
        names: what to call each sample in a message; where empty, by its id.
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

    def name(self, row: int) -> str:
        """What to call a sample in a message."""
        return self.names[row] if self.names else f"sample {self.sample_ids[row]}"

    def take(self, rows: np.ndarray | slice) -> Landmarks:
        """The samples of some rows."""
        chosen = np.arange(len(self))[rows]
        return dataclasses.replace(
            self,
            names=tuple(self.names[i] for i in chosen if self.names),
            sample_ids=self.sample_ids[chosen],
            **{name: getattr(self, name)[chosen] for name in _ARRAYS},
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


def join(parts: Sequence[Landmarks]) -> Landmarks:
    """Landmarks of one skeleton one after the other, numbered anew from 0."""
    arrays = {n: np.concatenate([getattr(p, n) for p in parts]) for n in _ARRAYS}
    return Landmarks(
        skeleton=parts[0].skeleton,
        sample_ids=np.arange(sum(map(len, parts)), dtype=np.int64),
        names=tuple(name for part in parts for name in part.names),
        **arrays,
    )
