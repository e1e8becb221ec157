"""Problems of a data set, as records that name the place and the remedy.

The checks are written once and report problems to a callable. A reader passes
:func:`raise_problem` and stops at the first; ``validate`` collects them all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from input_pipeline.settings import DataSettings


@dataclasses.dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Args:
        kind: a short name of the sort of problem, e.g. ``"missing file"``.
        file: the file it is in, or the config field.
        index: where in the file, e.g. ``"annotations[12] (id 40)"``; may be empty.
        value: what stands there.
        remedy: what to do about it.
        fatal: whether training stops at it; else it is only worth knowing.
    """

    kind: str
    file: str
    index: str
    value: str
    remedy: str
    fatal: bool = True

    def __str__(self) -> str:
        place = f"{self.file}, {self.index}" if self.index else self.file
        return f"{place}: {self.kind}: {self.value}; {self.remedy}"


Reporter = Callable[[Problem], None]


def raise_problem(problem: Problem) -> None:
    """The reporter of the readers: the first fatal problem ends the run.

    Raises:
        ValueError: the problem is fatal; one line with place, value and remedy.
    """
    if problem.fatal:
        raise ValueError(str(problem))


def no_samples(settings: DataSettings, split: str) -> Problem:
    """What is said of a split without samples, by the check and by the training."""
    remedy = f"set --config.data.num_{split} above 0"
    if settings.labelled and split == "val":
        remedy = (
            "set --config.data.annotations_val, or num_val above 0 with at least 10 "
            "pictures"
        )
    if settings.name == "tracks":
        remedy = "give tracks of at least ten frames, or --config.data.annotations_val"
    kind = "no validation samples" if split == "val" else "no training samples"
    where = settings.annotations or f"config.data ({settings.name})"
    return Problem(kind, where, split, "0 samples", remedy)
