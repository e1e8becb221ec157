"""Training of the student (Wang et al. 2019, Sections 4.4 and 5.1).

``train_and_evaluate(config, workdir)`` reads the data and the teacher's files;
``fit`` is the loop itself and takes any iterator of batches. A batch is a dictionary
of numpy arrays, as :func:`input_pipeline.pipeline.image_batches` makes them::

    image (B, H, H, 3) uint8, keypoints (B, P, 2) and labelled (B, P) of the augmented
    patch, row (B,) int32 of the table of targets, flip (B,), scale (B,), weight (B,)

Batch norms average their statistics over all devices (``sync_batch_norm``), so that a
run gives the same numbers on any number of them, up to rounding. Of several processes
each reads its part of every batch and of the validation split; the first one writes.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from input_pipeline.ground_truth import read_ground_truth
from input_pipeline.landmarks import Landmarks, read_landmarks
from input_pipeline.mixture import depth_counts, read_extra
from input_pipeline.skeleton import Skeleton
from pose_jax import evaluate
from pose_jax.loss import MODES, DepthTarget
from pose_jax.pretrained import with_pretrained
from pose_jax.state import (
    CHECKPOINTS,
    StudentRecord,
    TrainState,
    init_state,
    make_net,
    net_fields,
)
from pose_jax.step import Batch, make_loss, make_train_step, plateau_update
from pose_jax.targets import (
    POSTERIOR_MODES,
    Targets,
    label_targets,
    matched_depth_weight,
    no_depth_targets,
    teacher_targets,
    teacher_trust,
)
from runtime import processes, teacher_file
from runtime.checkpoints import Checkpoints
from runtime.devices import AXIS, DataParallel, data_parallel
from runtime.metric_writer import MetricWriter
from runtime.progress import progress
from runtime.workdir import mark_finished

DEVICE_KEYS = ("image", "keypoints", "labelled", "row", "flip", "scale")


# --- the loop ----------------------------------------------------------------------


class MetricWindow:
    """Metrics of the steps since the last log line, left on the device until read."""

    def __init__(self, start: int, values: list[dict[str, float]] | None = None):
        self._start = start - len(values or [])
        self._read: list[dict[str, float]] = list(values or [])
        self._unread: list[Any] = []

    def add(self, metrics: Any) -> None:
        """Notes the metrics of one step, without waiting for them."""
        self._unread.append(metrics)

    def read(self, unreplicate: Callable[[Any], Any]) -> list[dict[str, float]]:
        """Fetches what is new.

        Raises:
            ValueError: a loss or gradient that is not finite, with its step.
        """
        fetched = jax.device_get([unreplicate(m) for m in self._unread])
        self._unread = []
        for metrics in fetched:
            values = {name: float(value) for name, value in metrics.items()}
            self._read.append(values)
            bad = [f"{n} {v}" for n, v in values.items() if not math.isfinite(v)]
            if bad:
                step = self._start + len(self._read)
                raise ValueError(f"step {step}: {' and '.join(bad)}")
        return self._read

    def mean(self) -> dict[str, float]:
        """Means over the steps read; the window is empty afterwards."""
        means = {n: math.fsum(m[n] for m in self._read) for n in self._read[0]}
        means = {name: total / len(self._read) for name, total in means.items()}
        self._start += len(self._read)
        self._read = []
        return means


def fit(
    state: TrainState,
    batches: Iterator[Batch],
    targets: Targets,
    *,
    step: DataParallel,
    num_steps: int,
    validate: Callable[[TrainState], dict[str, float]] | None = None,
    patience: int = 3,
    end_learning_rate: float = 1e-5,
    log_every: int = 50,
    eval_every: int = 2000,
    checkpoint_every: int = 2000,
    checkpoints: Checkpoints | None = None,
    writer: MetricWriter | None = None,
    stage: str = "student",
) -> TrainState:
    """Trains from ``state`` to step ``num_steps``.

    The device is waited for only where a line is logged, the validation split is
    scored or a checkpoint is written.

    Args:
        state: of :func:`init_state`, or restored.
        batches: from the step of ``state`` on.
        targets: table of the training split.
        step: :func:`make_train_step`, placed by ``data_parallel``.
        num_steps: steps of the whole training.
        validate: takes the placed state, returns the validation loss as ``"loss"``
            beside other figures; none of them may come from 3D.
        patience: see :func:`plateau_update`.
        end_learning_rate: likewise.
        log_every: steps per line of metrics.
        eval_every: steps per validation; the last step always has one.
        checkpoint_every: steps per checkpoint; the last step always has one.
        checkpoints: where to save; None saves nothing.
        writer: where to write metrics; None writes nothing.
        stage: name in the metrics and the progress bar.

    Returns:
        The final state, one copy.

    Raises:
        ValueError: a loss or gradient that is not finite, naming the step and the
            last good checkpoint; the data ended too early.
    """
    start = int(state.step)
    pending = (checkpoints.extra() or {}).get("window") if checkpoints else None
    window = MetricWindow(start, pending if start else None)
    placed, targets = step.replicate((state, targets))

    def due(now: int, every: int) -> bool:
        return now % every == 0 or now == num_steps

    shown = processes.is_first()
    with progress(stage, num_steps, start=start, shown=shown) as bar:
        for now in range(start + 1, num_steps + 1):
            with bar.waiting():
                batch = _next_batch(batches, now)
            placed, metrics = step(placed, step.shard(batch), targets)
            window.add(metrics)
            saving = checkpoints is not None and due(now, checkpoint_every)
            line: dict[str, float] = {}
            if saving or due(now, log_every):
                _read(window, step, checkpoints)
            if due(now, log_every):
                line |= window.mean()
            if validate is not None and due(now, eval_every):
                scores = validate(placed)
                _check_validation(scores["loss"], now, checkpoints)
                line |= {f"val_{name}": value for name, value in scores.items()}
                plateau = plateau_update(
                    step.unreplicate(placed.plateau),
                    scores["loss"],
                    patience=patience,
                    end_learning_rate=end_learning_rate,
                )
                placed = placed.replace(plateau=step.replicate(plateau))
            if writer is not None and line:
                writer.write(stage, now, line)
            if saving and checkpoints is not None:
                extra = {"window": window.read(step.unreplicate)}
                checkpoints.save(now, step.unreplicate(placed), extra)
            bar.update(now, **{n: v for n, v in line.items() if n.endswith("loss")})
    return step.unreplicate(placed)


def _next_batch(batches: Iterator[Batch], now: int) -> dict[str, np.ndarray]:
    try:
        batch = next(batches)
    except StopIteration:
        raise ValueError(
            f"the batches ended before step {now}: training needs an iterator without "
            "end, such as image_batches(..., train=True)"
        ) from None
    return {name: batch[name] for name in DEVICE_KEYS}


def _read(window: MetricWindow, step: DataParallel, checkpoints: Any) -> None:
    try:
        window.read(step.unreplicate)
    except ValueError as error:
        raise ValueError(f"{error}; {_remedy(checkpoints)}") from None


def _check_validation(loss: float, now: int, checkpoints: Any) -> None:
    if not math.isfinite(loss):
        raise ValueError(f"step {now}: validation loss {loss}; {_remedy(checkpoints)}")


def _remedy(checkpoints: Checkpoints | None) -> str:
    kept = "no checkpoint was written yet"
    if checkpoints is not None:
        checkpoints.wait()
        latest = checkpoints.latest_step()
        if latest is not None:
            kept = f"the checkpoint of step {latest} in {checkpoints.directory} is kept"
    return f"{kept}; try a lower config.student.learning_rate, in another workdir"


def make_validation(
    step: DataParallel,
    net: nn.Module,
    loss: Callable[..., Any],
    batches: Callable[[], Iterable[Batch]],
    targets: Targets,
) -> Callable[[TrainState], dict[str, float]]:
    """``validate(placed state) -> means`` of the loss and its terms over a split.

    Of several processes each goes through ``batches`` of its own, equally many.
    """

    def losses_of_batch(state: TrainState, batch: Batch, table: Targets) -> Any:
        pose = net.apply(state.variables, batch["image"], train=False)
        values, terms = loss(pose, batch, table)
        return {"loss": values, **terms}

    score = step.per_sample(losses_of_batch)
    table = step.replicate(targets)

    def validate(state: TrainState) -> dict[str, float]:
        totals = {"count": 0.0}
        for batch in batches():
            arrays = {name: batch[name] for name in DEVICE_KEYS}
            weight = np.asarray(batch["weight"], np.float64)
            totals["count"] += float(weight.sum())
            for name, values in score(state, step.shard(arrays), table).items():
                total = float((values.astype(np.float64) * weight).sum())
                totals[name] = totals.get(name, 0.0) + total
        sums = processes.gather(np.array(list(totals.values()))).sum(axis=0)
        return dict(zip(list(totals)[1:], (sums[1:] / sums[0]).tolist(), strict=True))

    return validate


# --- the run -----------------------------------------------------------------------


def train_and_evaluate(config: Any, workdir: str | Path) -> None:
    """Trains the student of ``config.student.mode`` and scores it.

    Leaves in ``workdir/student_<mode>``: ``student.json``, ``checkpoints/``,
    ``results.json`` and ``predictions_<split>.npz``. What is finished is not
    repeated; what was interrupted goes on from its last checkpoint, with the same
    numbers as if it had never stopped.

    Args:
        config: with the groups ``data`` and ``student``.
        workdir: folder of the run, with the teacher in ``workdir/teacher``.

    Raises:
        ValueError: an impossible config, data or a teacher that does not fit it, a
            loss that is not finite.
    """
    mode = config.student.mode
    if mode not in MODES:
        raise ValueError(f"config.student.mode = {mode!r} is not one of {MODES}")
    began = time.monotonic()
    trained = train(config, workdir)
    if trained and processes.is_first():
        mark_finished(
            workdir, f"student_{mode}", seconds=round(time.monotonic() - began, 1)
        )
    evaluate.evaluate(config, workdir)


def train(config: Any, workdir: str | Path) -> bool:
    """Trains to ``config.student.steps``; whether there was anything left to do."""
    student = config.student
    stage = f"student_{student.mode}"
    folder = Path(workdir) / stage
    with Checkpoints(folder / CHECKPOINTS) as checkpoints:
        if checkpoints.latest_step() == student.steps:
            return False
        splits = {s: read_landmarks(config.data, s) for s in ("train", "val")}
        skeleton = splits["train"].skeleton
        _check_batch(student.batch_size, len(splits["train"]))
        targets, matched, sign = _make_targets(config, workdir, splits)
        depth_weight = matched * student.depth_weight
        record = StudentRecord(
            mode=student.mode,
            skeleton=skeleton,
            net=net_fields(student),
            image_size=student.image_size,
            padding=float(config.data.padding),
            depth_sign=sign,
            depth_weight=depth_weight,
            matched_weight=matched,
            box=str(config.data.box),
        )
        processes.on_first(lambda: record.save(folder), "student record")
        loss = make_loss(
            skeleton,
            xy_weight=student.xy_weight,
            depth_weight=depth_weight,
            code_l1_weight=student.code_l1_weight,
        )
        _run(config, workdir, stage, skeleton, loss, targets, checkpoints)
    return True


def _run(
    config: Any,
    workdir: str | Path,
    stage: str,
    skeleton: Skeleton,
    loss: Callable[..., Any],
    targets: dict[str, Targets],
    checkpoints: Checkpoints,
) -> None:
    """Puts network, step, data and checkpoint together and calls :func:`fit`."""
    student = config.student
    net = make_net(
        net_fields(student),
        num_joints=skeleton.num_joints,
        axis_name=AXIS if student.sync_batch_norm else None,
    )
    step = _place_step(student, net, loss)
    state = init_state(
        net,
        jax.random.fold_in(jax.random.key(config.seed), 1),
        image_size=student.image_size,
        learning_rate=student.learning_rate,
    )
    restored = checkpoints.restore_latest(state)
    if restored is not None:
        state = restored[1]
    elif student.pretrained:
        state = with_pretrained(state, student.pretrained)
    start = int(state.step)
    batches, validation = _batches(config, start)
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(
            MetricWriter(workdir, start, active=processes.is_first())
        )
        fit(
            state,
            batches,
            targets["train"],
            step=step,
            num_steps=student.steps,
            validate=make_validation(step, net, loss, validation, targets["val"]),
            patience=student.patience,
            end_learning_rate=student.end_learning_rate,
            log_every=student.log_every,
            eval_every=student.eval_every,
            checkpoint_every=student.checkpoint_every,
            checkpoints=checkpoints,
            writer=writer,
            stage=stage,
        )


def _place_step(student: Any, net: Any, loss: Callable[..., Any]) -> DataParallel:
    """The training step on the devices that ``config.student`` names."""
    step = make_train_step(
        net,
        loss,
        schedule=student.schedule,
        num_steps=student.steps,
        learning_rate=student.learning_rate,
        end_learning_rate=student.end_learning_rate,
        axis_name=AXIS,
    )
    return data_parallel(
        step,
        mode=student.parallel,
        num_devices=student.num_devices,
        batch_size=student.batch_size // jax.process_count(),
    )


def _batches(
    config: Any, start: int
) -> tuple[Iterator[Batch], Callable[[], Iterator[Batch]]]:
    """Training batches of this process from a step on, and a pass over validation."""
    from input_pipeline.pipeline import image_batches  # imports tensorflow

    common = {
        "batch_size": config.student.batch_size // jax.process_count(),
        "image_size": config.student.image_size,
        "seed": config.seed,
        "shard_index": jax.process_index(),
        "shard_count": jax.process_count(),
    }
    train = image_batches(
        config.data,
        "train",
        train=True,
        start_step=start,
        augment=config.student.augment,
        **common,
    )
    return iter(train), lambda: image_batches(config.data, "val", train=False, **common)


def _check_batch(batch_size: int, count: int) -> None:
    processes = jax.process_count()
    if batch_size < 1 or batch_size > count:
        raise ValueError(
            f"config.student.batch_size = {batch_size} does not fit {count} training "
            f"samples; set it to 1..{count}"
        )
    if batch_size % processes:
        raise ValueError(
            f"config.student.batch_size = {batch_size} is not a multiple of the "
            f"{processes} processes of this run"
        )


def _make_targets(
    config: Any, workdir: str | Path, splits: Mapping[str, Landmarks]
) -> tuple[dict[str, Targets], float, int]:
    """Tables of both splits, the matched depth weight and the sign of the depth."""
    student = config.student
    extra = read_extra(config.data, splits["train"].skeleton)
    if student.mode == "supervised":
        targets = _supervised_targets(config, splits["train"], len(splits["val"]))
        if extra is not None:
            targets["train"] = _without_depth(targets["train"], len(extra))
        return targets, 1.0, 1
    teacher = teacher_file.read(Path(workdir) / "teacher")
    _check_skeleton(teacher, splits["train"].skeleton)
    arrays = {s: teacher.split(s, marks.sample_ids) for s, marks in splits.items()}
    posterior: dict[str, dict[str, np.ndarray]] = {}
    if student.mode in POSTERIOR_MODES:
        posterior = {
            s: teacher.posterior(s, marks.sample_ids) for s, marks in splits.items()
        }
    mean_trust = None
    if student.mode == "weaksup_residual":
        trust = teacher_trust(
            arrays["train"]["residual"], softening=student.residual_offset
        )
        mean_trust = float(trust.mean())
    counts: dict[str, np.ndarray] = {}
    if extra is not None:
        # Complete skeletons get the distillation loss, the others the 2D loss.
        ones = np.ones(len(splits["train"]), bool)
        counts["train"] = np.concatenate([ones, depth_counts(extra)])
        arrays["train"] = _joined(
            arrays["train"], teacher.split("extra", extra.sample_ids)
        )
        if posterior:
            posterior["train"] = _joined(
                posterior["train"], teacher.posterior("extra", extra.sample_ids)
            )
    targets = {
        split: teacher_targets(
            teacher,
            of_split,
            mode=student.mode,
            softening=student.residual_offset,
            mean_trust=mean_trust,
            counts=counts.get(split),
            posterior=posterior.get(split),
        )
        for split, of_split in arrays.items()
    }
    matched = matched_depth_weight(
        targets["train"],
        code_l1_weight=student.code_l1_weight,
        seed=config.seed,
        count=len(splits["train"]),
    )
    return targets, matched, teacher.depth_sign


def _joined(
    first: Mapping[str, np.ndarray], more: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    return {name: np.concatenate([x, more[name]]) for name, x in first.items()}


def _supervised_targets(
    config: Any, train_marks: Landmarks, num_val: int
) -> dict[str, Targets]:
    """READS 3D: the labels of mode ``supervised``, the upper reference.

    Only the training split's; its validation loss is that of the landmarks alone,
    since not even here may 3D choose when the learning rate drops.
    """
    truth = read_ground_truth(config.data, "train")
    if truth is None:
        raise ValueError(
            "config.student.mode = 'supervised' trains on 3D labels, and this data set "
            "has none: set config.data.ground_truth or leave this mode out"
        )
    positions = truth.align(train_marks.sample_ids).positions_mm
    table = label_targets(
        positions, train_marks.keypoints, train_marks.half_side, train_marks.labelled
    )
    joints = train_marks.skeleton.num_joints
    return {"train": table, "val": no_depth_targets(num_val, joints)}


def _without_depth(table: Any, count: int) -> DepthTarget:
    """A table with ``count`` more samples, of which only the landmarks are judged."""
    more = no_depth_targets(count, table.depth.shape[1])
    return jax.tree.map(lambda *parts: np.concatenate(parts), table, more)


def _check_skeleton(teacher: teacher_file.TeacherFile, skeleton: Skeleton) -> None:
    if tuple(teacher.skeleton["joints"]) != skeleton.joints:
        raise ValueError(
            f"{teacher.folder}: the teacher's joints {teacher.skeleton['joints']} "
            f"are not those of the data set, {list(skeleton.joints)}; "
            "train the teacher on this data set"
        )
