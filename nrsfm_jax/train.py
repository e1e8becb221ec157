"""Training of the teacher (Wang et al. 2019, Section 3): landmarks in, teacher out.

``train_and_evaluate`` is what ``main.py`` calls; the loop is `nrsfm_jax.loop.fit`. No
3D reaches this file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Key

from input_pipeline.dataset import Dataset
from input_pipeline.landmarks import Landmarks
from input_pipeline.sources.memory_mapped import is_mapped, parts
from nrsfm_jax import evaluate, loop
from nrsfm_jax import teacher as teachers
from nrsfm_jax.em import (
    FitReport,
    GaussianMixture,
    em_options,
    expected_pose,
    fit_shapes,
    mirror_of,
    pose_or_flat,
    posterior_of,
    read_fit,
    read_or_fit,
)
from nrsfm_jax.handedness import synchronise_signs
from nrsfm_jax.lifting import bones
from nrsfm_jax.lifting.hidden import outliers_among_fitted
from nrsfm_jax.lifting.labels import labels_of, mean_depth
from nrsfm_jax.loss import Objective
from nrsfm_jax.verdict import judge
from runtime import processes, stopping, teacher_file
from runtime.checkpoints import Checkpoints
from runtime.devices import fitting_batch
from runtime.files import (
    kept,
    plain,
    read_json,
    replacing,
    write_json,
    write_rows,
)
from runtime.metric_writer import MetricWriter
from runtime.progress import progress, working, wrapped
from runtime.workdir import check_same_run, mark_finished

SPLITS = ("train", "val")
EM_POOL = 40_000  # samples that the EM chooses from where not all are in memory
JUDGED = 5000  # samples whose handedness is measured at the end
# Outliers are hidden where they are more than this share of the landmarks, told by so
# many samples; fits of the shapes, each without those that the last one found.
FEW, ASKED, FITS = 0.005, 1000, 3
# Split -> W (N, P, 2), depth (N, P).
Poses = Mapping[str, tuple[np.ndarray, np.ndarray]]


def train_and_evaluate(
    config: Any, workdir: str | Path, data: Dataset
) -> dict[str, Any]:
    """Trains the teacher of ``config``, writes its files and evaluates it.

    A finished run is read, not repeated; an interrupted one goes on from its last
    checkpoint and ends as if it had not been interrupted.

    Args:
        config: the whole config; ``teacher`` and ``seed`` are used.
        workdir: the folder of the run; the teacher's files go to its ``teacher``.
        data: of ``open_dataset(config.data)``.

    Returns:
        What ``teacher/results.json`` holds: metrics of "train" and "val".

    Raises:
        ValueError: data or settings that cannot be trained on, a teacher of another
            config in the folder, a loss that is not finite.
    """
    folder, teacher = Path(workdir) / "teacher", config.teacher
    settings = {name: plain(config[name]) for name in ("seed", "data", "teacher")}
    settings["data_identity"] = data.identity
    began, seconds = time.monotonic(), {}
    if (folder / "teacher.json").exists() and (file := kept(lambda: _whole(folder))):
        check_same_run(folder, file.config, settings)
        processes.say("teacher: found finished")
    else:
        objective = objective_of(teacher, len(data.landmarks("train")))
        em_key, key = jax.random.split(jax.random.key(config.seed))
        shapes, pose, marks = _em_poses(teacher.em, folder, em_key, data)
        init_key, key = jax.random.split(key)
        start = loop.init_state(
            init_key,
            num_landmarks=len(data.skeleton.joints),
            dictionary_sizes=teacher.dictionary_sizes,
            objective=objective,
        )
        with _watched(teacher, folder, start) as (state, after_chunk):
            state = loop.fit(
                state,
                pose["train"][0],
                marks["train"].labelled,
                key=key,
                objective=objective,
                em_depth=pose["train"][1],
                chunk=teacher.log_every,
                after_chunk=after_chunk,
                num_devices=_num_devices(),
            )
        with working("teacher: writes its files", shown=processes.is_first()):
            _save(folder, state, settings, shapes, pose, marks)
        seconds = {"seconds": round(time.monotonic() - began, 1)}
    if processes.is_first():
        mark_finished(workdir, "teacher", **seconds)
    processes.on_first(lambda: _judge(folder, data), "verdict")
    return evaluate.evaluate(config, workdir, data)


def _whole(folder: Path) -> teacher_file.TeacherFile:
    """The teacher's files, all of them compared with their digests."""
    read_fit(folder / "em.safetensors")
    return teacher_file.read(folder).compare()


def objective_of(teacher: Any, count: int) -> Objective:
    """``config.teacher`` for ``count`` samples; says where a batch is made smaller."""
    size, note = fitting_batch("config.teacher.batch_size", teacher.batch_size, count)
    if note and processes.is_first():
        print(note, flush=True)
    fields = ("sparsity_weight", "learning_rate", "steps", "ista_steps")
    return Objective(
        **{name: teacher[name] for name in fields},
        guide_fraction=teacher.em.guide_fraction,
        guide_floor=teacher.em.guide_floor,
        batch_size=size,
    )


@contextlib.contextmanager
def _watched(
    teacher: Any, folder: Path, start: loop.TrainState
) -> Iterator[tuple[loop.TrainState, loop.AfterChunk]]:
    """The state of the last checkpoint, and what notes every chunk of steps."""
    shown = processes.is_first()
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        checkpoints = enter(Checkpoints(folder / "checkpoints"))
        first, state = checkpoints.restore_latest(start) or (0, start)
        if first:
            processes.say(f"teacher: goes on from step {first} of {teacher.steps}")
        writer = enter(MetricWriter(folder.parent, first, active=shown))
        bar = enter(progress("teacher", total=teacher.steps, start=first, shown=shown))
        enter(stopping.deferred())

        def after_chunk(state: loop.TrainState, metrics: dict[str, float]) -> None:
            step, every = int(state.step), teacher.checkpoint_every
            writer.write("teacher", step, metrics)
            bar.update(step, loss=metrics["loss"])
            passed = step // every > (step - teacher.log_every) // every
            if passed or step == teacher.steps or stopping.asked():
                checkpoints.save(step, state)
            if stopping.asked():
                raise stopping.Stopped(f"teacher step {step} of {teacher.steps}")

        try:
            yield state, after_chunk
        except loop.NonFiniteLoss as error:
            latest = checkpoints.latest_step()
            which = f"the last good checkpoint is step {latest or 'none'}, in {folder}"
            raise ValueError(f"{error}; {which}") from error


def _em_poses(
    settings: Any, folder: Path, key: Key[Array, ""], data: Dataset
) -> tuple[GaussianMixture | None, Poses, dict[str, Landmarks]]:
    """The EM's shapes, the poses that it expects, and the landmarks of both."""
    marks = {split: data.landmarks(split) for split in SPLITS}
    if data.extra:  # the teacher judges these pictures, but learns nothing of them
        marks["extra"] = data.landmarks("extra")
    train = marks["train"]
    loop.check_labelled(train.labelled, train.skeleton.joints)
    hide = data.has_pictures  # of tracks the lifter hides them
    shapes, report = _shapes(settings, folder, key, train, hide=hide)
    if shapes is not None and hide:
        marks = believed(shapes, marks)
    with working("teacher: depths by the EM", shown=processes.is_first()):
        pose = {s: _pose(shapes, folder, s, each) for s, each in marks.items()}
    if report is not None and report.after.applied and not is_mapped(train):
        pose = _synchronised(pose, train.skeleton.edges)
    # They are asked again for the students' labels, and without pictures none learn.
    return shapes if data.has_pictures else None, pose, marks


def believed(
    shapes: GaussianMixture, marks: dict[str, Landmarks]
) -> dict[str, Landmarks]:
    """The same landmarks, but outliers are missing if those of "train" are not few.

    They are taught neither as depth nor as x and y, and tell nothing of the others.
    """
    train = marks["train"]
    some = train.take(slice(None, None, -(-len(train) // ASKED)))
    share = outliers_among_fitted(shapes, *_centred(some)).sum() / some.labelled.sum()
    if share < FEW:
        return marks
    if processes.is_first():
        print(f"teacher: hides outliers, {share:.1%} of the landmarks", flush=True)
    return {split: _without_outliers(shapes, each) for split, each in marks.items()}


def _without_outliers(shapes: GaussianMixture, marks: Landmarks) -> Landmarks:
    outlier = outliers_among_fitted(shapes, *_centred(marks))
    return dataclasses.replace(marks, labelled=marks.labelled & ~outlier)


def _shapes(
    settings: Any, folder: Path, key: Key[Array, ""], train: Landmarks, *, hide: bool
) -> tuple[GaussianMixture, FitReport] | tuple[None, None]:
    """The EM's shapes and what they say of themselves; None where it does not guide."""
    if settings.guide_fraction <= 0:
        return None, None
    if is_mapped(train):
        every = -(-len(train) // EM_POOL)
        train = train.take(slice(None, None, every))
    skeleton = train.skeleton
    how = {"mirror": mirror_of(skeleton), "edges": skeleton.edges}

    def fitted() -> tuple[GaussianMixture, FitReport]:
        options = how | em_options(settings)
        found = fit_shapes(*_centred(train), key=key, **options)
        for _ in range(FITS - 1 if hide else 0):
            some = believed(found[0], {"train": train})["train"]
            if some is train:
                break
            found = fit_shapes(*_centred(some), key=key, **options)
        return found

    def shapes() -> tuple[GaussianMixture, FitReport]:
        return read_or_fit(folder / "em.safetensors", fitted)

    with working("teacher: EM of the shapes", shown=processes.is_first()):
        processes.on_first(shapes, "em")
        return shapes()  # as kept: the same for all processes


def _centred(marks: Landmarks) -> tuple[np.ndarray, np.ndarray]:
    return marks.centred[0], marks.labelled


def _pose(
    shapes: GaussianMixture | None, folder: Path, split: str, marks: Landmarks
) -> tuple[np.ndarray, np.ndarray]:
    """W (N, P, 2), missing landmarks as the EM expects them, and its depth (N, P).

    Of landmarks on disk these lie on disk too, in the workdir while it trains.
    """
    if not is_mapped(marks):
        pose = pose_or_flat(shapes, *_centred(marks))
        return pose[..., :2], pose[..., 2]
    paths = [folder / "em_pose" / f"{split}_{name}.npy" for name in ("W", "depth")]

    def write() -> None:
        with replacing(paths[0]) as W, replacing(paths[1]) as depth:
            for rows, part in parts(marks):
                pose = pose_or_flat(shapes, *_centred(part))
                write_rows(W, rows.start, pose[..., :2], count=len(marks))
                write_rows(depth, rows.start, pose[..., 2], count=len(marks))

    if not all(path.exists() for path in paths):
        processes.on_first(write, f"em pose {split}")
    return tuple(np.load(path, mmap_mode="r") for path in paths)


def _synchronised(pose: Poses, edges: Sequence[tuple[int, int]]) -> Poses:
    """The EM's depths with the signs that all splits together agree on."""
    W, depth = (np.concatenate(arrays) for arrays in zip(*pose.values(), strict=True))
    signs, _ = synchronise_signs(np.concatenate([W, depth[..., None]], -1), edges)
    tied, start = {}, 0
    for split, (W, depth) in pose.items():
        own = signs[start : start + len(W), None].astype(np.float32)
        tied[split], start = (W, depth * own), start + len(W)
    return tied


def _num_devices() -> int:
    """One on a CPU, where a step is too short to be shared; else 0: all."""
    return int(jax.process_count() == 1 and jax.default_backend() == "cpu")


def _save(
    folder: Path,
    state: loop.TrainState,
    settings: dict[str, Any],
    shapes: GaussianMixture | None,
    pose: Poses,
    marks: Mapping[str, Landmarks],
) -> None:
    """The teacher, what it says of every sample and, by ``shapes``, the labels."""
    teacher = teachers.Teacher(
        params=jax.tree.map(np.asarray, state.params),
        skeleton=marks["train"].skeleton.to_dict(),
        config=settings,  # whose sign of depth is set by the evaluation
    )

    def write() -> None:
        said: dict[str, teachers.Reconstruction] = {}
        mapped = {}
        for split, each in marks.items():
            W, _ = pose[split]
            if is_mapped(each):
                mapped[split] = _save_by_parts(folder, split, teacher, W, each)
            else:
                said[split] = teacher.reconstruct(W, each.labelled, each.sample_ids)
        labels = {} if shapes is None else _labels(shapes, teacher, said, pose, marks)
        teachers.save(folder, teacher, mapped | said, labels)
        shutil.rmtree(folder / "em_pose", ignore_errors=True)

    processes.on_first(write, "teacher")


def _labels(
    shapes: GaussianMixture,
    teacher: teachers.Teacher,
    said: Mapping[str, teachers.Reconstruction],
    pose: Poses,
    marks: Mapping[str, Landmarks],
) -> dict[str, dict[str, np.ndarray]]:
    """What students learn from, of every split."""
    skeleton, D = marks["train"].skeleton, teacher.dictionary
    edges, ell, labels = skeleton.edges, np.zeros(0, np.float32), {}
    for split, own in said.items():  # the first is "train"
        W, depth = pose[split]
        z = mean_depth(depth, own, D)
        poses = np.concatenate([W, z[..., None]], axis=-1)
        if edges and split == "train":
            ell = bones.proportions(poses, edges, skeleton.left_right)
        C = np.asarray(posterior_of(shapes, *_centred(marks[split])).covariance)
        label = labels_of(poses, C, own, D, ell, edges=edges)
        labels[split] = {**label, "covariance": C}
    return labels


def _save_by_parts(
    folder: Path,
    split: str,
    teacher: teachers.Teacher,
    W: Float[np.ndarray, "n p 2"],
    marks: Landmarks,
) -> int:
    """Writes the arrays of a split to their place, some rows in memory at a time."""
    for rows, part in parts(marks):
        said = teacher.reconstruct(W[rows], part.labelled, part.sample_ids)
        for name, values in vars(said).items():
            path = teacher_file.split_file(folder, split, name)
            write_rows(path, rows.start, values, count=len(marks))
    return len(marks)


def _judge(folder: Path, data: Dataset) -> None:
    """Writes ``verdict.json``: whether the depth can be trusted. Only once."""
    path = folder / "verdict.json"
    if path.exists() and kept(lambda: read_json(path)):
        return
    fitted = read_fit(folder / "em.safetensors")
    if fitted is None:
        return
    shapes, report = fitted
    train, val = data.landmarks("train"), data.landmarks("val").take(slice(JUDGED))
    file = teacher_file.read(folder)
    some = {name: values[:JUDGED] for name, values in file.split("train").items()}
    said = teachers.Reconstruction(**some)
    poses = said.poses(file.dictionary)
    _, teacher = synchronise_signs(poses, train.skeleton.edges)
    held_out = expected_pose(shapes, *_centred(val))[1]
    verdict = judge(
        report,
        teacher,
        training_nats=float(shapes.log_likelihood),
        held_out_nats=float(np.mean(held_out)) if len(held_out) else None,
    )
    write_json(path, dataclasses.asdict(verdict), sealed=True)
    print(wrapped(f"teacher: {verdict.text}"), flush=True)
