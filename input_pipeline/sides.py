"""Left and right in the names of joints, decided in one place."""

from __future__ import annotations

import collections
import re
from collections.abc import Sequence
from typing import Any

# What stands for the left and the right side in a name.
SIDES = (
    *(("left", "right"), ("Left", "Right"), ("LEFT", "RIGHT")),
    *(("L", "R"), ("l", "r")),
)
# What is passed over when names are compared, step by step: nothing; case and
# separators; digits as well (paw1LH and paw4RH).
_IGNORED = ("", r"[\W_]", r"[\W_\d]")


def find_left_right(joints: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Pairs joints whose names differ only in the side, wherever it stands.

    The names are compared as they are, then ever less strictly, at last by their words
    (``left_foot`` and ``foot_r``). Two joints are a pair if neither of them could have
    another partner.

    Examples:
        >>> find_left_right(["nose", "left_eye", "right_eye", "HLpaw", "HRpaw"])
        ((1, 2), (3, 4))
    """
    pairs: dict[int, int] = {}
    for step in range(len(_IGNORED) + 1):
        free = [i for i in range(len(joints)) if i not in {*pairs, *pairs.values()}]
        own = {i: _compared(joints[i], step) for i in free}
        right = {i: _right_names(joints[i], step) for i in free}
        found = [(i, k) for i in free for k in free if own[k] in right[i]]
        often = collections.Counter(i for pair in found for i in pair)
        pairs |= {i: k for i, k in found if often[i] == often[k] == 1}
    return tuple(sorted(pairs.items()))


def _compared(name: str, step: int) -> Any:
    """What of a name is compared in a step of :func:`find_left_right`."""
    if step == len(_IGNORED):
        return key_of(name)
    return re.sub(_IGNORED[step], "", name.lower()) if step else name


def _right_names(name: str, step: int) -> set[Any]:
    """The right partners of a left joint, as :func:`_compared` would have them."""
    if step == len(_IGNORED):
        side, rest = key_of(name)
        return {("right", rest)} if side == "left" else set()
    return {
        _compared(f"{name[: m.start()]}{right}{name[m.end() :]}", step)
        for left, right in SIDES
        for m in re.finditer(left, name)
    }


_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+|[^\W\d_a-zA-Z]+")
_SIDES = {"l": "left", "left": "left", "r": "right", "right": "right"}


def key_of(joint: str) -> tuple[str, str]:
    """(side, the rest in lower case without separators) of a joint's name."""
    # An L or R before a capital is a side: LHip.
    parted = re.sub(r"^([LR])(?=[A-Z][a-z])", r"\1_", joint)
    words = [word.lower() for word in _WORDS.findall(parted)]
    sides = [_SIDES[word] for word in words if word in _SIDES]
    rest = "".join(word for word in words if word not in _SIDES)
    return (sides[0] if len(sides) == 1 else "", rest or joint)


def side_of(joint: str) -> str:
    """``"left"`` or ``"right"`` where a word of the name says so, else empty.

    Examples:
        >>> side_of("LHip"), side_of("ear_r1"), side_of("tail")
        ('left', 'right', '')
    """
    return key_of(joint)[0]
