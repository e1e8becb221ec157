"""The teacher trained on samples from disk: the same steps, in bounded memory."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nrsfm_jax import landmark_folder
from nrsfm_jax import teacher as teacher_files
from nrsfm_jax.em import GaussianMixture, pose_or_flat
from nrsfm_jax.loss import Batch, Objective, check_seen, complete_batch
from nrsfm_jax.train import (
    SPLITS,
    AfterChunk,
    Fit,
    TrainState,
    checked_metrics,
    chosen_fit,
    compiled,
    devices_for,
    fit_or_read_shapes,
    no_metrics,
    part_of_process,
    read_objective,
    teacher_record,
    train_step,
    with_checkpoints,
)
from runtime import processes
from runtime.progress import progress

EM_POOL = 40_000  # samples that the EM chooses from
EM_POSE = "em_pose"


def streamed_steps(state, batches, count, *, objective: Objective):
    """``count`` steps on batches that come from outside, stacked on their axis 1.

    The sums of the metrics go along with the state, as in :func:`_resident_steps`.
    """

    def body(i, carry):
        state, total = carry
        batch = {name: values[:, i] for name, values in batches.items()}
        state, metrics = train_step(state, batch, objective=objective)
        return state, jax.tree.map(jnp.add, total, metrics)

    return jax.lax.fori_loop(0, count, body, state), {}


def fit_stream(
    batches: Iterator[Batch],
    state: TrainState,
    *,
    objective: Objective,
    after_chunk: AfterChunk | None = None,
    chunk: int = 100,
    steps_per_call: int = 16,
    parallel: str = "jit",
    num_devices: int = 0,
) -> TrainState:
    """Trains on any iterator of batches, by the same step as :func:`fit`.

    A thread reads ahead and puts the batches of several steps on the device while it
    works on the steps before.

    Args:
        batches: dictionaries of ``W`` (B, P, 2), ``labelled`` (B, P) and, where it
            guides, ``em_depth`` (B, P): this process's part; the first is for step
            ``state.step``.
        state: from :func:`init_state` or a checkpoint.
        objective: hyper-parameters; ``batch_size`` is that of the stream.
        after_chunk: called with the state and the mean metrics of the chunk.
        chunk: steps between two calls of ``after_chunk``.
        steps_per_call: at most; so many batches are on their way at a time, thrice.
        parallel: ``"jit"``, ``"pmap"`` or ``"shard_map"``.
        num_devices: how many devices share a batch; 0 means all (one for "jit").

    Raises:
        ValueError: the stream ends early, a batch that the devices cannot share, a
            loss that is not finite.
    """
    run = compiled(streamed_steps, objective, parallel, num_devices)
    step, last = int(state.step), objective.steps
    zero = jax.tree.map(np.asarray, no_metrics(state))
    complete = (complete_batch(batch, objective) for batch in batches)
    sizes = landmark_folder.call_sizes(step, last, chunk=chunk, most=steps_per_call)
    groups = landmark_folder.stacked(complete, sizes, most=steps_per_call, done=step)
    placed = ((n, run.shard(g), run.replicate(np.int32(n))) for n, g in groups)
    state = run.replicate(state)
    with contextlib.closing(landmark_folder.read_ahead(placed)) as ready:
        while step < last:
            begin, end = step, min(step - step % chunk + chunk, last)
            both = state, run.replicate(zero)
            while step < end:
                count, group, placed_count = next(ready)
                both, _ = run(both, group, placed_count)
                step += count
            state, total = both
            sums, length = run.unreplicate(total), end - begin
            mean = {name: np.asarray(sums[name]) / length for name in sums}
            metrics = checked_metrics(mean, begin, end)
            if after_chunk is not None:
                after_chunk(run.unreplicate(state), metrics)
    return run.unreplicate(state)


def train_from_disk(config: Any, workdir: Path, settings: dict[str, Any]) -> None:
    """From ``config.data.landmarks`` to the teacher's files, a batch in memory.

    Up to ``EM_POOL`` samples it ends with the teacher of training in memory.
    """
    from input_pipeline import landmark_shards

    opened = {s: landmark_shards.open_split(config.data.landmarks, s) for s in SPLITS}
    train, skeleton = opened["train"], opened["train"].skeleton
    objective = read_objective(config.teacher)
    em_key, fit_key = jax.random.split(jax.random.key(config.seed))
    _, batch_key = jax.random.split(fit_key)
    seen = np.broadcast_to(train.labelled > 0, (len(train), skeleton.num_joints))
    check_seen(seen, skeleton.joints)
    some = landmark_folder.Split(train.records).some(EM_POOL)
    given = some["W"], some["labelled"]
    shape = fit_or_read_shapes(config, workdir, em_key, *given, skeleton)
    splits = {
        split: landmark_folder.Split(
            marks.records, _em_pose(workdir, split, marks.records, shape)
        )
        for split, marks in opened.items()
    }
    if shape is None:
        objective = dataclasses.replace(objective, guide_fraction=0.0)

    def loop(state: TrainState, after_chunk: AfterChunk) -> Fit:
        stream = landmark_folder.batches(
            splits["train"],
            batch_size=objective.batch_size,
            key=batch_key,
            start_step=int(state.step),
            part=part_of_process(objective.batch_size),
        )
        state = fit_stream(
            stream,
            state,
            objective=objective,
            after_chunk=after_chunk,
            chunk=config.teacher.log_every,
            **devices_for(objective.batch_size),
        )
        final = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), state)
        judges = complete_batch(splits["train"].some(4096), objective)
        return chosen_fit(final, judges, objective)

    fitted = with_checkpoints(
        config, workdir, loop, fit_key, skeleton.num_joints, objective
    )
    teacher = teacher_record(config, fitted, skeleton, settings)
    folder = workdir / "teacher"
    for name, split in splits.items():
        landmark_folder.reconstruct(
            split,
            teacher,
            folder,
            name,
            process=jax.process_index(),
            processes=jax.process_count(),
        )
    processes.barrier("reconstruct")
    counts = {name: len(split) for name, split in splits.items()}
    processes.on_first(
        lambda: teacher_files.save(folder, teacher, {}, in_shards=counts), "teacher"
    )
    if processes.is_first():
        shutil.rmtree(folder / EM_POSE, ignore_errors=True)


def _em_pose(
    workdir: Path, split: str, records: Any, shape: GaussianMixture | None
) -> Any:
    """What the EM expects of all samples, on disk in the shards of the landmarks."""
    if shape is None:
        return None
    from input_pipeline import landmark_shards

    folder = workdir / "teacher" / EM_POSE
    folder.mkdir(parents=True, exist_ok=True)
    paths = landmark_shards.shard_files(folder, split, len(records.counts))
    mine = range(jax.process_index(), len(paths), jax.process_count())
    joints = records.dtype["labelled"].shape[0]
    shown = processes.is_first()
    with progress(f"teacher: EM of {split}", total=len(mine), shown=shown) as bar:
        for done, i in enumerate(mine, start=1):
            if not paths[i].exists():  # of a run that was stopped
                parts = landmark_folder.pose_parts(
                    records,
                    records.shard_range(i),
                    lambda W, labelled: pose_or_flat(shape, W, labelled),
                )
                size = (records.counts[i], joints, 3)
                landmark_shards.write_array(paths[i], parts, size, np.float32)
            bar.update(done)
    processes.barrier("em pose")
    return landmark_shards.ShardedArray(paths)
