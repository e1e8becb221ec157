"""Poses of new pictures by a trained student: ``--stage=predict``.

:mod:`stages.boxes` says which pictures and which bodies, :mod:`stages.poses` writes
the files. From Python, without files: :class:`pose_jax.PoseEstimator`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from input_pipeline.pictures import is_video, video_length
from pose_jax.estimator import PoseEstimator
from runtime.files import own_outputs
from runtime.progress import progress
from stages.boxes import Picture, find_sources, pictures_of
from stages.poses import NAMES, Predictions, View


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
    for name, least in (("batch_size", 1), ("every", 1), ("viewer_samples", 0)):
        if options[name] < least:
            raise ValueError(
                f"config.predict.{name} = {options[name]} is not at least {least}"
            )
    estimator = PoseEstimator.load(
        workdir, mode=options.mode, batch_size=options.batch_size, mirror=options.mirror
    )
    box = estimator.record.box
    sources = find_sources(options.images, options.annotations, box=box)
    total = sum(_length(source.file, options.every) for source in sources)
    folder = Path(options.out) if options.out else Path(workdir) / "predictions"
    inputs = [source.file for source in sources]
    inputs += [Path(options.annotations)] if options.annotations else []
    with (
        own_outputs(folder, NAMES, inputs=inputs) as temporary,
        ThreadPoolExecutor(8) as pool,
        Predictions(
            temporary,
            estimator.record,
            spread="mirror" if estimator.mirror else "heat",
            expected=total,
            overlays=options.overlays,
            viewer_samples=options.viewer_samples,
            pool=pool,
        ) as predictions,
        progress("predict", total=max(total, 1)) as bar,
    ):
        pictures = pictures_of(sources, every=options.every)
        for views in _ahead(_batches(pictures, estimator, pool)):
            read = [view for view in views if isinstance(view, View)]
            predictions.failures += [v for v in views if not isinstance(v, View)]
            crops = [crop for view in read for crop in view.crops]  # may be none
            predictions.add(read, estimator.of_crops(crops))
            bar.update(predictions.pictures + len(predictions.failures))
        predictions.finish()
    predictions.report(folder)
    return folder / "predictions.json"


def _length(file: Path, every: int) -> int:
    """Pictures in a file; a guess for videos that do not say how long they are."""
    return -(-video_length(file) // every) if is_video(file) else 1


def _batches(
    pictures: Iterator[Picture], estimator: PoseEstimator, pool: Executor
) -> Iterator[list[View | dict[str, str]]]:
    """Pictures decoded and cut, a batch at a time; a failure where one cannot be."""

    def view(picture: Picture) -> View | dict[str, str]:
        name = picture.source.name
        try:
            image = picture.load()
            crops = [
                estimator.cut(image, person.box, name=f"{name}: box")
                for person in picture.persons
            ]
        except ValueError as error:
            return {"file": name, "error": str(error)}
        return View(picture, image, crops)

    while group := list(itertools.islice(pictures, estimator.batch_size)):
        yield list(pool.map(view, group))


def _ahead(items: Iterator[Any]) -> Iterator[Any]:
    """The same items, each made while the one before it is used."""
    done = object()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(next, items, done)
        while (item := future.result()) is not done:
            future = pool.submit(next, items, done)
            yield item
