"""What moves the gain: all settings that the tables were trained with, side by side.

    python -m benchmarks.table_settings [--runs=runs/tables]

Reads what `benchmarks/tables.py` left, a line for each folder, and trains nothing:
errors of depth on the training set and PA-MPJPE on the validation split, both with the
students' own xy, as ratios; mean over seeds [95 % interval, Student's t] and, in
brackets, how many seeds. ``settings.png`` shows the same.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from ml_collections import ConfigDict

mpl.use("agg")

import matplotlib.pyplot as plt

from benchmarks import table_scores as scores
from benchmarks import tables

ROWS = ("weaksup_bs", "distill", "weaksup_em", "posterior", "supervised")
Setting = tuple[str, Mapping[str, scores.Errors]]  # name; row -> seed -> errors


class Column(NamedTuple):
    """The ratio of the errors of two rows, or the error of one in mm."""

    title: str
    row: str
    to: str = ""


COLUMNS = {
    "train": (
        "own xy: depth",
        (
            Column("teacher, mm", "teacher"),
            Column("EM, mm", "em"),
            Column("Weaksup-bs / teacher", "weaksup_bs", "teacher"),
            Column("Eq. 14 / teacher", "distill", "teacher"),
            Column("Eq. 14 / Weaksup-bs", "distill", "weaksup_bs"),
            Column("posterior / EM", "posterior", "em"),
            Column("posterior / Weaksup-bs", "posterior", "weaksup_bs"),
            Column("posterior / EM's depth as label", "posterior", "weaksup_em"),
            Column("supervised / Weaksup-bs", "supervised", "weaksup_bs"),
        ),
    ),
    "val": (
        "own xy: PA-MPJPE",
        (
            Column("Weaksup-bs, mm", "weaksup_bs"),
            Column("Eq. 14 / Weaksup-bs", "distill", "weaksup_bs"),
            Column("posterior / Weaksup-bs", "posterior", "weaksup_bs"),
            Column("posterior / EM's depth as label", "posterior", "weaksup_em"),
            Column("supervised / Weaksup-bs", "supervised", "weaksup_bs"),
        ),
    ),
}


def main() -> None:
    """Prints one table for each split and draws both."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/tables"))
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    tables_of: dict[str, list[Setting]] = {}
    for name in COLUMNS:
        tables_of[name] = settings(args.runs, name, args.seeds)
        print("\n".join(["", f"## {name} split: {COLUMNS[name][0]}", ""]))
        print("\n".join(lines(tables_of[name], name)))
    path = args.runs / "settings.png"
    draw(tables_of).savefig(path, dpi=110, bbox_inches="tight")
    print(path)


def settings(runs: Path, name: str, seeds: int) -> list[Setting]:
    """Name of every setting with a trained Weaksup-bs, and the errors of its rows.

    Raises:
        SystemExit: there is none.
    """
    found: list[Setting] = []
    for folder in sorted(runs.glob("*")):
        own = tables.run_folder(folder, "weaksup_bs", 0)
        if not (own / "student_weaksup_bs" / "results.json").exists():
            continue
        data = ConfigDict(json.loads((own / "config.json").read_text("utf-8"))["data"])
        split = scores.read_split(data, name)
        errors = tables.errors_of(folder, ROWS, seeds, name, split)
        found.append((folder.name, errors))
    if not found:
        raise SystemExit(f"error: no trained tables in {runs}: benchmarks/tables.py")
    return found


def lines(found: Sequence[Setting], name: str) -> list[str]:
    """The table of one split in Markdown."""
    metric, columns = COLUMNS[name]
    rows = (
        [setting, *(cell(errors, metric, c) for c in columns)]
        for setting, errors in found
    )
    return tables.markdown(["setting", *(c.title for c in columns)], rows)


def cell(errors: Mapping[str, scores.Errors], metric: str, column: Column) -> str:
    """One figure with its interval and, of students, how many seeds it has."""
    value = value_of(errors, metric, column)
    if value is None:
        return ""
    seeds = "" if column.row in tables.NOT_TRAINED else f" ({value.n})"
    return f"{value}{seeds}"


def value_of(
    errors: Mapping[str, scores.Errors], metric: str, column: Column
) -> scores.Interval | None:
    """The value of a column; None where a row was not trained."""
    if column.row not in errors or (column.to and column.to not in errors):
        return None
    if not column.to:
        return scores.mean_error(errors[column.row], metric)
    return scores.ratio(errors[column.row], errors[column.to], metric)


def draw(tables_of: Mapping[str, Sequence[Setting]]) -> Any:
    """The ratios of every setting as points with their intervals."""
    names = [
        s.replace("-data.", "\ndata.").replace("-student.", "\nstudent.")
        for s, _ in tables_of["train"]
    ]
    titles = [c.title for c in COLUMNS["train"][1] if c.to]
    count = len(names)
    figure, axes = plt.subplots(1, 2, figsize=(12, 1.2 + 0.6 * count), sharey=True)
    for axis, (name, found) in zip(axes, tables_of.items(), strict=True):
        metric, columns = COLUMNS[name]
        for column in (c for c in columns if c.to):
            i = titles.index(column.title)
            lower = 0.1 * (i - len(titles) / 2)
            for y, (_, errors) in enumerate(found):
                _point(axis, value_of(errors, metric, column), y + lower, f"C{i}")
            axis.plot([], [], "o", color=f"C{i}", label=column.title)
        axis.axvline(1, color="k", lw=0.5)
        for y in range(1, count):
            axis.axhline(y - 0.5, color="0.8", lw=0.5)
        axis.set_title(f"{name} split, {metric}", fontsize=9)
        axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.1))
    axes[0].set_yticks(range(count), names, fontsize=7)
    axes[0].invert_yaxis()
    return figure


def _point(axis: Any, value: scores.Interval | None, y: float, colour: str) -> None:
    if value is not None:
        low, high = (value.low, value.high) if value.n > 1 else (value.mean,) * 2
        axis.plot([low, high], [y, y], color=colour, lw=1)
        axis.plot(value.mean, y, "o", color=colour, ms=4)


if __name__ == "__main__":
    main()
