"""The moving picture of the README: labelled animals, and their 3D, turning.

python -m benchmarks.moving_picture --out=docs/images/turning.gif

Gaussian shapes are fitted to the 2D landmarks of 2,000 drawn animals of 23 joints, 30 %
of them unlabelled. Animals that are not among these are then lifted from their own
landmarks. No 3D is read.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from benchmarks.verdicts import animals
from input_pipeline.synthetic.animal import SKELETON, AnimalSample, draw_animal
from nrsfm_jax.em import expected_pose, fit_shapes
from nrsfm_jax.em.coherent import recentred
from view.overlay import draw_skeleton

SIDE, FRAMES, MILLISECONDS = 200, 40, 80
SHOWN = (3, 11, 29)  # of the validation animals
_PAPER = 255


def lifted(drawn: list[AnimalSample], seed: int) -> np.ndarray:
    """Camera-frame poses (n, P, 3) of animals, in half sides of their boxes."""
    case = animals(np.random.default_rng(seed), 2000, "hidden")
    W, _ = case.landmarks()
    shapes, _ = fit_shapes(W, case.labelled, key=jax.random.key(seed), edges=case.edges)
    labelled = ~np.stack([each.hidden for each in drawn])
    xy = np.stack([each.keypoints for each in drawn])
    shown = np.where(labelled[..., None], xy, np.nan)
    half = 0.625 * (np.nanmax(shown, 1) - np.nanmin(shown, 1)).max(1)
    own = recentred(xy / half[:, None, None], labelled)
    return expected_pose(shapes, *own)[0]


def turning(pose: np.ndarray, yaw: float) -> np.ndarray:
    """(SIDE, SIDE, 3): the pose turned about the vertical, seen from a little above."""
    pose = pose - pose.mean(axis=0)
    c, s = np.cos(yaw), np.sin(yaw)
    x, z = c * pose[:, 0] + s * pose[:, 2], c * pose[:, 2] - s * pose[:, 0]
    tilt = np.deg2rad(12)
    y = np.cos(tilt) * pose[:, 1] - np.sin(tilt) * z
    points = np.stack([x, y], axis=1) * 0.42 * SIDE + SIDE / 2
    paper = np.full((SIDE, SIDE, 3), _PAPER, np.uint8)
    return draw_skeleton(paper, points, SKELETON, line_width=3.5)


def main() -> None:
    """Fits, lifts and writes the animation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    drawn = [draw_animal(i, split="val", size=SIDE) for i in SHOWN]
    poses = lifted(drawn, args.seed)
    top = np.concatenate(
        [
            draw_skeleton(each.image, each.keypoints, SKELETON, labelled=~each.hidden)
            for each in drawn
        ],
        axis=1,
    )
    frames = []
    for yaw in 2 * np.pi * np.arange(FRAMES) / FRAMES:
        below = np.concatenate([turning(pose, yaw) for pose in poses], axis=1)
        frame = Image.fromarray(np.concatenate([top, below]))
        frames.append(frame.quantize(128, dither=Image.Dither.NONE))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    more = {"append_images": frames[1:], "duration": MILLISECONDS, "loop": 0}
    frames[0].save(args.out, save_all=True, **more)
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
