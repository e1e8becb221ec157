"""Figures of the tables: learning curves, and the error by residual.

    python -m benchmarks.table_figures --table=1 --dataset=mannequin

The flags are those of ``benchmarks/tables.py``. The curves show the training losses;
the errors need the 3D truth, like the tables.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")

import matplotlib.pyplot as plt
import numpy as np

from benchmarks import table_scores as scores
from benchmarks import tables
from input_pipeline.dataset import open_dataset
from runtime.metric_writer import read_metrics


def main() -> None:
    """Writes ``curves.png`` and ``residual.png``."""
    args = tables.parse_args()
    folder, rows = tables.folder_of(args), tables.rows_of(args)
    data = open_dataset(tables.config_of(args, "weaksup_bs", 0).data)
    split = scores.split_of(data, "train")
    found = tables.errors_of(folder, rows, args.seeds, "train", split)
    order = scores.residuals(folder / "teacher", "train")
    _save(curves(args, folder), folder / "curves.png")
    _save(residual_figure(found, order), folder / "residual.png")


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


if __name__ == "__main__":
    main()
