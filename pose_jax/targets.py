"""The tables that teach a student: one `DepthTarget` per sample, made once.

They are gathered by row inside the training step, so that a batch carries
pictures and landmarks only. The teacher comes from its files
(``workdir/teacher``); nothing of the teacher's code is imported.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

import losses
from losses.masked import product
from pose_jax.loss import (
    MODES,
    CodeProblem,
    DepthTarget,
    JointTrust,
    matching_weight,
)
from runtime.teacher_file import TeacherFile

# Modes that learn from what the EM, not the teacher, says of the depth.
EM_DEPTH_MODES = ("weaksup_em", "weaksup_em_weighted", "posterior")
POSTERIOR_MODES = (*EM_DEPTH_MODES, "posterior_teacher")
# Samples on which the gradients of two modes are compared.
MATCHING_SAMPLES = 1024
# Of Eq. 10, which is solved anew for each edit of each of them.
MATCHING_PROBLEMS = 64
# More than this in records of Eq. 14, and only what they are made from is kept.
PREPARED_BYTES = 2**31


class TeacherTable(NamedTuple):
    """A table from which the step itself prepares its batch, for large data sets.

    A record of Eq. 14 has (K + 2P + 3) P + K numbers, ~19 kB for P = 17 and K = 256;
    here a sample takes K + 6 + 2P of them, 1.2 kB.

    Attributes:
        dictionary: (3P, K), shared by all samples.
        camera: (N, 3, 2).
        code: (N, K).
        W: (N, P, 2) centred landmarks.
        labelled: (N, P).
        weight: (N,).
    """

    dictionary: Any
    camera: Any
    code: Any
    W: Any
    labelled: Any
    weight: Any

    def rows(self, rows: Any) -> DepthTarget:
        """The targets of a batch."""

        def one(*of_sample: Any) -> losses.PreparedDistillation:
            return prepare_one(jnp.asarray(self.dictionary), *of_sample)

        columns = (self.camera, self.code, self.W, self.labelled)
        prepared = jax.vmap(one)(*(column[rows] for column in columns))
        return _table(prepared.depth, prepared.labelled, self.weight[rows], prepared)


class CodeTable(TeacherTable):
    """The same table for Eq. 10, whose record is the whole rotated dictionary."""

    def rows(self, rows: Any) -> DepthTarget:
        """The targets of a batch."""
        D = jnp.asarray(self.dictionary)
        turn = jax.vmap(losses.split_dictionary, in_axes=(None, 0))
        B_xy, B_z = turn(D, self.camera[rows])
        phi, W = self.code[rows], self.W[rows]
        problem = CodeProblem(phi, B_xy, B_z, W.reshape(len(W), -1))
        depth = jax.vmap(product)(B_z, phi)
        return _table(depth, self.labelled[rows], self.weight[rows], problem)


Targets = DepthTarget | TeacherTable


def prepare_one(
    D: Float[Array, "d k"],
    M: Float[Array, "3 2"],
    phi: Float[Array, " k"],
    W: Float[Array, " p 2"],
    labelled: Bool[Array, " p"],
) -> losses.PreparedDistillation:
    """The record of Eq. 14 of one sample."""
    B_xy, B_z = losses.split_dictionary(D, M)
    return losses.prepare(phi, B_xy, B_z, W.ravel(), labelled)


def prepare_samples(
    dictionary: np.ndarray,
    arrays: dict[str, np.ndarray],
    *,
    chunk: int = 1024,
    depth_only: bool = False,
) -> Any:
    """The records of Eq. 14 of all samples, as numpy arrays with a leading axis.

    Args:
        dictionary: (3P, K).
        arrays: ``camera`` (N, 3, 2), ``code`` (N, K), ``W`` (N, P, 2) centred
            landmarks and ``labelled`` (N, P).
        chunk: samples prepared at once; bounds the memory that the rotated
            dictionaries take.
        depth_only: only their ``depth`` (N, P).
    """

    @jax.jit
    def prepare(*columns: Any) -> Any:
        records = jax.vmap(prepare_one, in_axes=(None, 0, 0, 0, 0))(D, *columns)
        return records.depth if depth_only else records

    D = jnp.asarray(dictionary)
    columns = [arrays[name] for name in ("camera", "code", "W", "labelled")]
    count = len(columns[0])
    parts = []
    for first in range(0, count, chunk):
        rows = np.arange(first, min(first + chunk, count))
        # The last chunk is filled up with its last sample, to compile only once.
        padded = np.pad(rows, (0, min(chunk, count) - len(rows)), mode="edge")
        record = prepare(*(c[padded] for c in columns))
        parts.append(jax.tree.map(np.asarray, record))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:count], *parts)


def teacher_targets(
    teacher: TeacherFile,
    arrays: dict[str, np.ndarray],
    *,
    mode: str,
    softening: float = 0.1,
    mean_trust: float | None = None,
    max_bytes: int = PREPARED_BYTES,
    counts: np.ndarray | None = None,
    posterior: dict[str, np.ndarray] | None = None,
) -> Targets:
    """The table of one split for the modes that learn from the teacher.

    Args:
        teacher: the teacher's files.
        arrays: of the split, from :meth:`TeacherFile.split`.
        mode: one of `MODES`, not ``"supervised"``.
        softening: c of ``1 / (residual + c)``, in the unit of the landmarks.
        mean_trust: what these weights are divided by; their mean by default. The
            training split's mean goes with every split, so that losses compare.
        max_bytes: records of Eq. 14 that take more than this on a device are
            prepared by every step for its batch.
        counts: (N,) whether a sample's depth counts; all where None. Those whose
            depth does not have the loss of the landmarks alone.
        posterior: of the split, from :meth:`TeacherFile.posterior`, for
            `POSTERIOR_MODES`.

    Returns:
        Numpy arrays with a leading axis of samples.
    """
    _check_mode(mode)
    count, joints = arrays["labelled"].shape
    weight = np.ones(count, np.float32)
    if mode == "weaksup_residual":
        trust = teacher_trust(arrays["residual"], softening=softening)
        mean = float(trust.mean()) if mean_trust is None else mean_trust
        weight = (trust / mean).astype(np.float32)
    if counts is not None:
        weight = np.where(counts, weight, np.float32(0))
    if mode in POSTERIOR_MODES and posterior is None:
        raise ValueError(f"mode {mode!r} needs the teacher's posterior")
    if not mode.startswith("distill"):
        if posterior is not None and mode in EM_DEPTH_MODES:
            depth = posterior["depth"]
        else:
            depth = prepare_samples(teacher.dictionary, arrays, depth_only=True)
        record = None
        if posterior is not None:
            record = _posterior_record(mode, depth, posterior, arrays["labelled"])
        return _table(depth, arrays["labelled"], weight, record)
    atoms = arrays["code"].shape[1]
    exact = mode == "distill_exact"
    if exact or 4 * count * ((atoms + 2 * joints + 3) * joints + atoms) > max_bytes:
        names = ("camera", "code", "W", "labelled")
        columns = {name: arrays[name] for name in names}
        table = CodeTable if exact else TeacherTable
        return table(dictionary=teacher.dictionary, weight=weight, **columns)
    prepared = prepare_samples(teacher.dictionary, arrays)
    return _table(prepared.depth, prepared.labelled, weight, prepared)


def _posterior_record(
    mode: str,
    depth: np.ndarray,
    posterior: dict[str, np.ndarray],
    labelled: np.ndarray,
) -> JointTrust | losses.PreparedPosterior | None:
    """What a mode makes of the EM's covariance: weights of joints, or the metric."""
    covariance = posterior["covariance"]
    if mode == "weaksup_em":
        return None
    if mode == "weaksup_em_weighted":
        deviation = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
        certainty: Any = 1 / (deviation + losses.POSTERIOR_NOISE)
        return JointTrust(certainty.astype(np.float32))
    prepare = jax.jit(jax.vmap(losses.prepare_posterior))
    return jax.tree.map(np.asarray, prepare(depth, covariance, labelled))


def teacher_trust(residual: np.ndarray, *, softening: float) -> np.ndarray:
    """(N,) float32 ``1 / (residual + softening)``, the weights before their scale.

    Raises:
        ValueError: a softening that is not above 0.
    """
    if not softening > 0:
        raise ValueError(
            f"config.student.residual_offset = {softening} must be above 0: it bounds "
            "the weight of a sample that the teacher fits perfectly"
        )
    weigh = jax.vmap(lambda r: losses.residual_weight(r, softening=softening))
    return np.asarray(weigh(jnp.asarray(residual, jnp.float32)))


def matched_depth_weight(
    targets: Targets, *, code_l1_weight: float, seed: int = 0, count: int = 0
) -> float:
    """The factor on a mode's depth loss that makes its gradient that of Weaksup-bs.

    1 for the L1 losses, whose weights have mean 1; for the others the ratio that
    :func:`pose_jax.loss.matching_weight` measures on up to
    ``MATCHING_SAMPLES`` samples (Eq. 10: ``MATCHING_PROBLEMS``), spread evenly over
    the training split, or over its first ``count`` rows, those of the main source.
    """
    if isinstance(targets, DepthTarget) and targets.prepared is None:
        return 1.0
    count = count or len(targets.weight)
    exact = isinstance(targets, CodeTable)
    samples = MATCHING_PROBLEMS if exact else MATCHING_SAMPLES
    rows = np.unique(np.linspace(0, count - 1, samples).astype(np.int64))
    chosen = jax.tree.map(jnp.asarray, target_rows(targets, rows))
    measure = jax.jit(matching_weight)
    key = jax.random.key(seed)
    return float(measure(chosen, key, code_l1_weight=code_l1_weight))


def label_targets(
    positions_mm: np.ndarray,
    keypoints: np.ndarray,
    half_side: np.ndarray,
    labelled: np.ndarray,
) -> DepthTarget:
    """The table of mode ``supervised``: true depths as labels, in patch units.

        z = z_mm * s / half_side,   s [px/mm] of the best weak perspective

    where ``s, t`` minimise ``||s xy_mm + t - keypoints||^2`` over the labelled
    joints of each sample.

    Args:
        positions_mm: (N, P, 3) true joints in the camera frame.
        keypoints: (N, P, 2) landmarks, pixels.
        half_side: (N,) of the crop, pixels.
        labelled: (N, P) labelled joints.
    """
    mask = labelled[..., None].astype(np.float64)
    count = np.maximum(mask.sum(1, keepdims=True), 1.0)

    def centred(x: np.ndarray) -> np.ndarray:
        x = np.where(labelled[..., None], x, 0.0).astype(np.float64)
        return (x - x.sum(1, keepdims=True) / count) * mask

    xy, uv = centred(positions_mm[..., :2]), centred(keypoints)
    squared = (xy**2).sum((1, 2))
    scale = (xy * uv).sum((1, 2)) / np.where(squared > 0, squared, 1.0)
    depth = positions_mm[..., 2] * (scale / half_side)[:, None]
    ones = np.ones(len(depth), np.float32)
    return _table(depth.astype(np.float32), labelled, ones)


def no_depth_targets(count: int, joints: int) -> DepthTarget:
    """A table of ``count`` samples in which the depth weighs nothing."""
    shape = (count, joints)
    return _table(
        np.zeros(shape, np.float32), np.ones(shape, bool), np.zeros(count, np.float32)
    )


def _table(depth: Any, labelled: Any, weight: Any, prepared: Any = None) -> DepthTarget:
    """A table in numpy: it goes to the devices when the loop places it."""
    return DepthTarget(depth=depth, labelled=labelled, weight=weight, prepared=prepared)


def _check_mode(mode: str) -> None:
    if mode not in MODES:
        raise ValueError(f"student mode {mode!r} is not one of {', '.join(MODES)}")


def target_rows(targets: Targets, rows: Any) -> DepthTarget:
    """The targets of a batch: gathers ``rows`` of the table, on the device."""
    if isinstance(targets, TeacherTable):
        return targets.rows(rows)
    return jax.tree.map(lambda x: x[rows], targets)
