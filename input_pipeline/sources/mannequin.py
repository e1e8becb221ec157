"""TFDS builder for the embedded data set: rendered mannequins."""

from __future__ import annotations

import functools
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
from input_pipeline.sources.rendering import map_on_cores, render_jpeg
from input_pipeline.synthetic.sample import Sample, truth_arrays


class Mannequin(KeypointBuilder):
    """Mannequins in random or captured poses, with their 3D in a file apart."""

    def __init__(self, **kwargs: Any) -> None:
        self._drawn: list[Sample] = []
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
        draw = functools.partial(render_jpeg, settings=self._settings, split=split)
        self._drawn = []  # without pictures: the 3D waits for the end of the split
        labelled = np.ones(len(H36M_17.joints), bool)
        drawn = map_on_cores(draw, self._counts()[split])
        for index, (encoded, sample) in enumerate(drawn):
            self._drawn.append(sample)
            yield Record(
                encoded=encoded,
                keypoints=sample.keypoints,
                labelled=labelled,
                box=landmark_boxes(sample.keypoints[None], labelled[None])[0],
                sample_id=index,
                image_id=index,
                name=f"{split} mannequin {index}",
            )

    def finish_split(self, split: str, folder: Path) -> None:
        arrays = truth_arrays(self._drawn, H36M_17.joints)
        write_npz(folder / f"ground_truth_{split}.npz", arrays)
        self._drawn = []
