"""The end of every run: results.json and report.html from what the stages left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nrsfm_jax.evaluate
import pose_jax.evaluate
from input_pipeline.dataset import open_dataset
from input_pipeline.ground_truth import read_ground_truth
from input_pipeline.landmarks import read_landmarks
from input_pipeline.pipeline import image_batches
from runtime import processes
from runtime import workdir as workdirs
from view.report import collect_report

SHOWN = 12  # validation samples in the report
PICTURE = 224  # side of their crops, pixels


def write(config: Any, workdir: Path) -> Path:
    """Evaluates what is trained; writes ``results.json`` and ``report.html``.

    Args:
        config: the whole config.
        workdir: the folder of the run, with at least a teacher.

    Returns:
        The path of the report.

    Raises:
        ValueError: nothing trained yet, or truth that does not fit the samples.
    """
    nrsfm_jax.evaluate.evaluate(config, workdir, open_dataset(config.data))
    for mode in config.student.modes:
        if (workdir / f"student_{mode}" / "student.json").exists():
            config.student.mode = mode
            pose_jax.evaluate.evaluate(config, workdir)
    if not processes.is_first():
        return workdir / "report.html"
    workdirs.merge_results(workdir)
    landmarks = read_landmarks(config.data, "val")
    samples: dict[str, Any] = (
        {}
        if config.data.name in ("mocap", "sequence", "landmarks")
        else _samples(config, landmarks)
    )
    path = collect_report(
        workdir,
        skeleton=landmarks.skeleton,
        title="3D pose from pictures and 2D landmarks",
        description=_description(config, landmarks),
        **samples,
    )
    print(f"results: {workdir / 'results.json'}\nreport:  {path}")
    return path


def _samples(config: Any, landmarks: Any) -> dict[str, Any]:
    """A few validation samples, evenly spread, as ``collect_report`` takes them."""
    step = max(len(landmarks) // SHOWN, 1)
    rows = list(range(0, step * min(SHOWN, len(landmarks)), step))
    batches = image_batches(
        config.data,
        "val",
        batch_size=rows[-1] + 1,
        image_size=PICTURE,
        seed=config.seed,
        train=False,
    )
    batch = next(iter(batches))
    truth = read_ground_truth(config.data, "val")
    if truth is not None:
        truth = truth.align(landmarks.sample_ids)
    return {
        "sample_ids": [int(landmarks.sample_ids[i]) for i in rows],
        "images": [batch["image"][i] for i in rows],
        "keypoints_2d": [(batch["keypoints"][i] + 1) * PICTURE / 2 for i in rows],
        "labelled": [batch["labelled"][i] for i in rows],
        "truth": [None if truth is None else truth.positions_mm[i] for i in rows],
        "captions": [landmarks.names[i] for i in rows],
    }


def _description(config: Any, landmarks: Any) -> str:
    return (
        f"Data: {config.data.name}, {landmarks.skeleton.num_joints} landmarks; "
        f"shown are {SHOWN} of {len(landmarks)} validation samples. Trained on "
        "pictures and 2D landmarks; 3D was opened only to compute these tables"
        + (
            " and, plainly marked, to train the supervised reference."
            if "supervised" in config.student.modes
            else "."
        )
    )
