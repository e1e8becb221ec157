"""Figures of the tables: learning curves, error by residual, and pictures.

    python -m benchmarks.table_figures --table=1 --dataset=mannequin

The flags are those of ``benchmarks/tables.py``. Curves show what is trained on; the
other two read the 3D truth, like the tables.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")

import matplotlib.pyplot as plt
import numpy as np

from benchmarks import table_scores as scores
from benchmarks import tables
from input_pipeline.dataset import Dataset, open_dataset
from losses import metrics
from runtime.metric_writer import read_metrics

SIDE = 160  # pixels of a crop
KINDS = {
    "corrected": "where the student corrected the teacher most",
    "followed": "where the student changed the error least",
    "failed": "where the student is worse than the teacher",
}


def main() -> None:
    """Writes ``curves.png``, ``residual.png`` and one picture for each of `KINDS`."""
    args = tables.parse_args()
    folder, rows = tables.folder_of(args), tables.rows_of(args)
    data = open_dataset(tables.config_of(args, "weaksup_bs", 0).data)
    split = scores.split_of(data, "train")
    found = tables.errors_of(folder, rows, args.seeds, "train", split)
    order = scores.residuals(folder / "teacher", "train")
    _save(curves(args, folder), folder / "curves.png")
    _save(residual_figure(found, order), folder / "residual.png")
    if "distill" in found:
        _pictures(data, folder, split, found)


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)
    print(path)


def curves(args: argparse.Namespace, folder: Path) -> Any:
    """Loss of landmarks and of depth over the steps, training and validation."""
    figure, axes = plt.subplots(2, 2, figsize=(11, 7), sharex=True)
    panels = {"xy": "landmarks, training", "val_xy": "landmarks, validation"}
    panels |= {"depth": "depth, training", "val_depth": "depth, validation"}
    rows = [r for r in tables.rows_of(args) if "@" not in r and "+" not in r]
    for axis, (name, title) in zip(axes.flat, panels.items(), strict=True):
        for i, row in enumerate(rows):
            for seed in range(args.seeds):
                _curve(axis, folder, row, seed, name, f"C{i}")
        axis.set(title=title, yscale="log", xlabel="step")
    axes[0, 0].legend(fontsize=7)
    figure.text(0.5, 0.0, "each loss over its value at the first line", ha="center")
    figure.tight_layout()
    return figure


def _curve(
    axis: Any, folder: Path, row: str, seed: int, name: str, colour: str
) -> None:
    path = tables.run_folder(folder, row, seed) / "metrics.jsonl"
    lines = [x for x in read_metrics(path) if name in x] if path.exists() else []
    values = np.array([x[name] for x in lines])
    if len(values) and values[0] > 0:
        label = tables.label(row) if seed == 0 else None
        steps = [x["step"] for x in lines]
        axis.plot(steps, values / values[0], color=colour, lw=1, label=label)


def residual_figure(found: Mapping[str, scores.Errors], order: np.ndarray) -> Any:
    """Depth error by quarter of the teacher's residual."""
    figure, axis = plt.subplots(figsize=(7, 4.5))
    for row, of_seeds in found.items():
        quarters = scores.by_quartile(of_seeds, "annotated xy: depth", order)
        means = [q.mean for q in quarters]
        (line,) = axis.plot(range(4), means, marker="o", label=tables.label(row))
        if row == "teacher":
            line.set(linestyle="--", color="k")
    axis.set_xticks(range(4), ["smallest", "second", "third", "largest"])
    axis.set(xlabel="quarter of the teacher's residual", ylabel="depth error (mm)")
    axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _pictures(
    data: Dataset,
    folder: Path,
    split: scores.Split,
    found: Mapping[str, scores.Errors],
) -> None:
    """Three rows of four samples each: picture, truth, teacher and student."""
    kind = "annotated xy: depth"
    gain = found["teacher"][0][kind] - found["distill"][0][kind]
    chosen = {
        "corrected": np.argsort(-gain)[:4],
        "followed": np.argsort(np.abs(gain))[:4],
        "failed": np.argsort(gain)[:4],
    }
    poses = {
        "teacher": scores.predicted(folder / "teacher", "train"),
        "distilled": scores.predicted(
            tables.student_folder(folder, "distill", 0), "train"
        ),
    }
    crops = _crops(data, np.concatenate(list(chosen.values())))
    for name, rows in chosen.items():
        figure = _sheet(rows, crops, poses, split, gain)
        figure.suptitle(f"Training pictures {KINDS[name]}", y=1.01, fontsize=10)
        _save(figure, folder / f"{name}.png")


def _crops(data: Dataset, rows: np.ndarray) -> dict[int, np.ndarray]:
    """The crops of some rows, as the student sees them but larger."""
    wanted = sorted(set(rows.tolist()))
    batches = data.pictures(
        "train",
        batch_size=len(wanted),
        image_size=SIDE,
        seed=0,
        train=False,
        rows=wanted,
    )
    return dict(zip(wanted, next(iter(batches))["image"], strict=True))


def _sheet(
    rows: Sequence[int] | np.ndarray,
    crops: Mapping[int, np.ndarray],
    poses: Mapping[str, np.ndarray],
    split: scores.Split,
    gain: np.ndarray,
) -> Any:
    """A row for each sample; 3D from the side, the camera on the left."""
    marks, edges = split.landmarks, split.landmarks.skeleton.edges
    figure, axes = plt.subplots(len(rows), 2, figsize=(4, 2 * len(rows)))
    for (left, right), row in zip(axes, rows, strict=True):
        left.imshow(crops[int(row)])
        pixels = (marks.patch[row] + 1) / 2 * SIDE
        for a, b in edges:
            left.plot(*pixels[[a, b]].T, color="yellow", lw=1)
        left.set_title(f"depth error {-gain[row]:+.0f} mm", fontsize=8)
        truth = split.truth_mm[row] - split.truth_mm[row].mean(0)
        _from_the_side(right, truth, edges, "k", "truth")
        for i, (name, pose) in enumerate(poses.items()):
            own = np.concatenate([marks.patch[row], pose[row, :, 2:]], axis=1)
            own = metrics.scale_by_bone_length(own, split.truth_mm[row], edges=edges)
            _from_the_side(right, own - own.mean(0), edges, f"C{i}", name)
        right.set_aspect("equal")
        left.axis("off")
        right.axis("off")
    axes[0, 1].legend(fontsize=6)
    figure.tight_layout()
    return figure


def _from_the_side(
    axis: Any,
    pose: np.ndarray,
    edges: Sequence[tuple[int, int]],
    colour: str,
    name: str,
) -> None:
    for i, (a, b) in enumerate(edges):
        label = name if i == 0 else None
        axis.plot(pose[[a, b], 2], -pose[[a, b], 1], color=colour, lw=1.5, label=label)


if __name__ == "__main__":
    main()
