"""The student against 3D ground truth.

Every sample of both splits is predicted without augmentation. Nothing measured here
flows back into training or chooses a model. The only sign of depth is that of the
teacher as a whole, the same for every sample.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float

from input_pipeline.ground_truth import GroundTruth, read_ground_truth
from input_pipeline.landmarks import Landmarks, read_landmarks
from losses import metrics
from pose_jax.estimator import load_student
from pose_jax.state import StudentRecord, TrainState
from pose_jax.weights import FILE, save_weights
from runtime import processes, teacher_file
from runtime.devices import data_parallel
from runtime.files import write_json, write_npz
from runtime.progress import progress

SPLITS = ("train", "val")
SUPERVISED = "no sign to choose: trained on 3D labels"
NO_TRUTH = "no 3D ground truth: only the fit to the 2D landmarks can be told"


def evaluate(config: Any, workdir: str | Path) -> dict[str, Any]:
    """Writes ``results.json`` and ``predictions_<split>.npz`` of one student.

    Beside them ``student.safetensors`` and ``MODEL_CARD.md``. Does nothing where the
    results of the last checkpoint are there already.

    Args:
        config: ``config.data`` and ``config.student`` with its ``mode``.
        workdir: folder of the run, with a trained ``student_<mode>``.

    Returns:
        The results: metrics of "train" and "val", each once more under
        "annotated_xy" with x and y replaced by the landmarks, and what is known of
        the training under "student".

    Raises:
        ValueError: nothing trained, or truth that does not fit the samples.
    """
    folder = Path(workdir) / f"student_{config.student.mode}"
    record, state = load_student(folder)
    sign, text = _depth_sign(record, workdir)
    about = {
        "mode": record.mode,
        "step": int(state.step),
        "reads_3d": record.mode == "supervised",
        "depth_weight": record.depth_weight,
        "matched_weight": record.matched_weight,
        "depth_sign": sign * record.depth_sign,
    }
    path = folder / "results.json"
    if path.exists():
        results = json.loads(path.read_text(encoding="utf-8"))
        if results.get("student") == about and (folder / FILE).exists():
            return results
    results: dict[str, Any] = {}
    for split in SPLITS:
        marks = read_landmarks(config.data, split)
        pose = predict_split(config, record, state, split, len(marks))
        if not processes.is_first():
            continue
        pose[..., 2] *= sign
        write_npz(
            folder / f"predictions_{split}.npz", sample_ids=marks.sample_ids, pose=pose
        )
        truth = read_ground_truth(config.data, split)
        if truth is not None:
            truth = truth.align(marks.sample_ids)
        results[split] = score_split(pose, marks, truth, text)
    results |= {"student": about}
    if processes.is_first():
        _publish(config, folder, record, state, results, sign)
        write_json(path, results)
    processes.barrier("evaluate student")
    return json.loads(path.read_text(encoding="utf-8"))


def _publish(
    config: Any,
    folder: Path,
    record: StudentRecord,
    state: TrainState,
    results: Mapping[str, Any],
    sign: int,
) -> None:
    """``student.safetensors`` and its card: these weights and what they reached."""
    data = {"data set": config.data.name, "steps": int(state.step)}
    if config.data.annotations:
        data["annotations"] = Path(config.data.annotations).name
    if sign < 0:
        data["note"] = "the numbers are those of the mirrored depth, -z"
    save_weights(folder, record, state.variables, data=data, results=results)


def _depth_sign(record: StudentRecord, workdir: str | Path) -> tuple[int, str]:
    """The factor on the student's depth, and the sentence for the tables.

    The student learned the sign that the teacher had then; where the teacher has
    been mirrored since, its students follow.
    """
    if record.mode == "supervised":
        return 1, SUPERVISED
    teacher = teacher_file.read(Path(workdir) / "teacher")
    return teacher.depth_sign * record.depth_sign, teacher.sign_text


def predict_split(
    config: Any, record: StudentRecord, state: TrainState, split: str, count: int
) -> Float[np.ndarray, "n p 3"]:
    """Poses of a split in row order, in the plain patch; each process predicts a part.

    All of them get all poses.
    """
    from input_pipeline.pipeline import image_batches  # imports tensorflow

    batch_size = max(config.student.batch_size // jax.process_count(), 1)
    batches = image_batches(
        config.data,
        split,
        batch_size=batch_size,
        image_size=record.image_size,
        seed=config.seed,
        train=False,
        shard_index=jax.process_index(),
        shard_count=jax.process_count(),
    )
    return predict_batches(
        record,
        state,
        batches,
        count=count,
        parallel=config.student.parallel,
        num_devices=config.student.num_devices,
        batch_size=batch_size,
        label=f"student_{record.mode}: {split}",
    )


def predict_batches(
    record: StudentRecord,
    state: TrainState,
    batches: Iterable[Mapping[str, np.ndarray]],
    *,
    count: int,
    parallel: str = "jit",
    num_devices: int = 0,
    batch_size: int = 0,
    label: str = "evaluate",
) -> Float[np.ndarray, "n p 3"]:
    """Poses of ``count`` samples by their ``row``; of several processes, of all parts.

    Args:
        record: of the student.
        state: its weights.
        batches: with ``image``, ``row`` and ``weight`` (0 fills up a last batch).
        count: number of samples.
        parallel: as in training.
        num_devices: as in training.
        batch_size: if given, no more devices are used than can share it equally.
        label: name of the progress bar.

    Raises:
        ValueError: the batches leave a sample out.
    """
    net = record.make_net()

    def apply(variables: Any, images: Any, _: Any) -> Any:
        return net.apply(variables, images, train=False)

    placed = data_parallel(
        lambda variables, images, _: (variables, {}),
        mode=parallel,
        num_devices=num_devices,
        batch_size=batch_size,
    )
    run = placed.per_sample(apply)
    variables = placed.replicate(state.variables)
    pose = np.zeros((count, record.skeleton.num_joints, 3), np.float32)
    seen = np.zeros(count, bool)
    shown = processes.is_first()
    with progress(label, total=count, shown=shown) as bar:
        for batch in batches:
            found = run(variables, placed.shard(batch["image"]), None)
            keep = np.asarray(batch["weight"]) > 0
            rows = np.asarray(batch["row"])[keep]
            pose[rows], seen[rows] = found[keep], True
            bar.update(min(int(seen.sum()) * jax.process_count(), count))
    if jax.process_count() > 1:
        pose, seen = _joined_rows(pose, seen)
    if not seen.all():
        missing = int(np.flatnonzero(~seen)[0])
        raise ValueError(
            f"{label}: no batch holds row {missing} of {count}; read the split with "
            "train=False"
        )
    return pose


def _joined_rows(
    pose: Float[np.ndarray, "n p 3"],
    seen: Bool[np.ndarray, " n"],
    *,
    piece: int = 65536,
) -> tuple[Float[np.ndarray, "n p 3"], Bool[np.ndarray, " n"]]:
    """The rows that any process has; no row is in two of them."""
    for start in range(0, len(pose), piece):
        rows = slice(start, start + piece)
        pose[rows] = processes.gather(pose[rows]).sum(axis=0)
        seen[rows] = processes.gather(seen[rows]).any(axis=0)
    return pose, seen


def score_split(
    pose: Float[np.ndarray, "n p 3"],
    marks: Landmarks,
    truth: GroundTruth | None,
    sign: str,
) -> dict[str, Any]:
    """Metrics of one split.

    Args:
        pose: (N, P, 3) predictions in the plain patch.
        marks: the landmarks.
        truth: in the order of ``marks``, or None where there is none.
        sign: the sentence about the sign of depth.
    """
    labelled = marks.labelled[..., None]
    distance = np.linalg.norm(pose[..., :2] - marks.patch, axis=-1)
    scores: dict[str, Any] = {
        "count": len(marks),
        "xy_error": float(distance[marks.labelled].mean()),
        "xy_error_unit": "half sides of the crop, mean distance to the landmarks",
    }
    if truth is None:
        return scores | {"message": NO_TRUTH}
    annotated = pose.copy()
    annotated[..., :2] = np.where(labelled, marks.patch, pose[..., :2])
    how: dict[str, Any] = {
        "edges": marks.skeleton.edges,
        "root": marks.skeleton.root,
        "sign": sign,
    }
    positions = truth.positions_mm
    scores |= metrics.evaluate_poses(pose, positions, **how)
    scores["annotated_xy"] = metrics.evaluate_poses(annotated, positions, **how)
    flat = pose * np.array([1, 1, 0], pose.dtype)
    zero = metrics.evaluate_poses(flat, positions, **how) | {"sign": "no depth"}
    scores["baselines"] = {"z_zero": zero}
    if len(np.unique(truth.action)) > 1:
        scores["per_action"] = metrics.per_action_table(
            pose, positions, truth.action, **how
        )
    return scores
