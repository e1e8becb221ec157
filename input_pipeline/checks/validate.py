"""Every problem of a data set in one report; ``--stage=check`` prints it.

The checks are those of the readers. Here nothing is raised: they run to the end, and
each problem names file, index, value and remedy.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from input_pipeline.checks.problems import Problem, Reporter, no_samples
from input_pipeline.checks.survey import Look, Survey, note_oddities, survey
from input_pipeline.checks.tracked import Tracked, survey_landmarks, survey_tracks
from input_pipeline.dataset import Dataset, extra_settings
from input_pipeline.formats.annotations import Labels, Person
from input_pipeline.formats.pictures import check_picture
from input_pipeline.formats.splits import read_splits
from input_pipeline.ground_truth import load_ground_truth
from input_pipeline.settings import SPLITS, DataSettings
from input_pipeline.sides import side_of
from input_pipeline.skeleton import H36M_17, Skeleton
from input_pipeline.sources.prepared import Prepared
from input_pipeline.sources.tracks import TrackedLandmarks

T = TypeVar("T")
SHOWN = 3  # problems of one kind that are printed one by one


@dataclasses.dataclass(frozen=True)
class Report:
    """What :func:`validate` found.

    Args:
        problems: in the order found.
        samples: usable samples by split.
        skipped: by split, what was left out and how often.
        surveys: by split, labelled data in numbers.
        tracked: tracks in numbers.
        splits: by split, the usable persons.
    """

    problems: tuple[Problem, ...]
    samples: dict[str, int]
    skipped: dict[str, dict[str, int]]
    surveys: dict[str, Survey] = dataclasses.field(default_factory=dict)
    tracked: Tracked | None = None
    splits: dict[str, Labels] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def ok(self) -> bool:
        """True where training would start."""
        return not any(problem.fatal for problem in self.problems)

    @property
    def verdict(self) -> str:
        """The last line: how many problems, and whether training would start."""
        errors = sum(problem.fatal for problem in self.problems)
        notes = len(self.problems) - errors
        counts = {"error": errors, "note": notes}
        said = [f"{count} {what}{'s' * (count != 1)}" for what, count in counts.items()]
        return f"{', '.join(said)}: {'ok' if self.ok else 'not ok'}"

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return {
            "ok": self.ok,
            "samples": self.samples,
            "left_out": self.skipped,
            "skeletons": {k: v.skeleton.to_dict() for k, v in self.splits.items()},
            "splits": {k: dataclasses.asdict(v) for k, v in self.surveys.items()},
            "tracks": self.tracked and self.tracked.to_dict(),
            "problems": [dataclasses.asdict(problem) for problem in self.problems],
        }


def left_out(skipped: Mapping[str, int]) -> str:
    """`` (left out: 3 crowd)``, or nothing."""
    parts = [f"{count} {what}" for what, count in skipped.items() if count]
    return f" (left out: {', '.join(parts)})" if parts else ""


def problem_lines(problems: Sequence[Problem]) -> list[str]:
    """Two lines a problem: level, kind and place; then value and remedy.

    Many problems of one kind are the first of them and their number.
    """
    by_kind: dict[str, list[Problem]] = collections.defaultdict(list)
    for problem in problems:
        by_kind[problem.kind].append(problem)
    width = max((len(kind) for kind in by_kind), default=0)
    lines = []
    for kind, some in by_kind.items():
        for problem in some if len(some) <= SHOWN else some[:1]:
            level = "error" if problem.fatal else "note "
            place = ", ".join(part for part in (problem.file, problem.index) if part)
            lines.append(f"{level}  {kind:<{width}}  {place}")
            lines.append(f"{'':<{width + 9}}{problem.value}; {problem.remedy}")
        if len(some) > SHOWN:
            more = f"and {len(some) - 1} more of this kind, all in check.json"
            lines.append(f"{'':<{width + 9}}{more}")
    return lines


def skeleton_lines(skeleton: Skeleton, centre: float | None = None) -> list[str]:
    """Which joints are pairs, which have no partner, the root; what a pixel is."""
    names = skeleton.joints
    pairs = ", ".join(f"{names[a]} / {names[b]}" for a, b in skeleton.left_right)
    bones = ", ".join(f"{names[a]}-{names[b]}" for a, b in skeleton.edges)
    lines = [
        f"left / right: {pairs or 'no pair'}",
        f"without a partner: {', '.join(skeleton.unpaired) or 'none'}",
        f"root: {names[skeleton.root]}; {len(skeleton.edges)} bones: {bones or 'none'}",
    ]
    at = "" if centre is None else f"{centre:g}, {centre:g}"
    pixels = f"pixels: the first one has its centre at {at} in the labels"
    return [*lines, pixels] if at else lines


def validate(data: Dataset) -> Report:
    """Checks a whole data set: annotations, pictures, motion, 3D files, counts.

    It accepts exactly what training accepts: the problems are those of the readers,
    which stop at the first one.

    Args:
        data: the data set; nothing of it is prepared.

    Returns:
        The report; ``report.ok`` is False where training would stop.
    """
    problems: list[Problem] = []
    report = problems.append
    if data.settings.labelled:
        found = _check_labelled(data.settings, report)
        if "train" in found.surveys:
            _check_joints(found.surveys["train"], data.settings.annotations, report)
    elif isinstance(data.source, TrackedLandmarks):
        found = _check_tracks(data, data.source, report)
    else:
        found = Report((), _count_generated(data, report), {})
    if found.samples:
        for split in SPLITS:
            if not found.samples.get(split):
                report(no_samples(data.settings, split))
        _check_extra(data, found, report)
    # Both splits of the same tracks tell of the same fault.
    return dataclasses.replace(found, problems=tuple(dict.fromkeys(problems)))


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


def _count_generated(data: Dataset, report: Reporter) -> dict[str, int]:
    """Reads what training would read, but renders nothing."""
    settings = data.settings
    counts = {"train": settings.num_train, "val": settings.num_val}
    where = settings.mocap_file or settings.landmarks or "config.data.mocap_file"
    source = data.source
    if isinstance(source, Prepared):
        splits = _attempt(lambda: source.source.splits, "motion", where, report)
        return counts if splits is not None else {}
    kind = "motion" if settings.name == "mocap" else settings.name
    found = {}
    for split in SPLITS:
        read = functools.partial(data.landmarks, split)
        if (marks := _attempt(read, kind, where, report)) is not None:
            found[split] = len(marks)
    return found


def _check_tracks(data: Dataset, source: TrackedLandmarks, report: Reporter) -> Report:
    """What of the tracks trains, and all of them in numbers."""
    where, settings = data.settings.annotations, data.settings
    tracks = _attempt(lambda: source.tracks, "tracks", where, report)
    if tracks is None:
        return Report((), {}, {})
    surveys, samples = {}, {}
    for split in SPLITS:
        read = functools.partial(source.landmarks, split)
        marks = _attempt(read, "tracks", where, report)
        if marks is not None:
            samples[split] = len(marks)
            surveys[split] = survey_landmarks(marks)
    if "train" in surveys:
        _check_joints(surveys["train"], where, report)
        _note_skeleton(tracks.skeleton, where, report)
    return Report((), samples, {}, surveys, survey_tracks(tracks, settings.min_score))


def _check_labelled(settings: DataSettings, report: Reporter) -> Report:
    """Labels, pictures, 3D files and oddities of labelled data; its numbers."""
    read = functools.partial(read_splits, settings, report=report)
    splits = _attempt(read, "cannot be read", settings.annotations, report) or {}
    skipped = {split: index.skipped for split, index in splits.items()}
    if not settings.separate_val:
        skipped.pop("val", None)  # held out of the same file: counted once
    surveys, looks = {}, {}
    for split, index in splits.items():
        path, _ = settings.annotation_file(split)
        looks[split] = _check_pictures(index, path, report)
        surveys[split] = survey(index, looks[split])
        note_oddities(index, surveys[split], looks[split], str(path), report)
        _check_truth(settings, split, index, report)
    if "train" in splits:
        _note_skeleton(splits["train"].skeleton, settings.annotations, report)
    if len(splits) == 2:
        _note_shared_pictures(settings, looks, report)
    samples = {split: len(index.persons) for split, index in splits.items()}
    return Report((), samples, skipped, surveys, splits=dict(splits))


def _note_skeleton(skeleton: Skeleton, where: str, report: Reporter) -> None:
    """Pairs or bones that are missing."""

    def note(kind: str, value: str, changes: str, otherwise: str) -> None:
        remedy = f"set --config.data.skeleton='{changes}'{otherwise}"
        report(Problem(kind, where, "skeleton", value, remedy, fatal=False))

    example = '{"left_right": [["LEFT", "RIGHT"]]}'
    if not skeleton.left_right:
        value = f"no left-right pairs among {list(skeleton.joints)}"
        note("no sides", value, example, ", or student.augment.flip_prob=0")
    elif half := [joint for joint in skeleton.unpaired if side_of(joint)]:
        note("side without a partner", ", ".join(half), example, " if it has one")
    if not skeleton.edges:
        value = "the skeleton has no bones: only points will be drawn"
        note("no bones", value, '{"edges": [["PARENT", "CHILD"]]}', "")


def _check_extra(data: Dataset, found: Report, report: Reporter) -> None:
    """The further sources of pictures, in the skeleton of the first."""
    skeleton = found.splits["train"].skeleton if "train" in found.splits else H36M_17
    for name, source in extra_settings(data.settings, skeleton):
        key = f"extra.{name}"
        if not source.labelled:
            found.samples[key] = source.num_train
            continue
        checked = _check_labelled(source, report)
        for field in ("samples", "skipped", "surveys", "splits"):
            if "train" in getattr(checked, field):
                getattr(found, field)[key] = getattr(checked, field)["train"]


def _check_pictures(index: Labels, path: Path, report: Reporter) -> dict[Path, Look]:
    """Decodes every picture, once for each person; what was seen, by file."""
    looks: dict[Path, Look] = {}
    persons = index.persons
    found: list[list[Problem]] = [[] for _ in persons]

    def check(person: Person, problems: list[Problem]) -> None:
        picture = check_picture(person, path, index.skeleton, report=problems.append)
        if picture is not None:
            digest = hashlib.sha1(picture.encoded, usedforsecurity=False).hexdigest()
            looks[person.file] = Look(picture.image.size, digest)

    # Several persons in one picture: where one fails to decode, all would.
    first = {person.file: person for person in persons}
    alone = [p for p in persons if first[p.file] is p or p.size is None]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        list(pool.map(check, alone, found))
    for problem in itertools.chain(*found):
        report(problem)
    return looks


def _check_truth(
    settings: DataSettings, split: str, index: Labels, report: Reporter
) -> None:
    """Only whether the 3D file fits; its numbers are looked at by evaluation."""
    file = settings.ground_truth_file(split)
    if not file:
        return
    load = functools.partial(
        load_ground_truth,
        Path(file).expanduser(),
        skeleton=index.skeleton,
        sample_ids=np.array([person.sample_id for person in index.persons], np.int64),
        image_ids=np.array([person.image_id for person in index.persons], np.int64),
    )
    _attempt(load, "ground truth", file, report)


def _check_joints(found: Survey, where: str, report: Reporter) -> None:
    """Joints without a single landmark: nothing can be learned about them."""
    for name in [name for name, count in found.joints.items() if not count]:
        value = f"labelled in none of the {found.persons} training samples"
        remedy = "label it in some of them or leave it out of the skeleton"
        report(Problem("joint never seen", where, f"joint {name}", value, remedy))


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
