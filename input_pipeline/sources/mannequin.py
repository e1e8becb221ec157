"""The embedded data set: rendered mannequins, in random or captured poses."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from input_pipeline import synthetic
from input_pipeline.crops import landmark_boxes
from input_pipeline.formats.annotations import Person
from input_pipeline.settings import SPLITS
from input_pipeline.skeleton import H36M_17, Skeleton
from input_pipeline.sources.mocap import split_frames
from input_pipeline.sources.records import PictureSource, Record, digest, existing_path
from input_pipeline.sources.rendering import map_on_cores, render_jpeg


class Mannequin(PictureSource):
    """Mannequins with their 3D, which is kept apart from what training reads."""

    @property
    def skeleton(self) -> Skeleton:
        return H36M_17

    @property
    def splits(self) -> tuple[str, ...]:
        splits = tuple(split for split in SPLITS if self._count(split))
        if self.settings.mocap_file:
            for split in splits:
                split_frames(self.settings, split)  # says so if there are too few
        return splits

    @functools.cached_property
    def digest(self) -> str:
        chosen = ("num_train", "num_val", "render_size", "elevation_deg", "seed")
        # The pictures belong to the code and the tables that draw them.
        drawing = Path(str(synthetic.__file__)).parent
        files = [f for f in sorted(drawing.glob("[!a]*")) if f.is_file()]  # no animals
        files.append(Path(__file__).parent / "motion.py")
        if self.settings.mocap_file:
            path = existing_path(self.settings.mocap_file, "mocap_file")
            files.extend(sorted(path.glob("*.bvh")) if path.is_dir() else [path])
        return digest({name: getattr(self.settings, name) for name in chosen}, files)

    def records(self, split: str) -> Iterator[Record]:
        draw = functools.partial(render_jpeg, settings=self.settings, split=split)
        labelled = np.ones(H36M_17.num_joints, bool)
        drawn = map_on_cores(draw, self._count(split))
        for index, (encoded, sample) in enumerate(drawn):
            truth = {"sample_ids": index, "positions_mm": sample.positions_mm}
            truth |= {"action": sample.action, "subject": sample.subject}
            name, points = f"{split} mannequin {index}", sample.keypoints
            box = landmark_boxes(points[None], labelled[None])[0]
            person = Person(name, index, index, name, points, labelled, box=box)
            yield Record(encoded, person, truth)

    def _count(self, split: str) -> int:
        return getattr(self.settings, f"num_{split}")
