"""Reads SLEAP's ``.slp`` through sleap-io (``pip install 'nrsfm-distill[readers]'``).

The labelled frames must be pictures: a project made from an image sequence. Frames of
a video are first saved as pictures (``docs/own_data.md`` has the lines). The centre of
the first pixel is at 0; a point that is NaN is unlabelled. Where a frame has an
instance set by hand, instances predicted by a model are left out and counted.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline.formats.annotations import Labels, Person, Source, is_file
from input_pipeline.formats.json_file import read_bytes
from input_pipeline.skeleton import Skeleton

CENTRE_PX = 0.5
PREDICTED = "predicted"


def read(source: Source) -> Labels | None:
    """The instances of all labelled frames, in their order, numbered from 0.

    Raises:
        ValueError: sleap-io is not installed.
    """
    try:
        import sleap_io
    except ImportError as error:
        raise ValueError(
            f"{source.path}: reading .slp needs sleap-io; pip install "
            "'nrsfm-distill[readers]'"
        ) from error
    if read_bytes(source) is None:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load: Any = sleap_io.load_slp
            project = load(str(source.path), open_videos=False)
            nodes = [str(node.name) for node in project.skeleton.nodes]
            edges = [list(map(str, edge)) for edge in project.skeleton.edge_names]
            frames = list(project.labeled_frames)
    except Exception as error:  # HDF5 and the parser fail in many ways
        remedy = "copy the file again, or save it with SLEAP"
        source.problem("not a SLEAP file", "", repr(error), remedy)
        return None
    try:
        skeleton = Skeleton.from_names(
            {"name": "sleap", "joints": nodes, "edges": edges}
        )
    except ValueError as error:
        remedy = "correct the skeleton in SLEAP, or set --config.data.skeleton"
        source.problem("bad skeleton", "skeleton", error, remedy)
        return None
    skipped = Labels(skeleton).skipped | {PREDICTED: 0}
    marks = tuple(_marks(source, frames, skeleton, skipped))
    return Labels(skeleton, marks, skipped)


def _marks(
    source: Source, frames: list[Any], skeleton: Skeleton, skipped: dict[str, int]
) -> Iterator[Person]:
    image_ids: dict[str, int] = {}
    count = 0
    for i, frame in enumerate(frames):
        at = f"labeled_frames[{i}]"
        name = _picture(source.images, frame)
        if not name:
            value = f"frame {frame.frame_idx} of {frame.video.filename}"
            remedy = "save the labelled frames as pictures (docs/own_data.md)"
            source.problem("no pictures", at, value, remedy)
            continue
        image_id = image_ids.setdefault(name, len(image_ids))
        by_hand = [
            x for x in frame.instances if not type(x).__name__.startswith("Predicted")
        ]
        chosen = by_hand or list(frame.instances)
        skipped[PREDICTED] += len(frame.instances) - len(chosen)
        for k, instance in enumerate(chosen):
            points = np.asarray(instance.numpy(), np.float64)
            if points.shape != (skeleton.num_joints, 2):
                remedy = "keep the instances of one skeleton in a project"
                source.problem("skeleton mismatch", at, points.shape, remedy)
                continue
            labelled = np.asarray(~np.isnan(points).all(axis=1))
            if not labelled.any():
                skipped["unlabelled"] += 1
                continue
            xy = np.where(labelled[:, None], points + CENTRE_PX, 0.0)
            where = f"{at}.instances[{k}]"
            yield Person(where, count, image_id, name, xy, labelled)
            count += 1


def _picture(images: Path, frame: Any) -> str:
    """The file of a frame of an image sequence; empty for a frame of a video.

    A project that was made elsewhere names folders that are not here: then it is the
    file of that name in the folder of the pictures.
    """
    files = frame.video.filename
    index = int(frame.frame_idx)
    if isinstance(files, str) or not 0 <= index < len(files):
        return ""
    name = str(files[index]).replace("\\", "/")
    if is_file(images / name):
        return name
    moved = name.rsplit("/", 1)[-1]
    return moved if is_file(images / moved) else name
