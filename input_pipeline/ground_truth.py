"""The 3D ground truth of a data set. Only evaluation opens it: no training, no
choice of a model and no early stopping may call ``Dataset.truth``, except the
training mode that says ``supervised``.

A user's file is an ``.npz`` with ``positions_mm`` (N, P, 3) and either ``sample_ids``
(annotation ids) or ``image_id`` (where every picture shows one person); ``action``,
``subject`` and ``joint_names`` are optional.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from input_pipeline.skeleton import Skeleton
from runtime.files import read_npz

_ARRAYS = ("positions_mm", "sample_ids", "image_id", "action", "subject", "joint_names")


@dataclasses.dataclass(frozen=True)
class GroundTruth:
    """True 3D landmarks.

    Args:
        sample_ids: (N,) int64, those of ``Landmarks``.
        positions_mm: (N, P, 3) float32 in the camera frame: x right, y down, z away.
        action: (N,) text; empty where unknown.
        subject: (N,) numbers or text; -1 where unknown.
    """

    sample_ids: np.ndarray
    positions_mm: np.ndarray
    action: np.ndarray
    subject: np.ndarray

    def __len__(self) -> int:
        return len(self.sample_ids)

    def align(self, sample_ids: np.ndarray) -> GroundTruth:
        """The truth of the given samples, in their order.

        Raises:
            ValueError: a sample has no truth.
        """
        order = np.argsort(self.sample_ids, kind="stable")
        known = self.sample_ids[order]
        place = np.minimum(np.searchsorted(known, sample_ids), len(known) - 1)
        missing = np.flatnonzero(known[place] != sample_ids)
        if missing.size:
            raise ValueError(
                f"no 3D ground truth for {missing.size} of {len(sample_ids)} samples, "
                f"the first is row {missing[0]} (sample id {sample_ids[missing[0]]}); "
                "add it to the file or leave --config.data.ground_truth empty"
            )
        rows = order[place]
        return GroundTruth(
            self.sample_ids[rows],
            self.positions_mm[rows],
            self.action[rows],
            self.subject[rows],
        )


def load_ground_truth(
    file: Path, *, skeleton: Skeleton, sample_ids: np.ndarray, image_ids: np.ndarray
) -> GroundTruth:
    """Reads one ``.npz`` for the given samples, in their order.

    Raises:
        ValueError: missing file or array, other joints, NaN, a sample without truth.
    """
    arrays = read_npz(file, _ARRAYS)
    if "positions_mm" not in arrays or not {"sample_ids", "image_id"} & set(arrays):
        raise ValueError(
            f"{file}: has, of {_ARRAYS}, {sorted(arrays)}; it needs positions_mm "
            "(N, P, 3) in millimetres and sample_ids or image_id (N,)"
        )
    positions = arrays["positions_mm"]
    _check_joints(file, positions, arrays.get("joint_names"), skeleton)
    if "sample_ids" in arrays:
        ids, wanted = arrays["sample_ids"], sample_ids
    else:
        ids, wanted = arrays["image_id"], image_ids
        _check_one_person(file, image_ids)
    count = len(positions)
    if ids.shape != (count,):
        raise ValueError(f"{file}: {ids.shape} ids for {count} poses; give one each")
    truth = GroundTruth(
        ids.astype(np.int64),
        positions.astype(np.float32),
        arrays.get("action", np.full(count, "")).astype(str),
        arrays.get("subject", np.full(count, -1)),
    )
    try:
        aligned = truth.align(wanted)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    return dataclasses.replace(aligned, sample_ids=sample_ids.astype(np.int64))


def _check_joints(
    file: Path, positions: np.ndarray, names: np.ndarray | None, skeleton: Skeleton
) -> None:
    if positions.ndim != 3 or positions.shape[1:] != (skeleton.num_joints, 3):
        raise ValueError(
            f"{file}: positions_mm has shape {positions.shape}, but the skeleton "
            f"{skeleton.name!r} needs (N, {skeleton.num_joints}, 3)"
        )
    if names is not None and tuple(str(n) for n in names) != skeleton.joints:
        raise ValueError(
            f"{file}: joint_names {[str(n) for n in names]} differ from the "
            f"landmarks' {list(skeleton.joints)}; bring both into one order"
        )
    bad = np.flatnonzero(~np.isfinite(positions).all(axis=(1, 2)))
    if bad.size:
        raise ValueError(
            f"{file}, positions_mm[{bad[0]}]: not finite in {bad.size} poses; "
            "remove these poses or leave --config.data.ground_truth empty"
        )


def _check_one_person(file: Path, image_ids: np.ndarray) -> None:
    unique, counts = np.unique(image_ids, return_counts=True)
    if (counts > 1).any():
        raise ValueError(
            f"{file}: names pictures by image_id, but image {unique[counts > 1][0]} "
            "shows several persons; give sample_ids (annotation ids) instead"
        )
