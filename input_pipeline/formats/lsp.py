"""Reads Leeds Sports Pose (``joints`` 3 x 14 x N) and its extension (14 x 3 x N).

Pixels are counted from 1 at their centre. The third number says in the first set that
a joint is hidden, though labelled; in the extension that it is seen, and a joint that
is not seen has no place. Picture n is ``im0001.jpg`` there and ``im00001.jpg`` here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from input_pipeline.formats.annotations import Labels, Person, Source
from input_pipeline.formats.mat_file import read_mat
from input_pipeline.formats.mpii import MATLAB_CENTRE_PX
from input_pipeline.frames import is_file
from input_pipeline.skeleton import LSP_14

JOINTS = LSP_14.num_joints


def read(source: Source) -> Labels | None:
    """The persons, one a picture, numbered as the pictures are, from 1."""
    joints = read_mat(source, "joints")
    if joints is None:
        return None
    array = np.asarray(joints)
    if array.ndim == 2:  # one picture: SciPy drops the last axis
        array = array[..., None]
    original = array.shape[:2] == (3, JOINTS)
    shapes = {(3, JOINTS), (JOINTS, 3)}
    if array.dtype.kind not in "iuf" or array.shape[:2] not in shapes:
        value = f"joints has shape {array.shape} of {array.dtype}"
        remedy = f"LSP has (3, {JOINTS}, N), LSP-extended ({JOINTS}, 3, N)"
        source.problem("skeleton mismatch", "joints", value, remedy)
        return None
    order = (2, 1, 0) if original else (2, 0, 1)
    table = array.astype(np.float64).transpose(order)  # (N, joints, 3)
    persons = tuple(_marks(table, original, source.images))
    return Labels(LSP_14, persons, pixel_centre=MATLAB_CENTRE_PX)


def _marks(table: np.ndarray, original: bool, images: Path) -> Iterator[Person]:
    stem = "im{:04d}" if original else "im{:05d}"
    # The re-labelled extension has PNG files.
    jpg, png = (is_file(images / f"{stem.format(1)}.{s}") for s in ("jpg", "png"))
    pattern = f"{stem}.{'png' if png and not jpg else 'jpg'}"
    for i, row in enumerate(table):
        # Left of or above the picture: what the annotator could only guess.
        guessed = (row[:, :2] < 1).any(axis=1) & (row[:, 2] > 0)
        labelled = ~guessed if original else row[:, 2] > 0
        xy = np.where(labelled[:, None], row[:, :2], 0.0)
        at = f"joints(:, :, {i + 1})"
        yield Person(at, i + 1, i + 1, pattern.format(i + 1), xy, labelled)
