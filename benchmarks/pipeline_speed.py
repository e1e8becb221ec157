"""Pictures a second of the input pipeline, beside PyTorch's DataLoader with OpenCV.

    python -m benchmarks.pipeline_speed [--threads=1] [--rounds=8] [--quick]

Ours is ``image_batches`` as a student's training calls it: the picture decoded,
cropped, turned, scaled, mirrored and coloured into a batch of uint8, with its
landmarks. The peer does the same to the same JPEG files, as is customary: the whole
picture decoded, one ``cv2.warpAffine`` for crop and augmentation, a table for the
colours, collated by a DataLoader. It does not smooth what it shrinks; ``smoothed`` does
(area averages first), as ours always does. Crops are those of ``mh_mocap`` (256 px
pictures) and of the same pictures enlarged to 1000 px.

All methods run in one process on the same cores, in turns: a round gives each of them
one measurement, a fresh iterator of which the first batch is not counted. Figures are
medians with the quartiles; ``CPU`` is the processor time of all threads of the process,
which other programs disturb less than the clock; ``against ours`` compares it round by
round. With more than one thread the peer has as many worker processes, whose processor
time is not seen. Where PyTorch is not installed the peer's rows are left out.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.common import DATA, Row, finish, median_row, parse_args
from benchmarks.pipeline_speed_peer import Pictures
from benchmarks.teacher_speed import limit_threads
from configs import default
from input_pipeline.crops import pixels_to_patch
from input_pipeline.landmarks import read_landmarks
from input_pipeline.pipeline import image_batches
from input_pipeline.sources.prepared import ensure_prepared

NAME = "pipeline_speed"
BATCH = 32
LARGE = 1000  # px, and so many pictures of it
LARGE_COUNT = 256
Batches = Callable[[int], Iterator[Any]]


def mh_mocap(data_dir: str) -> dict[str, Any]:
    """``config.data`` of the pictures at hand."""
    folder = (DATA / "mh_mocap").absolute()
    if not folder.is_dir():
        raise SystemExit(f"{folder} does not exist; set NRSFM_DATA to the folder of it")
    return {
        "name": "coco",
        "data_dir": data_dir,
        "annotations": str(folder / "person_keypoints_train.json"),
        "images": str(folder / "images_train"),
        "num_val": 0,
    }


def enlarged(data: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The first pictures at ``LARGE`` px, with landmarks to match."""
    record = json.loads(Path(data["annotations"]).read_text("utf-8"))
    images = record["images"][:LARGE_COUNT]
    kept = {image["id"]: LARGE / image["width"] for image in images}
    persons = [a for a in record["annotations"] if a["image_id"] in kept]
    (folder / "pictures").mkdir()
    for image in images:
        name = image["file_name"]
        with Image.open(Path(data["images"]) / name) as picture:
            large = picture.resize((LARGE, LARGE), Image.Resampling.BICUBIC)
        large.save(folder / "pictures" / name, quality=90)
        image.update(width=LARGE, height=LARGE)
    for person in persons:
        factor = kept[person["image_id"]]
        person["bbox"] = [factor * x for x in person["bbox"]]
        flags = [1 if i % 3 == 2 else factor for i in range(len(person["keypoints"]))]
        points = zip(flags, person["keypoints"], strict=True)
        person["keypoints"] = [f * x for f, x in points]
    file = folder / "large.json"
    file.write_text(json.dumps(record | {"images": images, "annotations": persons}))
    return data | {"annotations": str(file), "images": str(folder / "pictures")}


def augmentation() -> dict[str, float]:
    """That of the default student."""
    config: Any = default.get_config()
    return dict(config.student.augment.items())


def our_batches(data: dict[str, Any], image_size: int, threads: int) -> Batches:
    """Batches of a training from a step on."""

    def batches(step: int) -> Iterator[Any]:
        return image_batches(
            data,
            "train",
            batch_size=BATCH,
            image_size=image_size,
            seed=0,
            train=True,
            start_step=step,
            augment=augmentation(),
            num_threads=threads,
        )

    return batches


def peer_batches(
    data: dict[str, Any], image_size: int, threads: int, *, smooth: bool
) -> Batches:
    """Shuffled batches of a DataLoader; its own process works where one is enough."""
    import torch
    from torch.utils.data import DataLoader

    landmarks = read_landmarks(data, "train")
    dataset: Any = Pictures(
        files=[str(Path(data["images"]) / name) for name in file_names(data)],
        patch=pixels_to_patch(
            landmarks.keypoints, landmarks.centre, landmarks.half_side
        ),
        labelled=landmarks.labelled,
        centre=landmarks.centre,
        half_side=landmarks.half_side,
        permutation=landmarks.skeleton.flip_permutation,
        size=image_size,
        augment=augmentation(),
        smooth=smooth,
    )
    workers = threads if threads > 1 else 0

    def batches(step: int) -> Iterator[Any]:
        loader = DataLoader(
            dataset,
            batch_size=BATCH,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            multiprocessing_context="forkserver" if workers else None,
            generator=torch.Generator().manual_seed(step),
        )
        while True:
            yield from loader

    return batches


def file_names(data: dict[str, Any]) -> list[str]:
    """The picture of each sample, in the order of its landmarks."""
    record = json.loads(Path(data["annotations"]).read_text("utf-8"))
    names = {image["id"]: image["file_name"] for image in record["images"]}
    table = np.load(ensure_prepared_table(data))
    return [names[int(i)] for i in table["image_ids"]]


def ensure_prepared_table(data: dict[str, Any]) -> Path:
    """The landmark table of the prepared training split."""
    from input_pipeline.settings import data_settings

    return ensure_prepared(data_settings(data)).landmarks_file("train")


def measure(batches: Batches, step: int, count: int) -> tuple[float, float]:
    """Seconds on the clock and of the processor for ``count`` batches."""
    iterator = batches(step)
    next(iterator)
    clock, processor = time.perf_counter(), time.process_time()
    for _ in range(count):
        next(iterator)
    spent = time.perf_counter() - clock, time.process_time() - processor
    close: Any = getattr(iterator, "close", None)
    if close:
        close()
    return spent


def in_turns(
    candidates: dict[str, Batches], *, rounds: int, count: int
) -> dict[str, np.ndarray]:
    """(rounds, 2) clock and processor seconds; a random order in every round."""
    rng = np.random.default_rng(0)
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in candidates}
    for batches in candidates.values():
        measure(batches, 0, 1)  # what is done once: files prepared, libraries loaded
    for turn in range(rounds):
        for name in rng.permutation(list(candidates)):
            spent[name].append(measure(candidates[name], turn * count, count))
    return {name: np.array(values) for name, values in spent.items()}


def case_rows(
    case: str,
    data: dict[str, Any],
    image_size: int,
    *,
    threads: int,
    rounds: int,
    count: int,
) -> list[Row]:
    """Every method on one kind of picture and one size of patch."""
    candidates = {"ours": our_batches(data, image_size, threads)}
    if importlib.util.find_spec("torch"):
        for name, smooth in (("DataLoader", False), ("DataLoader, smoothed", True)):
            candidates[name] = peer_batches(data, image_size, threads, smooth=smooth)
    spent = in_turns(candidates, rounds=rounds, count=count)
    pictures = count * BATCH
    rows = []
    for name, seconds in spent.items():
        row = functools.partial(median_row, NAME, f"{case} to {image_size} px", name)
        clock, processor = seconds.T
        rows.append(row("speed", "pictures/s/core", pictures / clock / threads))
        compared = clock / spent["ours"][:, 0]
        if threads == 1:
            rows.append(row("CPU", "ms/picture", 1e3 * processor / pictures))
            compared = processor / spent["ours"][:, 1]
        rows.append(row("time against ours", "x", compared))
    return rows


def main() -> None:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--threads", type=int, default=1)
        parser.add_argument("--rounds", type=int, default=8)

    args = parse_args(__doc__, add)
    limit_threads(args.threads)
    if not importlib.util.find_spec("torch"):
        print("torch is not installed: DataLoader is not timed")
    rounds, count = (4, 8) if args.quick else (args.rounds, 24)
    with tempfile.TemporaryDirectory() as folder:
        small = mh_mocap(folder)
        large = enlarged(small, Path(folder))
        rows = []
        for case, data, size in (
            ("256 px", small, 256),
            ("256 px", small, 64),
            (f"{LARGE} px", large, 256),
        ):
            rows += case_rows(
                case, data, size, threads=args.threads, rounds=rounds, count=count
            )
    finish(rows, args.json, spread="median [quartiles]")


if __name__ == "__main__":
    main()
