"""The end of every run: results.json and report.html from the files of the stages."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import nrsfm_jax.evaluate
import pose_jax.evaluate
from input_pipeline.dataset import Dataset
from losses import metrics
from runtime import processes
from runtime.files import own_outputs, read_npz, write_json
from runtime.metric_writer import read_metrics
from runtime.workdir import merge_results
from view.report import LABELS, LIFTED, method_name, write_report

SHOWN = 12  # validation samples in the report
PICTURE = 224  # side of their crops, pixels


def write(config: Any, workdir: Path, data: Dataset) -> None:
    """Evaluates what is trained; writes ``results.json`` and ``report.html``.

    Raises:
        ValueError: nothing trained yet, truth that does not fit the samples, or a
            page or table under these names that no earlier run wrote.
    """
    nrsfm_jax.evaluate.evaluate(config, workdir, data)
    for mode in config.student.modes:
        if (workdir / f"student_{mode}" / "student.json").exists():
            pose_jax.evaluate.evaluate(config, workdir, data, mode)
    if not processes.is_first():
        return
    results, said = merge_results(workdir), predictions(workdir)
    rows = chosen(data, said)
    made = {"command": shlex.join(["python", *sys.argv]), "seed": str(config.seed)}
    if (workdir / "lifted" / "viewer.html").exists():
        made[LIFTED] = "lifted/viewer.html"
    with own_outputs(workdir, ("report.html",), about="results.json") as temporary:
        write_json(temporary / "results.json", results)
        write_report(
            temporary / "report.html",
            title="3D poses without 3D labels",
            description=_description(config, data, len(rows)),
            skeleton=data.skeleton,
            results=results,
            curves=read_metrics(workdir / "metrics.jsonl"),
            samples=samples(data, said, rows) if data.has_pictures and rows else (),
            made=made,
        )
    print(f"results: {workdir / 'results.json'}\nreport:  {workdir / 'report.html'}")


def predictions(workdir: Path) -> dict[str, dict[int, np.ndarray]]:
    """Method -> sample id -> pose (P, 3) in the plain patch, of the validation set."""
    found = {}
    for path in sorted(workdir.glob("*/predictions_val.npz")):
        file = read_npz(path)
        by_id = dict(zip(file["sample_ids"].tolist(), file["pose"], strict=True))
        found[method_name(path.parent.name)] = by_id
    return found


def chosen(
    data: Dataset, said: Mapping[str, Mapping[int, np.ndarray]]
) -> dict[int, str]:
    """Rows of the best, the median and the worst predictions -> a word on each.

    Of the distilled student, or the first one there is, or of the teacher. At most
    SHOWN rows; without predictions the first ones.
    """
    marks = data.landmarks("val")
    ids = marks.sample_ids.tolist()
    # The teacher is the last in question: its landmarks are given.
    order = sorted(said, key=("distill", *LABELS, *said).index)
    judged = sorted(order, key=lambda name: name == "teacher")
    name = next((n for n in judged if set(ids) <= set(said[n])), None)
    if name is None or not ids:
        return dict.fromkeys(range(min(len(ids), SHOWN)), "")
    error, text = _errors(np.stack([said[name][i] for i in ids]), data)
    order = [int(row) for row in np.argsort(error) if np.isfinite(error[row])]
    third, middle = SHOWN // 3, len(order) // 2 - SHOWN // 6
    groups = {"": order}
    if len(order) >= SHOWN:
        groups = {"best of ": order[:third], "median of ": order[middle:][:third]}
        groups["worst of "] = order[-third:]
    label = LABELS.get(name, name)
    return {
        row: f"{group}{label}, {text.format(error[row])}"
        for group, rows in groups.items()
        for row in rows
    }


def _errors(pose: np.ndarray, data: Dataset) -> tuple[np.ndarray, str]:
    """Of each validation pose: PA-MPJPE, or without 3D the distance to the landmarks.

    Also how it is written.
    """
    marks, truth = data.landmarks("val"), data.truth("val")
    if truth is not None:
        error = metrics.pa_mpjpe(pose, truth.positions_mm, labelled=marks.labelled)
        return np.asarray(error), "PA-MPJPE {:.0f} mm"
    far = np.linalg.norm(pose[..., :2] - marks.patch, axis=-1)
    error = np.ma.array(far, mask=~marks.labelled).mean(axis=1).filled(np.nan)
    return error, "{:.3f} half sides from the landmarks"


def samples(
    data: Dataset,
    said: Mapping[str, Mapping[int, np.ndarray]],
    rows: Mapping[int, str],
) -> list[dict[str, Any]]:
    """Validation samples with their poses, as ``write_report`` takes them.

    Only the pictures of ``rows`` (row -> a word on it) are decoded.
    """
    landmarks, truth = data.landmarks("val"), data.truth("val")
    how: dict[str, Any] = {"image_size": PICTURE, "seed": 0, "rows": list(rows)}
    batch = next(data.pictures("val", batch_size=len(rows), train=False, **how))
    found = []
    for i, (row, word) in enumerate(rows.items()):
        key = int(landmarks.sample_ids[row])
        poses = {name: some[key] for name, some in said.items() if key in some}
        points = {name: _pixels(pose[:, :2]) for name, pose in poses.items()}
        if truth is not None:
            poses["truth"] = truth.positions_mm[row]
        found.append(
            {
                "image": batch["image"][i],
                "keypoints_2d": _pixels(batch["keypoints"][i]),
                "labelled": batch["labelled"][i],
                "poses": poses,
                "points": points,
                "caption": ": ".join(filter(None, (word, landmarks.name(row)))),
            }
        )
    return found


def _pixels(patch: np.ndarray) -> np.ndarray:
    return (patch + 1) * PICTURE / 2


def _description(config: Any, data: Dataset, shown: int) -> str:
    count = len(data.landmarks("val"))
    few = f"shown are {shown} of " if data.has_pictures else ""
    return (
        f"Data: {config.data.name}, {data.skeleton.num_joints} landmarks; "
        f"{few}{count} validation samples. Trained on "
        f"{'pictures and ' * data.has_pictures}2D landmarks; 3D, if any was given, was "
        "opened only to compute these tables"
        + (
            " and, plainly marked, to train the supervised reference."
            if "supervised" in config.student.modes
            else "."
        )
    )
