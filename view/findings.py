"""What a run has come to, in sentences: the first thing that a report says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# Training and validation errors that differ by less are limited by the training
# itself, by more through too few pictures.
_ALIKE, _APART = 0.10, 0.25
# A loss that fell by less in the last fifth of the steps has converged.
_CONVERGED = 0.02
BASELINES = ("mean_pose", "z_zero", "teacher", "labels")


def findings(
    rows: Mapping[str, Mapping[str, Any]],
    losses: Mapping[str, Sequence[tuple[float, float]]],
    labels: Mapping[str, str],
) -> list[str]:
    """One sentence or two for each student, and what to do next.

    Args:
        rows: method -> split -> metrics, as the tables of the report.
        losses: method -> its training loss, (step, value).
        labels: method -> its name in the text.
    """
    students = [name for name in rows if name not in BASELINES]
    said = [_student(name, rows, losses.get(name, ()), labels) for name in students]
    return [text for text in said if text]


def _error(
    rows: Mapping[str, Mapping[str, Any]],
    name: str,
    split: str,
    key: str = "pa_mpjpe_mm",
) -> float | None:
    return rows.get(name, {}).get(split, {}).get(key)


def _student(
    name: str,
    rows: Mapping[str, Mapping[str, Any]],
    loss: Sequence[tuple[float, float]],
    labels: Mapping[str, str],
) -> str:
    own, train = (_error(rows, name, split) for split in ("val", "train"))
    label = labels.get(name, name)
    if own is None:
        own, train = (_error(rows, name, n, "xy_error") for n in ("val", "train"))
        if own is None:
            return ""
        return (
            f"{label}: on the validation set its joints are {own:.3f} half sides of "
            "the crop from the landmarks; without 3D its depth is not judged. "
            + _next(own, train, loss, "{:.3f} half sides")
        )
    text = f"{label}: PA-MPJPE {own:.1f} mm on the validation set"
    mean, teacher = (_error(rows, n, "val") for n in ("mean_pose", "teacher"))
    if mean is not None and own >= mean:
        return (
            f"{text}, no better than the mean pose ({mean:.1f}): it has learned no "
            f"poses yet. {_next(own, train, loss)}"
        )
    if mean is not None and teacher is not None and teacher < mean:
        way = (mean - own) / (mean - teacher)
        text += (
            f"; the mean pose has {mean:.1f} and the teacher, which is given the "
            f"landmarks, {teacher:.1f}. It has gone {way:.0%} of the way between them"
        )
    return f"{text}. {_next(own, train, loss)}"


def _next(
    own: float,
    train: float | None,
    loss: Sequence[tuple[float, float]],
    unit: str = "{:.1f} mm",
) -> str:
    """Converged or not, and what would help."""
    text, fall = "", last_fall(loss)
    if fall is not None:
        done = "has converged" if fall < _CONVERGED else "has not converged"
        change = "rose" if fall < 0 else "fell"
        text = (
            f"The training {done}: its loss {change} by {abs(fall):.0%} in the last "
            "fifth of the steps. "
        )
    if train is None or train <= 0:
        return text
    gap = own / train - 1
    text += f"Its training error is {unit.format(train)}"
    steps = int(loss[-1][0]) if loss else 0
    longer = f" (config.student.steps={4 * steps})" if steps else ""
    if gap < _ALIKE:
        return f"{text}, hardly less: more steps{longer} or a larger network will help."
    if gap > _APART:
        return f"{text}, much less: more pictures or more augmentation will help most."
    return f"{text}: more pictures and more steps{longer} will both help."


def last_fall(loss: Sequence[tuple[float, float]]) -> float | None:
    """By what share a loss fell in the last fifth of the steps, in means of tenths.

    Examples:
        >>> round(last_fall([(step, 100.0 - step) for step in range(100)]), 2)
        0.78

    None where there are fewer than ten values.
    """
    values = [value for _, value in loss]
    tenth = len(values) // 10
    if tenth < 1:
        return None
    before = sum(values[-3 * tenth : -2 * tenth]) / tenth
    after = sum(values[-tenth:]) / tenth
    return 1 - after / before if before > 0 else None
