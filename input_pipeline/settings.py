"""The fields of ``config.data``, checked once, as a plain frozen record."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Own pictures, by the format of their labels; see input_pipeline.formats.readers.
FORMATS = ("coco", "mpii", "h36m", "lsp", "dlc", "sleap")
NAMES = ("mannequin", "mocap", "sequence", "landmarks", *FORMATS)
SPLITS = ("train", "val")
BOXES = ("landmarks", "annotation")
OUTSIDE = ("error", "keep")


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """One data set and how to crop it; the fields are those of ``config.data``.

    Args:
        name: ``"mannequin"`` (rendered), ``"mocap"`` (projected motion, landmarks
            only), ``"sequence"`` (landmarks with their 3D), ``"landmarks"`` (only the
            folder ``landmarks``), or the format of own labels: ``"coco"``, ``"mpii"``,
            ``"h36m"``, ``"lsp"``, ``"dlc"`` or ``"sleap"``.
        data_dir: folder in which TFDS keeps prepared data.
        annotations: labels of the training pictures.
        annotations_val: the same for validation; empty holds out pictures.
        images: folder of the training pictures; empty means where the format keeps
            them, which is beside the labels for most.
        images_val: folder of the validation pictures; empty means ``images``.
        skeleton: the joints to bring own labels to, by name: a built-in skeleton, a
            JSON file, or JSON; empty keeps those of the file.
        joint_names: (joint of the file, joint of the skeleton) where names differ.
        ground_truth: ``.npz`` with 3D of the training pictures; evaluation only.
        ground_truth_val: the same for validation.
        landmarks: the folder of ``"landmarks"``; see
            ``input_pipeline.sources.memory_mapped``.
        mocap_file: motion for ``mannequin`` (optional) and ``mocap`` (needed); the
            file of a ``sequence``.
        sequence: which one of the file; see ``input_pipeline.sources.sequence``.
        num_train: training samples; for ``mocap`` 0 takes all frames.
        num_val: validation samples; the most pictures held out of labels.
        render_size: side of a rendered picture, pixels.
        elevation_deg: (low, high) of the camera above the horizon.
        box: what the crop surrounds, ``"landmarks"`` or ``"annotation"``.
        padding: side of the crop over the longer side of the box.
        min_joints: persons with fewer labelled joints are left out and counted.
        outside: what landmarks beyond the picture are: an ``"error"``, or ``"keep"``,
            up to one width or height away.
        seed: of the rendering, the projection and the hold-out.
        extra_sources: further sources of training pictures, by name.
        weight: how often a sample of this source is drawn, against the others.
    """

    name: str = "mannequin"
    data_dir: str = ""
    annotations: str = ""
    annotations_val: str = ""
    images: str = ""
    images_val: str = ""
    skeleton: str = ""
    joint_names: tuple[tuple[str, str], ...] = ()
    ground_truth: str = ""
    ground_truth_val: str = ""
    landmarks: str = ""
    mocap_file: str = ""
    sequence: str = ""
    num_train: int = 4000
    num_val: int = 500
    render_size: int = 128
    elevation_deg: tuple[float, float] = (-10.0, 30.0)
    box: str = "landmarks"
    padding: float = 1.25
    min_joints: int = 1
    outside: str = "error"
    seed: int = 0
    extra_sources: tuple[tuple[str, DataSettings], ...] = ()
    weight: float = 1.0

    def __post_init__(self) -> None:
        _require("name", self.name, self.name in NAMES, f"one of {NAMES}")
        _require("box", self.box, self.box in BOXES, f"one of {BOXES}")
        holds = self.outside in OUTSIDE
        _require("outside", self.outside, holds, f"one of {OUTSIDE}")
        _require("padding", self.padding, 0 < self.padding < math.inf, "above 0")
        _require("num_train", self.num_train, self.num_train >= 0, "at least 0")
        _require("num_val", self.num_val, self.num_val >= 0, "at least 0")
        _require("render_size", self.render_size, self.render_size >= 8, "at least 8")
        _require("min_joints", self.min_joints, self.min_joints >= 1, "at least 1")
        _require("seed", self.seed, self.seed >= 0, "at least 0")
        _require("weight", self.weight, 0 < self.weight < math.inf, "above 0")
        own = self.labelled or not (self.skeleton or self.joint_names)
        _require("skeleton", self.skeleton, own, f"empty, as {self.name!r} has its own")
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
        return path, path.parent

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


def data_settings(data: Mapping[str, Any] | DataSettings) -> DataSettings:
    """Reads ``config.data``; fields that are absent keep their default.

    Raises:
        ValueError: an unknown field or a value out of range, by its name.
    """
    if isinstance(data, DataSettings):
        return data
    values = dict(data.items())
    extra = _read_json("extra_sources", values.pop("extra_sources", None))
    known = {field.name for field in dataclasses.fields(DataSettings)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"config.data has no field {unknown}; it has {sorted(known)}")
    if "elevation_deg" in values:
        values["elevation_deg"] = tuple(float(v) for v in values["elevation_deg"])
    names = _read_json("joint_names", values.get("joint_names"))
    values["joint_names"] = tuple(names.items())
    main = DataSettings(**values)
    return dataclasses.replace(main, extra_sources=_read_extra(main, extra))


def _read_json(field: str, value: Any) -> dict[str, Any]:
    """A dictionary that is given as such, as JSON text or as a JSON file's path.

    Raises:
        ValueError: neither, by the name of the field.
    """
    if not isinstance(value, str):
        return dict(value.items()) if value else {}
    if not value.strip():
        return {}
    try:
        text = value
        if not value.lstrip().startswith("{"):
            text = Path(value).expanduser().read_text(encoding="utf-8")
        record = json.loads(text)
        if not isinstance(record, dict):
            raise ValueError("no JSON object")
        return record
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"config.data.{field} = {value!r} is neither a JSON object in quotes, such "
            f"as '{_EXAMPLES[field]}', nor a JSON file that holds one ({error})"
        ) from error


_EXAMPLES = {
    "joint_names": '{"hip": "Pelvis"}',
    "extra_sources": '{"more": {"name": "coco", "annotations": "more.json"}}',
}

# What a further source takes from the main one where it does not say otherwise.
_SHARED = (
    *("data_dir", "box", "padding", "min_joints", "outside", "seed"),
    "elevation_deg",
)


def _read_extra(
    main: DataSettings, extra: Mapping[str, Any]
) -> tuple[tuple[str, DataSettings], ...]:
    sources = []
    for name, fields in extra.items():
        shared = {field: getattr(main, field) for field in _SHARED}
        try:
            source = data_settings(shared | dict(fields.items()))
            if source.extra_sources or source.name in (
                "mocap",
                "sequence",
                "landmarks",
            ):
                raise ValueError("a further source has pictures, and none beneath it")
        except (AttributeError, ValueError) as error:
            raise ValueError(f"config.data.extra_sources.{name}: {error}") from error
        sources.append((str(name), source))
    return tuple(sources)


def check_split(split: str) -> None:
    """Raises ValueError unless ``split`` is ``"train"`` or ``"val"``."""
    if split not in SPLITS:
        raise ValueError(f"split {split!r} must be one of {SPLITS}")


def _require(field: str, value: Any, holds: bool, remedy: str) -> None:
    if not holds:
        raise ValueError(f"config.data.{field} = {value!r} must be {remedy}")
