"""What every benchmark shares: its flags, its rows, the table and the JSON file."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

DATA = Path(os.environ.get("NRSFM_DATA", "../shared/data"))


@dataclasses.dataclass(frozen=True)
class Row:
    """One measured figure; ``low`` and ``high`` span its ``n`` repetitions."""

    benchmark: str
    case: str
    method: str
    metric: str
    value: float
    unit: str
    low: float
    high: float
    n: int


def parse_args(
    description: str | None, add: Callable[[argparse.ArgumentParser], None]
) -> argparse.Namespace:
    """The flags of all benchmarks, and those that ``add`` puts beside them."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument(
        "--quick", action="store_true", help="a reduced form, under 10 min on 2 cores"
    )
    add(parser)
    return parser.parse_args()


def summarise(
    benchmark: str, case: str, method: str, metric: str, unit: str, values: Iterable
) -> Row:
    """The mean of ``values`` with their range."""
    v = np.asarray(list(values), float)
    return Row(
        benchmark,
        case,
        method,
        metric,
        float(v.mean()),
        unit,
        float(v.min()),
        float(v.max()),
        len(v),
    )


def finish(
    rows: Sequence[Row], path: Path | None, *, spread: str = "mean [lowest, highest]"
) -> None:
    """Prints the table (methods down, metrics across) and writes the JSON rows."""
    metrics = list(dict.fromkeys((r.metric, r.unit) for r in rows))
    table = Table(title=f"{rows[0].benchmark}: {spread}")
    for name in ("case", "method", "n", *(f"{m} ({u})" for m, u in metrics)):
        table.add_column(
            name, justify="left" if name in ("case", "method") else "right"
        )
    for case, method in dict.fromkeys((r.case, r.method) for r in rows):
        mine = {r.metric: r for r in rows if (r.case, r.method) == (case, method)}
        cells = [
            f"{mine[m].value:.4g} [{mine[m].low:.4g}, {mine[m].high:.4g}]"
            if m in mine
            else ""
            for m, _ in metrics
        ]
        table.add_row(case, method, str(max(r.n for r in mine.values())), *cells)
    console = Console(width=None if os.isatty(1) else 180)
    console.print(table)
    device = jax.devices()[0]
    console.print(
        f"{device.platform} {device.device_kind}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, jax {jax.__version__}, "
        f"numpy {np.__version__}"
    )
    if path:
        path.write_text(json.dumps([dataclasses.asdict(r) for r in rows], indent=1))
