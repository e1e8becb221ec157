"""JSON of detectors of people: COCO's results, mmpose's, AlphaPose's, OpenPose's.

The files do not name their joints, apart from COCO's with ``categories`` and mmpose's
with ``meta_info``: their order is that of a given skeleton, or is told by their number
(17: COCO, 18 and 25: OpenPose, 26: Halpe, 33: MediaPipe). OpenPose, and mmpose for
pictures, write one file a picture: their folder is read as a whole. What people write
of MediaPipe, MoveNet and Ultralytics is a list of frames: bodies, ``landmarks`` or
``keypoints`` of ``{"x": ..., "y": ..., "score": ..., "name": ...}``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from input_pipeline.formats.coco import bones_from_0
from input_pipeline.formats.tracks.linking import linked, place_of
from input_pipeline.formats.tracks.record import MOST_FRAMES, Tracks, make_tracks
from input_pipeline.formats.tracks.skeletons import named as named_joints
from input_pipeline.skeleton import Skeleton, well_known
from runtime.reading import read_bytes

Record = Mapping[str, Any]
# What a record raises that is not made as it should be.
NOT_THERE = (LookupError, ArithmeticError, AttributeError, TypeError, ValueError)
_DIGITS = re.compile(r"\d+")
_FRAME = ("frame_id", "frame", "frame_number", "frame_index")


class Detection(NamedTuple):
    """One body: ``points`` (P, 3) x, y, score; what the file does not tell is None."""

    frame: int | None
    picture: str | None
    who: str | None
    points: np.ndarray
    joints: tuple[str, ...] = ()


def read(path: Path, unnamed: Skeleton | None) -> Tracks:
    """The bodies of one file, or of the files of a folder, one picture each.

    Bodies without an identity are followed from frame to frame.

    Args:
        path: of the file or folder.
        unnamed: joints of files that do not name them; None: by their number.

    Raises:
        ValueError: no such JSON, or bodies of several skeletons.
    """
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    found: list[Detection] = []
    skeleton: Skeleton | None = None
    for i, file in enumerate(files):
        record = _load(file)
        try:
            skeleton = skeleton or _named(record)
            for body in _bodies(record):
                if skeleton is None and body.joints:
                    skeleton = named_joints(body.joints)
                if body.frame is None and body.picture is None:
                    digits = _DIGITS.findall(file.stem)
                    frame = frame_number(digits[-1]) if digits else i
                    body = body._replace(frame=frame)
                found.append(body)
        except NOT_THERE as error:
            what = f"no {error}" if isinstance(error, KeyError) else error
            raise ValueError(
                f"{file}: no detections of a program that is known ({what}); give COCO "
                "results, mmpose's predictions, OpenPose's folder or a list of frames "
                'with {"frame": 0, "keypoints": [{"x": ..., "y": ..., "name": ...}]}'
            ) from error
    if not found:
        raise ValueError(f"{path}: nobody was detected in any of {len(files)} files")
    return tracks_of(path, found, skeleton, unnamed)


def about_a_video(file: Path) -> bool:
    """Whether one file has all frames of a video, and not only one picture."""
    record = _load(file)
    if isinstance(record, dict):
        known = ("instance_info", "annotations", "frames")
        record = next((record[name] for name in known if name in record), None)
    first = record[0] if isinstance(record, list) and record else {}
    return isinstance(first, list) or not {*_FRAME, "image_id"}.isdisjoint(first)


def _load(file: Path) -> Any:
    try:
        return json.loads(read_bytes(file))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file}: no JSON ({error}); write it again") from error


def tracks_of(
    path: Path,
    found: Sequence[Detection],
    skeleton: Skeleton | None,
    unnamed: Skeleton | None,
) -> Tracks:
    """Bodies as tracks; ``skeleton``: of the file, ``unnamed`` as for :func:`read`."""
    counts = {len(body.points) for body in found}
    if len(counts) > 1:
        raise ValueError(f"{path}: bodies of {sorted(counts)} joints in one file")
    count = counts.pop()
    skeleton = skeleton or named_joints([str(j) for j in range(count)], unnamed)
    if skeleton.num_joints != count:
        wrong = f"names {skeleton.num_joints} joints, gives {count}"
        raise ValueError(f"{path}: {wrong}; correct the names in the file")
    pictures = [body.picture or "" for body in found if body.picture is not None]
    number = {name: i for i, name in enumerate(sorted({*pictures}, key=place_of))}
    frame = np.array(
        [number[b.picture or ""] if b.frame is None else b.frame for b in found]
    )
    points = np.stack([body.points for body in found])
    names = [body.who for body in found]
    if None in names:
        who = linked(frame, points[..., :2], points[..., 2])
        individuals = [f"individual {i + 1}" for i in range(int(who.max()) + 1)]
    else:
        known = list(dict.fromkeys(map(str, names)))
        place = {name: i for i, name in enumerate(known)}
        who, individuals = np.array([place[str(name)] for name in names]), known
    return make_tracks(
        path,
        skeleton,
        points[..., :2],
        points[..., 2],
        frame,
        individuals=individuals if len(individuals) > 1 else [""],
        individual=who,
        pictures=pictures if len(pictures) == len(found) else (),
    )


# --- what the files look like ---------------------------------------------------------


def _named(record: Any) -> Skeleton | None:
    """The joints that a file names."""
    if not isinstance(record, dict):
        return None
    if "categories" in record:
        named = [c for c in record["categories"] if c.get("keypoints")]
        if not named:
            return None
        edges = bones_from_0(named[0].get("skeleton") or ())
        plain = {"name": "coco", "joints": named[0]["keypoints"], "edges": edges}
        return well_known(Skeleton.from_names(plain))
    meta = record.get("meta_info") or {}
    if names := meta.get("keypoint_id2name"):
        joints = [names[key] for key in sorted(names, key=int)]
        edges = [tuple(map(int, pair)) for pair in meta.get("skeleton_links") or ()]
        plain = {"name": str(meta.get("dataset_name", "mmpose")), "joints": joints}
        return well_known(Skeleton.from_names(plain | {"edges": edges}))
    return None


def _bodies(record: Any) -> Iterator[Detection]:
    """The bodies of one file, whichever of the programs wrote it."""
    if isinstance(record, dict) and "people" in record:  # OpenPose
        for person in record["people"]:
            who = _text(person.get("person_id", [-1])[0])
            yield Detection(None, None, who, _points(person["pose_keypoints_2d"]))
    elif isinstance(record, dict) and "annotations" in record:
        yield from _coco(record)
    elif isinstance(record, dict):
        yield from _bodies(record["frames" if "frames" in record else "instance_info"])
    else:
        # Scripts of mmpose count frames from 1, and also those without a body.
        first = int(all("instances" in e and e["frame_id"] for e in record))
        for i, entry in enumerate(record):
            if isinstance(entry, list):  # all bodies of a frame
                for each in entry:
                    yield from _body(each, i)
            elif "instances" in entry:
                for each in entry["instances"]:
                    yield from _body(each, frame_number(entry["frame_id"]) - first)
            elif "image_id" in entry:
                yield _result(entry)
            else:
                numbers = [entry[name] for name in _FRAME if name in entry]
                number = i if not numbers and "keypoints" not in entry else None
                yield from _body(entry, frame_number(numbers[0]) if numbers else number)


def _coco(record: Record) -> Iterator[Detection]:
    files = {image["id"]: str(image["file_name"]) for image in record["images"]}
    for entry in record["annotations"]:
        if entry.get("iscrowd") or not entry.get("keypoints"):
            continue
        points = _points(entry["keypoints"])
        points[:, 2] = np.where(points[:, 2] > 0, entry.get("score", 1.0), 0.0)
        who = _text(entry.get("track_id", entry.get("instance_id")))
        yield Detection(None, files[entry["image_id"]], who, points)


def _result(entry: Record) -> Detection:
    """COCO's results, those of ``--stage=predict``, and AlphaPose's."""
    image, points = entry["image_id"], _points(entry["keypoints"])
    who = _text(entry.get("track_id", entry.get("idx")))
    if "frame" in entry:
        return Detection(frame_number(entry["frame"]), None, who, points)
    name = entry.get("file_name", image if isinstance(image, str) else None)
    return Detection(None if name else frame_number(image), name, who, points)


def _body(entry: Record, frame: int | None) -> Iterator[Detection]:
    """One of mmpose's, MediaPipe's, MoveNet's or Ultralytics', if it was detected."""
    own = ("landmarks", "pose_landmarks")
    marks = entry[next((name for name in own if name in entry), "keypoints")]
    joints, score = (), entry.get("keypoint_scores")
    if not marks:
        return
    if isinstance(marks, dict):
        x, y, score = marks["x"], marks["y"], marks.get("visible")
    elif isinstance(marks[0], dict):
        x, y = ([mark[axis] for mark in marks] for axis in "xy")
        score = [mark.get("score", mark.get("visibility", 1)) for mark in marks]
        joints = tuple(str(mark["name"]) for mark in marks if "name" in mark)
    else:
        x, y, *more = np.array(marks, np.float64).reshape(len(marks), -1).T
        if len(more) not in (0, 2):
            raise ValueError(f"{2 + len(more)} numbers a joint, not x and y")
        score = more[1] if more else score
    points = np.stack([x, y, np.ones(len(x)) if score is None else score], axis=1)
    points = points.astype(np.float64)
    yield Detection(frame, None, _text(entry.get("track_id")), points, joints)


def frame_number(value: Any) -> int:
    """A whole number from 0 on, else a ValueError."""
    number = int(value)
    if not 0 <= number < MOST_FRAMES:
        raise ValueError(f"frame {value!r} is no number from 0 on")
    return number


def _points(values: Sequence[float]) -> np.ndarray:
    return np.array(values, np.float64).reshape(-1, 3)


def _text(identity: Any) -> str | None:
    """An identity; none and -1 mean that there is none."""
    if isinstance(identity, list):
        identity = identity[0] if identity else None
    return None if identity in (None, -1, "-1") else str(identity)
