"""Where the distillation losses want the depth to be: the table of docs/results.md.

    python -m benchmarks.loss_minima --dataset=mannequin [--teacher=paper]

After `benchmarks/tables.py` has trained a teacher. For weights of the regulariser: the
depth at which Eq. 14 is least for each training sample, its distance from the teacher's
own depth and its error against the truth, beside the value of the loss at the teacher's
depth and at the true one; the same for Eq. 10 on some samples (``--exact``), by a
generic convex solver. Depth errors in mm with the annotated landmarks. Nothing is
trained.
"""

from __future__ import annotations

import argparse
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import losses
from benchmarks import table_scores as scores
from benchmarks import tables
from input_pipeline.landmarks import Landmarks
from pose_jax.loss import DepthTarget, depth_loss
from pose_jax.targets import TeacherFiles, read_teacher, teacher_targets

STEPS, FIRST_STEP = 600, 3e-3  # of the descent; patch units


def main() -> None:
    """Prints one row for each weight."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    tables.add_setting_flags(parser)
    parser.add_argument("--exact", type=int, default=200, help="samples of Eq. 10")
    args = tables.parse_settings(parser)
    folder = tables.folder_of(args) / "teacher"
    split = scores.read_split(tables.config_of(args, "distill", 0).data, "train")
    teacher = read_teacher(folder)
    arrays = teacher.split("train", split.landmarks.sample_ids)
    targets: Any = teacher_targets(teacher, arrays, mode="distill")
    truth = true_depth(split.truth_mm, split.landmarks)
    own = centred(targets.depth)
    rows = [["teacher", "", "", "", "", f"{error(own, split):.1f}"]]
    placed = jax.tree.map(jnp.asarray, targets)
    for name, weight in tables.WEIGHTS.items():
        least = least_depth(placed, weight)
        values = [losses_at(z, placed, weight) for z in (own, least, truth)]
        moved = np.sqrt(np.mean((least - own) ** 2)) / np.sqrt(np.mean(own**2))
        rows.append(
            [
                f"Eq. 14, weight {name} ({weight:g} here)",
                *(f"{v:.3f}" for v in values),
                f"{moved:.3f}",
                f"{error(least, split):.1f}",
            ]
        )
    rows.append(exact_row(args.exact, teacher, arrays, split))
    head = (
        "",
        "at the teacher's depth",
        "least",
        "at the truth",
        "moved",
        "depth error",
    )
    print("\n".join(tables.markdown(head, rows)))
    print("moved: root mean square, over that of the teacher's depth")


def centred(z: np.ndarray) -> np.ndarray:
    """Depths with mean 0 over the joints."""
    return z - z.mean(axis=1, keepdims=True)


def true_depth(truth_mm: np.ndarray, marks: Landmarks) -> np.ndarray:
    """(N, P) in patch units, scaled so that x and y fit the landmarks best."""
    points = truth_mm - truth_mm.mean(axis=1, keepdims=True)
    seen = marks.patch - marks.patch.mean(axis=1, keepdims=True)
    xy = points[..., :2]
    scale = (xy * seen).sum((1, 2)) / (xy**2).sum((1, 2))
    return (scale[:, None] * points[..., 2]).astype(np.float32)


def error(z: np.ndarray, split: scores.Split) -> float:
    """Depth error in mm beside the annotated landmarks."""
    pose = np.concatenate([split.landmarks.patch, z[..., None]], axis=-1)
    return float(scores.errors(pose, split)["annotated xy: depth"].mean())


def losses_at(z: np.ndarray, targets: DepthTarget, weight: float) -> float:
    """Mean of Eq. 14 over the samples."""

    def one(z: jax.Array, target: DepthTarget) -> jax.Array:
        return depth_loss(z, target, code_l1_weight=weight)

    return float(jnp.mean(jax.jit(jax.vmap(one))(jnp.asarray(z), targets)))


def least_depth(targets: DepthTarget, weight: float) -> np.ndarray:
    """(N, P) where Eq. 14 is least: steps of falling length along the gradient."""

    def one(target: DepthTarget) -> jax.Array:
        slope = jax.grad(lambda z: depth_loss(z, target, code_l1_weight=weight))

        def step(i: jax.Array, state: tuple[jax.Array, jax.Array]) -> Any:
            z, momentum = state
            momentum = 0.9 * momentum + slope(z)
            length = FIRST_STEP * (1.0 - i / STEPS)
            unit = momentum / jnp.maximum(jnp.linalg.norm(momentum), 1e-9)
            return z - length * unit, momentum

        start = target.depth, jnp.zeros_like(target.depth)
        return jax.lax.fori_loop(0, STEPS, step, start)[0]

    found = jax.jit(lambda t: jax.lax.map(one, t, batch_size=64))(targets)
    return centred(np.asarray(found))


def exact_row(
    count: int,
    teacher: TeacherFiles,
    arrays: dict[str, np.ndarray],
    split: scores.Split,
) -> list[str]:
    """The same of Eq. 10 at the paper's weight, for some samples."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import cvxpy as cp
    weight = tables.WEIGHTS["0.3"]
    D = jnp.asarray(teacher.dictionary)
    rows = np.linspace(0, len(split.truth_mm) - 1, count).astype(int)
    own, least = np.zeros((2, count, D.shape[0] // 3), np.float32)
    costs = np.zeros((2, count))
    for i, row in enumerate(rows):
        parts = losses.split_dictionary(D, jnp.asarray(arrays["camera"][row]))
        B_xy, B_z = (np.asarray(part, float) for part in parts)
        w: Any = arrays["W"][row].ravel().astype(float)
        phi: Any = cp.Variable(D.shape[1])
        cost = cp.norm(B_xy @ phi - w, 2) + weight * cp.norm(phi, 1)
        problem: Any = cp.Problem(cp.Minimize(cost))
        costs[1, i] = problem.solve(solver=cp.CLARABEL)
        least[i], own[i] = B_z @ phi.value, B_z @ arrays["code"][row]
        code = arrays["code"][row]
        costs[0, i] = np.linalg.norm(B_xy @ code - w) + weight * np.abs(code).sum()
    some = _rows(split, rows)
    own, least = centred(own), centred(least)
    moved = np.sqrt(np.mean((least - own) ** 2)) / np.sqrt(np.mean(own**2))
    return [
        f"Eq. 10, weight 0.3, {count} samples (teacher: {error(own, some):.1f})",
        *(f"{c:.3f}" for c in costs.mean(1)),
        "",
        f"{moved:.3f}",
        f"{error(least, some):.1f}",
    ]


def _rows(split: scores.Split, rows: np.ndarray) -> scores.Split:
    marks = split.landmarks
    fields = ("sample_ids", "keypoints", "labelled", "centre", "half_side")
    some = {name: getattr(marks, name)[rows] for name in fields}
    names = tuple(marks.names[i] for i in rows)
    chosen = Landmarks(skeleton=marks.skeleton, names=names, **some)
    return scores.Split(chosen, split.truth_mm[rows], split.action[rows])


if __name__ == "__main__":
    main()
