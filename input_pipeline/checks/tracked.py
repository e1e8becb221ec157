"""A tracker's files in numbers: who, how long, how sure, and what is missing."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from input_pipeline.checks.survey import Survey, counted, three
from input_pipeline.formats.tracks.record import Tracks
from input_pipeline.formats.tracks.skeletons import BY_COUNT
from input_pipeline.landmarks import Landmarks
from input_pipeline.skeleton import Skeleton

NAMED = 5  # individuals and files that are printed


@dataclasses.dataclass(frozen=True)
class Tracked:
    """All detections of the files for training.

    Args:
        skeleton: their joints.
        files: name -> frames with a detection.
        individuals: name -> detections.
        rates: frames a second, of each file; 0 where nothing tells it.
        sizes: (width, height) of the pictures, where told.
        scores: joint -> median score where it was detected.
        missing: joint -> share of the detections without it, or below ``min_score``.
        min_score: of the config.
        strays: joints that left their places for a moment, which are among the missing.
    """

    skeleton: Skeleton
    files: dict[str, int]
    individuals: dict[str, int]
    rates: tuple[float, ...]
    sizes: tuple[tuple[int, int], ...]
    scores: dict[str, float]
    missing: dict[str, float]
    min_score: float
    strays: int

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return dataclasses.asdict(self) | {"skeleton": self.skeleton.to_dict()}

    def lines(self) -> Iterator[str]:
        """What ``--stage=check`` prints."""
        detections, frames = sum(self.individuals.values()), sum(self.files.values())
        files = _some(self.files)
        yield f"tracks: {detections} detections in {frames} frames of {files}"
        if len(self.individuals) > 1:
            yield f"  individuals: {_some(self.individuals)}"
        share = float(np.mean(list(self.missing.values())))
        sizes = ", ".join(f"{w} x {h}" for w, h in sorted({*self.sizes})) or "not told"
        rates = ", ".join(f"{rate:g}" for rate in sorted({*self.rates} - {0.0}))
        yield (
            f"  {share:.0%} of the joints missing or below the score "
            f"{self.min_score:g}; pictures {sizes}; frames a second "
            f"{rates or 'not told'}"
        )
        if self.skeleton.name in {known.name for known in BY_COUNT.values()}:
            yield (
                f"  joints: those of {self.skeleton.name}; where the file only numbers "
                "them and means others, as of an animal, name them by "
                "--config.data.skeleton"
            )
        if self.strays:
            yield f"  places that stray for a moment and do not train: {self.strays}"


def _some(counts: dict[str, int]) -> str:
    """The first few, each with its number."""
    named = [f"{name} ({count})" for name, count in counts.items()]
    more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
    return ", ".join(named[:NAMED]) + more


def survey_tracks(tracks: Tracks, min_score: float) -> Tracked:
    """The numbers of all detections."""
    joints, score = tracks.skeleton.joints, tracks.score
    frames = np.unique(np.stack([tracks.file, tracks.frame], 1), axis=0)[:, 0]
    counts = np.bincount(frames, minlength=len(tracks.files)).tolist()
    who = np.bincount(tracks.individual, minlength=len(tracks.individuals)).tolist()
    medians = [float(np.median(s[s > 0])) if (s > 0).any() else 0.0 for s in score.T]
    below = (score < max(min_score, np.finfo(np.float32).tiny)).mean(axis=0).tolist()
    return Tracked(
        skeleton=tracks.skeleton,
        files=dict(zip(tracks.files, counts, strict=True)),
        individuals=dict(zip(tracks.individuals, who, strict=True)),
        rates=tracks.rates,
        sizes=tuple(size for size in tracks.sizes if size),
        scores=dict(zip(joints, medians, strict=True)),
        missing=dict(zip(joints, below, strict=True)),
        min_score=min_score,
        strays=tracks.strays,
    )


def survey_landmarks(marks: Landmarks) -> Survey:
    """One split of them, as training has it."""
    frames = len({marks.name(row) for row in range(len(marks))})
    return Survey(
        pictures=frames,
        picture_px=three(()),
        swaps=(),
        **counted(marks.keypoints, marks.labelled, marks.skeleton),
    )
