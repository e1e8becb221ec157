"""Training of the student (Wang et al. 2019, Sections 4.4 and 5.1).

``train_and_evaluate(config, workdir, data, modes)`` reads the data and the teacher's
files; ``fit`` is the loop itself and takes any iterator of batches. A batch is a
dictionary of numpy arrays, as :meth:`input_pipeline.dataset.Dataset.pictures` gives
them; the loop uses::

    image (B, H, H, 3) uint8, keypoints (B, P, 2) and labelled (B, P) of the augmented
    patch, row (B,) int32 of the table of targets, flip (B,), scale (B,)

Batch norms average their statistics over all devices (``sync_batch_norm``), so that a
run gives the same numbers on any number of them, up to rounding. Of several processes
each reads its part of every batch and of the validation split; the first one writes.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from input_pipeline.dataset import Dataset
from input_pipeline.skeleton import Skeleton
from pose_jax import evaluate
from pose_jax.hints import facing_pairs
from pose_jax.loss import MODES, PER_SAMPLE, depth_loss, student_loss
from pose_jax.optimizer import make_optimizer
from pose_jax.pretrained import with_pretrained
from pose_jax.state import (
    CHECKPOINTS,
    StudentRecord,
    TrainState,
    init_state,
    net_fields,
    stage_name,
)
from pose_jax.step import Batch, make_rate, make_train_step, plateau_update
from pose_jax.targets import (
    SPLITS,
    Targets,
    matched_depth_weight,
    of_batch,
    supervised_targets,
    teacher_targets,
)
from runtime import processes, stopping, teacher_file
from runtime.checkpoints import Checkpoints
from runtime.devices import AXIS, DataParallel, fitting_batch
from runtime.files import kept
from runtime.metric_writer import MetricWriter
from runtime.progress import progress, working
from runtime.workdir import mark_finished

DEVICE_KEYS = ("image", "keypoints", "labelled", "row", "flip", "scale")
LOOP_FIELDS = (
    *("patience", "end_learning_rate"),
    *("log_every", "eval_every", "checkpoint_every"),
)


def trainings(student: Any) -> list[tuple[str, ...]]:
    """The modes of ``config.student``, together those that share a backbone.

    A mode that learns from 3D labels shares with none, or 3D would reach the others.

    Raises:
        ValueError: an unknown mode.
    """
    for mode in student.modes:
        if mode not in MODES:
            raise ValueError(f"config.student.modes: {mode!r} is not one of {[*MODES]}")
    if not student.share_backbone:
        return [(mode,) for mode in student.modes]
    shared = tuple(m for m in student.modes if MODES[m].label != "truth")
    alone = [(mode,) for mode in student.modes if mode not in shared]
    return [shared, *alone] if shared else alone


def train_and_evaluate(
    config: Any, workdir: str | Path, data: Dataset, modes: tuple[str, ...]
) -> None:
    """Trains the student of one mode, or one network for several, and scores it.

    To ``config.student.steps``. Leaves in ``workdir/student_<mode>`` of every mode
    ``student.json``, ``results.json``, ``predictions_<split>.npz`` and
    ``student.safetensors``, and in ``workdir/student_<mode>+<mode>`` ``checkpoints/``.
    What is finished is not repeated; what was interrupted resumes from its last
    checkpoint, with the same numbers as if it had never stopped.

    Args:
        config: with the group ``student``.
        workdir: folder of the run, with the teacher in ``workdir/teacher``.
        data: the data set of ``config.data``.
        modes: keys of :data:`pose_jax.loss.MODES`, see :func:`trainings`.

    Raises:
        ValueError: an impossible config, data or a teacher that does not fit it, a
            loss that is not finite.
    """
    student, stage, began = config.student, stage_name(modes), time.monotonic()
    seconds = {}
    with Checkpoints(Path(workdir) / stage / CHECKPOINTS) as checkpoints:
        if checkpoints.latest_step() == student.steps and _described(workdir, modes):
            processes.say(f"{stage}: found finished")
        else:
            with working(f"{stage}: targets", shown=processes.is_first()):
                records, targets = prepare(config, workdir, data, modes)
            processes.on_first(lambda: [r.save(workdir) for r in records], stage)
            net = records[0].make_net(AXIS if student.sync_batch_norm else None)
            loss = _loss_of(student, records, data.skeleton)
            step, size = place_step(student, net, loss, data)
            state = first_state(config, net, checkpoints)
            if start := int(state.step):
                processes.say(f"{stage}: goes on from step {start} of {student.steps}")
            batches, val = pictures(config, data, start=start, batch_size=size)
            with MetricWriter(workdir, start, active=processes.is_first()) as writer:
                fit(
                    state,
                    batches,
                    targets["train"],
                    step=step,
                    num_steps=student.steps,
                    validate=make_validation(step, net, loss, val, targets["val"]),
                    checkpoints=checkpoints,
                    writer=writer,
                    stage=stage,
                    **{name: student[name] for name in LOOP_FIELDS},
                )
            seconds = {"seconds": round(time.monotonic() - began, 1)}
    if processes.is_first():
        mark_finished(workdir, stage, **seconds)
    for mode in modes:
        evaluate.evaluate(config, workdir, data, mode)


def _loss_of(
    student: Any, records: Sequence[StudentRecord], skeleton: Skeleton
) -> Callable[..., Any]:
    return partial(
        student_loss,
        depth_weights={r.mode: r.depth_weight for r in records},
        depth_loss=partial(depth_loss, code_l1_weight=student.code_l1_weight),
        permutation=np.asarray(skeleton.flip_permutation),
        pairs=facing_pairs(skeleton),
        xy_weight=student.xy_weight,
        heat_weight=student.heat_weight,
    )


def _described(workdir: str | Path, modes: tuple[str, ...]) -> bool:
    """Whether the record of every mode is there, and of this training."""
    found = []
    for mode in modes:
        folder = Path(workdir) / stage_name([mode])
        there = (folder / "student.json").exists()
        found.append(kept(partial(StudentRecord.load, folder)) if there else None)
    return all(record is not None and record.modes == modes for record in found)


# --- the loop ----------------------------------------------------------------------


def fit(
    state: TrainState,
    batches: Iterator[Batch],
    targets: tuple[Targets, ...],
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
    scored or a checkpoint is written. A checkpoint always has a line, so that nothing
    but the state is to be restored.

    Args:
        state: of :func:`init_state`, or restored.
        batches: from the step of ``state`` on.
        targets: of the training split, of every mode.
        step: :func:`make_train_step`, placed by ``DataParallel``.
        num_steps: steps of the whole training.
        validate: takes the placed state, returns the validation loss as ``"loss"``
            beside other figures; none of them may come from 3D.
        patience, end_learning_rate: see :func:`plateau_update`.
        log_every, eval_every, checkpoint_every: steps per line of metrics, validation
            and checkpoint; the last step always has each of them.
        checkpoints, writer: where to save and to write metrics, if anywhere.
        stage: name in the metrics and the progress bar.

    Raises:
        ValueError: a loss or gradient that is not finite, naming the step and the
            last good checkpoint; the data ended too early.
    """
    start, pending = int(state.step), []
    # Of the steps since the last line of metrics, where a signal stopped the run.
    extra = checkpoints.extra() if checkpoints is not None else None
    before = extra.get("metrics", []) if start and extra else []
    placed, targets = step.replicate((state, targets))

    def due(now: int, every: int) -> bool:
        return now % every == 0 or now == num_steps

    shown = processes.is_first()
    bar = progress(stage, num_steps, start=start, shown=shown)
    with bar as bar, stopping.deferred():
        for now in range(start + 1, num_steps + 1):
            with bar.waiting():
                batch = next(batches, None)
            if batch is None:
                raise ValueError(
                    f"the batches ended before step {now}: training needs an iterator "
                    "without end, such as data.pictures(..., train=True)"
                )
            arrays = step.shard({name: batch[name] for name in DEVICE_KEYS})
            placed, metrics = step(placed, arrays, targets)
            pending.append(metrics)
            saving = checkpoints is not None and due(now, checkpoint_every)
            line: dict[str, float] = {}
            if saving or due(now, log_every):
                fetched = before + _fetched(step, pending, now, checkpoints)
                line |= _means(fetched)
                before, pending = [], []
            if validate is not None and due(now, eval_every):
                scores = validate(placed)
                _check_finite({"validation loss": scores["loss"]}, now, checkpoints)
                line |= {f"val_{name}": value for name, value in scores.items()}
                plateau = plateau_update(
                    step.unreplicate(placed.plateau),
                    scores["loss"],
                    patience=patience,
                    end_learning_rate=end_learning_rate,
                )
                placed = dataclasses.replace(placed, plateau=step.replicate(plateau))
            if writer is not None and line:
                writer.write(stage, now, line)
            if saving and checkpoints is not None:
                checkpoints.save(now, step.unreplicate(placed))
            bar.update(now, **{n: v for n, v in line.items() if n.endswith("loss")})
            if stopping.asked() and checkpoints is not None:
                before += _fetched(step, pending, now, checkpoints)
                checkpoints.save(now, step.unreplicate(placed), {"metrics": before})
                raise stopping.Stopped(f"{stage} step {now} of {num_steps}")
    return step.unreplicate(placed)


def _fetched(
    step: DataParallel, pending: list[Any], now: int, checkpoints: Checkpoints | None
) -> list[dict[str, float]]:
    """Metrics of the steps up to ``now``, fetched from the device at once."""
    fetched = jax.device_get([step.unreplicate(metrics) for metrics in pending])
    for number, metrics in enumerate(fetched, now - len(fetched) + 1):
        _check_finite(metrics, number, checkpoints)
    return [{name: float(value) for name, value in m.items()} for m in fetched]


def _means(metrics: list[dict[str, float]]) -> dict[str, float]:
    return {n: math.fsum(m[n] for m in metrics) / len(metrics) for n in metrics[0]}


def _check_finite(
    metrics: dict[str, Any], now: int, checkpoints: Checkpoints | None
) -> None:
    bad = [f"{n} {v}" for n, v in metrics.items() if not math.isfinite(v)]
    if not bad:
        return
    kept = "no checkpoint was written yet"
    if checkpoints is not None:
        latest = checkpoints.latest_step()
        if latest is not None:
            kept = f"the checkpoint of step {latest} in {checkpoints.directory} is kept"
    raise ValueError(
        f"step {now}: {' and '.join(bad)}; {kept}; try a lower "
        "config.student.learning_rate, in another workdir"
    )


def make_validation(
    step: DataParallel,
    net: nn.Module,
    loss: Callable[..., Any],
    batches: Callable[[], Iterable[Batch]],
    targets: tuple[Targets, ...],
) -> Callable[[TrainState], dict[str, float]]:
    """``validate(placed state) -> means`` of the loss and its terms over a split.

    The batches have a ``weight`` (B,) besides, 0 where a sample only fills up. Of
    several processes each goes through batches of its own, equally many.
    """

    def losses_of_batch(state: TrainState, batch: Batch, table: Any) -> Any:
        how = {"train": False, "method": "predict"}
        found = net.apply(state.variables, batch["image"], **how)
        values, terms = jax.vmap(loss, PER_SAMPLE)(found, *of_batch(table, batch))
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


# --- what a run is made of -----------------------------------------------------------


def prepare(
    config: Any, workdir: str | Path, data: Dataset, modes: tuple[str, ...]
) -> tuple[list[StudentRecord], dict[str, tuple[Targets, ...]]]:
    """What is known of each mode's student before it is trained, and its targets."""
    student, net = config.student, net_fields(config.student)
    if not data.skeleton.left_right:
        net["yaw_classes"] = 0  # nothing tells left from right
    records, tables = [], []
    for mode in modes:
        targets, sign = targets_of(student, workdir, data, mode)
        matched = 1.0
        if student.match_depth_gradients:
            matched = matched_depth_weight(
                mode,
                targets["train"],
                count=len(data.landmarks("train")),
                code_l1_weight=student.code_l1_weight,
                seed=config.seed,
            )
        record = StudentRecord(
            mode=mode,
            skeleton=data.skeleton,
            net=net,
            image_size=student.image_size,
            padding=float(data.settings.padding),
            box=data.settings.box,
            depth_sign=sign,
            # Modes that share a backbone pull at it together as hard as one alone.
            depth_weight=matched * student.depth_weight / len(modes),
            matched_weight=matched,
            modes=modes,
            optimizer=student.optimizer,
        )
        records.append(record)
        tables.append(targets)
    return records, {s: tuple(t[s] for t in tables) for s in SPLITS}


def targets_of(
    student: Any, workdir: str | Path, data: Dataset, mode: str
) -> tuple[dict[str, Targets], int]:
    """The targets of both splits, and the sign of their depth.

    READS 3D for the mode whose label is the truth, the upper reference, and for no
    other.
    """
    landmarks = {s: data.landmarks(s) for s in ("train", "val", "extra")}
    if MODES[mode].label != "truth":
        teacher = teacher_file.read(Path(workdir) / "teacher")
        c = student.residual_offset
        how = {"softening": c, "labels": student.labels}
        targets = teacher_targets(mode, teacher, landmarks, **how)
        return targets, teacher.depth_sign
    truth = data.truth("train")
    if truth is None:
        raise ValueError(
            f"config.student.modes: {mode!r} trains on 3D labels, and this data set "
            "has none: set config.data.ground_truth or leave this mode out"
        )
    return supervised_targets(truth.positions_mm, landmarks), 1


def place_step(
    student: Any, net: nn.Module, loss: Callable[..., Any], data: Dataset
) -> tuple[DataParallel, int]:
    """The placed step, and this process's part of a batch, no larger than the data."""
    count = len(data.landmarks("train"))
    size, note = fitting_batch("config.student.batch_size", student.batch_size, count)
    if note and processes.is_first():
        print(f"student: {note}", flush=True)
    size //= jax.process_count()
    rate = make_rate(
        student.schedule,
        num_steps=student.steps,
        learning_rate=student.learning_rate,
        end_learning_rate=student.end_learning_rate,
    )
    optimizer = make_optimizer(student.optimizer)
    step = DataParallel(
        make_train_step(net, loss, rate=rate, optimizer=optimizer, axis_name=AXIS),
        num_devices=student.num_devices,
        batch_size=size,
    )
    return step, size


def first_state(config: Any, net: nn.Module, checkpoints: Checkpoints) -> TrainState:
    """The last checkpoint, or a start from random or pretrained weights."""
    student = config.student
    state = init_state(
        net,
        jax.random.fold_in(jax.random.key(config.seed), 1),
        image_size=student.image_size,
        learning_rate=student.learning_rate,
        optimizer=student.optimizer,
    )
    restored = checkpoints.restore_latest(state)
    if restored is not None:
        return restored[1]
    if student.pretrained or student.network == "efficientnet":
        return with_pretrained(state, student.pretrained)
    return state


def pictures(
    config: Any, data: Dataset, *, start: int, batch_size: int
) -> tuple[Iterator[Batch], Callable[[], Iterator[Batch]]]:
    """Training batches from a step on, and a pass over the validation split."""
    student = config.student
    common = {"batch_size": batch_size, "image_size": student.image_size}
    common |= {"shard_index": jax.process_index(), "shard_count": jax.process_count()}
    common |= {"seed": config.seed}
    augment = {"start_step": start, "augment": student.augment}
    train = data.pictures("train", train=True, **augment, **common)
    return train, lambda: data.pictures("val", train=False, **common)
