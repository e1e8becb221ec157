"""Training of the teacher (Wang et al. 2019, Section 3): landmarks in, teacher out.

``train_and_evaluate`` is what ``main.py`` calls; ``fit`` is the loop below it, with
arrays and explicit hyper-parameters. No 3D reaches this file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Key

from nrsfm_jax import evaluate, model
from nrsfm_jax import teacher as teacher_files
from nrsfm_jax.em import (
    GaussianMixture,
    em_options,
    mirror_of,
    pose_or_flat,
    posterior_of,
    read_or_fit,
)
from nrsfm_jax.landmark_folder import draw_rows
from nrsfm_jax.loss import (
    Batch,
    Objective,
    batch_gradient,
    check_data,
    check_seen,
    choose_member,
    over_members,
)
from nrsfm_jax.model import Params
from runtime import processes, run_files
from runtime.checkpoints import Checkpoints
from runtime.devices import AXIS, DataParallel, data_parallel, sharing
from runtime.metric_writer import MetricWriter
from runtime.progress import progress

SPLITS = ("train", "val")
METRICS = ("loss", "em_difference", "gradient_norm")
# Called after every chunk of steps with the state (one copy) and its mean metrics.
AfterChunk = Callable[["TrainState", dict[str, np.ndarray]], None]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["params", "opt_state", "step"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class TrainState:
    """State of a population of restarts: leading axis = member, except ``step``.

    No shapes are declared: under pmap one more axis, of the devices, leads.
    """

    params: Params
    opt_state: Any
    step: Any


@dataclasses.dataclass(frozen=True)
class Fit:
    """A trained population and the member chosen from it without any 3D.

    Attributes:
        params: the parameters of the chosen member.
        chosen: its index.
        scores: (members,) what was minimised, see :func:`choose_member`.
        state: the final state of all members.
    """

    params: Params
    chosen: int
    scores: np.ndarray
    state: TrainState


def train_step(
    state: TrainState, batch: Batch, *, objective: Objective
) -> tuple[TrainState, dict[str, Array]]:
    """One step of every member on this device's part of one batch."""
    guide = objective.guide_at(state.step)
    gradients, metrics = over_members(
        lambda params: batch_gradient(params, batch, guide, objective=objective),
        state.params,
    )
    gradients, metrics = jax.lax.pmean((gradients, metrics), axis_name=AXIS)

    def update(params, opt_state, gradients):
        # Adam of optax raises a Python float to an integer count.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = objective.optimizer.update(gradients, opt_state)
        norm = optax.tree.norm(gradients)
        return cast(Params, optax.apply_updates(params, updates)), opt_state, norm

    params, opt_state, norms = jax.vmap(update)(
        state.params, state.opt_state, gradients
    )
    metrics["gradient_norm"] = norms
    return TrainState(params, opt_state, state.step + 1), metrics


def _resident_steps(state, slots, shared, *, objective: Objective):
    """Steps until ``stop`` on samples that all lie on the device.

    ``slots`` is this device's part of the positions 0..batch_size-1 in a batch, so
    that any number of devices sees the same batches.
    """
    data, stop, key = shared
    count = data["W"].shape[0]

    def body(_, carry):
        state, total = carry
        rows = draw_rows(key, state.step, batch_size=objective.batch_size, count=count)
        batch = {name: values[rows[slots]] for name, values in data.items()}
        state, metrics = train_step(state, batch, objective=objective)
        return state, jax.tree.map(jnp.add, total, metrics)

    zero, first = no_metrics(state), state.step
    # A loop with bounds that are arguments: chunks of any length share one program.
    state, total = jax.lax.fori_loop(first, stop, body, (state, zero))
    length = jnp.maximum(stop - first, 1).astype(jnp.float32)
    return state, jax.tree.map(lambda x: x / length, total)


def no_metrics(state: TrainState) -> dict[str, Array]:
    members = jax.tree.leaves(state.params)[0].shape[0]
    return {name: jnp.zeros(members) for name in METRICS}


@functools.lru_cache(maxsize=8)
def compiled(
    step: Any, objective: Objective, parallel: str, num_devices: int
) -> DataParallel:
    """One program for each set of hyper-parameters, however often it is fitted."""
    bound = functools.partial(step, objective=objective)
    return data_parallel(bound, mode=parallel, num_devices=num_devices)


def init_state(
    key: Key[Array, ""],
    *,
    num_landmarks: int,
    dictionary_sizes: Sequence[int],
    population: int,
    objective: Objective,
) -> TrainState:
    """Member i starts from ``fold_in(key, i)``, however many there are."""
    if population < 1:
        raise ValueError(f"population is {population}; at least one member is needed")

    def member(index):
        params = model.init(
            jax.random.fold_in(key, index),
            num_landmarks=num_landmarks,
            dictionary_sizes=dictionary_sizes,
        )
        return params, objective.optimizer.init(params)

    params, opt_state = jax.jit(jax.vmap(member))(jnp.arange(population))
    return TrainState(params, opt_state, jnp.zeros((), jnp.int32))


def fit(
    W: Float[np.ndarray, "n p 2"],
    labelled: Bool[np.ndarray, "n p"],
    *,
    key: Key[Array, ""],
    dictionary_sizes: Sequence[int] = (256, 128, 64, 32),
    population: int = 1,
    em_depth: Float[np.ndarray, "n p"] | None = None,
    objective: Objective = Objective(),  # noqa: B008 (frozen)
    chunk: int = 100,
    state: TrainState | None = None,
    after_chunk: AfterChunk | None = None,
    parallel: str = "jit",
    num_devices: int = 0,
) -> Fit:
    """Trains a population of teachers with all samples on the device.

    Args:
        W: (N, P, 2) centred landmarks in patch units; missing ones are 0 or, better,
            what the EM expects (`em.expected_pose`).
        labelled: (N, P) joints that have a landmark.
        key: seeds the networks and the batches.
        dictionary_sizes: K_1 ... K_n.
        population: restarts trained in one program; one of them is chosen.
        em_depth: (N, P) depth that guides the first part of the training.
        objective: hyper-parameters of loss and optimizer.
        chunk: steps between two calls of ``after_chunk``.
        state: where to resume; by default the start.
        after_chunk: called with the state and the mean metrics of the chunk.
        parallel: ``"jit"``, ``"pmap"`` or ``"shard_map"``.
        num_devices: how many devices share a batch; 0 means all (one for "jit").

    Raises:
        ValueError: arrays that do not fit together, fewer samples than a batch,
            a batch that the devices cannot share, a loss that is not finite.
    """
    data, objective = check_data(W, labelled, em_depth, objective)
    init_key, batch_key = jax.random.split(key)
    if state is None:
        state = init_state(
            init_key,
            num_landmarks=W.shape[1],
            dictionary_sizes=dictionary_sizes,
            population=population,
            objective=objective,
        )
    run = compiled(_resident_steps, objective, parallel, num_devices)
    slots = np.arange(objective.batch_size, dtype=np.int32)
    slots = run.shard(slots[part_of_process(objective.batch_size)])
    placed, placed_key = run.replicate(data), run.replicate(batch_key)
    step, state = int(state.step), run.replicate(state)
    metrics: dict[str, np.ndarray] = {}
    while step < objective.steps:
        begin, step = step, min(step - step % chunk + chunk, objective.steps)
        stop = run.replicate(jnp.int32(step))
        state, raw = run(state, slots, (placed, stop, placed_key))
        metrics = checked_metrics(run.unreplicate(raw), begin, step)
        if after_chunk is not None:
            after_chunk(run.unreplicate(state), metrics)
    final = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), run.unreplicate(state))
    return chosen_fit(final, data, objective)


def chosen_fit(state: TrainState, data: Batch, objective: Objective) -> Fit:
    chosen, scores = choose_member(state.params, data, objective=objective)
    params = jax.tree.map(lambda x: x[chosen], state.params)
    return Fit(params=params, chosen=chosen, scores=scores, state=state)


class NonFiniteLoss(ValueError):
    """The loss of every member became NaN or infinite."""


def checked_metrics(
    raw: Mapping[str, Any], begin: int, end: int
) -> dict[str, np.ndarray]:
    """The metrics of one chunk on the host; one finite member is enough to go on."""
    metrics = {k: np.asarray(v) for k, v in raw.items()}
    # The last gradient tells whether the parameters are still finite.
    if not np.isfinite(metrics["loss"] + metrics["gradient_norm"]).any():
        raise NonFiniteLoss(
            f"the teacher's loss is {metrics['loss'].tolist()} in the steps "
            f"{begin + 1}..{end}; lower config.teacher.learning_rate or look for "
            "outliers among the landmarks (--stage=check)"
        )
    return metrics


# --- a run in a folder --------------------------------------------------------------


def train_and_evaluate(config: Any, workdir: str | Path) -> dict[str, Any]:
    """Trains the teacher of ``config``, writes its files and evaluates it.

    A finished run is read, not repeated; an interrupted one goes on from its last
    checkpoint and ends as if it had not been interrupted.

    Args:
        config: the whole config; ``data``, ``teacher`` and ``seed`` are used.
        workdir: the folder of the run; the teacher's files go to its ``teacher``.

    Returns:
        What ``teacher/results.json`` holds: metrics of "train" and "val".

    Raises:
        ValueError: data or settings that cannot be trained on, a teacher of another
            config in the folder, a loss that is not finite.
    """
    folder = Path(workdir) / "teacher"
    settings = _settings(config)
    if not (folder / "teacher.json").exists():
        began = time.monotonic()
        _train(config, Path(workdir), settings)
        seconds = round(time.monotonic() - began, 1)
        if processes.is_first():
            run_files.mark_finished(workdir, "teacher", seconds=seconds)
    saved = teacher_files.read_record(folder)["config"]
    if _without_sign(saved) != _without_sign(settings):
        raise ValueError(
            f"{folder} holds a teacher of another config "
            f"({_difference(saved, settings)}); choose another workdir or delete it"
        )
    processes.on_first(lambda: evaluate.evaluate(config, workdir), "evaluate teacher")
    return evaluate.evaluate(config, workdir)  # as it was written


def _settings(config: Any) -> dict[str, Any]:
    """What the teacher depends on, as plain JSON; not how often it is written."""
    teacher = config.teacher.to_dict()
    for name in ("checkpoint_every", "log_every"):
        teacher.pop(name, None)
    data = {k: v for k, v in config.data.to_dict().items() if k != "data_dir"}
    record = {"seed": config.seed, "data": data, "teacher": teacher}
    return json.loads(json.dumps(record))


def _without_sign(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings less the depth sign, which can be turned after the training."""
    teacher = {
        name: value
        for name, value in settings.get("teacher", {}).items()
        if not name.startswith("depth_sign")
    }
    return dict(settings) | {"teacher": teacher}


def _difference(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    old, new = run_files.flatten(saved), run_files.flatten(wanted)
    names = sorted(n for n in {*old, *new} if old.get(n) != new.get(n))
    return "; ".join(f"{n}: {old.get(n)!r} there, {new.get(n)!r} now" for n in names)


def _train(config: Any, workdir: Path, settings: dict[str, Any]) -> None:
    """From landmarks to the teacher's files."""
    if not config.data.landmarks:
        _train_in_memory(config, workdir, settings)
        return
    from nrsfm_jax.stream import train_from_disk

    if config.data.extra_sources:
        raise ValueError(
            "config.data.extra_sources needs the landmarks in memory; leave "
            "config.data.landmarks empty"
        )
    train_from_disk(config, workdir, settings)


def _train_in_memory(config: Any, workdir: Path, settings: dict[str, Any]) -> None:
    """:func:`_train` with all samples at once."""
    from input_pipeline.landmarks import read_landmarks
    from input_pipeline.mixture import read_extra

    landmarks = {split: read_landmarks(config.data, split) for split in SPLITS}
    train = landmarks["train"]
    objective = read_objective(config.teacher)
    em_key, fit_key = jax.random.split(jax.random.key(config.seed))
    # Before the minutes of the EM.
    check_seen(train.labelled, train.skeleton.joints)
    check_data(train.centred[0], train.labelled, None, objective)
    given = train.centred[0], train.labelled
    shape = fit_or_read_shapes(config, workdir, em_key, *given, train.skeleton)
    # Further sources of pictures: the teacher judges them, but does not learn of them.
    extra = read_extra(config.data, train.skeleton)
    if extra is not None:
        landmarks["extra"] = extra
    pose = {
        split: pose_or_flat(shape, marks.centred[0], marks.labelled)
        for split, marks in landmarks.items()
    }

    def loop(state: TrainState, after_chunk: AfterChunk) -> Fit:
        return fit(
            pose["train"][..., :2],
            train.labelled,
            key=fit_key,
            dictionary_sizes=config.teacher.dictionary_sizes,
            population=config.teacher.population,
            em_depth=None if shape is None else pose["train"][..., 2],
            objective=objective,
            chunk=config.teacher.log_every,
            state=state,
            after_chunk=after_chunk,
            **devices_for(objective.batch_size),
        )

    fitted = with_checkpoints(
        config, workdir, loop, fit_key, train.labelled.shape[1], objective
    )
    teacher = teacher_record(config, fitted, train.skeleton, settings)

    def save() -> None:
        splits = {
            split: teacher.reconstruct(
                pose[split][..., :2], marks.labelled, marks.sample_ids
            )
            for split, marks in landmarks.items()
        }
        if shape is not None:
            for split, marks in landmarks.items():
                save_posterior(workdir / "teacher", split, shape, marks)
        teacher_files.save(workdir / "teacher", teacher, splits)

    processes.on_first(save, "teacher")


def save_posterior(
    folder: Path, split: str, shape: GaussianMixture, marks: Any
) -> None:
    """What students of the modes ``posterior`` and ``posterior_teacher`` read."""
    found = posterior_of(shape, marks.centred[0], marks.labelled)
    arrays = {
        "depth": found.pose[..., 2],
        "covariance": found.covariance,
        "sample_ids": marks.sample_ids,
    }
    teacher_files.save_arrays(folder / f"{split}_posterior.safetensors", arrays)


def teacher_record(
    config: Any, fitted: Fit, skeleton: Any, settings: dict[str, Any]
) -> teacher_files.Teacher:
    return teacher_files.from_params(
        fitted.params,
        skeleton=skeleton.to_dict(),
        depth_sign=config.teacher.depth_sign,
        config=settings,
    )


def read_objective(teacher: Any) -> Objective:
    return Objective(
        sparsity_weight=teacher.sparsity_weight,
        guide_fraction=teacher.em.guide_fraction,
        guide_floor=teacher.em.guide_floor,
        learning_rate=teacher.learning_rate,
        steps=teacher.steps,
        batch_size=teacher.batch_size,
        ista_steps=teacher.ista_steps,
    )


def fit_or_read_shapes(
    config: Any,
    workdir: Path,
    key: Key[Array, ""],
    W: Float[np.ndarray, "n p 2"],
    labelled: Bool[np.ndarray, "n p"],
    skeleton: Any,
) -> GaussianMixture | None:
    settings = config.teacher.em
    if settings.guide_fraction <= 0:
        return None

    def shapes() -> GaussianMixture:
        return read_or_fit(
            workdir / "teacher" / "em.safetensors",
            W,
            labelled,
            key=key,
            mirror=mirror_of(skeleton),
            **em_options(settings),
        )

    with progress("teacher: EM", total=1, shown=processes.is_first()) as bar:
        processes.on_first(shapes, "em")
        shape = shapes()  # as it was kept: the same for all processes
        bar.update(1, log_likelihood=float(shape.log_likelihood))
    return shape


def with_checkpoints(
    config: Any,
    workdir: Path,
    loop: Callable[[TrainState, AfterChunk], Fit],
    key: Key[Array, ""],
    num_landmarks: int,
    objective: Objective,
) -> Fit:
    """``loop(state, after_chunk)`` from the last checkpoint, with metrics and bar."""
    settings, steps = config.teacher, objective.steps
    init_key, _ = jax.random.split(key)
    start = init_state(
        init_key,
        num_landmarks=num_landmarks,
        dictionary_sizes=settings.dictionary_sizes,
        population=settings.population,
        objective=objective,
    )
    shown = processes.is_first()
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(
            Checkpoints(workdir / "teacher" / "checkpoints")
        )
        restored = checkpoints.restore_latest(start)
        first, state = restored or (0, start)
        writer = stack.enter_context(MetricWriter(workdir, first, active=shown))
        bar = stack.enter_context(
            progress("teacher", total=steps, start=first, shown=shown)
        )

        def after_chunk(state: TrainState, metrics: dict[str, np.ndarray]) -> None:
            step = int(state.step)
            values = _named(metrics)
            writer.write("teacher", step, values)
            bar.update(step, loss=values["loss"])
            every = settings.checkpoint_every
            if step == steps or step // every > (step - settings.log_every) // every:
                checkpoints.save(step, state)

        try:
            return loop(state, after_chunk)
        except NonFiniteLoss as error:
            checkpoints.wait()
            kept = checkpoints.latest_step()
            raise ValueError(
                f"{error}; the last good checkpoint is step {kept} in "
                f"{checkpoints.directory}"
                if kept is not None
                else f"{error}; no checkpoint was written before"
            ) from error


def _named(metrics: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The best member under the plain name, and each one by number if several."""
    values = {name: float(np.nanmin(each)) for name, each in metrics.items()}
    if len(metrics["loss"]) > 1:
        values |= {f"loss_{i}": float(v) for i, v in enumerate(metrics["loss"])}
    return values


def devices_for(batch_size: int) -> dict[str, Any]:
    """One device on a CPU, where a step is too short to be shared; else all."""
    part_of_process(batch_size)  # checks
    count = sharing(batch_size // jax.process_count())
    alone = jax.default_backend() == "cpu" or count == 1
    if jax.process_count() == 1 and alone:
        return {"parallel": "jit"}
    return {"parallel": "shard_map", "num_devices": count}


def part_of_process(batch_size: int) -> slice:
    """The part of every batch that this process trains on."""
    size, rest = divmod(batch_size, jax.process_count())
    if rest:
        raise ValueError(
            f"config.teacher.batch_size = {batch_size} is not a multiple of the "
            f"{jax.process_count()} processes of this run"
        )
    return slice(jax.process_index() * size, (jax.process_index() + 1) * size)
