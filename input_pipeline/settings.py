"""The fields of ``config.data``, checked once, as a plain frozen record."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NAMES = ("mannequin", "coco", "mocap", "landmarks")
SPLITS = ("train", "val")
BOXES = ("landmarks", "annotation")


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """One data set and how to crop it; the fields are those of ``config.data``.

    Args:
        name: ``"mannequin"`` (rendered), ``"coco"`` (own pictures), ``"mocap"``
            (projected motion, landmarks only) or ``"landmarks"`` (only the folder
            ``landmarks``).
        data_dir: folder in which TFDS keeps prepared data.
        annotations: COCO keypoints JSON of the training pictures.
        annotations_val: the same for validation; empty holds out pictures.
        images: folder of the training pictures.
        images_val: folder of the validation pictures; empty means ``images``.
        ground_truth: ``.npz`` with 3D of the training pictures; evaluation only.
        ground_truth_val: the same for validation.
        landmarks: folder of shards that the teacher streams from; see
            ``input_pipeline.landmark_shards``. Empty keeps landmarks in memory.
        mocap_file: motion for ``mannequin`` (optional) and ``mocap`` (needed).
        num_train: training samples; for ``mocap`` 0 takes all frames.
        num_val: validation samples; the most pictures held out for ``coco``.
        render_size: side of a rendered picture, pixels.
        elevation_deg: (low, high) of the camera above the horizon.
        box: what the crop surrounds, ``"landmarks"`` or ``"annotation"``.
        padding: side of the crop over the longer side of the box.
        min_joints: persons with fewer labelled joints are left out and counted.
        seed: of the rendering, the projection and the hold-out.
    """

    name: str = "mannequin"
    data_dir: str = ""
    annotations: str = ""
    annotations_val: str = ""
    images: str = ""
    images_val: str = ""
    ground_truth: str = ""
    ground_truth_val: str = ""
    landmarks: str = ""
    mocap_file: str = ""
    num_train: int = 4000
    num_val: int = 500
    render_size: int = 128
    elevation_deg: tuple[float, float] = (-10.0, 30.0)
    box: str = "landmarks"
    padding: float = 1.25
    min_joints: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        _require("name", self.name, self.name in NAMES, f"one of {NAMES}")
        _require("box", self.box, self.box in BOXES, f"one of {BOXES}")
        _require("padding", self.padding, 0 < self.padding < math.inf, "above 0")
        _require("num_train", self.num_train, self.num_train >= 0, "at least 0")
        _require("num_val", self.num_val, self.num_val >= 0, "at least 0")
        _require("render_size", self.render_size, self.render_size >= 8, "at least 8")
        _require("min_joints", self.min_joints, self.min_joints >= 1, "at least 1")
        _require("seed", self.seed, self.seed >= 0, "at least 0")
        _require(
            "elevation_deg",
            self.elevation_deg,
            len(self.elevation_deg) == 2
            and -90 <= self.elevation_deg[0] <= self.elevation_deg[1] <= 90,
            "(low, high) within -90..90",
        )

    @property
    def root(self) -> Path:
        """The folder of prepared data."""
        if self.data_dir:
            return Path(self.data_dir).expanduser()
        cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        return Path(cache).expanduser() / "nrsfm-distill"

    def annotation_file(self, split: str) -> tuple[Path, Path]:
        """(JSON, image folder) that ``split`` comes from."""
        if split == "val" and self.annotations_val:
            folder = self.images_val or self.images
            return Path(self.annotations_val).expanduser(), Path(folder).expanduser()
        return Path(self.annotations).expanduser(), Path(self.images).expanduser()

    def ground_truth_file(self, split: str) -> str:
        """Path of the user's 3D file; empty where there is none."""
        if split == "val" and self.annotations_val:
            return self.ground_truth_val
        return self.ground_truth


def data_settings(data: Mapping[str, Any] | DataSettings) -> DataSettings:
    """Reads ``config.data``; fields that are absent keep their default.

    Raises:
        ValueError: an unknown field or a value out of range, by its name.
    """
    if isinstance(data, DataSettings):
        return data
    values = dict(data.items())
    known = {field.name for field in dataclasses.fields(DataSettings)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"config.data has no field {unknown}; it has {sorted(known)}")
    if "elevation_deg" in values:
        values["elevation_deg"] = tuple(float(v) for v in values["elevation_deg"])
    return DataSettings(**values)


def check_split(split: str) -> None:
    """Raises ValueError unless ``split`` is ``"train"`` or ``"val"``."""
    if split not in SPLITS:
        raise ValueError(f"split {split!r} must be one of {SPLITS}")


def _require(field: str, value: Any, holds: bool, remedy: str) -> None:
    if not holds:
        raise ValueError(f"config.data.{field} = {value!r} must be {remedy}")
