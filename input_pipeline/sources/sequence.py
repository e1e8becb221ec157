"""A sequence of landmarks with their 3D, as the classic benchmarks come: one ``.npz``.

For a sequence NAME the file has ``NAME_X`` (F, 3, P) in the camera frame, of which the
landmarks are the first two rows, and ``NAME_bones`` (E, 2), pairs of landmarks. All
frames share one scale, as a weak-perspective camera at one distance sees them.
"""

from __future__ import annotations

import numpy as np

from input_pipeline.ground_truth import GroundTruth
from input_pipeline.landmarks import Landmarks
from input_pipeline.settings import DataSettings
from input_pipeline.skeleton import Skeleton
from input_pipeline.sources.records import existing_path
from runtime.files import read_npz


def read_sequence(settings: DataSettings, split: str) -> tuple[Landmarks, GroundTruth]:
    """All frames; nothing is held out of a sequence, so both splits are the same.

    Raises:
        ValueError: no such file or sequence, or an array of another shape.
    """
    path, name = existing_path(settings.mocap_file, "mocap_file"), settings.sequence
    arrays = read_npz(path)
    if f"{name}_X" not in arrays:
        known = sorted(k.removesuffix("_X") for k in arrays if k.endswith("_X"))
        raise ValueError(
            f"{path}: has no sequence {name!r}; set --config.data.sequence to one of "
            f"{known}"
        )
    X = arrays[f"{name}_X"]
    if X.ndim != 3 or X.shape[1] != 3 or not np.isfinite(X).all():
        raise ValueError(
            f"{path}: {name}_X has shape {X.shape}; give finite (frames, 3, landmarks)"
        )
    X = X.transpose(0, 2, 1).astype(np.float64)
    X = X - X.mean(axis=1, keepdims=True)
    frames, count, _ = X.shape
    bones = arrays.get(
        f"{name}_bones", np.stack([np.arange(count - 1)] * 2, 1) + [0, 1]
    )
    skeleton = Skeleton(
        name=name,
        joints=tuple(f"point {p}" for p in range(count)),
        edges=tuple((int(a), int(b)) for a, b in bones),
    )
    half_side = settings.padding * np.abs(X[..., :2]).max()
    landmarks = Landmarks(
        skeleton=skeleton,
        sample_ids=np.arange(frames, dtype=np.int64),
        keypoints=X[..., :2].astype(np.float32),
        labelled=np.ones((frames, count), bool),
        centre=np.zeros((frames, 2), np.float32),
        half_side=np.full(frames, half_side, np.float32),
        names=tuple(f"{name} frame {frame}" for frame in range(frames)),
    )
    unknown = np.full(frames, ""), np.full(frames, -1)
    return landmarks, GroundTruth(landmarks.sample_ids, X.astype(np.float32), *unknown)
