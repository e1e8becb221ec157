"""Evaluates the teacher with 3D ground truth, which only this file of nrsfm_jax reads.

No result is used in training, and none chooses a sign of depth.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from input_pipeline.dataset import Dataset
from input_pipeline.ground_truth import GroundTruth
from input_pipeline.landmarks import Landmarks
from input_pipeline.sources.memory_mapped import ROWS, is_mapped
from losses import metrics
from losses.scores import NO_TRUTH, score_poses
from nrsfm_jax import depth_sign
from nrsfm_jax import teacher as teachers
from runtime import processes, teacher_file
from runtime.files import kept, read_json, read_npz, write_json, write_npz

SPLITS = ("train", "val")


def evaluate(config: Any, workdir: str | Path, data: Dataset) -> dict[str, Any]:
    """Writes ``teacher/results.json`` and ``teacher/predictions_{split}.npz``.

    Gives the teacher the sign of depth that the config asks for first. Does nothing
    where the results of this sign and this truth are there already.

    Args:
        config: ``config.teacher`` gives the sign.
        workdir: the folder of the run, with a trained teacher.
        data: of ``open_dataset(config.data)``.

    Returns:
        For "train" and "val" the fit to the landmarks and, with a truth, the table of
        :func:`losses.scores.score_poses`.

    Raises:
        ValueError: no teacher in the folder, or truth that does not fit the samples.
    """
    folder = Path(workdir) / "teacher"
    processes.on_first(lambda: _evaluate(config, folder, data), "evaluate teacher")
    return read_json(folder / "results.json")


def _evaluate(config: Any, folder: Path, data: Dataset) -> None:
    marks = {split: data.landmarks(split) for split in SPLITS}
    truth = {split: data.truth(split) for split in SPLITS}
    depth_sign.settle(folder, config.teacher, lambda: _samples(folder, marks))
    file = teacher_file.read(folder)
    about = {"depth_sign": file.sign_text, "truth": _digest(truth)}
    path = folder / "results.json"
    done = kept(lambda: _results(folder)) if path.exists() else None
    if done is not None and done.get("teacher") == about:
        return
    mean_pose = None if truth["train"] is None else _mean_pose(truth["train"])
    results: dict[str, Any] = {}
    for split in SPLITS:
        results[split] = _evaluate_split(
            file, split, marks[split], truth[split], mean_pose
        )
        if data.settings.name == "sequence":  # frames of one scale, in the truth's unit
            half_side = marks[split].half_side[:, None, None]
            pose = np.load(folder / f"predictions_{split}.npz")["pose"] * half_side
            true = truth[split]
            assert true is not None, "a sequence has its 3D"
            error = metrics.dai_error(pose, true.positions_mm)
            results[split]["dai_error"] = error
    results["teacher"] = about
    if (folder / "verdict.json").exists():  # without the EM there is none
        results["verdict"] = read_json(folder / "verdict.json")
    write_json(path, results, sealed=True)


def _results(folder: Path) -> dict[str, Any]:
    """What was written of them, all of it whole."""
    for path in folder.glob("predictions_*.npz"):
        read_npz(path)
    return read_json(folder / "results.json")


def _evaluate_split(
    file: teacher_file.TeacherFile,
    split: str,
    marks: Landmarks,
    truth: GroundTruth | None,
    mean_pose: Float[np.ndarray, "p 3"] | None,
) -> dict[str, Any]:
    """Predictions in the patch, their fit to the landmarks and their scores."""
    said = teachers.Reconstruction(**file.split(split, np.asarray(marks.sample_ids)))
    # Of a large file mapped anew for each part: pages that were read count as memory.
    active = sum(
        np.count_nonzero(file.split(split)["code"][i : i + ROWS])  # codes are >= 0
        for i in range(0, len(said), ROWS)
    )
    fit = {
        "count": len(said),
        "reprojection": float(said.residual.mean()),
        "reprojection_unit": "patch units, mean of ||S M - W||_F",
        "active_codes": active / said.code.size,
    }
    if is_mapped(marks) and split == "train":
        # Memory must not grow with the set: `Reconstruction.poses` gives any of them.
        return fit | {"message": NO_TRUTH}
    pose = said.poses(file.dictionary)
    pose[..., :2] += marks.centred[1][:, None]
    write_npz(
        file.folder / f"predictions_{split}.npz", sample_ids=said.sample_ids, pose=pose
    )
    how = (marks.patch, marks.labelled, None if truth is None else truth.positions_mm)
    options: Any = {
        "edges": [(parent, child) for parent, child in file.skeleton["edges"]],
        "root": file.skeleton["root"],
        "sign": file.sign_text,
    }
    scores = score_poses(pose, *how, **options, mean_pose=mean_pose)
    if truth is not None and file.has_labels(split):  # what students learn from
        z = file.labels(split)["depth"]
        label = np.concatenate([marks.patch, z[..., None]], axis=-1)
        scores["baselines"]["labels"] = score_poses(label, *how, **options)
    return fit | scores


def _digest(truth: dict[str, GroundTruth | None]) -> str:
    """Of the contents: another truth gives other results."""
    state = hashlib.sha256()
    for split, each in truth.items():
        state.update(split.encode())
        if each is not None:
            state.update(np.ascontiguousarray(each.positions_mm).tobytes())
    return state.hexdigest()[:16]


def _samples(folder: Path, marks: dict[str, Landmarks]) -> Sequence[depth_sign.Samples]:
    """What a sentence about a picture may speak of, with depths as trained."""
    file = teacher_file.read(folder)
    flip = np.array([1, 1, file.depth_sign], np.float32)
    samples = []
    for split in SPLITS:
        said = teachers.load_reconstruction(folder, split)
        poses = said.poses(file.dictionary) * flip
        names = [marks[split].name(row) for row in range(len(marks[split]))]
        samples.append(depth_sign.Samples(names, said.sample_ids, poses))
    return samples


def _mean_pose(truth: GroundTruth) -> Float[np.ndarray, "p 3"]:
    """Generalised Procrustes mean of the true training poses, similarity-aligned."""
    every = -(-len(truth) // 2000)
    return procrustes_mean(np.asarray(truth.positions_mm[::every], np.float64))


def procrustes_mean(
    poses: Float[np.ndarray, "n p 3"], *, iterations: int = 10
) -> Float[np.ndarray, "p 3"]:
    """The mean shape after turning and scaling every pose onto it, by turns.

    Args:
        poses: (N, P, 3) in any positions.
        iterations: of align all, take the mean.

    Returns:
        (P, 3) float32, centred, of the average size of the poses.
    """
    centred = poses - poses.mean(axis=1, keepdims=True)
    sizes = np.linalg.norm(centred, axis=(1, 2))
    sizes = np.where(sizes > 0, sizes, 1.0)
    unit = centred / sizes[:, None, None]
    mean = unit[0]
    for _ in range(iterations):
        goal = np.broadcast_to(mean, unit.shape)
        turned = metrics.procrustes_align(unit, goal, scale=False, reflection=False)
        mean = turned.mean(axis=0)
        mean = mean / np.linalg.norm(mean)
    return (mean * sizes.mean()).astype(np.float32)
