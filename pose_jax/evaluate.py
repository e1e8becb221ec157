"""Evaluates a student with 3D ground truth.

Every sample of both splits is predicted without augmentation. No result is used in
training or chooses a model. The sign of depth is that of the teacher, the same for
every sample.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from input_pipeline.dataset import Dataset
from losses.scores import score_error_bars, score_poses
from pose_jax.estimator import improved, load_student, read_shapes
from pose_jax.loss import MODES
from pose_jax.state import StudentRecord, TrainState
from pose_jax.targets import SPLITS, label_depth
from pose_jax.weights import FILE, save_weights
from runtime import processes, teacher_file
from runtime.devices import DataParallel
from runtime.files import (
    kept,
    read_arrays,
    read_json,
    read_npz,
    write_json,
    write_npz,
)
from runtime.progress import progress

SHARED = "one network for the modes {}: the same x and y, a depth for each"
POSES = {
    "mirror": "the mean of those from each picture and from its mirror image",
    "shapes": "the likeliest under the teacher's shapes, given the network's",
}
GATHERED = 65536  # poses that processes exchange at once


def evaluate(
    config: Any, workdir: str | Path, data: Dataset, mode: str
) -> dict[str, Any]:
    """Writes ``results.json`` and ``predictions_<split>.npz`` of one student.

    Beside them ``student.safetensors`` and ``MODEL_CARD.md``. Does nothing where the
    results of the last checkpoint are there already.

    Arguments as of :func:`pose_jax.train.train_and_evaluate`. Returns the scores of
    ``"train"`` and ``"val"``, and what is known of the training under ``"student"``.

    Raises:
        ValueError: nothing trained, or truth that does not fit the samples.
    """
    folder = Path(workdir) / f"student_{mode}"
    record, state = load_student(folder)
    about = _about(record, state, data) | {"mirror": config.predict.mirror}
    shapes = read_shapes(record, folder)
    about["shapes"] = config.predict.shapes and bool(shapes)
    variables = state.variables | (shapes if about["shapes"] else {})
    path = folder / "results.json"
    if path.exists() and (folder / FILE).exists():
        done = kept(lambda: _results(folder))
        if done and done.get("student") == about:
            return done
    sign = "no sign to choose: trained on 3D labels"
    if not about["reads_3d"]:
        sign = teacher_file.read(Path(workdir) / "teacher").sign_text
    results: dict[str, Any] = {}
    for split in SPLITS:
        how = {"mirror": about["mirror"], "shapes": about["shapes"]}
        said = predict_split(config, data, record, variables, split, **how)
        if processes.is_first():
            ids = data.landmarks(split).sample_ids
            file = folder / f"predictions_{split}.npz"
            write_npz(file, sample_ids=ids, pose=said[:, 0], spread=said[:, 1])
            results[split] = score_split(said[:, 0], data, split, sign)
            results[split] |= score_spread(said[:, 0], said[:, 1], data, split)
            results[split] |= _told(record, about)
    results |= {"student": about}
    if processes.is_first():
        facts = {"data set": data.settings.name, "steps": int(state.step)}
        if data.settings.annotations:
            facts["annotations"] = Path(data.settings.annotations).name
        variables = state.variables | shapes
        save_weights(folder, record, variables, data=facts, results=results)
        write_json(path, results, sealed=True)
    processes.barrier("evaluate student")
    return read_json(path)


def _told(record: StudentRecord, about: Mapping[str, Any]) -> dict[str, str]:
    """How the poses came about, for the tables."""
    shared = SHARED.format(", ".join(record.modes)) if record.modes[1:] else ""
    poses = "; ".join(text for name, text in POSES.items() if about[name])
    told = {"backbone": shared, "poses": poses}
    return {name: text for name, text in told.items() if text}


def _results(folder: Path) -> dict[str, Any]:
    """What was written of them, all of it whole."""
    for split in SPLITS:
        read_npz(folder / f"predictions_{split}.npz")
    read_arrays(folder / FILE)
    return read_json(folder / "results.json")


def _about(record: StudentRecord, state: TrainState, data: Dataset) -> dict[str, Any]:
    """What is known of the training besides its scores."""
    return {
        "mode": record.mode,
        "step": int(state.step),
        "reads_3d": MODES[record.mode].label == "truth",
        "modes": list(record.modes),
        "network": record.net["network"],
        "depth_weight": record.depth_weight,
        "matched_weight": record.matched_weight,
        "depth_sign": record.depth_sign,
        "ground_truth": [_digest(data.truth(split)) for split in SPLITS],
    }


def _digest(truth: Any) -> int | None:
    """Of the labels, so that a finished run is scored anew where they change."""
    return None if truth is None else zlib.crc32(truth.positions_mm.tobytes())


def predict_split(
    config: Any,
    data: Dataset,
    record: StudentRecord,
    variables: Mapping[str, Any],
    split: str,
    **how: bool,
) -> Float[np.ndarray, "n 2 p 3"]:
    """Poses of a split and their standard deviations, in row order, in the plain patch.

    Each process predicts a part; all of them get all poses. ``how``: ``mirror`` and
    ``shapes`` of :func:`predict`.
    """
    student, shares = config.student, jax.process_count()
    size = max(student.batch_size // shares, 1)
    share: dict[str, Any] = {"shard_index": jax.process_index(), "shard_count": shares}
    share |= {"image_size": record.image_size, "seed": config.seed}
    batches = data.pictures(split, batch_size=size, train=False, **share)
    count, where = len(data.landmarks(split)), {"num_devices": student.num_devices}
    return predict(record, variables, batches, count, batch_size=size, **how, **where)


def predict(
    record: StudentRecord,
    variables: Mapping[str, Any],
    batches: Iterable[Mapping[str, np.ndarray]],
    count: int,
    *,
    mirror: bool = False,
    shapes: bool = False,
    **where: Any,
) -> Float[np.ndarray, "n 2 p 3"]:
    """Poses of ``count`` samples, and their standard deviations, by their ``row``.

    Of several processes those of all parts. A batch has ``image``, ``row`` and
    ``weight`` (0 fills up a last one); ``mirror`` and ``shapes`` as in
    :class:`pose_jax.estimator.PoseEstimator`; ``where`` are keywords of
    :class:`runtime.devices.DataParallel`.

    Raises:
        ValueError: the batches leave a sample out.
    """
    net = record.make_net(own=True)
    placed = DataParallel(lambda state, images, _: (state, {}), **where)
    apply: Any = partial(net.apply, train=False, method="pose_and_spread")
    apply = improved(apply, record, mirror=mirror, shapes=shapes)
    run = placed.per_sample(lambda v, images, _: jnp.stack(apply(v, images), axis=1))
    variables = placed.replicate(variables)
    pose = np.zeros((count, 2, record.skeleton.num_joints, 3), np.float32)
    found = np.zeros(count, bool)
    shown, shares = processes.is_first(), jax.process_count()
    with progress(f"student_{record.mode}", total=count, shown=shown) as bar:
        for batch in batches:
            predicted = run(variables, placed.shard(batch["image"]), None)
            keep = np.asarray(batch["weight"]) > 0
            rows = np.asarray(batch["row"])[keep]
            pose[rows], found[rows] = predicted[keep], True
            bar.update(min(int(found.sum()) * shares, count))
    for start in range(0, count if shares > 1 else 0, GATHERED):
        # No row is in two processes; all of them at once would take much memory.
        part = slice(start, start + GATHERED)
        pose[part] = processes.gather(pose[part]).sum(axis=0)
        found[part] = processes.gather(found[part]).any(axis=0)
    if not found.all():
        missing = int(np.flatnonzero(~found)[0])
        raise ValueError(
            f"no batch holds row {missing} of {count}; read the split with train=False"
        )
    return pose


def score_split(
    pose: Float[np.ndarray, "n p 3"], data: Dataset, split: str, sign: str
) -> dict[str, Any]:
    """Scores of one split: the fit to the landmarks, and 3D where there is some.

    ``pose`` is in the plain patch; ``sign`` says how the sign of depth was fixed.
    """
    marks, truth = data.landmarks(split), data.truth(split)
    distance = np.linalg.norm(pose[..., :2] - marks.patch, axis=-1)
    fit = {
        "count": len(marks),
        "xy_error": float(distance[marks.labelled].mean()),
        "xy_error_unit": "half sides of the crop, mean distance to the landmarks",
    }
    return fit | score_poses(
        pose,
        marks.patch,
        marks.labelled,
        None if truth is None else truth.positions_mm,
        edges=marks.skeleton.edges,
        root=marks.skeleton.root,
        sign=sign,
        actions=None if truth is None else truth.action,
    )


def score_spread(
    pose: Float[np.ndarray, "n p 3"],
    spread: Float[np.ndarray, "n p 3"],
    data: Dataset,
    split: str,
) -> dict[str, Any]:
    """``"error_bar"``: how many errors of a split lie within what ``spread`` says.

    Against the landmarks in x and y, against the true depth in z.
    """
    marks, truth = data.landmarks(split), data.truth(split)
    depth = np.full(marks.labelled.shape, np.nan)
    if truth is not None:
        where = marks.keypoints, marks.half_side, marks.labelled
        depth = label_depth(truth.positions_mm, *where)
    off = pose - np.concatenate([marks.patch, depth[..., None]], axis=-1)
    count = np.maximum(marks.labelled.sum(axis=1, keepdims=True), 1)
    mean = np.where(marks.labelled, off[..., 2], 0).sum(axis=1, keepdims=True) / count
    off[..., 2] -= mean
    return {"error_bar": score_error_bars(off, spread, marks.labelled)}
