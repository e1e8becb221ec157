"""Writes a data set of drawn animals as anyone's own would be: pictures and COCO JSON.

    python -m input_pipeline.synthetic.animal_dataset animals --num=2000 --hidden=0.3

leaves in ``animals``: ``images_train/``, ``images_val/``, ``train.json``, ``val.json``
(COCO keypoints; landmarks that are hidden are unlabelled), and for evaluation alone
``gt3d_train.npz``, ``gt3d_val.npz``.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from input_pipeline.synthetic.animal import (
    JOINTS,
    SKELETON,
    SPLITS,
    AnimalSample,
    draw_animal,
)


def write_animals(
    folder: str | Path,
    *,
    num_train: int,
    num_val: int,
    size: int = 192,
    hidden: float = 0.3,
    seed: int = 0,
    workers: int = 0,
) -> None:
    """Draws both splits into ``folder``.

    Args:
        folder: where to write; made if need be, must not hold a data set yet.
        num_train: pictures of the training split.
        num_val: pictures of the validation split, of other animals.
        size: side of the pictures in pixels.
        hidden: share of the landmarks left unlabelled: those the body hides, and
            others at random up to this share.
        seed: of everything.
        workers: processes that draw; 0 draws in this one.

    Raises:
        ValueError: a share outside 0..0.9, no pictures, a folder that is in use.
    """
    folder = Path(folder)
    if not 0.0 <= hidden <= 0.9:
        raise ValueError(f"hidden={hidden} must be a share in 0..0.9")
    if num_train < 1 or num_val < 1:
        raise ValueError(f"{num_train} + {num_val} pictures: both must be at least 1")
    if any((folder / f"{split}.json").exists() for split in SPLITS):
        raise ValueError(f"{folder} holds a data set already; choose another folder")
    for split, count in (("train", num_train), ("val", num_val)):
        images = folder / f"images_{split}"
        images.mkdir(parents=True, exist_ok=True)
        draw = functools.partial(
            _draw_into, images=images, split=split, seed=seed, size=size
        )
        samples = _map(draw, count, workers)
        labelled = _labelled(samples, hidden, np.random.default_rng((seed, count)))
        _write_truth(folder / f"gt3d_{split}.npz", samples)
        # Last: where there is a JSON, the split is whole.
        record = _coco(samples, labelled, size)
        (folder / f"{split}.json").write_text(json.dumps(record))


def _draw_into(
    index: int, *, images: Path, split: str, seed: int, size: int
) -> AnimalSample:
    sample = draw_animal(index, split=split, seed=seed, size=size)
    picture = Image.fromarray(sample.image)
    picture.save(images / f"{index:06d}.jpg", quality=92)
    return sample


def _map(draw, count: int, workers: int) -> list[AnimalSample]:
    if workers == 0:
        return [draw(i) for i in range(count)]
    # A fork would copy the locks of other libraries' threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        return list(pool.map(draw, range(count), chunksize=32))


def _labelled(
    samples: Sequence[AnimalSample], hidden: float, rng: np.random.Generator
) -> np.ndarray:
    """(N, 23) bool: what an annotator would have marked."""
    seen = np.stack([s.occlusion for s in samples]) == 2
    surplus = seen.mean() - (1.0 - hidden)
    if hidden == 0.0:
        return np.ones_like(seen)
    if surplus > 0:
        seen &= rng.random(seen.shape) >= surplus / seen.mean()
    return seen


def _coco(samples: Sequence[AnimalSample], labelled: np.ndarray, size: int) -> dict:
    annotations = []
    for i, (sample, known) in enumerate(zip(samples, labelled, strict=True)):
        x, y = sample.keypoints.min(0)
        width, height = sample.keypoints.max(0) - (x, y)
        triples = [
            (round(float(u), 2), round(float(v), 2), 2) if k else (0, 0, 0)
            for (u, v), k in zip(sample.keypoints, known, strict=True)
        ]
        annotations.append(
            {
                "id": i + 1,
                "image_id": i + 1,
                "category_id": 1,
                "bbox": [round(float(v), 2) for v in (x, y, width, height)],
                "area": round(float(width * height), 2),
                "iscrowd": 0,
                "num_keypoints": int(known.sum()),
                "keypoints": [value for triple in triples for value in triple],
            }
        )
    return {
        "images": [
            {"id": i + 1, "file_name": f"{i:06d}.jpg", "width": size, "height": size}
            for i in range(len(samples))
        ],
        "annotations": annotations,
        "categories": [
            {
                "id": 1,
                "name": "animal",
                "keypoints": list(JOINTS),
                "skeleton": [[a + 1, b + 1] for a, b in SKELETON.edges],
            }
        ],
    }


def _write_truth(path: Path, samples: Sequence[AnimalSample]) -> None:
    np.savez_compressed(
        path,
        sample_ids=np.arange(1, len(samples) + 1),
        positions_mm=np.stack([s.positions_mm for s in samples]),
        action=np.array([s.action for s in samples]),
        subject=np.array([s.subject for s in samples]),
        joint_names=np.array(JOINTS),
    )


def main() -> None:
    """The command line of :func:`write_animals`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--num", type=int, default=2000, help="training pictures")
    parser.add_argument("--num-val", type=int, default=200, help="validation pictures")
    parser.add_argument("--size", type=int, default=192, help="pixels")
    parser.add_argument("--hidden", type=float, default=0.3, help="share unlabelled")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="processes")
    given = parser.parse_args()
    try:
        write_animals(
            given.folder,
            num_train=given.num,
            num_val=given.num_val,
            size=given.size,
            hidden=given.hidden,
            seed=given.seed,
            workers=given.workers,
        )
    except ValueError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
