"""Reads SLEAP's ``.slp`` through sleap-io (``pip install 'nrsfm-distill[readers]'``).

The labelled frames are read out of the videos (by PyAV), out of the package
(``.pkg.slp``), or are the files of an image sequence. The centre of the first pixel is
at 0; a point that is NaN is unlabelled. Where a frame has an instance set by hand,
instances predicted by a model are left out and counted. Symmetric nodes are pairs.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from input_pipeline.formats.annotations import Labels, Person, Source
from input_pipeline.formats.hdf5 import check_hdf5, own_dataset
from input_pipeline.formats.json_file import check_file, whole_number
from input_pipeline.frames import is_file
from input_pipeline.skeleton import Skeleton

PIXEL_CENTRE_PX = 0.0
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
    if source.path.suffix.lower() != ".slp":
        remedy = "give the project's .slp, or set --config.data.name=tracks for tracks"
        source.problem("not a SLEAP file", "", "an export, without labels", remedy)
        return None
    if not check_file(source):
        return None
    try:
        check_hdf5(source.path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load: Any = sleap_io.load_slp
            project = load(str(source.path), open_videos=False)
            nodes = [str(node.name) for node in project.skeleton.nodes]
            edges = [list(map(str, edge)) for edge in project.skeleton.edge_names]
            pairs = [list(map(int, pair)) for pair in project.skeleton.symmetry_inds]
            frames = list(project.labeled_frames)
    except Exception as error:  # HDF5 and the parser fail in many ways
        remedy = "open it in SLEAP and save it as .slp or as a package"
        source.problem("not a SLEAP file", "", repr(error), remedy)
        return None
    try:
        record = {"name": "sleap", "joints": nodes, "edges": edges}
        skeleton = Skeleton.from_names(record).with_pairs(pairs)
    except ValueError as error:
        remedy = "correct the skeleton in SLEAP, or set --config.data.skeleton"
        source.problem("bad skeleton", "skeleton", error, remedy)
        return None
    skipped = Labels(skeleton).skipped | {PREDICTED: 0}
    marks = tuple(_marks(source, frames, skeleton, skipped))
    return Labels(skeleton, marks, skipped, PIXEL_CENTRE_PX)


def _marks(
    source: Source, frames: list[Any], skeleton: Skeleton, skipped: dict[str, int]
) -> Iterator[Person]:
    image_ids: dict[str, int] = {}
    places = _Places(source)
    count = 0
    for i, frame in enumerate(frames):
        at = f"labeled_frames[{i}]"
        try:
            name, size = places.of(frame)
        except ValueError as error:
            remedy = "put it below the folder of the pictures, --config.data.images"
            value = f"frame {frame.frame_idx}: {error}"
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
            xy = np.where(labelled[:, None], points, 0.0)
            where = f"{at}.instances[{k}]"
            yield Person(where, count, image_id, name, xy, labelled, size)
            count += 1


class _Places:
    """Finds the pictures of frames, also of a project that was made elsewhere."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._original: dict[str, str] = {}  # found file -> the name in the project
        self._rows: dict[str, dict[int, int]] = {}  # array -> frame -> its row

    def of(self, frame: Any) -> tuple[str, tuple[int, int] | None]:
        """Name, see ``input_pipeline.frames``, and (width, height) where it is told.

        Raises:
            ValueError: there is no such picture, or it could be that of two files.
        """
        files, number = frame.video.filename, int(frame.frame_idx)
        if not isinstance(files, str):
            if not 0 <= number < len(files):
                raise ValueError(f"frame {number} of {len(files)} pictures")
            return self._found(str(files[number])), None
        told = frame.video.backend_metadata or {}
        shape = told.get("shape")
        numbers = shape if isinstance(shape, list | tuple) and len(shape) == 4 else ()
        high, wide = [whole_number(v) for v in numbers[1:3]] or (None, None)
        size = (wide, high) if wide and high else None
        array = str(told.get("dataset") or "")
        if not array:
            return f"{self._found(files)}#{number}", size
        if array not in self._rows:
            self._rows[array] = _embedded(self._source.path, array)
        rows = self._rows[array]
        if number not in rows:
            raise ValueError(f"frame {number} is not in the package's {array}")
        path = self._source.path
        beside = is_file(self._source.images / path.name)
        file = path.name if beside else str(path.absolute())
        return f"{file}#{array}#{rows[number]}", size

    def _found(self, name: str) -> str:
        """The file with as much of the end of this path as there is."""
        images, parts = self._source.images, name.replace("\\", "/").split("/")
        tails = ["/".join(parts[i:]) for i in range(len(parts))]
        found = next((tail for tail in tails if is_file(images / tail)), "")
        if not found:
            raise ValueError(f"no {name}")
        other = self._original.setdefault(found, name)
        if other != name:
            raise ValueError(f"{found} could be {other} or {name}: keep their folders")
        return found


def _embedded(file: Path, array: str) -> dict[int, int]:
    """Number of a frame -> row of an array of pictures in a package."""
    try:
        with h5py.File(file, "r", locking=False) as package:
            numbers = own_dataset(package, f"{array.rpartition('/')[0]}/frame_numbers")
            return {int(number): row for row, number in enumerate(numbers[:])}
    except (ValueError, OSError) as error:
        raise ValueError(f"the package has no pictures {array} ({error})") from error
