"""``--stage=check``: the contents and the problems of a data set, before training.

Prints the report and writes ``check/check.json``, ``check/sheet.png`` and, if there is
something to show, ``check/sheet_suspects.png`` and ``check/depth_sign.png``.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from input_pipeline import crops
from input_pipeline.checks.problems import Problem
from input_pipeline.checks.validate import (
    Report,
    left_out,
    problem_lines,
    skeleton_lines,
    validate,
)
from input_pipeline.dataset import Dataset, open_dataset
from input_pipeline.decoding import Upright, as_rgb, open_header
from input_pipeline.formats.annotations import Labels
from input_pipeline.formats.pictures import check_picture
from input_pipeline.pictures import cut_patch
from input_pipeline.settings import DataSettings
from input_pipeline.skeleton import H36M_17, Skeleton
from input_pipeline.sources.rendering import render_jpeg
from nrsfm_jax.depth_sign import telling_sample
from runtime.devices import fitting_batch
from runtime.files import own_outputs, write_json
from view.overlay import contact_sheet, depth_readings, draw_skeleton, with_caption

CELL = 192  # side of a crop in the sheets, pixels
SHOWN = 24  # samples of the sheet
SUSPECTS = 48


def run(config: Any, workdir: Path, data: Dataset | None = None) -> bool:
    """Checks the data of ``config``, or as opened; True where training would start."""
    folder = workdir / "check"
    data = data or open_dataset(config.data)
    report = validate(data)
    batches = _check_batches(config, report.samples.get("train", 0))
    report = dataclasses.replace(report, problems=(*report.problems, *batches))
    show(report)
    names = ("sheet.png", "sheet_suspects.png", "depth_sign.png")
    with own_outputs(folder, names, about="check.json") as temporary:
        write_json(temporary / "check.json", report.to_dict())
        try:
            _sheets(data.settings, report, temporary)
            _draw_depth(data, workdir, temporary)
        except ValueError as error:
            print(f"no further picture: {error}")
        written = sorted(path.name for path in temporary.iterdir())
    print("written: " + ", ".join(str(folder / name) for name in written))
    print(report.verdict)
    return report.ok


def _check_batches(config: Any, count: int) -> Iterator[Problem]:
    """What training says of its batch sizes, by the function that it uses."""
    trained = ("teacher", "student") if config.student.modes else ("teacher",)
    for part in trained if count else ():
        field = f"config.{part}.batch_size"
        try:
            _, note = fitting_batch(field, config[part].batch_size, count)
        except ValueError as error:
            yield Problem("bad setting", field, "", str(error), "correct it")
        else:
            if note:
                remedy = "nothing to do, unless samples are missing"
                yield Problem("small data set", field, "", note, remedy, fatal=False)


def show(report: Report, console: Console | None = None) -> None:
    """Prints counts, joints, sizes and every problem."""
    # Paths are not broken in the middle, whatever the width.
    console = console or Console(soft_wrap=True, highlight=False)
    for line in report.tracked.lines() if report.tracked else ():
        console.print(line, markup=False)
    for split, count in report.samples.items():
        found = report.surveys.get(split)
        console.print(
            f"{split}: {count} samples{left_out(report.skipped.get(split, {}))}"
        )
        if found is not None:
            console.print(
                f"  {found.complete} with all joints, in {found.pictures} pictures"
                + _range_text("pictures", found.picture_px)
                + _range_text("bodies", found.body_px)
            )
    if report.surveys:
        scores = report.tracked.scores if report.tracked else {}
        heads = "joint", *report.surveys, *(["median score"] if scores else [])
        table = Table(*heads, title="labelled", title_justify="left")
        surveys = report.surveys.values()
        for joint in dict.fromkeys(j for found in surveys for j in found.joints):
            counts = [(s.joints.get(joint, 0), max(s.persons, 1)) for s in surveys]
            row = [f"{n} ({n / persons:.0%})" for n, persons in counts]
            row += [f"{scores[joint]:.2f}"] if scores else []
            table.add_row(joint, *row)
        console.print(table)
    for line in _skeleton_lines(report):
        console.print(line, markup=False)
    for line in problem_lines(report.problems):
        console.print(line, markup=False)


def _skeleton_lines(report: Report) -> list[str]:
    if index := report.splits.get("train"):
        return skeleton_lines(index.skeleton, index.pixel_centre)
    return skeleton_lines(report.tracked.skeleton) if report.tracked else []


def _range_text(what: str, three: Sequence[float]) -> str:
    if not three:
        return ""
    least, median, largest = three
    return f"; {what} {least:.0f} to {largest:.0f} px, median {median:.0f}"


# --- pictures ----------------------------------------------------------------------


def _sheets(settings: DataSettings, report: Report, folder: Path) -> None:
    """The sheets of crops; none for landmarks without pictures."""
    tiles = []
    if settings.name == "mannequin" and report.ok:
        tiles += _rendered_tiles(settings, min(SHOWN, report.samples["train"]))
    for split, index in report.splits.items():
        count = max(SHOWN // len(report.splits), 4)
        rows = np.unique(np.linspace(0, len(index.persons) - 1, count).astype(int))
        tiles += _tiles(settings, index, rows.tolist(), split)
    suspects = []
    for split, index in report.splits.items():
        rows = [swap.row for swap in report.surveys[split].swaps[:SUSPECTS]]
        suspects += _tiles(settings, index, rows, split)
    sheets = {"sheet.png": tiles, "sheet_suspects.png": suspects[:SUSPECTS]}
    for name, shown in sheets.items():
        if shown:
            Image.fromarray(contact_sheet(shown)).save(folder / name)


def _tiles(
    settings: DataSettings, index: Labels, rows: Sequence[int], split: str
) -> list[np.ndarray]:
    """Crops with skeletons; a picture that does not decode is left out."""
    tiles = []
    for row in rows:
        person = index.persons[row]
        seen: list[Problem] = []  # reported before
        how = person.file, index.skeleton
        picture = check_picture(person, *how, report=seen.append)
        if picture is not None:
            box = person.box if settings.box == "annotation" else None
            marks = person.keypoints, person.labelled, box
            caption = f"{split} {person.sample_id}: {person.name}"
            image = as_rgb(picture.image)
            tiles.append(_tile(settings, image, *marks, index.skeleton, caption))
    return tiles


def _rendered_tiles(settings: DataSettings, count: int) -> list[np.ndarray]:
    """The first mannequins, as training will see them."""
    tiles = []
    for i in range(count):
        encoded, sample = render_jpeg(i, settings=settings, split="train")
        image = open_header(io.BytesIO(encoded))
        marks = sample.keypoints, np.ones(len(sample.keypoints), bool), None
        tiles.append(_tile(settings, image, *marks, H36M_17, f"train {i}"))
    return tiles


def _tile(
    settings: DataSettings,
    image: Image.Image,
    keypoints: np.ndarray,
    labelled: np.ndarray,
    box: np.ndarray | None,
    skeleton: Skeleton,
    caption: str,
) -> np.ndarray:
    """The crop of one body as training cuts it, with skeleton and caption."""
    around = crops.landmark_boxes(keypoints[None], labelled[None])
    boxes = around if box is None else box[None]
    centre, half = crops.square_crops(boxes, padding=settings.padding)
    patch = cut_patch(Upright(image), centre[0], float(half[0]), CELL)
    points = (crops.pixels_to_patch(keypoints, centre[0], half[0]) + 1) * CELL / 2
    drawn = draw_skeleton(patch, points, skeleton, labelled=labelled)
    return with_caption(drawn, caption)


def _draw_depth(data: Dataset, workdir: Path, folder: Path) -> None:
    """One training sample in both readings of its depth, where a teacher is trained."""
    if not (workdir / "teacher" / "teacher.json").exists():
        return
    sample = telling_sample(workdir / "teacher")
    landmarks, skeleton = data.landmarks("train"), data.skeleton
    row = int(np.flatnonzero(landmarks.sample_ids == sample.sample_id)[0])
    picture = np.full((2 * CELL, 2 * CELL, 3), 235, np.uint8)
    if data.has_pictures:
        how: dict[str, Any] = {"batch_size": 1, "image_size": len(picture), "seed": 0}
        batch = next(data.pictures("train", train=False, rows=[row], **how))
        picture = batch["image"][0]
    points = (landmarks.patch[row] + 1) * len(picture) / 2
    crop = draw_skeleton(picture, points, skeleton, labelled=landmarks.labelled[row])
    name = landmarks.name(row)
    caption = f"sample {sample.sample_id}: {name}"
    image = depth_readings(crop, sample.pose, skeleton, caption=caption)
    path = folder / "depth_sign.png"
    Image.fromarray(image).save(path)
    nearer, farther = (skeleton.joints[j] for j in sample.joints)
    print(
        f"\nWhich of the two in {workdir / 'check' / path.name} is right? 2D cannot "
        f"tell. The teacher has {sample.depth_sign:+d}; with 1, {nearer} is nearer "
        f"than {farther} in {name}. Set --config.teacher.depth_sign=1 or =-1, or say "
        "what you see:\n"
        f"  --config.teacher.depth_sign_cue="
        f'"{nearer} is nearer than {farther} in sample {sample.sample_id}"\n'
    )
