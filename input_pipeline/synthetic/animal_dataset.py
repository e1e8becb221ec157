"""Writes a data set of drawn animals as anyone's own would be: pictures and COCO JSON.

    python -m input_pipeline.synthetic.animal_dataset animals --num=2000 --hidden=0.3

leaves in ``animals``: ``images_train/``, ``images_val/``, ``train.json``, ``val.json``
(COCO keypoints; landmarks that are hidden are unlabelled), and for evaluation alone
``gt3d_train.npz``, ``gt3d_val.npz``.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from input_pipeline.sources.rendering import map_on_cores
from input_pipeline.synthetic.animal import (
    JOINTS,
    SKELETON,
    AnimalSample,
    draw_animal,
)
from input_pipeline.synthetic.sample import SPLITS
from runtime.files import write_npz


def write_animals(
    folder: str | Path,
    *,
    num_train: int,
    num_val: int,
    size: int = 192,
    hidden: float = 0.3,
    seed: int = 0,
    workers: int = 1,
) -> None:
    """Draws both splits into ``folder``, which must not hold a data set yet.

    Args:
        folder: where to write; made if need be.
        num_train: pictures of the training split.
        num_val: pictures of the validation split, of other animals.
        size: side of the pictures in pixels.
        hidden: share of the landmarks left unlabelled: those the body hides, and
            others at random up to this share.
        seed: of everything.
        workers: processes that draw, see :func:`.map_on_cores`.

    Raises:
        ValueError: a share outside 0..0.9, no pictures, a folder that is in use.
    """
    folder = Path(folder)
    if not 0.0 <= hidden <= 0.9:
        raise ValueError(f"hidden={hidden} must be a share in 0..0.9")
    if size < 8 or seed < 0:
        raise ValueError(f"size={size} must be at least 8, seed={seed} at least 0")
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
        samples = list(map_on_cores(draw, count, workers=workers))
        labelled = ~np.stack([sample.hidden for sample in samples])
        surplus = labelled.mean() - (1.0 - hidden)
        if hidden == 0.0:
            labelled[:] = True
        elif surplus > 0:
            rng = np.random.default_rng((seed, count))
            labelled &= rng.random(labelled.shape) >= surplus / labelled.mean()
        write_npz(folder / f"gt3d_{split}.npz", **_truth(samples))
        # Last: where there is a JSON, the split is whole.
        record = _coco(samples, labelled, size)
        (folder / f"{split}.json").write_text(json.dumps(record))


def _truth(samples: Sequence[AnimalSample]) -> dict[str, np.ndarray]:
    names = ("positions_mm", "action", "subject")
    arrays = {name: np.array([getattr(s, name) for s in samples]) for name in names}
    ids = np.arange(1, len(samples) + 1)
    return arrays | {"sample_ids": ids, "joint_names": np.array(JOINTS)}


def _draw_into(
    index: int, *, images: Path, split: str, seed: int, size: int
) -> AnimalSample:
    sample = draw_animal(index, split=split, seed=seed, size=size)
    Image.fromarray(sample.image).save(images / f"{index:06d}.jpg", quality=92)
    return dataclasses.replace(sample, image=np.zeros((0, 0, 3), np.uint8))


def _coco(samples: Sequence[AnimalSample], labelled: np.ndarray, size: int) -> dict:
    annotations, images = [], []
    for i, (sample, known) in enumerate(zip(samples, labelled, strict=True)):
        points = sample.keypoints.astype(float).round(2)
        low, side = points.min(0), np.ptp(points, axis=0).round(2)
        triples = np.where(known[:, None], np.insert(points, 2, 2, axis=1), 0)
        name = f"{i:06d}.jpg"
        images.append({"id": i + 1, "file_name": name, "width": size, "height": size})
        ids = {"id": i + 1, "image_id": i + 1, "category_id": 1, "iscrowd": 0}
        body = {"bbox": [*low, *side], "area": side[0] * side[1]}
        points = {
            "num_keypoints": int(known.sum()),
            "keypoints": triples.ravel().tolist(),
        }
        annotations.append(ids | body | points)
    bones = [[a + 1, b + 1] for a, b in SKELETON.edges]
    category = {"id": 1, "name": "animal", "keypoints": JOINTS, "skeleton": bones}
    return {"images": images, "annotations": annotations, "categories": [category]}


def main() -> None:
    """The command line of :func:`write_animals`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--num", type=int, default=2000, help="training pictures")
    parser.add_argument("--num-val", type=int, default=200, help="validation pictures")
    parser.add_argument("--size", type=int, default=192, help="pixels")
    parser.add_argument("--hidden", type=float, default=0.3, help="share unlabelled")
    parser.add_argument("--seed", type=int, default=0)
    given = vars(parser.parse_args())
    counts = {"num_train": given.pop("num"), "num_val": given.pop("num_val")}
    folder = given.pop("folder")
    print("drawing {num_train} + {num_val} pictures".format(**counts), flush=True)
    try:
        write_animals(folder, **counts, **given, workers=0)
    except ValueError as error:
        parser.exit(2, f"{error}\n")
    print(f"written: {folder / 'train.json'}, {folder / 'val.json'}")


if __name__ == "__main__":
    main()
