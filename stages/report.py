"""The end of every run: results.json and report.html from the files of the stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import nrsfm_jax.evaluate
import pose_jax.evaluate
from input_pipeline.dataset import Dataset
from runtime import processes
from runtime.metric_writer import read_metrics
from runtime.workdir import merge_results
from view.report import method_name, write_report

SHOWN = 12  # validation samples in the report
PICTURE = 224  # side of their crops, pixels


def write(config: Any, workdir: Path, data: Dataset) -> None:
    """Evaluates what is trained; writes ``results.json`` and ``report.html``.

    Raises:
        ValueError: nothing trained yet, or truth that does not fit the samples.
    """
    nrsfm_jax.evaluate.evaluate(config, workdir, data)
    for mode in config.student.modes:
        if (workdir / f"student_{mode}" / "student.json").exists():
            pose_jax.evaluate.evaluate(config, workdir, data, mode)
    if not processes.is_first():
        return
    path, results = workdir / "report.html", merge_results(workdir)
    rows = shown_rows(len(data.landmarks("val")))
    write_report(
        path,
        title="3D pose from pictures and 2D landmarks",
        description=_description(config, data, len(rows)),
        skeleton=data.skeleton,
        results=results,
        curves=read_metrics(workdir / "metrics.jsonl"),
        samples=samples(data, workdir, rows) if data.has_pictures else (),
    )
    print(f"results: {workdir / 'results.json'}\nreport:  {path}")


def shown_rows(count: int) -> list[int]:
    """At most SHOWN of ``count`` rows, evenly spread.

    Examples:
        >>> shown_rows(100)[:4], shown_rows(3)
        ([0, 8, 16, 24], [0, 1, 2])
    """
    step = max(count // SHOWN, 1)
    return list(range(0, step * min(SHOWN, count), step))


def samples(data: Dataset, workdir: Path, rows: list[int]) -> list[dict[str, Any]]:
    """Validation samples with their poses, as ``write_report`` takes them.

    Only the pictures of ``rows`` are decoded.
    """
    landmarks, truth = data.landmarks("val"), data.truth("val")
    how: dict[str, Any] = {"image_size": PICTURE, "seed": 0, "rows": rows}
    batch = next(data.pictures("val", batch_size=len(rows), train=False, **how))
    predictions = {}
    for path in sorted(workdir.glob("*/predictions_val.npz")):
        with np.load(path) as file:
            by_id = dict(zip(file["sample_ids"].tolist(), file["pose"], strict=True))
        predictions[method_name(path.parent.name)] = by_id
    found = []
    for i, row in enumerate(rows):
        key = int(landmarks.sample_ids[row])
        poses = {name: some[key] for name, some in predictions.items() if key in some}
        if truth is not None:
            poses["truth"] = truth.positions_mm[row]
        found.append(
            {
                "image": batch["image"][i],
                "keypoints_2d": (batch["keypoints"][i] + 1) * PICTURE / 2,
                "labelled": batch["labelled"][i],
                "poses": poses,
                "caption": landmarks.name(row),
            }
        )
    return found


def _description(config: Any, data: Dataset, shown: int) -> str:
    count = len(data.landmarks("val"))
    return (
        f"Data: {config.data.name}, {data.skeleton.num_joints} landmarks; "
        f"shown are {shown} of {count} validation samples. Trained on "
        "pictures and 2D landmarks; 3D was opened only to compute these tables"
        + (
            " and, plainly marked, to train the supervised reference."
            if "supervised" in config.student.modes
            else "."
        )
    )
