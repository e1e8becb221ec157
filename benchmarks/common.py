"""What every benchmark shares: its flags, its rows, the table and the JSON file."""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

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


def median_row(
    benchmark: str, case: str, method: str, metric: str, unit: str, values: Any
) -> Row:
    """The median of ``values`` with their quartiles."""
    low, middle, high = (float(x) for x in np.percentile(values, (25, 50, 75)))
    return Row(benchmark, case, method, metric, middle, unit, low, high, len(values))


def finish(
    rows: Sequence[Row],
    path: Path | None,
    *,
    spread: str = "mean [lowest, highest]",
    footer: str = "",
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
        cells = [_cell(mine[m]) if m in mine else "" for m, _ in metrics]
        table.add_row(case, method, str(max(r.n for r in mine.values())), *cells)
    console = Console(width=None if os.isatty(1) else 180)
    console.print(table)
    if footer:
        console.print(footer, highlight=False)
    device = jax.devices()[0]
    console.print(
        f"{device.platform} {device.device_kind}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, jax {jax.__version__}, "
        f"numpy {np.__version__}"
    )
    if path:
        path.write_text(json.dumps([dataclasses.asdict(r) for r in rows], indent=1))


def _cell(row: Row) -> str:
    if row.low == row.high:
        return f"{row.value:.4g}"
    return f"{row.value:.4g} [{row.low:.4g}, {row.high:.4g}]"


# --- results that are kept, each from a process of its own ----------------------------

Key = tuple[str, int]


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Adds one result to a file of JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def read_lines(path: Path, protocol: dict[str, Any]) -> dict[Key, dict[str, Any]]:
    """The kept results of this protocol, by method and seed; the last one counts.

    A line that an interruption cut short is left out.
    """
    kept: dict[Key, dict[str, Any]] = {}
    if not path.exists():
        return kept
    for line in path.read_text("utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if record["protocol"] == protocol:
            kept[record["method"], record["seed"]] = record
    return kept


def run_jobs(
    script: Path,
    protocol: dict[str, Any],
    wanted: Sequence[Key],
    path: Path,
    *,
    jobs: int = 1,
) -> list[dict[str, Any]]:
    """A process for every wanted result that is not kept yet, ``jobs`` at a time.

    Each is ``script --worker=METHOD --first-seed=SEED --runs=PATH`` with the fields of
    the protocol as flags, and appends its own result. Compiled programs are kept
    beside the file: one seed of a method compiles, the others need not.

    Returns:
        The results, in the order of ``wanted``; those that failed are named on the
        error output and left out.
    """
    common = [f"--runs={path}"]
    for name, value in protocol.items():
        if value is True:
            common.append(f"--{name}")
        elif value not in (None, False, ""):
            common.append(f"--{name}={value}")

    cache = {"JAX_COMPILATION_CACHE_DIR": str(path.parent.absolute() / "compiled")}

    def run(key: Key) -> None:
        method, seed = key
        if key in read_lines(path, protocol):
            return
        own = [f"--worker={method}", f"--first-seed={seed}"]
        command = [sys.executable, str(script), *common, *own]
        done = subprocess.run(command, check=False, env=cache | dict(os.environ))
        record = read_lines(path, protocol).get(key)
        if done.returncode or record is None:
            print(f"{method}, seed {seed}: failed", file=sys.stderr, flush=True)
            return
        figures = (f"{k} {v:.4g}" for k, v in record["metrics"].items())
        print(f"{method}, seed {seed}:", *figures, flush=True)

    # The last methods first: what they give on the way need not be run again.
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        list(pool.map(run, reversed(wanted)))
    kept = read_lines(path, protocol)
    return [kept[key] for key in wanted if key in kept]
