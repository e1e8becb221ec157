"""Speed of the student beside the same network in PyTorch.

    python -m benchmarks.student_speed [--threads=1] [--batch=8] [--rounds=10] [--quick]
    python -m benchmarks.student_speed --net=small --batch=32 --threads=4
    python -m benchmarks.student_speed --keep_freed_memory=all
    python -m benchmarks.student_speed --batch=32,256 --dtype=bfloat16   # on a GPU

JAX and PyTorch each use a GPU if they find one, otherwise the CPU; ``--device`` selects
one. ``train`` is forward, gradient and Adam on byte pictures, ours as
``pose_jax.train`` runs it; ``predict`` is from bytes to poses, ours with folded batch
norms. At the paper's size, ours keeps freed memory, as ``main.py`` does
(``config.keep_freed_memory``); with ``--keep_freed_memory=all`` PyTorch does so too.
PyTorch runs eager or compiled, with channels first or last, and once more with bfloat16
autocast; if it is not installed, only ours is measured.

Every method is a process of its own with the same cores and environment. On a CPU all
of them are ready at the same time and measure in turns, in a random order each round,
so that other work on the machine affects all of them equally. On a GPU, whose memory
they could not share, they run one after the other, in two passes. Values are medians
with quartiles. ``cpu time`` counts only the method's own processor time. ``share of
peak`` is the arithmetic of the network over the time (on a CPU the cpu time), against a
large square product. ``memory`` is the peak while measuring above what the process had
before the network (on a GPU what its allocator held). ``time over ours`` is taken round
by round.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.common import (
    Row,
    finish,
    in_turns,
    installed,
    median_row,
    parse_args,
    peak_flops,
)
from pose_jax.fold import fold_batch_norms
from pose_jax.integral_head import Prediction
from pose_jax.model import PoseNet
from pose_jax.optimizer import make_optimizer
from pose_jax.state import TrainState, state_shapes
from pose_jax.step import make_train_step
from pose_jax.targets import Targets
from runtime.devices import AXIS, DataParallel, keep_freed_memory

JOINTS = 17
SMALL = {"resnet_layers": 10, "stem": "small", "num_deconv": 1}
# Name -> (side of the pictures, the fields of PoseNet).
NETS: dict[str, tuple[int, dict[str, Any]]] = {
    "paper": (256, {}),
    "small": (  # --config=configs/quickstart.py --config.student.network=resnet
        64,
        SMALL
        | {"width": 0.25, "heatmap_size": 8, "depth_bins": 8, "deconv_channels": 64},
    ),
    "tiny": (
        32,
        SMALL
        | {"width": 0.125, "heatmap_size": 4, "depth_bins": 4, "deconv_channels": 8},
    ),
}
TASKS = ("train", "predict")
# Method -> how PyTorch runs; none of it for ours.
METHODS: dict[str, dict[str, bool]] = {
    "ours": {},
    "eager": {},
    "eager, channels last": {"channels_last": True},
    "compiled": {"compiled": True},
    "compiled, channels last": {"compiled": True, "channels_last": True},
    "eager, channels last, autocast": {"channels_last": True, "autocast": True},
}


# --- one process, one method -------------------------------------------------------


def make_case(spec: Mapping[str, Any]) -> tuple[PoseNet, np.ndarray, np.ndarray]:
    """Network, pictures and target of a spec."""
    size, fields = NETS[spec["net"]]
    dtype = jnp.dtype(spec["dtype"])
    net = PoseNet(JOINTS, dtype=dtype, axis_name=AXIS, **fields)
    rng = np.random.default_rng(0)
    batch = spec["batch"]
    images = rng.integers(0, 256, (batch, size, size, 3), np.uint8)
    return net, images, rng.uniform(-0.5, 0.5, (batch, JOINTS, 3)).astype(np.float32)


def l1_loss(found: Prediction, pose: Any, *_: Any) -> tuple[Any, dict[str, Any]]:
    """What the peers compute too; the real loss costs next to nothing beside this."""
    return jnp.abs(found.pose - pose).mean(), {}


def made_up_state(net: PoseNet, image_size: int) -> TrainState:
    """Small random weights, without the minute that compiling the real start takes."""
    rng = np.random.default_rng(0)

    def value(path: Any, leaf: Any) -> Any:
        name = getattr(path[-1], "key", "")
        if name == "kernel" and path[0].name == "params":
            spread = np.sqrt(2.0 / np.prod(leaf.shape[:3]))
            drawn = rng.standard_normal(leaf.shape, np.float32)
            return jnp.asarray(spread * drawn, jnp.float32)
        fill = 1 if name in ("scale", "var") else 0
        return jnp.full(leaf.shape, fill, leaf.dtype)

    shapes = state_shapes(net, image_size=image_size)
    return jax.tree.map_with_path(value, shapes)


def our_call(spec: Mapping[str, Any]) -> Callable[[], Any]:
    """A training step, or a prediction, of ours."""
    net, images, target = make_case(spec)
    state = made_up_state(net, images.shape[1])
    if spec["task"] == "predict":
        folded, weights = fold_batch_norms(net, state.variables)
        apply = jax.jit(functools.partial(folded.apply, train=False))
        return lambda: np.asarray(apply(weights, images))
    how = {"rate": lambda state: 1e-3, "optimizer": make_optimizer("adam")}
    step = make_train_step(net, l1_loss, **how, axis_name=AXIS)
    run = DataParallel(step, num_devices=1)
    zeros = np.zeros(len(images), np.int32)
    batch = {"image": images, "keypoints": target}
    batch |= dict.fromkeys(("labelled", "flip", "scale", "row"), zeros)
    batch, wanted = run.shard(batch), run.replicate((Targets(jnp.zeros(1)),))
    holder = [run.replicate(state)]

    def call() -> float:
        holder[0], metrics = run(holder[0], batch, wanted)
        return float(run.unreplicate(metrics)["loss"])

    return call


def torch_call(spec: Mapping[str, Any]) -> Callable[[], Any]:
    """The same of PyTorch."""
    peers: Any = importlib.import_module("benchmarks.student_speed_peers")
    options = {"autocast": spec["dtype"] == "bfloat16"} | METHODS[spec["method"]]
    options |= {"task": spec["task"], "device": spec["device"]}
    return peers.make_call(*make_case(spec), **options)


def work(spec: Mapping[str, Any], pipe: Any) -> None:
    """Answers ``"go"`` with a measurement, all else with the memory, and ends."""
    try:
        call, before = prepared_call(spec)
    except Exception as error:  # whatever a compiler of another library raises
        pipe.send(str(error).strip() or repr(error))
        return
    pipe.send("")
    while pipe.recv() == "go":
        ((wall, cpu),) = in_turns({"": call}, rounds=1)[""].T.tolist()
        pipe.send({"wall": wall, "cpu": cpu})
    pipe.send({"memory": peak_memory(spec) or memory_of_process("VmHWM") - before})


def prepared_call(spec: Mapping[str, Any]) -> tuple[Callable[[], Any], int]:
    """What is measured, called twice already, and the memory before it was made."""
    ours = spec["method"] == "ours"
    if spec["device"] == "cpu":
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[: spec["threads"]])
    as_main = ours and spec["net"] == "paper" and spec["keep_freed_memory"] == "ours"
    if as_main or spec["keep_freed_memory"] == "all":
        keep_freed_memory()
    if not ours:
        importlib.import_module("torch").set_num_threads(spec["threads"])
    before = memory_of_process("VmRSS")
    call = (our_call if ours else torch_call)(spec)
    call()
    call()
    # What compilers took before the measurements does not count.
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return call, before


def memory_of_process(name: str) -> int:
    """Bytes that the process has (``"VmRSS"``) or had at most (``"VmHWM"``)."""
    with open("/proc/self/status", encoding="ascii") as file:
        lines = dict(line.split(":", 1) for line in file)
    return int(lines[name].split()[0]) * 1024


def peak_memory(spec: Mapping[str, Any]) -> int:
    """What the library's allocator held at most on a GPU; 0 on a CPU."""
    if spec["device"] == "cpu":
        return 0
    if spec["method"] == "ours":
        stats = jax.local_devices()[0].memory_stats() or {}
        return int(stats.get("peak_bytes_in_use", 0))
    return int(importlib.import_module("torch").cuda.max_memory_allocated())


# --- all methods -------------------------------------------------------------------


class Worker:
    """A process that runs one method; see `work`."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.spec = spec
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=work, args=(spec, other), daemon=True)
        self._process.start()
        other.close()

    def ready(self) -> bool:
        """Waits for the first two calls; prints why there are none."""
        error = self._pipe.recv()
        if error:
            print(f"{self.spec['method']} is left out: {error.splitlines()[-1][:120]}")
        return not error

    def ask(self, word: str) -> dict[str, float]:
        self._pipe.send(word)
        return self._pipe.recv()


def run_all(
    specs: Sequence[Mapping[str, Any]], *, rounds: int, together: bool, passes: int
) -> dict[str, dict[str, np.ndarray]]:
    """Method -> wall and cpu (rounds,), memory (1,)."""
    found: dict[str, dict[str, Any]] = {}
    there_and_back = [[s] for s in [*specs, *reversed(specs)]]
    groups = [list(specs)] if together else there_and_back[: passes * len(specs)]
    share = rounds if together else -(-rounds // passes)
    rng = np.random.default_rng(0)
    for group in groups:
        workers = [w for w in [*map(Worker, group)] if w.ready()]
        for _ in range(share):
            for i in rng.permutation(len(workers)):
                mine = found.setdefault(workers[i].spec["method"], {})
                for name, value in workers[i].ask("go").items():
                    mine.setdefault(name, []).append(value)
        for worker in workers:
            found[worker.spec["method"]]["memory"] = [worker.ask("end")["memory"]]
    order = [s["method"] for s in specs if s["method"] in found]
    return {m: {k: np.array(v) for k, v in found[m].items()} for m in order}


def methods(names: Sequence[str]) -> list[str]:
    """Those that can run here."""
    if not installed("torch"):
        return ["ours"]
    return [name for name in METHODS if not names or name in names]


def task_flops(spec: Mapping[str, Any]) -> float:
    """Arithmetic of a batch; a gradient costs two more of each layer."""
    net, images, _ = make_case(spec | {"dtype": "float32"})
    apply = functools.partial(net.clone(axis_name=None).apply, train=False)
    state = state_shapes(net, image_size=images.shape[1])
    cost = jax.jit(apply).lower(state.variables, images).cost_analysis()
    return cost["flops"] * (1 if spec["task"] == "predict" else 3)


def task_rows(
    spec: Mapping[str, Any],
    names: Sequence[str],
    *,
    rounds: int,
    peak: float,
    passes: int = 2,
) -> list[Row]:
    """All figures of one task and batch size; one or two ``passes`` on a GPU."""
    on_cpu = spec["device"] == "cpu"
    specs = [spec | {"method": name} for name in methods(names)]
    timed = run_all(specs, rounds=rounds, together=on_cpu, passes=passes)
    case = f"{spec['task']}, batch {spec['batch']}"
    flops, batch = task_flops(spec), spec["batch"]
    rows = []
    for name, found in timed.items():
        wall = found["wall"]
        title = name if name == "ours" else f"torch {name}"
        row = functools.partial(median_row, "student_speed", case, title)
        rows.append(row("speed", "images/s", batch / wall))
        # On a CPU the time that other programs leave us.
        share = 100 * flops / found["cpu" if on_cpu else "wall"] / peak
        rows.append(row("share of peak", "%", share))
        rows.append(row("memory", "MB", found["memory"] / 1e6))
        for kind in ("wall", "cpu") if on_cpu else ("wall",):
            rows.append(row(f"{kind} time", "ms/image", 1e3 * found[kind] / batch))
            if "ours" in timed:
                ratio = found[kind] / timed["ours"][kind]
                rows.append(row(f"{kind} time over ours", "x", ratio))
    return rows


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--net", choices=NETS, default="paper")
    parser.add_argument("--batch", default="", help="sizes, separated by commas")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default=None)
    parser.add_argument("--threads", type=int, default=1, help="on a CPU")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument(
        "--methods", default="", help=f"of {'; '.join(METHODS)}; separated by ';'"
    )
    parser.add_argument(
        "--keep_freed_memory", choices=("ours", "all", "none"), default="ours"
    )


def main() -> None:
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    args = parse_args(__doc__, add_flags)
    found = "cuda" if jax.default_backend() == "gpu" else "cpu"
    device = args.device or found
    if device == "cpu":  # of the processes that this one starts
        threads = {"OMP_NUM_THREADS": str(args.threads)}
        os.environ.update(threads, JAX_PLATFORMS="cpu")
    rounds = 3 if args.quick else args.rounds
    fields = ("net", "dtype", "threads", "keep_freed_memory")
    spec = {name: getattr(args, name) for name in fields} | {"device": device}
    names = [name for name in args.methods.split(";") if name]
    sizes = args.batch or ("8" if device == "cpu" else "32,256")
    peak = peak_flops(args.dtype)
    rows = []
    for batch in map(int, sizes.split(",")):
        for task in args.tasks.split(","):
            mine = spec | {"task": task, "batch": batch}
            rows += task_rows(mine, names, rounds=rounds, peak=peak)
    finish(rows, args.json, spread="median [quartiles]")


if __name__ == "__main__":
    main()
