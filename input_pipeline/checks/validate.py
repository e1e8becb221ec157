"""Every problem of a data set in one report; ``--stage=check`` prints it.

The checks are those of the readers. Here nothing is raised: they run to the end, and
each problem names file, index, value and remedy.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from input_pipeline.checks.problems import Problem, Reporter
from input_pipeline.checks.survey import Look, Survey, note_oddities, survey
from input_pipeline.formats.annotations import Index, Person
from input_pipeline.formats.pictures import check_picture
from input_pipeline.formats.splits import read_splits
from input_pipeline.ground_truth import load_ground_truth
from input_pipeline.mixture import extra_sources_of
from input_pipeline.settings import SPLITS, DataSettings, data_settings
from input_pipeline.skeleton import H36M_17, Skeleton

T = TypeVar("T")
SHOWN = 20  # rows of one kind in the printed table


@dataclasses.dataclass(frozen=True)
class Report:
    """What :func:`validate` found.

    Args:
        problems: in the order found.
        samples: usable samples by split.
        skipped: by split, what was left out and how often.
        surveys: by split, labelled data in numbers.
        splits: by split, the usable persons.
    """

    problems: tuple[Problem, ...]
    samples: dict[str, int]
    skipped: dict[str, dict[str, int]]
    surveys: dict[str, Survey] = dataclasses.field(default_factory=dict)
    splits: dict[str, Index] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def ok(self) -> bool:
        """True where training would start."""
        return not any(problem.fatal for problem in self.problems)

    def __str__(self) -> str:
        lines = [
            f"{split}: {count} samples{left_out(self.skipped.get(split, {}))}"
            for split, count in self.samples.items()
        ]
        lines += problem_lines(self.problems)
        return "\n".join([*lines, self.verdict])

    @property
    def verdict(self) -> str:
        """The last line: how many problems, and whether training would start."""
        errors = sum(problem.fatal for problem in self.problems)
        notes = len(self.problems) - errors
        return f"{errors} errors, {notes} notes: {'ok' if self.ok else 'not ok'}"

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return {
            "ok": self.ok,
            "samples": self.samples,
            "left_out": self.skipped,
            "splits": {name: found.to_dict() for name, found in self.surveys.items()},
            "problems": [dataclasses.asdict(problem) for problem in self.problems],
        }


def left_out(skipped: Mapping[str, int]) -> str:
    """`` (left out: 3 crowd)``, or nothing."""
    parts = [f"{count} {what}" for what, count in skipped.items() if count]
    return f" (left out: {', '.join(parts)})" if parts else ""


def problem_lines(problems: Sequence[Problem]) -> list[str]:
    """Two lines a problem: level, kind and place; then value and remedy."""
    by_kind: dict[str, list[Problem]] = collections.defaultdict(list)
    for problem in problems:
        by_kind[problem.kind].append(problem)
    width = max((len(kind) for kind in by_kind), default=0)
    lines = []
    for kind, some in by_kind.items():
        for problem in some[:SHOWN]:
            level = "error" if problem.fatal else "note "
            place = ", ".join(part for part in (problem.file, problem.index) if part)
            lines.append(f"{level}  {kind:<{width}}  {place}")
            lines.append(f"{'':<{width + 9}}{problem.value}; {problem.remedy}")
        if len(some) > SHOWN:
            lines.append(f"       {kind:<{width}}  and {len(some) - SHOWN} more")
    return lines


def validate(data: Mapping[str, Any] | DataSettings, *, batch_size: int = 1) -> Report:
    """Checks a whole data set: annotations, pictures, motion, 3D files, counts.

    Args:
        data: ``config.data``.
        batch_size: the largest batch that training takes.

    Returns:
        The report; ``report.ok`` is False where training would stop.
    """
    problems: list[Problem] = []
    report = problems.append
    found = Report((), {}, {})
    settings = _attempt(lambda: data_settings(data), "bad setting", "config", report)
    if settings is not None and settings.labelled:
        splits = _attempt(
            lambda: read_splits(settings, report=report),
            "cannot be read",
            settings.annotations,
            report,
        )
        found = _check_labelled(settings, splits or {}, report)
        if "train" in found.splits:
            _check_joints(found.splits["train"], settings.annotations, report)
            _note_sides(found.splits["train"].skeleton, settings.annotations, report)
    elif settings is not None:
        found.samples.update(_check_generated(settings, report))
    if settings is not None and found.samples:
        _check_counts(settings, found.samples, batch_size, report)
        _check_extra(settings, found, report)
    return dataclasses.replace(found, problems=tuple(problems))


def _attempt(
    read: Callable[[], T], kind: str, where: str, report: Reporter
) -> T | None:
    """What ``read`` returns, or None with its ValueError reported."""
    try:
        return read()
    except ValueError as error:
        # The readers' messages are "place: what is wrong; what to do".
        value, _, remedy = str(error).removeprefix(f"{where}: ").partition("; ")
        report(Problem(kind, where, "", value, remedy or "correct it"))
        return None


def _check_counts(
    settings: DataSettings,
    samples: Mapping[str, int],
    batch_size: int,
    report: Reporter,
) -> None:
    where = settings.annotations or f"config.data ({settings.name})"
    count = samples.get("train", 0)
    if count < batch_size:
        remedy = f"add data or set the batch sizes to at most {count}"
        value = f"{count} samples for a batch of {batch_size}"
        report(Problem("fewer samples than a batch", where, "train", value, remedy))
    if not samples.get("val"):
        remedy = (
            "set --config.data.annotations_val, or num_val above 0 with at least 10 "
            "pictures"
            if settings.labelled
            else "set --config.data.num_val above 0"
        )
        report(Problem("no validation samples", where, "val", "0 samples", remedy))


def _check_generated(settings: DataSettings, report: Reporter) -> dict[str, int]:
    """Checks a mannequin or mocap set; nothing is rendered."""
    if settings.name == "landmarks":
        return _check_folder(settings, report)
    counts = {"train": settings.num_train, "val": settings.num_val}
    if settings.name == "mannequin" and not settings.mocap_file:
        return counts
    from input_pipeline.sources.mocap import split_frames
    from input_pipeline.sources.sequence import read_sequence

    where = settings.mocap_file or "config.data.mocap_file"
    if settings.name == "sequence":
        read = _attempt(
            lambda: read_sequence(settings, "train"), "sequence", where, report
        )
        return {} if read is None else dict.fromkeys(SPLITS, len(read.landmarks))
    found = {}
    for split in SPLITS:
        if settings.name == "mannequin" and not counts[split]:
            continue
        frames = _attempt(
            lambda split=split: split_frames(settings, split), "motion", where, report
        )
        if frames is not None:
            found[split] = len(frames)
    return found


def _check_folder(settings: DataSettings, report: Reporter) -> dict[str, int]:
    """Checks a folder of landmarks, every one of them."""
    from input_pipeline.landmarks import read_landmarks

    found = {}
    for split in SPLITS:
        marks = _attempt(
            lambda split=split: read_landmarks(settings, split),
            "landmarks",
            settings.landmarks or "config.data.landmarks",
            report,
        )
        if marks is not None:
            found[split] = len(marks)
    return found


def _check_labelled(
    settings: DataSettings, splits: Mapping[str, Index], report: Reporter
) -> Report:
    """Pictures, 3D files and oddities of labelled data; its numbers."""
    skipped = {split: index.skipped for split, index in splits.items()}
    if not settings.separate_val:
        skipped.pop("val", None)  # held out of the same file: counted once
    surveys, looks = {}, {}
    for split, index in splits.items():
        path, _ = settings.annotation_file(split)
        looks[split] = _check_pictures(index.persons, path, report)
        surveys[split] = survey(index, looks[split])
        note_oddities(index, surveys[split], looks[split], str(path), report)
        _check_truth(settings, split, index, report)
    if len(splits) == 2:
        _note_shared_pictures(settings, looks, report)
    samples = {split: len(index.persons) for split, index in splits.items()}
    return Report((), samples, skipped, surveys, dict(splits))


def _check_extra(settings: DataSettings, found: Report, report: Reporter) -> None:
    """The further sources of pictures, in the skeleton of the first."""
    if not settings.extra_sources:
        return
    skeleton = found.splits["train"].skeleton if "train" in found.splits else H36M_17
    for name, source in extra_sources_of(settings, skeleton):
        key = f"extra.{name}"
        if not source.labelled:
            found.samples[key] = source.num_train
            continue
        splits = _attempt(
            lambda source=source: read_splits(source, report=report),
            "cannot be read",
            source.annotations,
            report,
        )
        checked = _check_labelled(source, splits or {}, report)
        if "train" in checked.samples:
            found.samples[key] = checked.samples["train"]
            found.skipped[key] = checked.skipped["train"]
            found.surveys[key] = checked.surveys["train"]
            found.splits[key] = checked.splits["train"]


def _check_pictures(
    persons: Sequence[Person], path: Path, report: Reporter
) -> dict[Path, Look]:
    """Decodes every picture, once for each person; what was seen, by file."""
    looks: dict[Path, Look] = {}
    found: list[list[Problem]] = [[] for _ in persons]

    def check(person: Person, problems: list[Problem]) -> None:
        picture = check_picture(person, path, report=problems.append)
        if picture is not None:
            digest = hashlib.sha1(picture.encoded, usedforsecurity=False).hexdigest()
            looks[person.file] = Look(picture.image.size, digest)

    # Several persons in one picture: where one fails to decode, all would.
    first = {person.file: person for person in persons}
    alone = [p for p in persons if first[p.file] is p or p.size is None]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for _ in pool.map(check, alone, found):
            pass
    for problems in found:
        for problem in problems:
            report(problem)
    return looks


def _check_truth(
    settings: DataSettings, split: str, index: Index, report: Reporter
) -> None:
    """Only whether the 3D file fits; its numbers are looked at by evaluation."""
    file = settings.ground_truth_file(split)
    if not file:
        return
    ids = np.array([person.sample_id for person in index.persons], np.int64)
    images = np.array([person.image_id for person in index.persons], np.int64)
    _attempt(
        lambda: load_ground_truth(
            Path(file).expanduser(),
            skeleton=index.skeleton,
            sample_ids=ids,
            image_ids=images,
        ),
        "ground truth",
        file,
        report,
    )


def _check_joints(index: Index, where: str, report: Reporter) -> None:
    """Joints without a single landmark: nothing can be learned about them."""
    seen = np.zeros(len(index.skeleton.joints), bool)
    for person in index.persons:
        seen |= np.asarray(person.labelled, bool)
    for joint in np.flatnonzero(~seen) if index.persons else ():
        name = index.skeleton.joints[joint]
        value = f"labelled in none of the {len(index.persons)} training samples"
        remedy = "label it in some of them or leave it out of the skeleton"
        report(Problem("joint never seen", where, f"joint {name}", value, remedy))


def _note_sides(skeleton: Skeleton, where: str, report: Reporter) -> None:
    if not skeleton.left_right:
        remedy = "name pairs left_x and right_x, or set student.augment.flip_prob=0"
        value = f"no left-right pairs among {list(skeleton.joints)}"
        report(Problem("no sides", where, "categories", value, remedy, fatal=False))


def _note_shared_pictures(
    settings: DataSettings, looks: Mapping[str, Mapping[Path, Look]], report: Reporter
) -> None:
    """Pictures, by their bytes, that both splits have."""
    train, val = (
        {look.digest: file for file, look in looks[split].items()} for split in SPLITS
    )
    shared = sorted(str(val[digest]) for digest in set(train) & set(val))
    if shared:
        remedy = "remove them from one of the two: validation would be too good"
        value = f"{len(shared)} pictures are in both splits, e.g. {shared[0]}"
        where = settings.annotations_val or settings.annotations
        report(Problem("shared pictures", where, "images", value, remedy, fatal=False))
