"""Poses of new pictures by a trained student: ``--stage=predict``.

:mod:`stages.boxes` says which pictures and which bodies, :mod:`stages.poses` writes
the files. From Python, without files: :class:`pose_jax.PoseEstimator`.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from input_pipeline.decoding import Upright
from input_pipeline.pictures import cut_patch, is_video, video_facts
from pose_jax.estimator import Crop, PoseEstimator
from runtime.files import own_outputs
from runtime.progress import progress
from stages.boxes import Picture, Source, find_sources, pictures_of
from stages.drawings import FILM, LONGEST, Body, View
from stages.metric import parse_length
from stages.poses import NAMES, SPREAD, Predictions
from view.plot3d import encode_jpeg

THREADS = min(8, os.cpu_count() or 1)
FRAMES = 2**25  # pixels of a video that wait to be cut
LOOK = 256  # side of a crop in the viewer, pixels


def predict(config: Any, workdir: str | Path) -> Path:
    """Predicts the pictures of ``config.predict`` with the student of its ``mode``.

    Writes to ``workdir/predictions``, or to ``config.predict.out``: see
    :class:`stages.poses.Predictions`. A picture that cannot be read is named
    and the others go on; the files are whole or not there, and replace only those of
    an earlier run (:func:`runtime.files.own_outputs`).

    Returns the path of ``predictions.json``.

    Raises:
        ValueError: nothing to predict, no student, a folder with files that are no
            earlier run's, or, after all has been written, pictures that could not be
            read.
    """
    options = config.predict
    _check(options)
    how = {name: options[name] for name in ("mode", "batch_size", "mirror", "shapes")}
    estimator = PoseEstimator.load(workdir, **how)
    record, length = estimator.record, options.length
    length = parse_length(length, record.skeleton) if length else None
    sources = find_sources(options.images, options.annotations, box=record.box)
    folder = Path(options.out) if options.out else Path(workdir) / "predictions"
    inputs = [source.file for source in sources]
    inputs += [Path(options.annotations)] if options.annotations else []
    with own_outputs(folder, NAMES, inputs=inputs) as temporary:
        predictions = _write(temporary, options, estimator, sources, length)
    predictions.report(folder)
    return folder / "predictions.json"


def _write(
    folder: Path,
    options: Any,
    estimator: PoseEstimator,
    sources: Sequence[Source],
    length: tuple[tuple[int, int], float] | None,
) -> Predictions:
    """Writes all files to a folder; returns what wrote them."""
    facts = {s.file: video_facts(s.file) for s in sources if is_video(s.file)}
    # A guess for videos that do not say how long they are.
    total = sum(-(-facts.get(s.file, (1,))[0] // options.every) for s in sources)
    rates = {file: rate for file, (_, rate) in facts.items()}
    looks = options.viewer_samples > 0
    cutter = Cutter(estimator, rates, overlays=options.overlays, looks=looks)
    record = estimator.record
    student = {"mode": record.mode, "net": record.net}
    with (
        ThreadPoolExecutor(THREADS) as pool,
        Predictions(
            folder,
            record.skeleton,
            about={"spread": SPREAD, "student": student},
            expected=total,
            overlays=options.overlays,
            viewer_samples=options.viewer_samples,
            pool=pool,
            length=length,
        ) as predictions,
        progress("predict", total=max(total, 1)) as bar,
    ):
        pictures = pictures_of(sources, every=options.every)
        for cuts in _ahead(_batches(pictures, cutter, pool, options.batch_size)):
            views = [cut.view for cut in cuts if cut.view is not None]
            predictions.failures += [f for cut in cuts for f in cut.failures]
            crops = [crop for cut in cuts for crop in cut.crops]  # may be none
            predictions.add(views, estimator.of_crops(crops))
            bar.update(predictions.pictures + len(predictions.failures))
        predictions.finish()
    return predictions


def _check(options: Any) -> None:
    for name, least in (("batch_size", 1), ("every", 1), ("viewer_samples", 0)):
        if options[name] < least:
            raise ValueError(
                f"config.predict.{name} = {options[name]} is not at least {least}"
            )


@dataclasses.dataclass(frozen=True)
class Cut:
    """What is kept of a picture: crops and a thumbnail."""

    view: View | None  # None: it could not be read
    crops: Sequence[Crop]  # one for each body of the view
    failures: Sequence[dict[str, str]]


@dataclasses.dataclass(frozen=True)
class Cutter:
    """Decodes pictures and cuts out of them what is used later.

    Args:
        estimator: of the student.
        rates: of the videos, frames in a second.
        overlays: whether thumbnails are kept.
        looks: whether the bodies' crops are kept for the viewer.
    """

    estimator: PoseEstimator
    rates: Mapping[Path, float]
    overlays: bool
    looks: bool

    def cut(self, picture: Picture) -> Cut:
        """The crops of the bodies; a picture or a box that cannot be read is said."""
        source, crops, bodies, failures = picture.source, [], [], []
        try:
            with picture.open(partial(self._minify, picture)) as image:
                for person in picture.persons:
                    name = f"{source.name}: box"
                    try:
                        crop = self.estimator.cut(image, person.box, name=name)
                    except ValueError as error:
                        failures.append({"file": source.name, "error": str(error)})
                        continue
                    crops.append(crop)
                    bodies.append(Body(person.annotation_id, self._look(image, crop)))
                longest = LONGEST if picture.frame is None else FILM
                small = image.thumbnail(longest) if self.overlays else None
                size = image.size
        except ValueError as error:
            return Cut(None, (), [{"file": source.name, "error": str(error)}])
        if failures and not crops:
            return Cut(None, (), failures)
        view = View(
            source.name,
            picture.number,
            bodies,
            frame=picture.frame,
            rate=self.rates.get(source.file, 0.0),
            image_id=source.image_id,
            size=size,
            thumbnail=None if small is None else encode_jpeg(small, quality=92),
        )
        return Cut(view, crops, failures)

    def _look(self, image: Upright, crop: Crop) -> bytes | None:
        if not self.looks:
            return None
        patch = cut_patch(image, crop.centre, crop.half_side, LOOK)
        return encode_jpeg(Image.fromarray(patch))

    def _minify(self, picture: Picture, size: tuple[int, int]) -> float:
        """How many pixels of the picture will at least be one pixel of what is kept."""
        boxes = [person.box for person in picture.persons]
        factor = self.estimator.minify(size, boxes)
        if self.looks:
            factor *= min(self.estimator.record.image_size / LOOK, 1.0)
        return min(factor, max(size) / LONGEST) if self.overlays else factor


def _batches(
    pictures: Iterator[Picture], cutter: Cutter, pool: Executor, size: int
) -> Iterator[list[Cut]]:
    """What is kept of ``size`` pictures at a time; few are in memory as a whole."""

    def cuts() -> Iterator[Cut]:
        running: collections.deque[tuple[Future[Cut], int]] = collections.deque()
        for picture in pictures:
            running.append((pool.submit(cutter.cut, picture), picture.pixels))
            while len(running) > THREADS or sum(n for _, n in running) > FRAMES:
                yield running.popleft()[0].result()
        for job, _ in running:
            yield job.result()

    stream = cuts()
    while group := list(itertools.islice(stream, size)):
        yield group


def _ahead(items: Iterator[Any]) -> Iterator[Any]:
    """The same items, each made while the one before it is used."""
    done = object()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(next, items, done)
        while (item := future.result()) is not done:
            future = pool.submit(next, items, done)
            yield item
