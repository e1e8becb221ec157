"""The fields of ``config.data``, checked once, as a plain frozen record."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.default import get_config
from runtime.reading import MOST_CONFIG, read_bytes

# Own pictures, by the format of their labels; see input_pipeline.formats.splits.
FORMATS = ("coco", "mpii", "h36m", "lsp", "dlc", "sleap", "yolo", "label_studio")
WITHOUT_PICTURES = ("mocap", "sequence", "landmarks", "tracks")
NAMES = ("mannequin", *WITHOUT_PICTURES, *FORMATS)
SPLITS = ("train", "val")
# Fields that only some data sets read; elsewhere they must be left empty.
_READ_BY = {
    **dict.fromkeys(
        (
            *("images", "images_val", "ground_truth", "ground_truth_val"),
            "pixel_centre",
        ),
        FORMATS,
    ),
    **dict.fromkeys(
        ("annotations", "annotations_val", "skeleton", "joint_names"),
        (*FORMATS, "tracks"),
    ),
    "category": ("coco", "yolo"),
    "mocap_file": ("mannequin", "mocap", "sequence"),
    "sequence": ("sequence",),
    "landmarks": ("landmarks",),
}
# What a further source takes from the main one where it does not say otherwise.
_SHARED = (
    *("data_dir", "box", "padding", "min_joints", "min_score", "outside"),
    *("seed", "elevation_deg"),
)
_EXAMPLES = {
    "joint_names": '{"hip": "Pelvis"}',
    "extra_sources": '{"more": {"name": "coco", "annotations": "more.json"}}',
}


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """One data set and how to crop it: ``config.data``, checked.

    ``configs/default.py`` says what each field means and holds its default.
    ``joint_names`` are (joint of the file, joint of the skeleton) pairs and
    ``extra_sources`` (name, settings) pairs.

    Raises:
        ValueError: a value out of range, or a field that this data set does not read.
    """

    name: str
    data_dir: str
    annotations: str
    annotations_val: str
    images: str
    images_val: str
    skeleton: str
    joint_names: tuple[tuple[str, str], ...]
    ground_truth: str
    ground_truth_val: str
    landmarks: str
    mocap_file: str
    sequence: str
    num_train: int
    num_val: int
    render_size: int
    elevation_deg: tuple[float, float]
    box: str
    padding: float
    min_joints: int
    picture_size: tuple[int, int]
    outside: str
    pixel_centre: str
    category: str
    min_score: float
    seed: int
    extra_sources: tuple[tuple[str, DataSettings], ...]
    weight: float

    def __post_init__(self) -> None:
        for field, allowed in (
            ("name", NAMES),
            ("box", ("landmarks", "annotation")),
            ("outside", ("error", "drop", "keep")),
            ("pixel_centre", ("", "0", "0.5", "1")),
        ):
            _require(self, field, getattr(self, field) in allowed, f"one of {allowed}")
        for field, least in (
            *(("num_train", 0), ("num_val", 0), ("seed", 0)),
            *(("render_size", 8), ("min_joints", 1)),
        ):
            _require(self, field, getattr(self, field) >= least, f"at least {least}")
        for field in ("padding", "weight"):
            _require(self, field, 0 < getattr(self, field) < math.inf, "above 0")
        good = len(self.picture_size) == 2 and min(self.picture_size) >= 0
        _require(self, "picture_size", good, "(width, height)")
        _require(self, "min_score", 0 <= self.min_score <= 1, "within 0..1")
        low, high = (*self.elevation_deg, math.nan, math.nan)[:2]
        good = len(self.elevation_deg) == 2 and -90 <= low <= high <= 90
        _require(self, "elevation_deg", good, "(low, high) within -90..90")
        for field, names in _READ_BY.items():
            if getattr(self, field) and self.name not in names:
                raise ValueError(
                    f"config.data.{field} = {getattr(self, field)!r} is not read where "
                    f"config.data.name = {self.name!r}; leave it empty, or set "
                    f"--config.data.name to {' or '.join(names)}"
                )

    @property
    def root(self) -> Path:
        """The folder of prepared data."""
        if self.data_dir:
            return Path(self.data_dir).expanduser()
        cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        return Path(cache).expanduser() / "nrsfm-distill"

    @property
    def labelled(self) -> bool:
        """Whether these are own pictures with labels in a file."""
        return self.name in FORMATS

    @property
    def separate_val(self) -> bool:
        """Whether validation has labels of its own, and is not held out."""
        folder = Path(self.annotations).expanduser() / "Val"
        challenge = self.name == "h36m" and bool(self.annotations) and folder.is_dir()
        return bool(self.annotations_val) or challenge

    def annotation_file(self, split: str) -> tuple[Path, Path]:
        """(labels, folder of the pictures) that ``split`` comes from."""
        val = split == "val" and self.separate_val
        named = self.annotations_val if split == "val" else ""
        path = Path(named or self.annotations).expanduser()
        # The challenge's folder has the pictures of either split in it.
        given = (self.images_val or (named and self.images)) if val else self.images
        if given:
            return path, Path(given).expanduser()
        if self.name == "h36m" and path.is_dir():
            return path, path / ("Train" if split == "train" else "Val") / "IMG"
        if self.name == "lsp":
            return path, path.parent / "images"
        if self.name == "dlc":
            return path, deeplabcut_project(path)
        return path, path if path.is_dir() else path.parent

    def ground_truth_file(self, split: str) -> str:
        """Path of the user's 3D file; empty where there is none."""
        if split == "val" and self.separate_val:
            return self.ground_truth_val
        return self.ground_truth


def deeplabcut_project(path: Path) -> Path:
    """The folder of a project, to which the names of its pictures are relative."""
    if path.is_dir():
        return path
    video = path.absolute().parent  # labeled-data/<video>/CollectedData.csv
    return video.parents[1] if video.parent.name == "labeled-data" else video


def read_settings(data: Mapping[str, Any] | DataSettings) -> DataSettings:
    """Reads ``config.data``; fields that are absent keep their default.

    Raises:
        ValueError: an unknown field or a value out of range, by its name.
    """
    if isinstance(data, DataSettings):
        return data
    defaults: Any = get_config().data
    values = defaults.to_dict()
    unknown = sorted(set(data) - set(values))
    if unknown:
        raise ValueError(f"config.data has no field {unknown}; it has {sorted(values)}")
    values |= dict(data.items())
    values["elevation_deg"] = tuple(float(v) for v in values["elevation_deg"])
    values["picture_size"] = tuple(int(v) for v in values["picture_size"])
    names = _read_json("joint_names", values["joint_names"])
    values["joint_names"] = tuple((str(a), str(b)) for a, b in names.items())
    extra = _read_json("extra_sources", values.pop("extra_sources"))
    main = DataSettings(extra_sources=(), **values)
    return dataclasses.replace(main, extra_sources=_read_extra(main, extra))


def _read_extra(
    main: DataSettings, extra: Mapping[str, Any]
) -> tuple[tuple[str, DataSettings], ...]:
    sources = []
    for name, fields in extra.items():
        shared = {field: getattr(main, field) for field in _SHARED}
        try:
            source = read_settings(shared | dict(fields.items()))
            if source.extra_sources or source.name in WITHOUT_PICTURES:
                raise ValueError("a further source has pictures, and none beneath it")
        except (AttributeError, ValueError) as error:
            raise ValueError(f"config.data.extra_sources.{name}: {error}") from error
        sources.append((str(name), source))
    return tuple(sources)


def _read_json(field: str, value: Any) -> dict[str, Any]:
    """A dictionary that is given as such, as JSON text or as a JSON file's path."""
    if not isinstance(value, str):
        return dict(value.items()) if value else {}
    if not value.strip():
        return {}
    try:
        text = value
        if not value.lstrip().startswith("{"):
            text = read_bytes(Path(value).expanduser(), most=MOST_CONFIG)
        record = json.loads(text)
        if not isinstance(record, dict):
            raise ValueError("no JSON object")
        return record
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"config.data.{field} = {value!r} is neither a JSON object in quotes, such "
            f"as '{_EXAMPLES[field]}', nor a JSON file that holds one ({error})"
        ) from error


def check_split(split: str) -> None:
    """Raises ValueError unless ``split`` is ``"train"`` or ``"val"``."""
    if split not in SPLITS:
        raise ValueError(f"split {split!r} must be one of {SPLITS}")


def _require(settings: DataSettings, field: str, holds: bool, remedy: str) -> None:
    if not holds:
        value = getattr(settings, field)
        raise ValueError(f"config.data.{field} = {value!r} must be {remedy}")
