"""Poses of new pictures by a trained student: ``--stage=predict``.

Without boxes the whole picture is the box of its one body; boxes come from a JSON
file, see :func:`stages.boxes.find_sources`. From Python, without files:
:class:`pose_jax.PoseEstimator`.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from input_pipeline.pictures import open_picture, read_video, video_length
from pose_jax.estimator import WHOLE_PICTURE_PADDING, PoseEstimator
from runtime.progress import progress
from stages.boxes import Person, Source, find_sources
from stages.poses import Predictions, View

_NAMED = 5  # failures in the last message
_THREADS = 8


@dataclasses.dataclass(frozen=True)
class Failure:
    """A picture that could not be read, and why."""

    file: str
    error: str


def predict(config: Any, workdir: str | Path) -> Path:
    """Predicts the pictures of ``config.predict`` with the student of its ``mode``.

    Writes to ``workdir/predictions``, or to ``config.predict.out``: see
    :class:`stages.poses.Predictions`. A picture that cannot be read is named
    and the others go on; the files are whole or not there.

    Args:
        config: its ``predict``.
        workdir: folder of the run.

    Returns:
        The path of ``predictions.json``.

    Raises:
        ValueError: nothing to predict, no student, or, after all has been written,
            pictures that could not be read.
    """
    options = config.predict
    for name, least in (("batch_size", 1), ("every", 1), ("viewer_samples", 0)):
        if options[name] < least:
            raise ValueError(
                f"config.predict.{name} = {options[name]} is not at least {least}"
            )
    sources = find_sources(options.images, options.annotations)
    estimator = PoseEstimator.load(
        workdir,
        mode=options.mode,
        batch_size=options.batch_size,
        mirror=options.mirror,
    )
    folder = Path(options.out) if options.out else Path(workdir) / "predictions"
    total = sum(_count(source, options.every) for source in sources)
    failures: list[Failure] = []
    with (
        ThreadPoolExecutor(_THREADS) as pool,
        Predictions(
            folder,
            estimator.record,
            spread="mirror" if estimator.mirror else "heat",
            expected=total,
            overlays=options.overlays,
            viewer_samples=options.viewer_samples,
            pool=pool,
        ) as predictions,
        progress("predict", total=max(total, 1)) as bar,
    ):
        groups = _load(sources, estimator, every=options.every, pool=pool)
        for loaded in _ahead(groups):
            views = [view for view in loaded if isinstance(view, View)]
            failures += [failure for failure in loaded if isinstance(failure, Failure)]
            if views:
                crops = [crop for view in views for crop in view.crops]
                predictions.add(views, estimator.of_crops(crops))
            bar.update(len(predictions) + len(failures))
        path = predictions.finish([dataclasses.asdict(f) for f in failures])
    print(predictions.summary(), file=sys.stderr)
    if failures:
        raise ValueError(_failure_text(failures, path))
    return path


def _count(source: Source, every: int) -> int:
    """How many pictures a source has; a guess for videos that do not say."""
    if not source.is_video:
        return 1
    return -(-video_length(source.file) // every)


def _failure_text(failures: Sequence[Failure], path: Path) -> str:
    shown = "; ".join(failure.error for failure in failures[:_NAMED])
    more = f"; and {len(failures) - _NAMED} more" if len(failures) > _NAMED else ""
    return (
        f"{len(failures)} could not be read: {shown}{more}. The others are in {path}; "
        "about.json beside it lists all failures"
    )


# --- loading -----------------------------------------------------------------------

Opener = Callable[[], Image.Image]


def _load(
    sources: Iterable[Source], estimator: PoseEstimator, *, every: int, pool: Executor
) -> Iterator[list[View | Failure]]:
    """Pictures decoded and cut, a batch at a time."""
    pictures = enumerate(_pictures(sources, every))
    while group := list(itertools.islice(pictures, estimator.batch_size)):
        yield list(pool.map(partial(_view, estimator), group))


def _pictures(
    sources: Iterable[Source], every: int
) -> Iterator[tuple[Source, int | None, Opener]]:
    """(source, frame, how to open it): opened later, by several threads."""
    for source in sources:
        if not source.is_video:
            yield source, None, partial(open_picture, source.file, source.size)
            continue
        try:
            for frame, picture in read_video(source.file, every):
                yield source, frame, partial(_same, picture)
        except ValueError as error:
            yield source, None, partial(_raise, error)


def _same(picture: Image.Image) -> Image.Image:
    return picture


def _raise(error: ValueError) -> Image.Image:
    raise error


def _view(
    estimator: PoseEstimator, numbered: tuple[int, tuple[Source, int | None, Opener]]
) -> View | Failure:
    number, (source, frame, opener) = numbered
    persons = source.persons if frame is None else source.frames.get(frame)
    if persons is None:
        persons = source.persons
    try:
        picture = opener()
        crops = [_cut(estimator, picture, person, source.name) for person in persons]
    except ValueError as error:
        return Failure(source.name, str(error))
    return View(source, frame, number, picture, persons, crops)


def _cut(
    estimator: PoseEstimator, picture: Image.Image, person: Person, name: str
) -> Any:
    whole = person.box is None
    padding = WHOLE_PICTURE_PADDING if whole else estimator.record.padding
    return estimator.cut(picture, person.box, padding=padding, name=f"{name}: box")


def _ahead(items: Iterator[Any]) -> Iterator[Any]:
    """The same items, each made while the one before it is used."""
    done = object()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(next, items, done)
        while (item := future.result()) is not done:
            future = pool.submit(next, items, done)
            yield item
