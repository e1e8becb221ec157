"""Reads the 2D landmarks of Human3.6M in the two layouts in circulation. Never 3D.

* The ``.npz`` that mmpose's preprocessing writes: ``imgname`` (N,), ``part``
  (N, 17, 3) x, y, labelled; ``center`` (N, 2) and ``scale`` (N,) of 200 pixels. Its
  ``S`` is 3D and is not read.
* The folder of the ECCV 2018 challenge: ``Train`` and ``Val`` with ``IMG/00001.jpg``
  and ``POSE/00001.csv``, which is 3D and is not read. The challenge has no 2D
  landmarks; they come from the ``*_keypoint_jnt_bbox_db.pkl`` that Sun et al. (2018)
  publish, in a folder beside ``Train`` (or in ``../msra_cache``): x and y of
  ``joints_3d``.
"""

from __future__ import annotations

import dataclasses
import io
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline.formats.annotations import Labels, Person, Source
from input_pipeline.formats.json_file import read_bytes
from input_pipeline.formats.mpii import SCALE_PX
from input_pipeline.skeleton import H36M_17
from runtime.files import read_npz

JOINTS = H36M_17.num_joints
CACHE = "*_keypoint_jnt_bbox_db.pkl"


def read(source: Source) -> Labels | None:
    """The persons, one a picture, numbered from 0 in the file's order."""
    if source.path.is_dir():
        return _read_challenge(source)
    try:
        arrays = read_npz(source.path)
    except ValueError as error:
        remedy = "set --config.data.annotations to the .npz or the challenge's folder"
        source.problem("not an .npz file", "", error, remedy)
        return None
    names, part = arrays.get("imgname"), arrays.get("part")
    if names is None or part is None:
        remedy = "it needs imgname (N,) and part (N, 17, 3), as mmpose writes them"
        source.problem("not an .npz file", "", f"it holds {sorted(arrays)}", remedy)
        return None
    good = part.dtype.kind in "iuf" and names.dtype.kind in "SU" and names.ndim == 1
    if not good or part.shape != (len(names), JOINTS, 3):
        value = f"part is {part.shape} of {part.dtype}, imgname {names.shape}"
        remedy = f"part has shape (N, {JOINTS}, 3), imgname (N,) text"
        source.problem("skeleton mismatch", "part", value, remedy)
        return None
    return Labels(H36M_17, tuple(_from_npz(arrays, names, part.astype(np.float64))))


def _from_npz(
    arrays: dict[str, np.ndarray], names: np.ndarray, part: np.ndarray
) -> Iterator[Person]:
    boxes = _boxes(arrays, len(names))
    for i, (name, row) in enumerate(zip(names, part, strict=True)):
        labelled = np.nan_to_num(row[:, 2], nan=1.0) > 0
        xy = np.where(labelled[:, None], row[:, :2], 0.0)
        text = name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
        yield Person(f"[{i}]", i, i, text, xy, labelled, None, boxes[i])


def _boxes(arrays: dict[str, np.ndarray], count: int) -> np.ndarray:
    centre, scale = arrays.get("center"), arrays.get("scale")
    if (
        centre is None
        or scale is None
        or centre.shape != (count, 2)
        or scale.shape != (count,)
        or {centre.dtype.kind, scale.dtype.kind} - set("iuf")
    ):
        return np.zeros((count, 4))
    side = np.repeat(SCALE_PX * scale.astype(np.float64)[:, None], 2, axis=1)
    return np.concatenate([centre - side / 2, side], axis=1)


# --- the folder of the ECCV 2018 challenge -------------------------------------------


def cache_file(folder: Path, split: str) -> Path | None:
    """The file with the 2D landmarks of a split; None where there is none."""
    word = "train" if split == "train" else "val"
    places = (folder, *sorted(folder.glob("*/")), *folder.parent.glob("msra_cache/*"))
    found = [
        path
        for place in places
        for path in sorted(place.glob(CACHE))
        if word in path.name.lower()
    ]
    return found[0] if found else None


def _read_challenge(source: Source) -> Labels | None:
    file = cache_file(source.path, source.split)
    if file is None:
        remedy = (
            "the challenge has pictures and 3D only: put the 2D landmarks of Sun et "
            "al. (their cache folder) beside Train and Val"
        )
        source.problem("missing file", "", f"no {CACHE} for {source.split}", remedy)
        return None
    data = read_bytes(dataclasses.replace(source, path=file))
    if data is None:
        return None
    try:
        records = _NumpyUnpickler(io.BytesIO(data), encoding="latin1").load()
    except Exception as error:  # a damaged pickle fails in any way
        remedy = "copy the file again"
        source.problem("not a cache file", file.name, repr(error), remedy)
        return None
    if not isinstance(records, list):
        remedy = "it should hold a list of persons"
        source.problem("not a cache file", file.name, type(records).__name__, remedy)
        return None
    return Labels(H36M_17, tuple(_from_cache(source, file, records)))


def _from_cache(source: Source, file: Path, records: list[Any]) -> Iterator[Person]:
    for i, record in enumerate(records):
        at = f"{file.name}[{i}]"
        points = record.get("joints_3d") if isinstance(record, dict) else None
        name = record.get("image", "") if isinstance(record, dict) else ""
        array = np.asarray(points) if isinstance(points, np.ndarray) else np.zeros(0)
        # Sun et al. append an 18th joint, made of the two shoulders.
        if array.ndim != 2 or len(array) < JOINTS or array.dtype.kind not in "iuf":
            value = f"joints_3d has shape {array.shape}"
            remedy = f"it needs x and y of the {JOINTS} joints"
            source.problem("skeleton mismatch", at, value, remedy)
            continue
        xy = array[:JOINTS, :2].astype(np.float64)
        picture = Path(str(name)).name or f"{i + 1:05d}.jpg"
        yield Person(at, i, i, picture, xy, np.ones(JOINTS, bool))


class _NumpyUnpickler(pickle.Unpickler):
    """Lists, dictionaries, text and arrays; nothing that could run code."""

    ALLOWED = {  # noqa: RUF012 (a constant)
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        *(
            (f"numpy.{core}.multiarray", name)
            for core in ("core", "_core")
            for name in ("_reconstruct", "scalar")
        ),
        ("_codecs", "encode"),
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed here")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)
