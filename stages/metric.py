"""Millimetres from one known length: what a single camera cannot tell."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from input_pipeline.skeleton import Skeleton


def parse_length(text: str, skeleton: Skeleton) -> tuple[tuple[int, int], float]:
    """``"Nose-TailBase=120"``: two joints and their distance in millimetres.

    Raises:
        ValueError: other joints than those of the skeleton, or no length above 0.
    """
    names, _, number = text.rpartition("=")
    joints = {name: i for i, name in enumerate(skeleton.joints)}
    cuts = [i for i, letter in enumerate(names) if letter == "-"]  # names may have one
    pairs = [(names[:i].strip(), names[i + 1 :].strip()) for i in cuts]
    found = [(joints[a], joints[b]) for a, b in pairs if a in joints and b in joints]
    try:
        length = float(number)
    except ValueError:
        length = math.nan
    if len(found) != 1 or found[0][0] == found[0][1] or not 0 < length < math.inf:
        raise ValueError(
            f"the length {text!r} is not 'JOINT-JOINT=MILLIMETRES', such as "
            f"'{skeleton.joints[0]}-{skeleton.joints[-1]}=120'; the joints are "
            f"{', '.join(skeleton.joints)}"
        )
    return found[0], length


def metric_scale(
    points: Float[np.ndarray, "n p 3"],
    edges: Sequence[tuple[int, int]],
    pair: tuple[int, int],
    length: float,
) -> Float[np.ndarray, " n"]:
    """The factors that make millimetres of poses of one body, or of equal bodies.

    With the distance d of the pair and the mean length b of the bones, in each pose::

        scale = length / (b * median over poses of d / b)

    so that the size of each pose is told by all bones, and the error of the pair's
    depth in a single pose does not matter. The pair itself need not be a bone.

    Args:
        points: poses, each in a unit of its own; NaN where a joint is not known.
        edges: the bones, pairs of joints.
        pair: the joints whose distance is known.
        length: that distance, millimetres.

    Returns:
        Millimetres per unit; NaN where a pose has no length at all.

    Raises:
        ValueError: the pair has a distance in no pose.
    """
    points = np.asarray(points, np.float64)
    first, second = np.array([*edges, pair]).T
    lengths = np.linalg.norm(points[:, first] - points[:, second], axis=-1)
    known = np.isfinite(lengths[:, :-1])
    total = np.where(known, lengths[:, :-1], 0.0).sum(axis=1)
    mean = np.full(len(points), np.nan)
    np.divide(total, known.sum(axis=1), out=mean, where=total > 0)
    ratios = lengths[:, -1] / mean
    ratios = ratios[ratios > 0]  # also leaves NaN out
    if not len(ratios):
        raise ValueError(f"joints {pair} of the known length lie apart in no pose")
    return length / (mean * np.median(ratios))
