"""Can this depth be trusted? What landmarks alone say of a finished teacher, in words.

Every figure comes from `em.FitReport` and `handedness`; no 3D is read.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from nrsfm_jax.em import FitReport
from nrsfm_jax.em.coherent import MARGIN
from nrsfm_jax.handedness import BIMODALITY, ENOUGH, GATE, SPLIT, Handedness

# Less evidence a sample than this, in nats, leaves the one sign of all depths open.
SURE_SIGN = 0.1


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The outcome of :func:`judge`.

    Attributes:
        trusted: True, False, or None where it cannot be told.
        text: one paragraph for a user.
        facts: the figures behind it, for JSON.
    """

    trusted: bool | None
    text: str
    facts: dict[str, Any]


def judge(
    report: FitReport,
    teacher: Handedness,
    *,
    training_nats: float,
    held_out_nats: float | None,
) -> Verdict:
    """Weighs what a fit and a teacher say of themselves.

    Args:
        report: of the EM.
        teacher: handedness of the teacher's own poses of the training samples.
        training_nats: mean log-likelihood of the landmarks of the fit, nats a sample.
        held_out_nats: the same of validation landmarks; None without them.

    Returns:
        Not trusted: nothing turns, the poses have no handedness, or signs differ that
        could not be corrected. None: too few samples, or other views are likelier.
    """
    doubts = _doubts(report, teacher)
    if not doubts:
        trusted, head = True, "Depth: coherent."
    elif any(sure for sure, _ in doubts):
        trusted, head = False, "Depth: NOT TRUSTED."
    else:
        trusted, head = None, "Depth: uncertain."
    parts = [head, *(text for _, text in doubts), _signs(report, teacher)]
    parts += [_views(report), _one_sign(report)]
    if held_out_nats is not None:
        parts.append(
            f"Validation landmarks have {held_out_nats:.1f} nats a sample, those of "
            f"the fit {training_nats:.1f}."
        )
    facts = dataclasses.asdict(report)
    facts["likeliest_views"] = report.likeliest_views
    facts["turning_nats"] = report.turning_nats
    facts["teacher"] = dataclasses.asdict(teacher)
    facts |= {"training_nats": training_nats, "held_out_nats": held_out_nats}
    return Verdict(trusted, " ".join(parts), facts)


def _doubts(report: FitReport, teacher: Handedness) -> list[tuple[bool, str]]:
    """What speaks against the depth, and whether it is sure."""
    doubts = []
    if report.turning_nats <= 0:
        text = (
            f"A single view explains the landmarks better by {-report.turning_nats:.1f}"
            " nats a sample than views that turn: neither subject nor camera turns "
            "enough to show depth. Add pictures from other sides."
        )
        doubts.append((True, text))
    if teacher.exists is False or report.after.exists is False:
        worst = min((teacher, report.after), key=lambda h: (h.bimodality, h.split))
        text = (
            "The poses do not differ from their mirror images (bimodality "
            f"{worst.bimodality:.2f} where {BIMODALITY} is the least, split "
            f"{worst.split:.2f} where {SPLIT} is): either the depth is wrong or the "
            "subject has no handedness, and signs of depth are then a matter of chance."
        )
        doubts.append((True, text))
    elif teacher.changed > GATE and teacher.exists:
        text = (
            f"About {teacher.changed:.0%} of the samples have the other sign of depth "
            "in the teacher's own poses; nrsfm_jax.synchronise_signs corrects poses."
        )
        doubts.append((True, text))
    if teacher.exists is None:
        text = (
            f"{teacher.samples} samples are too few to tell whether the signs of depth "
            f"agree; from {ENOUGH} on it can be told."
        )
        doubts.append((False, text))
    if _gap(report) > MARGIN:
        text = (
            f"Views '{report.likeliest_views}' are likelier by {_gap(report):.1f} nats "
            f"a sample than the given '{report.views}': set "
            "config.teacher.em.views=auto."
        )
        doubts.append((False, text))
    return doubts


def _gap(report: FitReport) -> float:
    best = report.views_nats.get(report.likeliest_views, -np.inf)
    return best - report.views_nats.get(report.views, -np.inf)


def _signs(report: FitReport, teacher: Handedness) -> str:
    before, now = report.before.changed, teacher.changed
    if report.before.applied:
        return (
            f"The EM had {before:.1%} of the samples mirrored in depth and was "
            f"corrected; {now:.1%} are estimated to be mirrored now."
        )
    return f"About {now:.1%} of the samples are estimated to be mirrored in depth."


def _views(report: FitReport) -> str:
    return (
        f"Views: '{report.views}', {report.turning_nats:+.1f} nats a sample against a "
        "single view."
    )


def _one_sign(report: FitReport) -> str:
    if report.sign_nats >= SURE_SIGN:
        return (
            "The one sign of all depths rests on the camera looking down on average: "
            f"{report.sign_nats:.2f} nats a sample."
        )
    return (
        "The one sign of all depths is open: everything may be mirrored. Look at "
        "--stage=check and set config.teacher.depth_sign_cue."
    )
