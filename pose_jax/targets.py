"""The tables that a student learns from: one `DepthTarget` per sample, made once.

They are gathered by row inside the training step, so that a batch carries pictures and
landmarks only. The teacher comes from its files (``workdir/teacher``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

import losses
from pose_jax.error_bar import centred_variance
from pose_jax.loss import MODES, DepthTarget, Dictionary, matching_weight
from runtime.teacher_file import TeacherFile

SPLITS = ("train", "val")
LABELS = ("network", "best")
# Samples on which the gradients of two losses are compared; fewer for Eq. 10, which is
# solved anew for each edit of each of them.
MATCHING_SAMPLES, MATCHING_PROBLEMS = 1024, 64


class Targets(NamedTuple):
    """The targets of N samples; NumPy until the loop places them."""

    samples: DepthTarget  # with a leading axis in every field
    dictionary: Dictionary | None = None  # of all samples, where the mode uses it

    def rows(self, rows: Any) -> DepthTarget:
        """The targets of a batch, gathered on the device."""
        return jax.tree.map(lambda x: x[rows], self.samples)


def of_batch(targets: tuple[Targets, ...], batch: Mapping[str, Any]) -> tuple[Any, ...]:
    """What `student_loss` takes after the prediction, for a batch of pictures."""
    given = (batch[name] for name in ("keypoints", "labelled", "flip", "scale"))
    rows = tuple(mode.rows(batch["row"]) for mode in targets)
    return *given, rows, tuple(mode.dictionary for mode in targets)


def teacher_targets(
    mode: str,
    teacher: TeacherFile,
    landmarks: Mapping[str, Any],
    *,
    softening: float,
    labels: str = "network",
) -> dict[str, Targets]:
    """The targets of ``"train"`` and ``"val"`` for a mode that learns from the teacher.

    Rows of the extra sources stand behind those of the training split. Of these the
    complete skeletons have the depth loss, the others that of the landmarks alone
    (Wang et al. 2019, Section 5.1).

    Args:
        mode: a key of `MODES`.
        teacher: its files.
        landmarks: the ``Landmarks`` of ``"train"``, ``"val"`` and ``"extra"``.
        softening: c of the weight ``1 / (residual + c)``, in the unit of the landmarks.
        labels: the depth of the ``"network"``, or the ``"best"`` that the teacher's
            files have.

    Raises:
        ValueError: unknown ``labels``; the teacher saw other samples or joints, or has
            no covariance of the depth and the mode needs one.
    """
    skeleton = landmarks["train"].skeleton
    if tuple(teacher.skeleton["joints"]) != skeleton.joints:
        raise ValueError(
            f"{teacher.folder}: the teacher's joints {teacher.skeleton['joints']} "
            f"are not those of the data set, {list(skeleton.joints)}; "
            "train the teacher on this data set"
        )
    extra = landmarks["extra"]
    names = (*SPLITS, "extra") if len(extra) else SPLITS
    how = (mode, teacher, labels)
    tables = {n: _table(*how, n, landmarks[n].sample_ids) for n in names}
    if MODES[mode].weighting == "residual":
        if not softening > 0:
            raise ValueError(
                f"config.student.residual_offset = {softening} must be above 0: it "
                "bounds the weight of a sample that the teacher fits perfectly"
            )
        weight = {n: 1 / (teacher.split(n)["residual"] + softening) for n in names}
        # The training split's mean goes with every split, so that losses compare.
        mean = weight["train"].mean()
        tables = {n: t._replace(weight=weight[n] / mean) for n, t in tables.items()}
    if len(extra):
        more = tables.pop("extra")
        complete = extra.labelled.all(axis=1)
        more = more._replace(weight=np.where(complete, more.weight, np.float32(0)))
        tables["train"] = joined(tables["train"], more)
    dictionary: Any = None
    if MODES[mode].loss in ("eq14", "eq10"):
        D = jnp.asarray(teacher.dictionary)
        dictionary = jax.device_get(Dictionary(D, losses.dictionary_gram(D)))
    return {name: Targets(table, dictionary) for name, table in tables.items()}


def _table(
    mode: str, teacher: TeacherFile, labels: str, split: str, sample_ids: np.ndarray
) -> DepthTarget:
    """What the mode needs of each sample of a split, as NumPy arrays."""
    chosen, said = MODES[mode], teacher.split(split, sample_ids)
    if labels not in LABELS:
        raise ValueError(f"config.student.labels = {labels!r} is not one of {LABELS}")
    known, code = {}, said["code"]
    if chosen.needs_covariance or teacher.has_labels(split):
        known = teacher.labels(split, sample_ids)
    best = bool(known) and (labels == "best" or chosen.needs_covariance)
    if best:
        code = known["code_of_depth"]
    # B_z phi as (D phi) . (m1 x m2): no dictionary is rotated.
    camera, shape = said["camera"], code @ teacher.dictionary.T
    axis = np.cross(camera[..., 0], camera[..., 1])
    depth = np.einsum("npc,nc->np", shape.reshape(len(shape), -1, 3), axis)
    by_code = chosen.loss in ("eq14", "eq10")
    if best and not by_code:
        depth = known["depth"]
    table = _counting(depth, said["labelled"])
    if by_code:
        table = table._replace(M=camera, phi=code, W=said["W"])
    if known:
        covariance: Any = known["covariance"]
        variance: Any = centred_variance(covariance, said["labelled"])
        table = table._replace(expected=known["depth"], variance=variance)
        if chosen.weighting == "certainty":
            deviation = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
            certainty = 1 / (deviation + losses.POSTERIOR_NOISE)
            table = table._replace(joint_weight=certainty.astype(np.float32))
        if chosen.loss == "mahalanobis":
            prepare = jax.jit(jax.vmap(losses.prepare_posterior))
            record = prepare(table.depth, covariance, table.labelled)
            table = table._replace(whitener=np.asarray(record.whitener))
    return table


def matched_depth_weight(
    mode: str, targets: Targets, *, count: int, code_l1_weight: float, seed: int
) -> float:
    """The factor on a mode's depth loss that makes its gradient that of Weaksup-bs.

    1 for L1 losses whose weights have mean 1; else the ratio that
    :func:`pose_jax.loss.matching_weight` measures on samples spread evenly over the
    first ``count`` rows, those of the main source.
    """
    loss, samples = MODES[mode].loss, targets.samples
    if loss == "l1" and samples.joint_weight is None:
        return 1.0
    number = MATCHING_PROBLEMS if loss == "eq10" else MATCHING_SAMPLES
    rows = np.unique(np.linspace(0, count - 1, number).astype(np.int64))
    measure = jax.jit(matching_weight, static_argnames="mode")
    ratio = measure(
        jax.tree.map(jnp.asarray, targets.rows(rows)),
        targets.dictionary,
        jax.random.key(seed),
        mode=mode,
        code_l1_weight=code_l1_weight,
    )
    return float(ratio)


def supervised_targets(
    positions_mm: np.ndarray, landmarks: Mapping[str, Any]
) -> dict[str, Targets]:
    """LEARNS FROM 3D: the targets of mode ``supervised``, the upper reference.

    Only the training split has labels: not even here may 3D choose when the learning
    rate drops, and the validation loss is that of the landmarks alone.
    ``positions_mm`` (N, P, 3) are true joints of the training split, camera frame.
    """
    marks = landmarks["train"]
    depth = label_depth(positions_mm, marks.keypoints, marks.half_side, marks.labelled)
    table = _counting(depth, marks.labelled)
    val, extra = (
        _counting(np.zeros(labelled.shape), labelled)._replace(
            weight=np.zeros(len(labelled), np.float32)
        )
        for labelled in (landmarks["val"].labelled, landmarks["extra"].labelled)
    )
    return {"train": Targets(joined(table, extra)), "val": Targets(val)}


def label_depth(
    positions_mm: Float[np.ndarray, "n p 3"],
    keypoints: Float[np.ndarray, "n p 2"],
    half_side: Float[np.ndarray, " n"],
    labelled: Bool[np.ndarray, "n p"],
) -> Float[np.ndarray, "n p"]:
    """True depths in patch units.

        z = z_mm * s / half_side,   s [px/mm] of the best weak perspective

    where ``s, t`` minimise ``||s xy_mm + t - keypoints||^2`` over the labelled joints
    of each sample; keypoints and half sides of the crops in pixels.
    """
    mask = labelled[..., None].astype(np.float64)
    count = np.maximum(mask.sum(1, keepdims=True), 1.0)

    def centred(x: np.ndarray) -> np.ndarray:
        x = np.where(labelled[..., None], x, 0.0).astype(np.float64)
        return (x - x.sum(1, keepdims=True) / count) * mask

    xy, uv = centred(positions_mm[..., :2]), centred(keypoints)
    squared = (xy**2).sum((1, 2))
    scale = (xy * uv).sum((1, 2)) / np.where(squared > 0, squared, 1.0)
    return positions_mm[..., 2] * (scale / half_side)[:, None]


def _counting(depth: Any, labelled: Any) -> DepthTarget:
    """A table in which every sample counts the same."""
    target: Any = DepthTarget
    weight = np.ones(len(depth), np.float32)
    return target(np.asarray(depth, np.float32), labelled, weight)


def joined(first: DepthTarget, more: DepthTarget) -> DepthTarget:
    """One table after the other."""
    return jax.tree.map(lambda *parts: np.concatenate(parts), first, more)
