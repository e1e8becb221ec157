"""What the benchmarks share: flags, rows, the table, processes, measuring in turns."""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import importlib
import importlib.util
import json
import os
import platform
import queue
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

DATA = Path(os.environ.get("NRSFM_DATA", "../shared/data"))


def set_mh_mocap(data: Any, folder: Path) -> None:
    """``config.data`` of rendered people in a folder, COCO files and their 3D."""
    data.name = "coco"
    for field, suffix in (("", "train"), ("_val", "val")):
        data[f"annotations{field}"] = str(folder / f"person_keypoints_{suffix}.json")
        data[f"images{field}"] = str(folder / f"images_{suffix}")
        data[f"ground_truth{field}"] = str(folder / f"gt3d_{suffix}.npz")


# --- flags, rows and the table --------------------------------------------------------


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser that shows the page of a benchmark as it is written."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def parse_args(
    description: str | None, add: Callable[[argparse.ArgumentParser], None]
) -> argparse.Namespace:
    """The flags of all benchmarks, and those that ``add`` puts beside them."""
    parser = make_parser(description)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--quick", action="store_true", help="a reduced form")
    add(parser)
    return parser.parse_args()


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

    def __str__(self) -> str:
        spread = f" [{self.low:.4g}, {self.high:.4g}]" if self.low != self.high else ""
        return f"{self.value:.4g}{spread}"


def mean_row(
    benchmark: str, case: str, method: str, metric: str, unit: str, values: Iterable
) -> Row:
    """The mean of ``values`` with their range."""
    v = np.asarray(list(values), float)
    span = float(v.min()), float(v.max()), len(v)
    return Row(benchmark, case, method, metric, float(v.mean()), unit, *span)


def median_row(
    benchmark: str, case: str, method: str, metric: str, unit: str, values: Any
) -> Row:
    """The median of ``values`` with their quartiles."""
    low, middle, high = (float(x) for x in np.percentile(values, (25, 50, 75)))
    return Row(benchmark, case, method, metric, middle, unit, low, high, len(values))


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table."""
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def finish(
    rows: Sequence[Row], path: Path | None, *, spread: str, footer: str = ""
) -> None:
    """Prints the table (methods down, metrics across) and writes the JSON rows."""
    metrics = dict.fromkeys((r.metric, r.unit) for r in rows)
    table: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        table.setdefault((row.case, row.method), {})[row.metric] = row
    head = ["case", "method", "n", *(f"{m} ({u})" if u else m for m, u in metrics)]
    body = (
        [*key, str(max(r.n for r in mine.values()))]
        + [str(mine.get(metric, "")) for metric, _ in metrics]
        for key, mine in table.items()
    )
    device = jax.devices()[0]
    print(f"{rows[0].benchmark}: {spread}", *markdown(head, body), footer, sep="\n")
    print(
        f"{device.platform} {device.device_kind}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, jax {jax.__version__}, "
        f"numpy {np.__version__}"
    )
    if path:
        path.write_text(json.dumps([dataclasses.asdict(r) for r in rows], indent=1))


# --- results that are kept, each from a process of its own ----------------------------

Key = tuple[str, int]  # method, seed


@dataclasses.dataclass(frozen=True)
class Job:
    """A command that is run where ``done`` is false; its output goes to ``log``."""

    name: str
    command: Sequence[str]
    done: Callable[[], bool]
    log: Path
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)


def run_jobs(wanted: Iterable[Job], *, jobs: int = 1, cores: str = "") -> None:
    """A process for every job that is not done, ``jobs`` at a time.

    Each has cores of its own, of those named (``"0,1,2"``; all by default). Jobs that
    fail are named on the error output.
    """
    ours = [int(core) for core in cores.split(",") if core]
    ours = ours or sorted(os.sched_getaffinity(0))
    if jobs > len(ours):
        sys.exit(f"error: --jobs={jobs}, but there are {len(ours)} cores")
    free: queue.SimpleQueue[set[int]] = queue.SimpleQueue()
    for i in range(jobs):
        free.put(set(ours[i::jobs]))

    def run(job: Job) -> None:
        if job.done():
            return
        own = free.get()
        os.sched_setaffinity(0, own)  # of this thread, and of the process it starts
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("a") as log:
            env = {**job.env, **os.environ}
            subprocess.run(job.command, stdout=log, stderr=log, env=env, check=False)
        free.put(own)
        state = "done" if job.done() else f"failed, see {job.log}"
        print(f"{job.name}: {state}", file=sys.stderr, flush=True)

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        list(pool.map(run, wanted))


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
    lines = path.read_text("utf-8").splitlines() if path.exists() else ()
    for line in lines:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if record["protocol"] == protocol:
            kept[record["method"], record["seed"]] = record
    return kept


def kept_results(
    script: Path,
    protocol: dict[str, Any],
    wanted: Sequence[Key],
    path: Path,
    *,
    jobs: int = 1,
) -> list[dict[str, Any]]:
    """The results of all ``wanted``; those that the file lacks are made.

    Each by ``script --worker=METHOD --first-seed=SEED --runs=PATH`` with the fields of
    the protocol as flags, which appends its own result.

    Returns:
        The results, in the order of ``wanted``, without those that failed.
    """
    flags = [f"--runs={path}"]
    for name, value in protocol.items():
        if value not in (None, False, ""):
            flags.append(f"--{name}" if value is True else f"--{name}={value}")

    # Compiled programs are kept beside the results: only the first seed compiles.
    env = {"JAX_COMPILATION_CACHE_DIR": str(path.parent.absolute() / "compiled")}

    def job(key: Key) -> Job:
        own = [f"--worker={key[0]}", f"--first-seed={key[1]}"]
        return Job(
            name=f"{key[0]}, seed {key[1]}",
            command=[sys.executable, str(script), *flags, *own],
            done=lambda: key in read_lines(path, protocol),
            log=path.with_suffix(".log"),
            env=env,
        )

    # The last methods first: what they give on the way need not be run again.
    run_jobs(map(job, reversed(wanted)), jobs=jobs)
    kept = read_lines(path, protocol)
    return [kept[key] for key in wanted if key in kept]


# --- measuring in one process ---------------------------------------------------------


def in_turns(
    candidates: Mapping[str, Callable[[], Any]], *, rounds: int
) -> dict[str, np.ndarray]:
    """(2, rounds) clock and processor seconds; a random order in every round.

    Whatever else the machine does meets all alike.
    """
    rng = np.random.default_rng(0)
    spent: dict[str, list[list[float]]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name in rng.permutation(list(candidates)):
            start = time.perf_counter(), time.process_time()
            candidates[name]()
            now = time.perf_counter(), time.process_time()
            spent[name].append([b - a for a, b in zip(start, now, strict=True)])
    return {name: np.array(values).T for name, values in spent.items()}


def installed(name: str) -> bool:
    """Whether a library that is compared with is here; says so where it is not."""
    if importlib.util.find_spec(name):
        return True
    print(f"{name} is not installed: not timed")
    return False


def limit_threads(count: int) -> None:
    """The same number of threads for every library.

    They look at the cores when they are imported, so the program starts once more.
    """
    cores = sorted(os.sched_getaffinity(0))
    if count > len(cores):
        raise ValueError(f"--threads={count}, but this process may use {len(cores)}")
    if count < len(cores):
        os.sched_setaffinity(0, cores[:count])
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if importlib.util.find_spec("torch"):
        importlib.import_module("torch").set_num_threads(count)


def peak_flops(dtype: str = "float32") -> float:
    """Operations per second of a large square product: NumPy's, on a GPU JAX's."""
    on_cpu = jax.default_backend() == "cpu"
    side = 2048 if on_cpu else 8192
    matrix = np.random.default_rng(0).normal(size=(side, side)).astype(np.float32)
    a, product = jnp.asarray(matrix, dtype), jax.jit(jnp.matmul)

    def call() -> Any:
        return matrix @ matrix if on_cpu else product(a, a).block_until_ready()

    call()
    clock, processor = in_turns({"": call}, rounds=10)[""]
    best = 2 * side**3 / float(np.median(processor if on_cpu else clock))
    print(f"a product of {side}^3 reaches {best / 1e9:.1f} GFLOP/s")
    return best
