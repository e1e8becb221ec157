"""``--stage=check``: what a data set holds and what is wrong with it, before training.

Prints the report and writes ``check/check.json``, ``check/sheet.png`` and, where there
is something to look at, ``check/sheet_suspects.png`` and ``check/depth_sign.png``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from input_pipeline import crops
from input_pipeline.checks.validate import Report, left_out, problem_lines, validate
from input_pipeline.formats.annotations import Index
from input_pipeline.formats.pictures import check_picture
from input_pipeline.landmarks import Landmarks, read_landmarks
from input_pipeline.pictures import as_rgb
from input_pipeline.settings import DataSettings, data_settings
from input_pipeline.skeleton import H36M_17
from input_pipeline.synthetic.sample import render_sample
from nrsfm_jax.depth_sign import telling_sample
from runtime.files import write_json
from view.sheet import CELL, depth_readings, labelled_tile, tile_sheet

SHOWN = 24  # samples of the sheet
SUSPECTS = 48


def run(config: Any, workdir: Path) -> bool:
    """Checks the data of ``config``; True where training would start."""
    folder = workdir / "check"
    folder.mkdir(parents=True, exist_ok=True)
    report = validate(config.data, batch_size=config.student.batch_size)
    show(report)
    write_json(folder / "check.json", report.to_dict())
    written = [folder / "check.json"]
    try:
        written += _sheets(data_settings(config.data), report, folder)
        written += _draw_depth(config, workdir, report, folder / "depth_sign.png")
    except ValueError as error:
        print(f"no further picture: {error}")
    print("written: " + ", ".join(str(path) for path in written))
    print(report.verdict)
    return report.ok


def show(report: Report, console: Console | None = None) -> None:
    """Prints counts, joints, sizes and every problem."""
    # Paths are not broken in the middle, whatever the width.
    console = console or Console(soft_wrap=True, highlight=False)
    for split, count in report.samples.items():
        found = report.surveys.get(split)
        console.print(
            f"{split}: {count} samples{left_out(report.skipped.get(split, {}))}"
        )
        if found is not None:
            text = f"  {found.complete} with all joints, in {found.pictures} pictures"
            console.print(
                text
                + _range_text("pictures", found.picture_px)
                + _range_text("bodies", found.body_px)
            )
    if report.surveys:
        console.print(_joint_table(report))
    for line in problem_lines(report.problems):
        console.print(line, markup=False)


def _range_text(what: str, three: Sequence[float]) -> str:
    if not three:
        return ""
    least, median, largest = three
    return f"; {what} {least:.0f} to {largest:.0f} px, median {median:.0f}"


def _joint_table(report: Report) -> Table:
    """Joint by joint, the samples of each split in which it is labelled."""
    table = Table("joint", *report.surveys, title="labelled", title_justify="left")
    joints = dict.fromkeys(j for found in report.surveys.values() for j in found.joints)
    for joint in joints:
        cells = []
        for found in report.surveys.values():
            count = found.joints.get(joint, 0)
            cells.append(f"{count} ({count / max(found.persons, 1):.0%})")
        table.add_row(joint, *cells)
    return table


def _sheets(settings: DataSettings, report: Report, folder: Path) -> list[Path]:
    """The sheets of crops; none for landmarks without pictures."""
    tiles = []
    if settings.name == "mannequin" and not settings.mocap_file and report.ok:
        tiles += _mannequin_tiles(settings)
    for split, index in report.splits.items():
        count = max(SHOWN // len(report.splits), 4)
        rows = np.unique(np.linspace(0, len(index.persons) - 1, count).astype(int))
        tiles += _tiles(settings, index, rows.tolist(), split)
    written = [_save(tiles, folder / "sheet.png")] if tiles else []
    suspects = []
    for split, found in report.surveys.items():
        rows = [swap.row for swap in found.swaps[:SUSPECTS]]
        suspects += _tiles(settings, report.splits[split], rows, split)
    if suspects:
        written.append(_save(suspects[:SUSPECTS], folder / "sheet_suspects.png"))
    return written


def _draw_depth(config: Any, workdir: Path, report: Report, path: Path) -> list[Path]:
    """One training sample in both readings of its depth, where a teacher is trained."""
    if not (workdir / "teacher" / "teacher.json").exists():
        return []
    settings = data_settings(config.data)
    sample = telling_sample(workdir / "teacher")
    landmarks = read_landmarks(settings, "train")
    row = int(np.flatnonzero(landmarks.sample_ids == sample.sample_id)[0])
    crop = _crop(settings, report, landmarks, row)
    caption = f"sample {sample.sample_id}: {landmarks.names[row]}"
    image = depth_readings(crop, sample.pose, landmarks.skeleton, caption=caption)
    name = landmarks.names[row]
    nearer, farther = (landmarks.skeleton.joints[j] for j in sample.joints)
    print(
        f"\nWhich of the two in {path} is right? 2D cannot tell. The teacher has "
        f"{sample.depth_sign:+d}; with 1, {nearer} is nearer than {farther} in "
        f"{name}. Set --config.teacher.depth_sign=1 or =-1, or say what you see:\n"
        f"  --config.teacher.depth_sign_cue="
        f'"{nearer} is nearer than {farther} in sample {sample.sample_id}"\n'
    )
    return [_save_image(image, path)]


def _crop(
    settings: DataSettings, report: Report, landmarks: Landmarks, row: int
) -> np.ndarray:
    """The picture of a training sample with its skeleton; grey where it has none."""
    size = 2 * CELL
    centre, half = landmarks.centre[row], float(landmarks.half_side[row])
    picture = Image.new("RGB", (1, 1), (235, 235, 235))
    if "train" in report.splits:
        ids = [person.sample_id for person in report.splits["train"].persons]
        person = report.splits["train"].persons[ids.index(landmarks.sample_ids[row])]
        found = check_picture(person, person.file, report=lambda problem: None)
        picture = picture if found is None else as_rgb(found.image)
    elif settings.name == "mannequin" and not settings.mocap_file:
        picture = Image.fromarray(_render(settings, int(landmarks.sample_ids[row]))[0])
    return labelled_tile(
        picture,
        landmarks.keypoints[row],
        landmarks.labelled[row],
        landmarks.skeleton,
        centre=centre,
        half_side=half,
        caption="",
        size=size,
    )[:size]


def _save(tiles: Sequence[np.ndarray], path: Path) -> Path:
    return _save_image(tile_sheet(tiles), path)


def _save_image(image: np.ndarray, path: Path) -> Path:
    """Writes a PNG that is whole or absent."""
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.png")
    Image.fromarray(image).save(temporary)
    os.replace(temporary, path)
    return path


def _tiles(
    settings: DataSettings, index: Index, rows: Sequence[int], split: str
) -> list[np.ndarray]:
    """Crops with skeletons; a picture that does not decode is left out."""
    tiles = []
    for row in rows:
        person = index.persons[row]
        picture = check_picture(person, person.file, report=lambda problem: None)
        if picture is None:
            continue
        box = crops.landmark_boxes(person.keypoints[None], person.labelled[None])
        if settings.box == "annotation":
            box = person.box[None]
        centre, half_side = crops.square_crops(box, padding=settings.padding)
        tiles.append(
            labelled_tile(
                as_rgb(picture.image),
                person.keypoints,
                person.labelled,
                index.skeleton,
                centre=centre[0],
                half_side=float(half_side[0]),
                caption=f"{split} {person.sample_id}: {person.name}",
            )
        )
    return tiles


def _mannequin_tiles(settings: DataSettings) -> list[np.ndarray]:
    tiles = []
    half = settings.render_size / 2
    for i in range(min(SHOWN, settings.num_train)):
        image, keypoints, labelled = _render(settings, i)
        tiles.append(
            labelled_tile(
                Image.fromarray(image),
                keypoints,
                labelled,
                H36M_17,
                centre=np.full(2, half),
                half_side=half,
                caption=f"train {i}",
            )
        )
    return tiles


def _render(
    settings: DataSettings, index: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Picture, landmarks and visibility of one mannequin."""
    sample = render_sample(
        index, split="train", seed=settings.seed, size=settings.render_size
    )
    return sample.image, sample.keypoints, np.ones(len(sample.keypoints), bool)
