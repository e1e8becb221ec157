"""TFDS builder for the embedded data set: rendered mannequins."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline.crops import landmark_boxes
from input_pipeline.settings import SPLITS, DataSettings
from input_pipeline.skeleton import H36M_17, Skeleton
from input_pipeline.sources.build import KeypointBuilder
from input_pipeline.sources.mocap import split_frames
from input_pipeline.sources.records import Record, write_npz
from input_pipeline.sources.rendering import Job, Rendered, render_all


class Mannequin(KeypointBuilder):
    """Mannequins in random or captured poses, with their 3D in a file apart."""

    def __init__(self, **kwargs: Any) -> None:
        self._truth: list[Rendered] = []
        settings: DataSettings = kwargs["settings"]
        if settings.mocap_file:
            for split in SPLITS:
                split_frames(settings, split)  # says so now if there are too few
        super().__init__(**kwargs)

    def skeleton(self) -> Skeleton:
        return H36M_17

    def splits(self) -> tuple[str, ...]:
        return tuple(s for s, count in self._counts().items() if count)

    def _counts(self) -> dict[str, int]:
        return {"train": self._settings.num_train, "val": self._settings.num_val}

    def records(self, split: str) -> Iterator[Record]:
        settings = self._settings
        job = Job(
            split=split,
            seed=settings.seed,
            size=settings.render_size,
            elevation_deg=settings.elevation_deg,
            mocap_file=settings.mocap_file,
        )
        self._truth = []
        for index, sample in enumerate(render_all(self._counts()[split], job)):
            # Without the picture: only the 3D waits for the end of the split.
            self._truth.append(dataclasses.replace(sample, encoded=b""))
            yield _record(index, split, sample)

    def finish_split(self, split: str, folder: Path) -> None:
        truth = self._truth
        arrays = {
            "sample_ids": np.arange(len(truth), dtype=np.int64),
            "positions_mm": np.stack([t.positions_mm for t in truth]),
            "action": np.array([t.action for t in truth]),
            "subject": np.array([t.subject for t in truth], np.int64),
            "joint_names": np.array(H36M_17.joints),
        }
        write_npz(folder / f"ground_truth_{split}.npz", arrays)
        self._truth = []


def _record(index: int, split: str, sample: Rendered) -> Record:
    keypoints = np.asarray(sample.keypoints, np.float32)
    labelled = np.asarray(sample.occlusion) > 0
    return Record(
        encoded=sample.encoded,
        keypoints=np.where(labelled[:, None], keypoints, np.float32(0)),
        labelled=labelled,
        box=landmark_boxes(keypoints[None], labelled[None])[0],
        sample_id=index,
        image_id=index,
        name=f"{split} mannequin {index}",
    )
