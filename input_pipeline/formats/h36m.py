"""Reads the 2D landmarks of Human3.6M in the two layouts in circulation. Never 3D.

* The ``.npz`` that mmpose's preprocessing writes: ``imgname`` (N,), ``part``
  (N, 17, 3) x, y, labelled; ``center`` (N, 2) and ``scale`` (N,) of 200 pixels. Its
  ``S`` is 3D and is not read.
* The folder of the ECCV 2018 challenge: ``Train`` and ``Val`` with ``IMG/00001.jpg``
  and ``POSE/00001.csv``, which is 3D and is not read. The challenge has no 2D
  landmarks; they come from the ``*_keypoint_jnt_bbox_db.pkl`` that Sun et al. (2018)
  publish. A pickle runs what its maker wants when it is read, so it is not read here:
  ``docs/own_data.md`` has the lines that make an ``.npz`` of it, with ``imgname`` and
  ``part`` as above, in a folder beside ``Train`` (or in ``../msra_cache``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from input_pipeline.formats.annotations import Labels, Person, Source
from input_pipeline.formats.mpii import SCALE_PX
from input_pipeline.skeleton import H36M_17
from runtime.files import read_npz

JOINTS = H36M_17.num_joints
CACHE = "*_keypoint_jnt_bbox_db"


def read(source: Source) -> Labels | None:
    """The persons, one a picture, numbered from 0 in the file's order."""
    if source.path.is_dir():
        return _read_challenge(source)
    return _read_npz(source)


def _read_npz(source: Source) -> Labels | None:
    try:
        # Not S, which is 3D and may be large.
        arrays = read_npz(source.path, ("imgname", "part", "center", "scale"))
    except ValueError as error:
        remedy = (
            "set --config.data.annotations to the .npz or the challenge's folder; "
            "how a pickle is converted: docs/own_data.md"
        )
        value = str(error).removeprefix(f"{source.path}: ")
        source.problem("not an .npz file", "", value, remedy)
        return None
    names, part = arrays.get("imgname"), arrays.get("part")
    if names is None or part is None:
        remedy = "it needs imgname (N,) and part (N, 17, 3), as mmpose writes them"
        value = f"of these and the boxes it holds {sorted(arrays)}"
        source.problem("not an .npz file", "", value, remedy)
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


def _read_challenge(source: Source) -> Labels | None:
    file = _cache_file(source.path, source.split, ".npz")
    if file is None:
        pickled = _cache_file(source.path, source.split, ".pkl")
        remedy = (
            "the challenge has pictures and 3D only: put the 2D landmarks of Sun et "
            "al., as .npz (docs/own_data.md), beside Train and Val"
        )
        value = f"no {CACHE}.npz for {source.split}"
        value += f", only {pickled.name}, which could run code" if pickled else ""
        source.problem("missing file", "", value, remedy)
        return None
    labels = _read_npz(dataclasses.replace(source, path=file))
    if labels is None:
        return None
    # Where the cache was made, the pictures lay in other folders.
    persons = tuple(
        dataclasses.replace(person, name=PurePosixPath(person.name).name)
        for person in labels.persons
    )
    return dataclasses.replace(labels, persons=persons)


def _cache_file(folder: Path, split: str, suffix: str) -> Path | None:
    """The file with the 2D landmarks of a split; None where there is none."""
    word = "train" if split == "train" else "val"
    places = (folder, *sorted(folder.glob("*/")), *folder.parent.glob("msra_cache/*"))
    found = [
        path
        for place in places
        for path in sorted(place.glob(CACHE + suffix))
        if word in path.name.lower()
    ]
    return found[0] if found else None
