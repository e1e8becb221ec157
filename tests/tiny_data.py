"""Tiny data sets made in a test's own folder."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from input_pipeline.skeleton import H36M_17

JOINTS = ["root", "head", "left_hand", "right_hand", "left_foot", "right_foot"]
SKELETON = [[1, 2], [1, 3], [1, 4], [1, 5], [1, 6]]
SIZE = 64


def coco_record(count: int = 12, *, seed: int = 0) -> dict[str, Any]:
    """``count`` pictures of SIZE pixels with one person each."""
    rng = np.random.default_rng(seed)
    images, annotations = [], []
    for i in range(count):
        points = rng.uniform(8, SIZE - 8, (len(JOINTS), 2)).round(2)
        low, size = points.min(0), np.ptp(points, axis=0)
        keypoints = [float(v) for x, y in points for v in (x, y, 2)]
        name = f"{i:03d}.png"
        images.append({"id": 100 + i, "file_name": name, "width": SIZE, "height": SIZE})
        annotations.append(
            {
                "id": 500 + i,
                "image_id": 100 + i,
                "category_id": 1,
                "keypoints": keypoints,
                "num_keypoints": len(JOINTS),
                "bbox": [*low.tolist(), *size.tolist()],
            }
        )
    category = {"id": 1, "name": "toy", "keypoints": JOINTS, "skeleton": SKELETON}
    return {"images": images, "annotations": annotations, "categories": [category]}


def dot_picture(keypoints: list[float], *, size: int = SIZE) -> np.ndarray:
    """Black with a soft white dot of 2 pixels' sigma at the first landmark."""
    y, x = np.mgrid[:size, :size] + 0.5
    square = (x - keypoints[0]) ** 2 + (y - keypoints[1]) ** 2
    dot = 255 * np.exp(-square / (2 * 2.0**2))
    return np.repeat(dot.round().astype(np.uint8)[..., None], 3, axis=2)


def write_coco(
    folder: Path, record: dict[str, Any], *, name: str = "train"
) -> dict[str, Any]:
    """Writes JSON and pictures; returns what ``config.data`` needs to read them."""
    images = folder / f"images_{name}"
    images.mkdir(parents=True, exist_ok=True)
    by_image = {a.get("image_id"): a for a in record["annotations"]}
    for image in record["images"]:
        person = by_image.get(image["id"])
        keypoints = person["keypoints"] if person else [SIZE / 2, SIZE / 2, 2]
        path = images / image["file_name"]
        Image.fromarray(dot_picture(keypoints[:2])).save(path)
    file = folder / f"{name}.json"
    file.write_text(json.dumps(record))
    suffix = "" if name == "train" else f"_{name}"
    return {
        "name": "coco",
        "data_dir": str(folder / "prepared"),
        f"annotations{suffix}": str(file),
        f"images{suffix}": str(images),
    }


def changed(record: dict[str, Any], annotation: int, **fields: Any) -> dict[str, Any]:
    """A copy of a record with some fields of one annotation changed."""
    copied = copy.deepcopy(record)
    copied["annotations"][annotation].update(fields)
    return copied


def write_motion(path: Path, *, frames: int = 60, subjects: int = 6) -> str:
    """A motion file of random upright figures; returns its path as text."""
    rng = np.random.default_rng(3)
    names = H36M_17.joints
    positions = rng.normal(0, 150, (frames, 17, 3)).astype(np.float32)
    height = {"Ankle": 80, "Knee": 500, "Hip": 950, "Head": 1700}
    for j, name in enumerate(names):
        rises = [h for word, h in height.items() if name.endswith(word)]
        positions[:, j, 1] += rises[0] if rises else 1200
    arrays = {
        "positions": positions,
        "joint_names": np.array(names),
        "subject": np.arange(frames) % subjects + 1,
        "action": np.array([f"action {i % 3}" for i in range(frames)]),
    }
    with open(path, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    return str(path)


def write_video(path, count=6, *, half=False):
    """Frames of a grey that grows by 30; or with a white left half."""
    av = pytest.importorskip("av", reason="PyAV is not installed")
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(count):
            grey = np.full((48, 64, 3), 20 + 30 * i, np.uint8)
            if half:
                grey[:, :32] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey)))
        container.mux(stream.encode())
    return path
