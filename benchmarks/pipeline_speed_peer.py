"""The input pipeline as it is customary with PyTorch and OpenCV, for comparison."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import cv2
import numpy as np

FILL = (124, 124, 124)


@dataclasses.dataclass(frozen=True)
class Pictures:
    """A map-style data set of augmented crops: uint8 pictures and their landmarks.

    Args:
        files: N paths.
        patch: (N, P, 2) landmarks in patch coordinates.
        labelled: (N, P).
        centre: (N, 2) of the crops, pixels.
        half_side: (N,) of the crops, pixels.
        permutation: (P,) of the joints of a mirrored picture.
        size: of the patch, pixels.
        augment: ``config.student.augment``.
        smooth: whether area averages are taken of what is shrunk.
    """

    files: list[str]
    patch: np.ndarray
    labelled: np.ndarray
    centre: np.ndarray
    half_side: np.ndarray
    permutation: np.ndarray
    size: int
    augment: dict[str, float]
    smooth: bool

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> dict[str, Any]:
        cv2.setNumThreads(0)  # a worker process begins with all cores
        rng, how = np.random, self.augment
        scale = 1 + how["scale"] * rng.uniform(-1, 1)
        limit = math.radians(how["rotation_deg"])
        turned = rng.random() < how["rotation_prob"]
        angle = rng.uniform(-limit, limit) if turned else 0.0
        flip = bool(rng.random() < how["flip_prob"])
        gain = 1 + how["colour"] * rng.uniform(-1, 1, 3)

        cos, sin = scale * math.cos(angle), scale * math.sin(angle)
        mirror = -1 if flip else 1
        matrix = np.array([[mirror * cos, -sin], [mirror * sin, cos]])
        patch, labelled = self.patch[row], self.labelled[row]
        if flip:
            patch, labelled = patch[self.permutation], labelled[self.permutation]
        return {
            "image": self._draw(row, matrix, gain),
            "keypoints": (patch @ matrix.T).astype(np.float32) * labelled[:, None],
            "labelled": labelled,
            "row": row,
            "flip": flip,
            "scale": np.float32(scale),
        }

    def _draw(self, row: int, matrix: np.ndarray, gain: np.ndarray) -> np.ndarray:
        picture: Any = cv2.imread(self.files[row], cv2.IMREAD_COLOR)
        to_pixels = np.linalg.inv(matrix) * self.half_side[row]
        ratio = np.ones(2)
        if self.smooth:
            minify = math.sqrt(abs(np.linalg.det(to_pixels))) * 2 / self.size
            if minify > 1:
                picture, ratio = self._shrink(picture, minify)
        to_pixels = ratio[:, None] * to_pixels
        first = 1 / self.size - 1
        start = ratio * self.centre[row] + to_pixels.sum(1) * first - 0.5
        affine = np.concatenate([to_pixels * (2 / self.size), start[:, None]], 1)
        drawn = cv2.warpAffine(
            picture,
            affine,
            (self.size, self.size),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderValue=FILL,
        )
        table = np.clip(np.round(np.arange(256)[:, None] * gain[::-1]), 0, 255)
        coloured = cv2.LUT(drawn, table[None].astype(np.uint8))
        return cv2.cvtColor(coloured, cv2.COLOR_BGR2RGB)

    def _shrink(
        self, picture: np.ndarray, minify: float
    ) -> tuple[np.ndarray, np.ndarray]:
        shape = np.array(picture.shape[1::-1])
        smaller = np.maximum(np.round(shape / minify), 1).astype(int)
        reduced = cv2.resize(picture, smaller.tolist(), interpolation=cv2.INTER_AREA)
        return reduced, smaller / shape
