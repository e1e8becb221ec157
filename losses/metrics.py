"""Errors of predicted poses; the name of each metric states its alignment.

NumPy in float64, because the evaluation needs no gradient and singular values may be
equal. Poses are (..., P, 3) with any leading axes, and results have these axes. The
unit is that of the truth (mm). ``labelled`` (..., P) leaves joints out of both the
alignment and the mean, as if the skeleton did not have them; a sample without any
labelled joint gives NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Bool, Float

Poses = Float[np.ndarray, "*n p 3"] | Float[Array, "*n p 3"]
Labelled = Bool[np.ndarray, "*n p"] | Bool[Array, "*n p"] | None
PerSample = Float[np.ndarray, "*n"] | np.floating
Edges = Sequence[tuple[int, int]]

PCK_THRESHOLD = 150.0
AUC = tuple(float(t) for t in range(0, 151, 5))  # thresholds, mm
ALIGNMENT = (
    "mpjpe: scale by mean bone length, root; n_mpjpe: least-squares scale, root; "
    "pa_mpjpe: similarity without reflection; depth_error: scale by mean bone length, "
    "mean depth"
)


def mpjpe(
    pred: Poses, truth: Poses, *, root: int, labelled: Labelled = None
) -> PerSample:
    """Mean distance of the joints, root joints moved onto each other.

    Where the root is not labelled, the means of the labelled joints are.
    """
    pred, truth, mask = _arrays(pred, truth, labelled)
    return _mean_distance(
        _root_aligned(pred, mask, root), _root_aligned(truth, mask, root), mask
    )


def n_mpjpe(
    pred: Poses, truth: Poses, *, root: int, labelled: Labelled = None
) -> PerSample:
    """:func:`mpjpe` after the scale of the prediction that fits best in least squares.

    s = <pred, truth> / <pred, pred>, both root-aligned; not held positive.
    """
    pred, truth, mask = _arrays(pred, truth, labelled)
    pred, truth = _root_aligned(pred, mask, root), _root_aligned(truth, mask, root)
    inner, size = (_masked(pred * x, mask).sum((-2, -1)) for x in (truth, pred))
    scale = np.divide(inner, size, out=np.zeros_like(inner), where=size > 0)
    return _mean_distance(scale[..., None, None] * pred, truth, mask)


def pa_mpjpe(pred: Poses, truth: Poses, *, labelled: Labelled = None) -> PerSample:
    """Mean distance after the best similarity (rotation, scale, shift)."""
    return _procrustes_error(pred, truth, labelled, scale=True, reflection=False)


def pa_mpjpe_rigid(
    pred: Poses, truth: Poses, *, labelled: Labelled = None
) -> PerSample:
    """Mean distance after the best rotation and shift; the scale stays."""
    return _procrustes_error(pred, truth, labelled, scale=False, reflection=False)


def pa_mpjpe_reflection(
    pred: Poses, truth: Poses, *, labelled: Labelled = None
) -> PerSample:
    """Mean distance after the best similarity, mirror images allowed."""
    return _procrustes_error(pred, truth, labelled, scale=True, reflection=True)


def depth_error(pred: Poses, truth: Poses, *, labelled: Labelled = None) -> PerSample:
    """Mean |dz| over the joints, mean depths moved onto each other."""
    pred, truth, mask = _arrays(pred, truth, labelled)
    error = _centred(pred, mask)[..., 2] - _centred(truth, mask)[..., 2]
    return _mean(np.abs(error), mask)


def flipped(
    pred: Poses, truth: Poses, *, labelled: Labelled = None
) -> np.ndarray | bool:
    """Whether the centred depths point apart: <z_pred, z_true> < 0, per sample."""
    pred, truth, mask = _arrays(pred, truth, labelled)
    depths = (_masked(_centred(x, mask), mask)[..., 2] for x in (pred, truth))
    return np.prod(np.stack(list(depths)), axis=0).sum(-1) < 0


def dai_error(
    pred: Float[np.ndarray, "f p 3"] | Float[Array, "f p 3"],
    truth: Float[np.ndarray, "f p 3"] | Float[Array, "f p 3"],
) -> float:
    """Error of a sequence as Dai et al. (IJCV 2014) measure it.

    ``sum_fp e_fp / (sigma F P)``: the mean distance of the points after one rotation
    or reflection of all frames, over sigma, the standard deviation of a frame's points
    along an axis, averaged over axes and frames. No scale is fitted.

    Examples:
        >>> truth = np.random.default_rng(0).normal(size=(5, 7, 3))
        >>> bool(dai_error(truth * [1, 1, -1], truth) < 1e-6)
        True
    """
    pred, truth, _ = _arrays(pred, truth, None)
    pred = pred - pred.mean(axis=1, keepdims=True)
    truth = truth - truth.mean(axis=1, keepdims=True)
    U, _, Vt = np.linalg.svd(pred.reshape(-1, 3).T @ truth.reshape(-1, 3))
    distance = np.linalg.norm(pred @ (U @ Vt) - truth, axis=-1)
    return float(distance.mean() / truth.std(axis=1).mean())


def pck3d(
    pred: Poses,
    truth: Poses,
    *,
    root: int,
    threshold: float = PCK_THRESHOLD,
    labelled: Labelled = None,
) -> PerSample:
    """Share of the joints within ``threshold`` of the truth, root-aligned."""
    pred, truth, mask = _arrays(pred, truth, labelled)
    pred, truth = _root_aligned(pred, mask, root), _root_aligned(truth, mask, root)
    near = np.linalg.norm(pred - truth, axis=-1) <= threshold
    return _mean(near.astype(np.float64), mask)


def auc(
    pred: Poses,
    truth: Poses,
    *,
    root: int,
    labelled: Labelled = None,
) -> PerSample:
    """Mean of :func:`pck3d` over the thresholds 0, 5, ..., 150 mm."""
    how: Any = {"root": root, "labelled": labelled}
    return np.mean([pck3d(pred, truth, threshold=t, **how) for t in AUC], axis=0)


def per_joint_error(
    pred: Poses, truth: Poses, *, labelled: Labelled = None
) -> Float[np.ndarray, " p"]:
    """Mean distance of each joint over the samples, aligned as in :func:`pa_mpjpe`.

    NaN for a joint that no sample has labelled.
    """
    how: dict[str, Any] = {"scale": True, "reflection": False}
    aligned = procrustes_align(pred, truth, labelled=labelled, **how)
    _, truth, mask = _arrays(pred, truth, labelled)
    distance = np.linalg.norm(aligned - truth, axis=-1)
    return _mean(
        distance.reshape(-1, mask.shape[-1]).T, mask.reshape(-1, mask.shape[-1]).T
    )


def scale_by_bone_length(
    pred: Poses, truth: Poses, *, edges: Edges, labelled: Labelled = None
) -> Float[np.ndarray, "*n p 3"]:
    """The prediction scaled so that its mean bone length is that of the truth.

    Raises:
        ValueError: ``edges`` is empty, or a sample has no bone with both ends
            labelled, or its predicted bones all have length 0.
    """
    pred, truth, mask = _arrays(pred, truth, labelled)
    if not len(edges):
        raise ValueError(
            "edges is empty: bone-length alignment needs at least one bone"
        )
    parents, children = np.asarray(edges, dtype=np.int64).T
    bones = mask[..., parents] & mask[..., children]
    lengths = (
        _mean(np.linalg.norm(x[..., children, :] - x[..., parents, :], axis=-1), bones)
        for x in (pred, truth)
    )
    of_pred, of_truth = (np.asarray(length) for length in lengths)
    bad = np.flatnonzero(~(of_pred > 0))
    if bad.size:
        raise ValueError(
            f"sample {bad[0]}: mean predicted bone length {of_pred.flat[bad[0]]}, "
            "which no scale can align (nan: no bone with both ends labelled); "
            "leave the sample out or use n_mpjpe"
        )
    return pred * (of_truth / of_pred)[..., None, None]


def procrustes_align(
    pred: Poses,
    truth: Poses,
    *,
    scale: bool,
    reflection: bool,
    labelled: Labelled = None,
) -> Float[np.ndarray, "*n p 3"]:
    """The prediction moved onto the truth by the best orthogonal map and shift.

    Args:
        pred: (..., P, 3) poses to be moved.
        truth: (..., P, 3) poses to be met.
        scale: whether the size is fitted too (in least squares, with the rotation).
        reflection: whether mirror images are allowed.
        labelled: (..., P) joints that are fitted; all are moved.
    """
    pred, truth, mask = _arrays(pred, truth, labelled)
    centre = _mean(truth, mask[..., None], axis=-2, keepdims=True)
    pred, truth = _centred(pred, mask), _centred(truth, mask)
    fitted, target = _masked(pred, mask), _masked(truth, mask)
    product = np.swapaxes(fitted, -1, -2) @ target
    # One sample that is not finite would make LAPACK fail on all.
    known = np.isfinite(product).all((-2, -1), keepdims=True)
    U, values, Vt = np.linalg.svd(np.where(known, product, 0.0))
    signs = np.ones_like(values)
    if not reflection:
        signs[..., 2] = np.where(np.linalg.det(U @ Vt) < 0, -1.0, 1.0)
    turned = pred @ ((U * signs[..., None, :]) @ Vt)
    if scale:
        size = (fitted**2).sum((-2, -1))
        best = (values * signs).sum(-1)
        best = np.divide(best, size, out=np.zeros_like(best), where=size > 0)
        turned = best[..., None, None] * turned
    return np.where(known, turned + centre, np.nan)


def evaluate_poses(
    pred: Poses,
    truth_mm: Poses,
    *,
    edges: Edges,
    root: int,
    labelled: Labelled = None,
    sign: str = "given",
) -> dict[str, Any]:
    """Every metric of N poses, in mm, averaged over the samples.

    Args:
        pred: (N, P, 3) poses in the camera frame, in any unit.
        truth_mm: (N, P, 3) true poses in the camera frame, in mm.
        edges: bones as (parent, child), for the scale.
        root: index of the root joint.
        labelled: (N, P) joints that count.
        sign: how the sign of depth was fixed, reported with the numbers.

    Returns:
        A JSON-ready dictionary; ``alignment`` says how each number was aligned.

    Raises:
        ValueError: shapes differ, no sample, a value that is not finite.
    """
    pred, truth, mask = _arrays(pred, truth_mm, labelled)
    _check_finite(pred, mask, "prediction")
    _check_finite(truth, mask, "truth")
    if not len(pred):
        raise ValueError("no poses to evaluate: the split has no samples with 3D")
    scaled = scale_by_bone_length(pred, truth, edges=edges, labelled=mask)
    measured = {
        "mpjpe_mm": mpjpe(scaled, truth, root=root, labelled=mask),
        "pa_mpjpe_mm": pa_mpjpe(pred, truth, labelled=mask),
        "n_mpjpe_mm": n_mpjpe(pred, truth, root=root, labelled=mask),
        "depth_error_mm": depth_error(scaled, truth, labelled=mask),
        "flip_fraction": flipped(pred, truth, labelled=mask),
        "pa_mpjpe_rigid_mm": pa_mpjpe_rigid(scaled, truth, labelled=mask),
        "pa_mpjpe_reflection_mm": pa_mpjpe_reflection(pred, truth, labelled=mask),
        "pck3d_150mm": pck3d(scaled, truth, root=root, labelled=mask),
        "auc_150mm": auc(scaled, truth, root=root, labelled=mask),
    }
    averages: dict[str, Any] = {k: float(np.mean(v)) for k, v in measured.items()}
    return averages | {"count": len(pred), "alignment": ALIGNMENT, "sign": sign}


def per_action_table(
    pred: Poses,
    truth_mm: Poses,
    actions: Sequence[str] | np.ndarray,
    *,
    edges: Edges,
    root: int,
    labelled: Labelled = None,
    sign: str = "given",
) -> dict[str, dict[str, Any]]:
    """:func:`evaluate_poses` of each action, and ``"average"``: their plain mean.

    Raises:
        ValueError: as many actions as poses are needed.
    """
    names = np.asarray(actions)
    pred, truth, mask = _arrays(pred, truth_mm, labelled)
    if names.shape != (len(pred),):
        raise ValueError(f"{names.shape} action names for {len(pred)} poses")
    table: dict[str, dict[str, Any]] = {}
    for name in np.unique(names):
        rows = names == name
        table[str(name)] = evaluate_poses(
            *(pred[rows], truth[rows]),
            edges=edges,
            root=root,
            labelled=mask[rows],
            sign=sign,
        )
    rows = list(table.values())
    numbers = [key for key, value in rows[0].items() if isinstance(value, float)]
    means: Any = {key: float(np.mean([row[key] for row in rows])) for key in numbers}
    means |= {"count": len(pred), "alignment": ALIGNMENT, "sign": sign}
    return table | {"average": means}


def _arrays(
    pred: Poses, truth: Poses, labelled: Labelled
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both in float64, and a mask of their (..., P)."""
    if pred.shape != truth.shape:
        raise ValueError(f"predicted poses {pred.shape} but true poses {truth.shape}")
    mask = np.ones(pred.shape[:-1], bool) if labelled is None else np.asarray(labelled)
    if mask.shape != pred.shape[:-1]:
        raise ValueError(f"labelled is {mask.shape} for poses {pred.shape}")
    return np.asarray(pred, np.float64), np.asarray(truth, np.float64), mask


def _check_finite(poses: np.ndarray, mask: np.ndarray, what: str) -> None:
    bad = np.argwhere(~np.isfinite(poses).all(-1) & mask)
    if len(bad):
        sample, joint = bad[0][-2:]
        raise ValueError(
            f"{what} of sample {sample}, joint {joint} is {poses[sample, joint]}; "
            "mark the joint as not labelled or repair the file"
        )


def _masked(x: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(..., P, 3) with 0 in the rows that do not count, even where they hold NaN."""
    return np.where(mask[..., None], x, 0.0)


def _mean(
    x: np.ndarray, mask: np.ndarray, *, axis: int = -1, keepdims: bool = False
) -> np.ndarray:
    """Mean over the entries that count; NaN where there are none."""
    total = np.where(mask, x, 0.0).sum(axis, keepdims=keepdims)
    count = mask.sum(axis, keepdims=keepdims)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _centred(poses: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return poses - _mean(poses, mask[..., None], axis=-2, keepdims=True)


def _root_aligned(poses: np.ndarray, mask: np.ndarray, root: int) -> np.ndarray:
    at_root = poses - poses[..., root : root + 1, :]
    return np.where(mask[..., root, None, None], at_root, _centred(poses, mask))


def _mean_distance(a: np.ndarray, b: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return _mean(np.linalg.norm(a - b, axis=-1), mask)


def _procrustes_error(
    pred: Poses, truth: Poses, labelled: Labelled, **how: bool
) -> np.ndarray:
    aligned = procrustes_align(pred, truth, labelled=labelled, **how)
    _, truth, mask = _arrays(pred, truth, labelled)
    return _mean_distance(aligned, truth, mask)
