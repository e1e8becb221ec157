"""SLEAP's predictions: ``.slp`` and the analysis ``.h5``, read as plain arrays.

The centre of the first pixel is at 0. Of a frame with instances set by hand, those
predicted for the same track, or without a track, are left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from input_pipeline.formats.hdf5 import array_of, read_array
from input_pipeline.formats.tracks.linking import linked
from input_pipeline.formats.tracks.record import (
    CENTRE_PX,
    Tracks,
    join,
    make_tracks,
)
from input_pipeline.skeleton import Skeleton
from runtime.reading import most_growth

BY_HAND, BONE = 0, 1  # kinds of an instance and of a link


def read_analysis(path: Path, file: h5py.File) -> Tracks:
    """``tracks`` (I, 2, P, F), as ``sleap-convert --format analysis`` writes it.

    Raises:
        ValueError: arrays that do not fit together.
    """
    tracks, names = array_of(file, "tracks", "f"), _texts(path, file, "node_names")
    if tracks.ndim != 4 or tracks.shape[1:3] != (2, len(names)):
        raise ValueError(
            f"{path}: tracks is {tracks.shape}, not (animals, 2, {len(names)}, frames)"
        )
    animals, _, joints, frames = tracks.shape
    if tracks.nbytes > animals * most_growth(path):
        raise ValueError(f"{path}: tracks would take {tracks.nbytes} bytes")
    known = _texts(path, file, "track_names") if "track_names" in file else []
    if len(known) != animals:
        known = [f"track_{i}" for i in range(animals)] if animals > 1 else [""]
    scores = array_of(file, "point_scores", "f") if "point_scores" in file else None
    if scores is not None and scores.shape != (animals, joints, frames):
        scores = None
    parts = []
    for i in range(animals):  # most of a short track is empty
        xy = tracks[i].transpose(2, 1, 0)
        frame = np.flatnonzero(~np.isnan(xy).all((1, 2)))
        score = np.ones((frames, joints)) if scores is None else scores[i].T
        parts.append((xy[frame], score[frame], frame, np.full(len(frame), i)))
    xy, score, frame, who = (np.concatenate(a) for a in zip(*parts, strict=True))
    bones = _all(path, file, "edge_inds", "iu") if "edge_inds" in file else np.zeros(0)
    skeleton = {"name": "sleap", "joints": names, "edges": bones.tolist()}
    return make_tracks(
        path,
        Skeleton.from_names(skeleton),
        xy + CENTRE_PX,
        score,
        frame,
        individuals=known,
        individual=who,
    )


def read_slp(path: Path, file: h5py.File) -> Tracks:
    """The instances of a project: predicted ones, and those set by hand.

    Raises:
        ValueError: another layout, or several skeletons.
    """
    attributes: Any = file["metadata"].attrs
    skeleton = _skeleton(json.loads(attributes["json"]))
    frames, instances = (_all(path, file, n, "V") for n in ("frames", "instances"))
    P = skeleton.num_joints
    xy = np.full((len(instances), P, 2), np.nan)
    score = np.ones((len(instances), P))
    by_hand = instances["instance_type"] == BY_HAND
    for name, chosen in (("points", by_hand), ("pred_points", ~by_hand)):
        rows = np.flatnonzero(chosen)
        if not len(rows):
            continue
        starts = instances["point_id_start"][rows].astype(np.int64)
        counts = instances["point_id_end"][rows].astype(np.int64) - starts
        points = _all(path, file, name, "V")
        if (counts != P).any() or starts.max() + P > len(points):
            raise ValueError(f"{path}: instances of other than {P} points")
        found = points[starts[:, None] + np.arange(P)]
        seen = found["visible"].astype(bool)[..., None]  # else a place left over
        xy[rows] = np.where(seen, np.stack([found["x"], found["y"]], -1), np.nan)
        if "score" in (points.dtype.names or ()):
            score[rows] = found["score"]
    # The first versions had the outer corner of the first pixel at 0.
    xy += CENTRE_PX if float(attributes.get("format_id", 1.0)) >= 1.1 else 0.0
    place = {int(key): i for i, key in enumerate(frames["frame_id"])}
    of = np.array([place[int(key)] for key in instances["frame_id"]], int)
    track = instances["track"].astype(np.int64)
    keep = _kept(of, track, by_hand)
    video = frames["video"][of].astype(np.int64)
    frame = frames["frame_idx"][of].astype(np.int64)
    names = [json.loads(text)[1] for text in _texts(path, file, "tracks_json")]
    parts = []
    for number, entry in enumerate(_texts(path, file, "videos_json")):
        rows = np.flatnonzero(keep & (video == number))
        if len(rows):
            part = frame[rows], xy[rows], score[rows], track[rows], names
            parts.append(_video(path, skeleton, json.loads(entry), *part))
    if not parts:
        raise ValueError(f"{path}: has no instances; run the tracker first")
    return join(parts, {})


def _kept(of: np.ndarray, track: np.ndarray, by_hand: np.ndarray) -> np.ndarray:
    """Instances that none by hand stands for."""
    taken = {*zip(of[by_hand].tolist(), track[by_hand].tolist(), strict=True)}
    frames = {frame for frame, _ in taken}
    pairs = zip(of.tolist(), track.tolist(), by_hand.tolist(), strict=True)
    return np.array(
        [
            hand or ((frame, who) not in taken and (who >= 0 or frame not in frames))
            for frame, who, hand in pairs
        ],
        bool,
    )


def _video(
    path: Path,
    skeleton: Skeleton,
    entry: Mapping[str, Any],
    frame: np.ndarray,
    xy: np.ndarray,
    score: np.ndarray,
    track: np.ndarray,
    names: Sequence[str],
) -> Tracks:
    """The instances of one video."""
    backend = entry.get("backend", entry)
    files = backend.get("filenames") or ()
    shape = backend.get("shape") or ()
    if (track < 0).any():
        track = linked(frame, xy, np.nan_to_num(score, nan=1.0))
        names = [f"animal {i + 1}" for i in range(int(track.max()) + 1)]
    known, who = np.unique(track, return_inverse=True)
    animals = [str(names[i]) for i in known.tolist()]
    inside = bool(files) and frame.max() < len(files)
    return make_tracks(
        path,
        skeleton,
        xy,
        score,
        frame,
        individuals=animals if len(animals) > 1 else [""],
        individual=np.ravel(who),
        size=(int(shape[2]), int(shape[1])) if len(shape) == 4 else None,
        pictures=[str(files[i]) for i in frame] if inside else (),
    )


def _skeleton(record: Mapping[str, Any]) -> Skeleton:
    """The joints in the order of the points, and the bones between them."""
    if len(record["skeletons"]) != 1:
        raise ValueError(f"{len(record['skeletons'])} skeletons in one project")
    names = [str(node["name"]) for node in record["nodes"]]
    graph = record["skeletons"][0]
    graph = graph.get("nx_graph", graph)  # of skeletons with a preview
    order = [int(node["id"]) for node in graph["nodes"]]
    edges = []
    for link in graph["links"]:
        kind = link.get("type") or {}
        kind = kind.get("py/id") or kind["py/reduce"][1]["py/tuple"][0]
        if kind == BONE:
            edges.append([names[link["source"]], names[link["target"]]])
    joints = [names[i] for i in order]
    return Skeleton.from_names({"name": "sleap", "joints": joints, "edges": edges})


def _texts(path: Path, file: h5py.File, name: str) -> list[str]:
    values = _all(path, file, name, "SOf").tolist()
    return [v.decode() if isinstance(v, bytes) else str(v) for v in values]


def _all(path: Path, file: h5py.File, name: str, kinds: str) -> np.ndarray:
    return read_array(file, name, kinds, most_growth(path))
