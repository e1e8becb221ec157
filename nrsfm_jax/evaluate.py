"""The teacher against 3D ground truth; the only file of this package that opens it.

Nothing measured here flows back into training. The one exception that a config may
ask for (``depth_sign_source = 'evaluate'``) is the global depth sign of the whole
teacher, one bit that no 2D data can tell; every table then says so.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from losses import metrics
from nrsfm_jax import depth_cue
from nrsfm_jax import teacher as teacher_files
from nrsfm_jax.teacher import Reconstruction, Teacher
from runtime import run_files

SPLITS = ("train", "val")
SIGNS = {
    "given": "depth sign {sign:+d}, given by the config",
    "cue": "depth sign {sign:+d}, from what is seen in a picture (depth_sign_cue)",
    "evaluate": "depth sign {sign:+d}, one for all samples, chosen against ground "
    "truth",
}
MEAN_POSE = "mean of the true training poses in one view: only PA-MPJPE has a meaning"
NO_TRUTH = "no 3D ground truth: only the fit to the 2D landmarks can be told"


def evaluate(config: Any, workdir: str | Path) -> dict[str, Any]:
    """Writes ``teacher/results.json`` and ``teacher/predictions_{split}.npz``.

    Does nothing where the results are there already.

    Args:
        config: ``config.data`` names the data set, ``config.teacher`` the source of
            the depth sign.
        workdir: the folder of the run, with a trained teacher.

    Returns:
        The results: for "train" and "val" the metrics of the teacher, and beside
        them under "baselines" those of z = 0 and of the mean pose.

    Raises:
        ValueError: no teacher in the folder, or truth that does not fit the samples.
    """
    folder = Path(workdir) / "teacher"
    path = folder / "results.json"
    changed = _sign_changed(config.teacher, teacher_files.read_record(folder))
    if path.exists() and not changed:
        return json.loads(path.read_text(encoding="utf-8"))
    teacher = teacher_files.load(folder)
    if config.data.landmarks:
        if changed:
            raise ValueError(
                "config.teacher.depth_sign: the sign of a teacher in shards is set "
                "before it is trained, and by no cue; choose another workdir"
            )
        results = _evaluate_shards(config, folder, teacher)
        run_files.write_json_atomic(path, results)
        return results
    splits = {s: teacher_files.load_reconstruction(folder, s) for s in SPLITS}
    truth = {s: _read_truth(config.data, s, splits[s]) for s in SPLITS}
    if changed:
        teacher, splits = _settle_sign(config, folder, teacher, splits)
    if _wanted(config.teacher) == "evaluate" and truth["train"] is not None:
        teacher, splits = _choose_sign(folder, teacher, splits, truth["train"])
    mean_pose = _mean_pose(truth["train"])
    results: dict[str, Any] = {}
    for name, split in splits.items():
        pose = split.poses(teacher.dictionary)
        patch_pose = _in_patch(config.data, name, split, pose)
        run_files.write_npz_atomic(
            folder / f"predictions_{name}.npz",
            sample_ids=split.sample_ids,
            pose=patch_pose,
        )
        results[name] = _fit_to_landmarks(split) | _evaluate_split(
            split, pose, truth[name], teacher, mean_pose
        )
        if config.data.name == "sequence":
            truth_mm = truth[name].positions_mm
            results[name]["dai_error"] = _dai_error(config.data, name, pose, truth_mm)
    run_files.write_json_atomic(path, results)
    return results


def _dai_error(
    data: Any,
    split: str,
    pose: Float[np.ndarray, "n p 3"],
    truth_mm: Float[np.ndarray, "n p 3"],
) -> float:
    """Error of a sequence, whose frames have one scale, in the unit of the truth."""
    from input_pipeline.landmarks import read_landmarks

    half_side = read_landmarks(data, split).half_side[:, None, None]
    return metrics.dai_error(pose * half_side, truth_mm)


def _evaluate_shards(config: Any, folder: Path, teacher: Teacher) -> dict[str, Any]:
    """:func:`evaluate` with one shard in memory; means over the shards by their size.

    Predictions are written of validation alone: of training samples they follow from
    the shards, by :meth:`Reconstruction.poses`.
    """
    from input_pipeline.landmark_shards import open_split

    if _wanted(config.teacher) == "evaluate":
        raise ValueError(
            "config.teacher.depth_sign_source = 'evaluate' needs all samples in "
            "memory; give the sign, or leave config.data.landmarks empty"
        )
    results: dict[str, Any] = {}
    for name in SPLITS:
        records = open_split(config.data.landmarks, name).records
        scores, poses, ids, start = [], [], [], 0
        for part in teacher_files.reconstruction_parts(folder, name):
            rows = records.rows(slice(start, start + len(part)))
            start += len(part)
            _check_same(name, part.sample_ids, rows["sample_id"])
            truth = _read_truth(config.data, name, part)
            pose = part.poses(teacher.dictionary)
            measured = _evaluate_split(part, pose, truth, teacher, None)
            scores.append((len(part), _fit_to_landmarks(part) | measured))
            if name == "val":
                pose[..., :2] += rows["mean"][:, None]
                poses.append(pose)
                ids.append(part.sample_ids)
        results[name] = _mean_scores(scores)
        if name == "val":
            run_files.write_npz_atomic(
                folder / "predictions_val.npz",
                sample_ids=np.concatenate(ids),
                pose=np.concatenate(poses),
            )
    return results


def _mean_scores(scores: list[tuple[int, dict[str, Any]]]) -> dict[str, Any]:
    """Means of the numbers, weighted by samples; ``count`` is summed."""
    total = sum(count for count, _ in scores)
    mean: dict[str, Any] = {}
    for name, first in scores[0][1].items():
        values = [(count, score[name]) for count, score in scores]
        if name == "count":
            mean[name] = total
        elif isinstance(first, dict):
            mean[name] = _mean_scores(values)
        elif isinstance(first, float):
            mean[name] = sum(count * value for count, value in values) / total
        else:
            mean[name] = first
    return mean


def _check_same(
    name: str, found: Int[np.ndarray, " n"], wanted: Int[np.ndarray, " n"]
) -> None:
    if not np.array_equal(found, wanted):
        raise ValueError(
            f"the {name} shards of the teacher hold other samples than the folder of "
            "landmarks; train the teacher again"
        )


def _evaluate_split(
    split: Reconstruction,
    pose: Float[np.ndarray, "n p 3"],
    truth: Any,
    teacher: Teacher,
    mean_pose: Float[np.ndarray, "p 3"] | None,
) -> dict[str, Any]:
    """Metrics of one split against its truth, and of what any method must beat."""
    if truth is None:
        return {"message": NO_TRUTH}
    sign = SIGNS[teacher.depth_sign_source].format(sign=teacher.depth_sign)
    edges = [(parent, child) for parent, child in teacher.skeleton["edges"]]

    def measure(poses, sign=sign):
        return metrics.evaluate_poses(
            poses,
            truth.positions_mm,
            edges=edges,
            root=teacher.skeleton["root"],
            labelled=split.labelled,
            sign=sign,
        )

    flat = np.concatenate([split.W, np.zeros_like(split.W[..., :1])], axis=-1)
    annotated = np.concatenate([split.W, pose[..., 2:]], axis=-1)
    zero = measure(flat, "no depth")
    baselines = {"z_zero": zero | {"annotated_xy": zero}}  # its xy are the annotated
    if mean_pose is not None:
        same = np.broadcast_to(mean_pose, truth.positions_mm.shape)
        baselines["mean_pose"] = measure(np.ascontiguousarray(same), MEAN_POSE)
    return measure(pose) | {"annotated_xy": measure(annotated), "baselines": baselines}


def _read_truth(data: Any, split: str, reconstruction: Reconstruction) -> Any:
    from input_pipeline.ground_truth import read_ground_truth

    truth = read_ground_truth(data, split)
    return None if truth is None else truth.align(reconstruction.sample_ids)


def _choose_sign(
    folder: Path, teacher: Teacher, splits: Mapping[str, Reconstruction], truth: Any
) -> tuple[Teacher, dict[str, Reconstruction]]:
    """The one global sign with which most training samples lean the true way.

    The files are written again, so that the students see the same teacher as the
    table. Choosing again from there gives the same: it can be interrupted.
    """
    kept = dict(splits) | _extra(folder)
    train = kept["train"]
    pose = train.poses(teacher.dictionary)
    turned = metrics.flip_fraction(pose, truth.positions_mm, labelled=train.labelled)
    if turned > 0.5:
        teacher = teacher.mirrored()
        kept = {name: split.mirrored() for name, split in kept.items()}
    teacher = dataclasses.replace(teacher, depth_sign_source="evaluate")
    teacher_files.save(folder, teacher, kept)
    return teacher, {name: kept[name] for name in SPLITS}


def _wanted(settings: Any) -> str:
    """Where the config takes the sign from; a cue goes before the others."""
    cued = settings.get("depth_sign_cue", "")
    return "cue" if cued else str(settings.depth_sign_source)


def _sign_changed(settings: Any, record: Mapping[str, Any]) -> bool:
    """Whether the config asks for another sign than the teacher was given."""
    wanted, source = _wanted(settings), record["depth_sign_source"]
    if wanted == "evaluate":
        return source == "cue"
    if wanted == "cue":
        before = record["config"].get("teacher", {}).get("depth_sign_cue", "")
        return source != "cue" or before != settings.depth_sign_cue
    return source != "given" or record["depth_sign"] != settings.depth_sign


def _settle_sign(
    config: Any, folder: Path, teacher: Teacher, splits: Mapping[str, Reconstruction]
) -> tuple[Teacher, dict[str, Reconstruction]]:
    """The teacher with the sign that the config gives, or that its cues tell."""
    sign, source = int(config.teacher.depth_sign), "given"
    cue = config.teacher.get("depth_sign_cue", "")
    if cue:
        decision = _decide(config, teacher, splits)
        sign, source = decision.sign, "cue"
        print(f"teacher: depth sign {sign:+d}, by {decision.text}", flush=True)
    kept = dict(splits) | _extra(folder)
    if sign != teacher.depth_sign:
        teacher = teacher.mirrored()
        kept = {name: split.mirrored() for name, split in kept.items()}
    for stale in (folder, *folder.parent.glob("student_*")):
        (stale / "results.json").unlink(missing_ok=True)
    settings = dict(teacher.config.get("teacher", {}))
    settings |= {"depth_sign": sign, "depth_sign_cue": cue}
    teacher = dataclasses.replace(
        teacher,
        depth_sign_source=source,
        config=dict(teacher.config) | {"teacher": settings},
    )
    teacher_files.save(folder, teacher, kept)
    return teacher, {name: kept[name] for name in SPLITS}


def _extra(folder: Path) -> dict[str, Reconstruction]:
    """The teacher's word on further sources of pictures, where there are any."""
    if not (folder / "extra.safetensors").exists():
        return {}
    return {"extra": teacher_files.load_reconstruction(folder, "extra")}


def _decide(
    config: Any, teacher: Teacher, splits: Mapping[str, Reconstruction]
) -> depth_cue.Decision:
    """What the cues say of the training and validation samples they name."""
    from input_pipeline.landmarks import read_landmarks

    cues = depth_cue.parse_cues(
        config.teacher.depth_sign_cue, teacher.skeleton["joints"]
    )
    plus = np.array([1, 1, teacher.depth_sign], np.float32)
    samples = [
        depth_cue.Samples(
            read_landmarks(config.data, name).names,
            splits[name].sample_ids,
            splits[name].poses(teacher.dictionary) * plus,
        )
        for name in SPLITS
    ]
    return depth_cue.decide(cues, samples)


def _fit_to_landmarks(split: Reconstruction) -> dict[str, Any]:
    """What can be told without 3D."""
    return {
        "count": len(split),
        "reprojection": float(split.residual.mean()),
        "reprojection_unit": "patch units, mean of ||S M - W||_F",
        "active_codes": float(np.mean(split.code > 0)),
    }


def _in_patch(
    data: Any, name: str, split: Reconstruction, pose: Float[np.ndarray, "n p 3"]
) -> Float[np.ndarray, "n p 3"]:
    """The pose moved back to where the landmarks lie in the crop."""
    from input_pipeline.landmarks import read_landmarks

    landmarks = read_landmarks(data, name)
    if not np.array_equal(landmarks.sample_ids, split.sample_ids):
        raise ValueError(
            f"{name}.safetensors holds other samples than the data set "
            f"({len(split)} and {len(landmarks)}); train the teacher again"
        )
    moved = np.array(pose, np.float32)
    moved[..., :2] += landmarks.centred[1][:, None]
    return moved


def _mean_pose(truth: Any) -> Float[np.ndarray, "p 3"] | None:
    """Generalised Procrustes mean of the true training poses, similarity-aligned."""
    if truth is None:
        return None
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
        U, _, Vt = np.linalg.svd(np.swapaxes(unit, 1, 2) @ mean)
        U[:, :, -1] *= np.sign(np.linalg.det(U @ Vt))[:, None]  # no reflection
        mean = (unit @ (U @ Vt)).mean(axis=0)
        mean = mean / np.linalg.norm(mean)
    return (mean * sizes.mean()).astype(np.float32)
