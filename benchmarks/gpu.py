"""What one accelerator does with the paper's student: its speed, its first 2,000 steps.

    python -m benchmarks.gpu --json=gpu.json      # on a GPU, made for ten minutes

Speed: pictures per second in training and prediction, float32 and bfloat16, beside the
same network in PyTorch, compiled, where PyTorch is installed. ``share of peak`` is
against a large square product; ``benchmarks.student_speed``, which measures these rows,
explains the others.

Curve: the network, the losses and the augmentation of ``configs/paper.py`` on 2,000
mannequins of 320 pixels, bfloat16, 32 pictures a step. Its teacher learns by Eq. 4
alone, and briefly. Every row is a mean over 100 steps, in the units of the patch.

It needs JAX, Flax, Optax, OpenCV and Pillow; no TensorFlow, and no data. Without an
accelerator it says so and runs a smoke test of itself on a tiny network.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import student_speed
from benchmarks.common import Row, finish, make_parser, mean_row, peak_flops
from input_pipeline.augment import Augmentation
from input_pipeline.landmarks import Landmarks, make_landmarks
from input_pipeline.order import Order
from input_pipeline.pipeline import Drawer
from input_pipeline.skeleton import H36M_17
from input_pipeline.synthetic.sample import render_sample
from nrsfm_jax import loop
from nrsfm_jax import teacher as teachers
from nrsfm_jax.loss import Objective
from pose_jax.hints import facing_pairs
from pose_jax.loss import depth_loss, student_loss
from pose_jax.model import PoseNet
from pose_jax.optimizer import make_optimizer
from pose_jax.state import init_state
from pose_jax.step import make_rate, make_train_step
from pose_jax.targets import Targets, teacher_targets
from runtime import teacher_file
from runtime.devices import AXIS, DataParallel

METHODS = ("ours", "compiled, channels last")
DTYPES = ("float32", "bfloat16")
# Of configs/default.py.
AUGMENTATION = Augmentation(0.25, 60.0, 0.6, 0.5, 0.2)
TEACHER = {"sparsity_weight": 0.005, "learning_rate": 0.01, "ista_steps": 1}
UNGUIDED = {"guide_fraction": 0.0, "guide_floor": 0.0}


@dataclasses.dataclass(frozen=True)
class Size:
    """How much of it is run."""

    net: str = "paper"  # of `student_speed.NETS`
    speed_batch: int = 128
    rounds: int = 20
    pictures: int = 2000
    pixels: int = 320
    dictionaries: tuple[int, ...] = (256, 128, 64, 32, 16, 8)
    teacher_steps: int = 1000
    batch: int = 32
    steps: int = 2000
    every: int = 100  # steps for each row of the curve
    workers: int = 16  # processes that render; 0: none


SMOKE = Size("tiny", 2, 2, 40, 40, (32, 16), 20, 8, 4, 2, 0)


def speed_rows(size: Size, device: str) -> list[Row]:
    """Training and prediction in both precisions."""
    common = {"net": size.net, "device": device, "threads": 1}
    common |= {"keep_freed_memory": "none", "batch": size.speed_batch}
    found = []
    for dtype in DTYPES:
        peak = peak_flops(dtype)
        for task in student_speed.TASKS:
            spec = common | {"dtype": dtype, "task": task}
            how: Any = {"rounds": size.rounds, "peak": peak, "passes": 1}
            for row in student_speed.task_rows(spec, METHODS, **how):
                case = f"{row.case}, {dtype}"
                found.append(dataclasses.replace(row, benchmark="gpu", case=case))
    return found


# --- the curve -----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Rendered:
    """Pictures in memory, in the place of those that are stored."""

    images: list[np.ndarray]
    folder: Path = Path()

    def pictures(self, rows: list[int]) -> list[np.ndarray]:
        """The picture of each row."""
        return [self.images[row] for row in rows]


def render(size: Size) -> tuple[Rendered, Landmarks]:
    """Mannequins and their landmarks; no 3D is kept."""
    draw = partial(render_sample, split="train", seed=0, size=size.pixels)
    rows = range(size.pictures)
    if size.workers:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(size.workers, mp_context=context) as pool:
            drawn = list(pool.map(draw, rows, chunksize=16))
    else:
        drawn = [*map(draw, rows)]
    keypoints = np.stack([each.keypoints for each in drawn])
    marks = make_landmarks(
        skeleton=H36M_17,
        sample_ids=np.arange(size.pictures),
        keypoints=keypoints,
        labelled=np.ones(keypoints.shape[:2], bool),
        boxes=None,
        names=(),
        padding=1.25,
    )
    return Rendered([each.image for each in drawn]), marks


def taught(marks: Landmarks, size: Size) -> Targets:
    """The targets of Eq. 14, by a teacher of these landmarks."""
    given = marks.centred[0], marks.labelled
    batch = min(128, len(marks))
    how: Any = {**TEACHER, **UNGUIDED, "steps": size.teacher_steps, "batch_size": batch}
    objective, key = Objective(**how), jax.random.key(0)
    start = loop.init_state(
        key,
        num_landmarks=H36M_17.num_joints,
        dictionary_sizes=size.dictionaries,
        objective=objective,
    )
    state = loop.fit(start, *given, key=key, objective=objective)
    params = jax.tree.map(np.asarray, state.params)
    teacher = teachers.Teacher(params, H36M_17.to_dict())
    said = teacher.reconstruct(*given, marks.sample_ids)
    splits = {"train": marks, "val": marks, "extra": marks.take(slice(0))}
    with tempfile.TemporaryDirectory() as folder:
        teachers.save(folder, teacher, {"train": said, "val": said})
        file = teacher_file.read(folder)
        return teacher_targets("distill", file, splits, softening=0.1)["train"]


def batches(
    pictures: Rendered, marks: Landmarks, size: Size, side: int
) -> Iterator[Mapping[str, np.ndarray]]:
    """Augmented batches without end, each drawn while those before it are used."""
    order = Order((len(marks),), (1.0,), batch_size=size.batch, train=True, seed=0)
    drawer = Drawer([pictures], marks, order, AUGMENTATION, side)
    running: collections.deque[Any] = collections.deque()
    with ThreadPoolExecutor(max(size.workers, 1)) as pool:
        for step in itertools.count():
            running.append(pool.submit(drawer.draw, step))
            if len(running) > 2 * size.workers:
                yield running.popleft().result()


def placed_step(size: Size) -> tuple[DataParallel, Any, int]:
    """The training step of Eq. 15, its first state, and the side of its pictures."""
    side, fields = student_speed.NETS[size.net]
    net = PoseNet(H36M_17.num_joints, dtype=jnp.bfloat16, axis_name=AXIS, **fields)
    loss = partial(
        student_loss,
        depth_weights={"distill": 1.0},
        depth_loss=partial(depth_loss, code_l1_weight=0.15),
        permutation=np.asarray(H36M_17.flip_permutation),
        pairs=facing_pairs(H36M_17),
        xy_weight=1.0,
        heat_weight=0.0,
    )
    rates = {"learning_rate": 1e-3, "end_learning_rate": 1e-5}
    rate = make_rate("plateau", num_steps=size.steps, **rates)
    adam = make_optimizer("adam")
    step = make_train_step(net, loss, rate=rate, optimizer=adam, axis_name=AXIS)
    start = init_state(net, jax.random.key(1), image_size=side, learning_rate=1e-3)
    return DataParallel(step, num_devices=1), start, side


def curve_rows(size: Size) -> list[Row]:
    """The losses of the landmarks and of Eq. 14, and pictures per second with data."""
    pictures, marks = render(size)
    step, state, side = placed_step(size)
    state, targets = step.replicate((state, (taught(marks, size),)))
    ready, pending, rows = batches(pictures, marks, size, side), [], []
    began = time.perf_counter()
    for now in range(1, size.steps + 1):
        batch = {k: v for k, v in next(ready).items() if k != "weight"}
        state, metrics = step(state, step.shard(batch), targets)
        pending.append(metrics)
        if now % size.every:
            continue
        fetched = jax.device_get([step.unreplicate(each) for each in pending])
        rate = size.batch * len(pending) / (time.perf_counter() - began)
        row = partial(mean_row, "gpu", "paper.py", f"step {now}")
        rows += [row(n, "", [each[n] for each in fetched]) for n in ("xy", "depth")]
        rows.append(row("speed", "images/s", [rate]))
        pending, began = [], time.perf_counter()
    return rows


def main() -> None:
    """Measures both parts and says how long it took."""
    began = time.monotonic()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    parser = make_parser(__doc__)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    args = parser.parse_args()
    device, size = "cuda", Size()
    if jax.default_backend() != "gpu":
        print("No GPU was found: a smoke test, whose figures mean nothing.")
        device, size = "cpu", SMOKE
        os.environ.update({"OMP_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"})
    rows = speed_rows(size, device) + curve_rows(size)
    finish(rows, args.json, spread="median [quartiles]; losses: mean [range]")
    print(f"it took {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
