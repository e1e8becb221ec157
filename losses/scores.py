"""The scores of N predicted poses: one table row, the same for every method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from losses import metrics

NO_TRUTH = "no 3D ground truth: only the fit to the 2D landmarks can be told"
# Standard deviations to each side of the middle, of a Gaussian's central intervals.
REACH = {"50": 0.6745, "80": 1.2816, "95": 1.96}
MEAN_POSE = "mean of the true training poses in one view: only PA-MPJPE has a meaning"


def score_poses(
    pose: Float[np.ndarray, "n p 3"],
    annotated_xy: Float[np.ndarray, "n p 2"],
    labelled: Bool[np.ndarray, "n p"],
    truth_mm: Float[np.ndarray, "n p 3"] | None,
    *,
    edges: metrics.Edges,
    root: int,
    sign: str,
    mean_pose: Float[np.ndarray, "p 3"] | None = None,
    actions: Sequence[str] | np.ndarray | None = None,
) -> dict[str, Any]:
    """Every metric of N poses, and of what any method must beat.

    Only labelled joints count, for every method and baseline alike, so that the rows
    of a table compare; a sample in which no bone has both ends labelled has no scale
    and is left out.

    Args:
        pose: (N, P, 3) predictions in the camera frame.
        annotated_xy: (N, P, 2) landmarks, in the unit and frame of ``pose``.
        labelled: (N, P) joints that have a landmark.
        truth_mm: (N, P, 3) true poses in the camera frame; None: no scores.
        edges: bones as (parent, child).
        root: index of the root joint.
        sign: how the sign of depth was fixed, reported with the numbers.
        mean_pose: (P, 3) a constant prediction to compare with.
        actions: (N,) names, for a table per action.

    Returns:
        The metrics of ``pose``; the same with the annotated x and y under
        ``"annotated_xy"``; the error of each joint under ``"per_joint_mm"``, None
        where it is never labelled; those of depth 0 and of the mean pose under
        ``"baselines"``; where there are several actions ``"per_action"``; and how
        many samples were ``"left_out"`` where any were.

    Raises:
        ValueError: shapes that differ, a value that is not finite.
    """
    if truth_mm is None:
        return {"message": NO_TRUTH}
    rows = _with_a_bone(labelled, edges)
    pose, truth, mask = pose[rows], truth_mm[rows], labelled[rows]
    given = np.where(mask[..., None], annotated_xy[rows], pose[..., :2])
    annotated = np.concatenate([given, pose[..., 2:]], axis=-1)
    how: dict[str, Any] = {"edges": edges, "root": root, "labelled": mask}

    def measure(poses: np.ndarray, sign: str = sign) -> dict[str, Any]:
        return metrics.evaluate_poses(poses, truth, sign=sign, **how)

    flat = np.array([1, 1, 0], pose.dtype)
    zero = {"annotated_xy": measure(annotated * flat, "no depth")}
    baselines = {"z_zero": measure(pose * flat, "no depth") | zero}
    if mean_pose is not None:
        same = np.repeat(mean_pose[None], len(pose), axis=0)
        baselines["mean_pose"] = measure(same, MEAN_POSE)
    scores = measure(pose) | {
        "per_joint_mm": _per_joint(pose, truth, mask),
        "annotated_xy": measure(annotated),
        "baselines": baselines,
    }
    names = None if actions is None else np.asarray(actions)[rows]
    if names is not None and len(np.unique(names)) > 1:
        scores["per_action"] = metrics.per_action_table(
            pose, truth, names, sign=sign, **how
        )
    return scores if rows.all() else scores | {"left_out": int(np.sum(~rows))}


def _per_joint(
    pose: Float[np.ndarray, "n p 3"],
    truth: Float[np.ndarray, "n p 3"],
    mask: Bool[np.ndarray, "n p"],
) -> list[float | None]:
    errors = metrics.per_joint_error(pose, truth, labelled=mask)
    return [round(float(e), 2) if np.isfinite(e) else None for e in errors]


def _with_a_bone(
    labelled: Bool[np.ndarray, "n p"], edges: metrics.Edges
) -> Bool[np.ndarray, " n"]:
    bones = np.asarray(edges, np.int64).reshape(-1, 2)
    if not len(bones):  # which the metrics refuse
        return np.ones(len(labelled), bool)
    return np.any(labelled[:, bones[:, 0]] & labelled[:, bones[:, 1]], axis=1)


def score_error_bars(
    error: Float[np.ndarray, "n p 3"],
    spread: Float[np.ndarray, "n p 3"],
    labelled: Bool[np.ndarray, "n p"],
) -> dict[str, dict[str, float]]:
    """How well standard deviations tell errors, for each of x, y, z.

    Args:
        error: (N, P, 3) predicted less true; NaN where the truth is not known.
        spread: (N, P, 3) standard deviations, same unit.
        labelled: (N, P) joints that count.

    Returns:
        ``"50"``, ``"80"``, ``"95"``: the share of joints within that central interval
        of a Gaussian; ``"rank correlation"``: Spearman's, of deviation and error over
        all joints. Axes without a known error are left out.
    """
    found: dict[str, dict[str, float]] = {}
    for axis, name in enumerate("xyz"):
        e, s = (np.abs(x[..., axis][labelled]) for x in (error, spread))
        if not e.size or np.isnan(e).any():
            continue
        for level, reach in REACH.items():
            found.setdefault(level, {})[name] = round(float(np.mean(e <= reach * s)), 4)
        if np.ptp(s) > 0 and np.ptp(e) > 0:
            ranks = [stats.rankdata(x) for x in (s, e)]
            rank = float(np.corrcoef(*ranks)[0, 1])
            found.setdefault("rank correlation", {})[name] = round(rank, 3)
    return found
