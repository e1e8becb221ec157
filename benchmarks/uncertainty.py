"""Does what a student says of its doubt tell its error? The table of docs/predict.md.

    python -m benchmarks.uncertainty --workdir=runs/mocap_images \
        --images=../shared/data/mh_mocap/images_val \
        --annotations=../shared/data/mh_mocap/person_keypoints_val.json \
        --ground_truth=../shared/data/mh_mocap/gt3d_val.npz

Errors and standard deviations are in half sides of the crop; rank correlations
(Spearman) of the two over all joints of all pictures, and over pictures.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
from scipy.stats import spearmanr

from input_pipeline.pictures import open_picture
from pose_jax import PoseEstimator, Poses
from stages.boxes import find_sources


def main() -> None:
    """Prints one line for each kind of spread."""
    parser = argparse.ArgumentParser()
    for name in ("workdir", "images", "annotations", "ground_truth"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--mode", default="")
    options = parser.parse_args()
    sources = find_sources(options.images, options.annotations)
    marks = read_marks(options.annotations, [s.image_id for s in sources])
    truth = read_truth(options.ground_truth, [s.image_id for s in sources])
    for mirror in (False, True):
        estimator = PoseEstimator.load(
            options.workdir, mode=options.mode, mirror=mirror
        )
        padding = estimator.record.padding
        crops = [
            estimator.cut(
                open_picture(s.file, s.size), s.persons[0].box, padding=padding
            )
            for s in sources
        ]
        errors = pose_errors(estimator.of_crops(crops), marks, truth)
        print("mirror  " if mirror else "heat map", report(errors))


def read_marks(path: str, image_ids: list[int]) -> np.ndarray:
    """(N, P, 2) landmarks of a COCO file, pixels; the first body of each picture."""
    with open(path, encoding="utf-8") as file:
        annotations = json.load(file)["annotations"]
    found: dict[int, np.ndarray] = {}
    for annotation in annotations:
        points = np.reshape(annotation["keypoints"], (-1, 3))[:, :2]
        found.setdefault(annotation["image_id"], points)
    return np.stack([found[i] for i in image_ids])


def read_truth(path: str, image_ids: list[int]) -> np.ndarray:
    """(N, P, 3) positions in the camera frame, mm."""
    with np.load(path) as file:
        rows = {int(i): row for row, i in enumerate(file["image_id"])}
        return file["positions_mm"][[rows[i] for i in image_ids]]


def pose_errors(
    poses: Poses, marks: np.ndarray, truth: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Error and standard deviation, (N, P) each, in the image and in depth."""
    half = poses.half_side[:, None, None]
    marks = (marks - poses.centre[:, None]) / half
    # The scale of weak perspective, by least squares.
    flat = truth[..., :2] - truth[..., :2].mean(1, keepdims=True)
    centred = marks - marks.mean(1, keepdims=True)
    scale = (flat * centred).sum((1, 2)) / (flat**2).sum((1, 2))
    depth = scale[:, None] * (truth[..., 2] - truth[..., 2].mean(1, keepdims=True))
    z = poses.pose[..., 2] - poses.pose[..., 2].mean(1, keepdims=True)
    return {
        "image": (
            np.linalg.norm(poses.pose[..., :2] - marks, axis=-1),
            np.linalg.norm(poses.spread[..., :2], axis=-1),
        ),
        "depth": (np.abs(z - depth), poses.spread[..., 2]),
    }


def report(errors: dict[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """Mean error, mean standard deviation and rank correlations of each."""
    texts = []
    for name, (error, std) in errors.items():
        joints = float(spearmanr(error.ravel(), std.ravel())[0])
        pictures = float(spearmanr(error.mean(1), std.mean(1))[0])
        texts.append(
            f"{name}: error {error.mean():.3f} std {std.mean():.3f} "
            f"rank correlation {joints:.2f} (joints) {pictures:.2f} (pictures)"
        )
    return "; ".join(texts)


if __name__ == "__main__":
    main()
