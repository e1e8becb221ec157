"""Tables of any program: ``.csv`` with one joint a row, or all joints in a row.

One joint a row: columns ``frame``, ``individual``, ``joint``, ``x``, ``y``, ``score``.
All joints in a row: ``nose_x, nose_y, nose_score``, as SLEAP's csv (``nose.x``), tables
of MediaPipe (``x0, y0, z0, v0``) and those of ``--stage=predict`` have them. Columns
of other names are passed over; ``frame`` and ``individual`` may be absent.
"""

from __future__ import annotations

import csv
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from input_pipeline.formats.tracks.record import (
    CENTRE_PX,
    MOST_FRAMES,
    Tracks,
    check_room,
    make_tracks,
)
from input_pipeline.formats.tracks.skeletons import named
from input_pipeline.skeleton import Skeleton

_FRAME = ("frame", "frame_idx", "frame_id", "frame_number", "frame_index", "frame_no")
_FRAME += ("fnum", "frames", "index")
_WHO = ("individual", "track", "track_id", "animal", "person", "person_id", "instance")
_WHO += ("individuals", "id", "identity", "animal_id")
_JOINT = ("joint", "bodypart", "bodyparts", "keypoint", "landmark", "node", "part")
_JOINT += ("joint_name", "keypoint_name", "landmark_index", "landmark_id", "name")
_SCORE = ("score", "likelihood", "visibility", "confidence", "conf", "presence", "prob")
_SCORE += ("probability", "v", "c", "p")
_AXES = {"x": 0, "y": 1} | dict.fromkeys(_SCORE, 2)
_PART = "|".join(sorted(_AXES, key=len, reverse=True))
_AFTER = re.compile(rf"(.+?)([\s._\-]?)({_PART})", re.IGNORECASE)
_BEFORE = re.compile(rf"({_PART})([\s._\-]?)(.+)", re.IGNORECASE)
_NONE = ("", "na", "none", "null")  # cells without a number


def read(path: Path, unnamed: Skeleton | None = None) -> Tracks:
    """The detections of one table with named columns.

    Args:
        path: of the file.
        unnamed: joints of files that number them; None: by how many they are.

    Raises:
        ValueError: no columns x and y, or a cell that is no number.
    """
    with open(path, newline="", encoding="utf-8-sig") as opened:
        first = opened.readline()
        opened.seek(0)
        mark = max(",;\t", key=first.count)
        rows = csv.reader(opened, delimiter=mark)
        try:
            head = [cell.strip() for cell in next(rows, [])]
            low = [cell.lower() for cell in head]
            if {"x", "y"} <= set(low) and _find(low, _JOINT) is not None:
                return _read_long(path, low, rows, unnamed)
            return _read_wide(path, head, low, rows, unnamed)
        except csv.Error as error:
            raise ValueError(f"{path}: line {rows.line_num}: {error}") from error


def _find(low: Sequence[str], names: Sequence[str]) -> int | None:
    return next((low.index(name) for name in names if name in low), None)


# --- all joints in a row -------------------------------------------------------------


def _read_wide(
    path: Path,
    head: list[str],
    low: list[str],
    rows: Iterator[list[str]],
    unnamed: Skeleton | None,
) -> Tracks:
    columns = _joint_columns(head)
    if not columns:
        raise ValueError(
            f"{path}: no joint has columns for x and y among "
            f"{[cell[:20] for cell in head[:12]]}; name them "
            "<joint>_x, <joint>_y, <joint>_score, or have the columns frame, "
            "individual, joint, x, y, score"
        )
    wanted = [c for axes in columns.values() for c in axes if c >= 0]
    where, who = _find(low, _FRAME), _find(low, _WHO)
    values, frame, individual = array("d"), array("q"), array("i")
    individuals: dict[str, int] = {}
    for at, row in _whole_rows(path, rows, len(head)):
        values.extend(_number(row[c], at) for c in wanted)
        frame.append(len(frame) if where is None else _whole(row[where], at))
        name = "" if who is None else row[who].strip()
        individual.append(individuals.setdefault(name, len(individuals)))
    table = np.frombuffer(values).reshape(-1, len(wanted)) if wanted else np.zeros(0)
    place = {c: i for i, c in enumerate(wanted)}
    xy = np.stack([table[:, [place[a[0]], place[a[1]]]] for a in columns.values()], 1)
    score = np.ones(xy.shape[:2])
    for j, axes in enumerate(columns.values()):
        if axes[2] >= 0:
            score[:, j] = table[:, place[axes[2]]]
    return make_tracks(
        path,
        named(tuple(columns), unnamed),
        xy + (CENTRE_PX if "instance.score" in low else 0),  # a column of SLEAP's
        score,
        np.frombuffer(frame, np.int64),
        individuals=tuple(individuals) or ("",),
        individual=np.frombuffer(individual, np.int32),
    )


def _joint_columns(head: Sequence[str]) -> dict[str, list[int]]:
    """Joint -> its columns of x, y and score; those with x and y only.

    Not MediaPipe's world landmarks, which are metres.

    Examples:
        >>> _joint_columns(["frame", "nose.x", "nose.y", "nose.score", "index"])
        {'nose': [1, 2, 3]}
        >>> _joint_columns(["x1", "y1", "z1", "v1"])
        {'1': [0, 1, 3]}
    """
    for pattern, joint, axis in ((_AFTER, 1, 3), (_BEFORE, 3, 1)):
        found: dict[str, list[int]] = {}
        for i, cell in enumerate(head):
            if match := pattern.fullmatch(cell.strip()):
                axes = found.setdefault(match[joint], [-1, -1, -1])
                axes[_AXES[match[axis].lower()]] = i
        whole = {
            name: axes
            for name, axes in found.items()
            if -1 not in axes[:2] and "world" not in name.lower()
        }
        if whole:
            return whole
    return {}


# --- one joint in a row --------------------------------------------------------------


def _read_long(
    path: Path, low: list[str], rows: Iterator[list[str]], unnamed: Skeleton | None
) -> Tracks:
    x, y, part = low.index("x"), low.index("y"), _find(low, _JOINT)
    assert part is not None
    where, who, score = (_find(low, names) for names in (_FRAME, _WHO, _SCORE))
    values, keys = array("d"), array("q")
    joints: dict[str, int] = {}
    individuals: dict[str, int] = {}
    for at, row in _whole_rows(path, rows, len(low)):
        values.extend((_number(row[x], at), _number(row[y], at)))
        values.append(1.0 if score is None else _number(row[score], at))
        name = "" if who is None else row[who].strip()
        keys.append(0 if where is None else _whole(row[where], at))
        keys.append(individuals.setdefault(name, len(individuals)))
        keys.append(joints.setdefault(row[part].strip(), len(joints)))
    if not joints:
        raise ValueError(f"{path}: no rows below the header")
    record = np.frombuffer(values).reshape(-1, 3), np.frombuffer(keys, np.int64)
    skeleton = named(tuple(joints), unnamed)
    return from_rows(path, *record, tuple(individuals), skeleton)


def from_rows(
    path: Path,
    values: np.ndarray,
    keys: np.ndarray,
    individuals: tuple[str, ...],
    skeleton: Skeleton,
) -> Tracks:
    """Tracks of rows with one joint each.

    Args:
        path: the file, for messages.
        values: (R, 3) x, y and score.
        keys: (R * 3,) frame, individual and joint.
        individuals: their names.
        skeleton: of the joints.
    """
    frame, who, joint = keys.reshape(-1, 3).T
    pairs, row = np.unique(np.stack([who, frame], 1), axis=0, return_inverse=True)
    P = skeleton.num_joints
    check_room(path, len(pairs), P)
    xy = np.full((len(pairs), P, 2), np.nan, np.float32)
    score = np.zeros(xy.shape[:2], np.float32)
    place = np.ravel(row) * P + joint
    if len(np.unique(place)) < len(place):
        order = np.argsort(place, kind="stable")
        again = order[1:][np.diff(place[order]) == 0][0]
        raise ValueError(
            f"{path}: row {again + 1}: {skeleton.joints[joint[again]]!r} of frame "
            f"{frame[again]} stands there twice; give every animal a name of its own "
            "in a column 'individual'"
        )
    xy.reshape(-1, 2)[place] = values[:, :2]
    score.reshape(-1)[place] = np.where(np.isnan(values[:, 2]), 1, values[:, 2])
    return make_tracks(
        path,
        skeleton,
        xy,
        score,
        pairs[:, 1],
        individuals=individuals,
        individual=pairs[:, 0].astype(np.int32),
    )


def read_npz(
    path: Path, arrays: Mapping[str, np.ndarray], unnamed: Skeleton | None = None
) -> Tracks:
    """An ``.npz``: ``xy`` (T, P, 2) and ``joints`` (P,), where known ``score`` (T, P),
    ``frame`` and ``individual`` (T,), ``size`` (2,) of the pictures, ``fps`` ().

    Raises:
        ValueError: an array is missing or does not fit the others.
    """
    xy, joints = arrays.get("xy", arrays.get("keypoints")), arrays.get("joints")
    if xy is None or joints is None:
        raise ValueError(
            f"{path}: has {sorted(arrays)}; give 'xy' (frames, joints, 2) and 'joints'"
        )
    count, names = len(np.atleast_1d(xy)), tuple(map(str, joints.ravel().tolist()))
    shapes = {"xy": (count, len(names), 2), "score": (count, len(names))}
    shapes |= {"frame": (count,), "individual": (count,)}
    given = {"xy": xy, "frame": np.arange(count), "individual": np.full(count, "")}
    given |= {name: arrays[name] for name in shapes if name in arrays and name != "xy"}
    for name, array_ in given.items():
        if array_.shape != shapes[name] or (
            name != "individual" and array_.dtype.kind not in "iuf"
        ):
            raise ValueError(
                f"{path}: {name!r} is {array_.dtype} {array_.shape}, but the "
                f"{len(names)} joints and {count} frames need numbers {shapes[name]}"
            )
    frame = given["frame"]
    if not ((frame >= 0) & (frame < MOST_FRAMES)).all():
        raise ValueError(f"{path}: 'frame' has other numbers than those from 0 on")
    size, fps = (_few(path, arrays, *each) for each in (("size", 2), ("fps", 1)))
    known, who = np.unique(given["individual"].astype(str), return_inverse=True)
    return make_tracks(
        path,
        named(names, unnamed),
        given["xy"],
        given.get("score"),
        frame,
        individuals=tuple(known.tolist()),
        individual=np.ravel(who).astype(np.int32),
        size=(int(size[0]), int(size[1])) if size.min() >= 1 else None,
        rate=float(fps[0]),
    )


def _few(
    path: Path, arrays: Mapping[str, np.ndarray], name: str, count: int
) -> np.ndarray:
    """(count,) numbers from 0 on, which are 0 where they are not given."""
    values = np.ravel(arrays.get(name, np.zeros(count)))
    numbers = len(values) == count and values.dtype.kind in "iuf"
    if not numbers or not ((values >= 0) & (values < np.inf)).all():
        raise ValueError(f"{path}: {name!r} is {values[:3]}, not {count} numbers")
    return values


def _whole_rows(
    path: Path, rows: Iterator[list[str]], width: int
) -> Iterator[tuple[str, list[str]]]:
    """Each row that is not empty, and what to call it."""
    for i, row in enumerate(rows, 1):
        if row and len(row) != width:
            raise ValueError(
                f"{path}: row {i} has {len(row)} cells, the header {width}"
            )
        if row:
            yield f"{path}: row {i}", row


def _number(cell: str, at: str) -> float:
    text = cell.strip()
    try:
        # Some languages write a comma.
        return np.nan if text.lower() in _NONE else float(text.replace(",", "."))
    except ValueError as error:
        raise ValueError(
            f"{at}: {text!r} is no number; leave the cell empty"
        ) from error


def _whole(cell: str, at: str) -> int:
    value = _number(cell, at)
    if not value.is_integer() or not 0 <= value < MOST_FRAMES:
        raise ValueError(f"{at}: frame {cell!r} is no whole number from 0 on")
    return int(value)
