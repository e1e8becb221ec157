"""The repertoire of action families (``repertoire.txt``) and how poses are drawn.

A family is a row of key poses between which a random phase chooses. What it leaves
open (arms, legs) is filled from everyday postures, so that families combine.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from input_pipeline.synthetic.body import (
    PART,
    PARTS,
    TRUNK,
    clip_to_limits,
    mirror_angles,
)

_LIMBS = {
    "arms": ("clavicle", "arm", "elbow", "wrist"),
    "legs": ("hip", "knee", "ankle"),
}


@dataclasses.dataclass(frozen=True)
class Action:
    """One family.

    ``keys`` (n, PARTS, 3): the key poses; ``cyclic``: whether the last leads back to
    the first; ``noise``: degrees of per-angle variation; ``idle``: which limbs come
    from everyday postures instead.
    """

    keys: np.ndarray
    cyclic: bool
    noise: float
    idle: tuple[str, ...]


@functools.cache
def repertoire() -> dict[str, Action]:
    """All sections of ``repertoire.txt``; those named ``@...`` are no actions."""
    sections: dict[str, Action] = {}
    lines = Path(__file__).with_name("repertoire.txt").read_text("utf-8").splitlines()
    for line in lines:
        text = line.split("#")[0].strip()
        if text and not line.startswith(" "):
            name, _, rest = text.partition(":")
            options = {k: v for k, _, v in (o.partition("=") for o in rest.split())}
            sections[name] = Action(
                keys=np.zeros((0, len(PARTS), 3)),
                cyclic="cyclic" in options,
                noise=float(options.get("noise", 7.0)),
                idle=tuple(filter(None, options.get("idle", "").split(","))),
            )
        elif text:
            last = sections[name]
            keys = np.concatenate([last.keys, _key_poses(text, sections)])
            sections[name] = dataclasses.replace(last, keys=keys)
    return sections


def action_names() -> tuple[str, ...]:
    """The actions of the repertoire, in its order."""
    return tuple(name for name in repertoire() if not name.startswith("@"))


def _key_poses(text: str, sections: Mapping[str, Action]) -> np.ndarray:
    """(n, PARTS, 3) degrees of one line of the repertoire."""
    pose = np.zeros((len(PARTS), 3))
    for word, *numbers in (item.split() for item in text.split(",")):
        values = [float(number) for number in numbers]
        if word == "stride":
            return _stride(*values)
        if word.startswith("@"):
            pose = sections[word].keys[0].copy()
        elif word == "trunk":  # shared between waist and chest
            pose[[PART["waist"], PART["chest"]]] = 0.0
            pose[[PART["waist"], PART["chest"]], : len(values)] = 0.5 * np.array(values)
        else:
            for part in (word,) if word in PART else (f"{word}_l", f"{word}_r"):
                pose[PART[part]] = values + [0.0] * (3 - len(values))
    return pose[None]


def _stride(
    hip: float, knee: float, arm: float, elbow: float, lean: float
) -> np.ndarray:
    """A gait (4, PARTS, 3): contact, mid-swing, the same with the sides exchanged."""
    contact = (
        f"root {lean}, trunk {lean / 2} 0 18, hip_r {hip} 3, knee_r {6 + knee / 6},"
        f"ankle_r -5, hip_l {-0.75 * hip} 3, knee_l {0.45 * knee}, ankle_l 22,"
        f"arm_l {arm} 6 15, arm_r {-arm} 8 5, elbow_l {elbow + 15}, elbow_r {elbow}"
    )
    swing = (
        f"root {lean}, trunk {lean / 2}, hip_r 4 2, knee_r 10, hip_l {0.9 * hip} 2,"
        f"knee_l {1.35 * knee}, ankle_l 10, arm 0 7 10, elbow {elbow + 8}"
    )
    # Fast gaits ask for more than a hip gives: the stride ends at the limit.
    first = [clip_to_limits(_key_poses(text, {})[0]) for text in (contact, swing)]
    return np.stack(first + [mirror_angles(pose) for pose in first])


def draw_pose(
    rng: np.random.Generator, action: str | None = None
) -> tuple[str, np.ndarray]:
    """Draws one pose.

    Args:
        rng: the only source of chance.
        action: a name of :func:`action_names`; by default one is drawn uniformly.

    Returns:
        The action's name and the angles (PARTS, 3) in degrees, inside the limits.

    Raises:
        ValueError: ``action`` is not in the repertoire.
    """
    names = action_names()
    name = names[rng.integers(len(names))] if action is None else action
    if name not in names:
        raise ValueError(f"unknown action {name!r}; known: {', '.join(names)}")
    family = repertoire()[name]
    angles = _at_phase(family, rng)
    for limbs in family.idle:
        _fill(angles, limbs, rng)
    angles = angles * rng.uniform(0.8, 1.15)
    angles += family.noise * _SPREAD * rng.standard_normal((len(PARTS), 3))
    angles[PART["neck"]] += rng.normal(0.0, (8.0, 5.0, 18.0))  # looks around
    if rng.random() < 0.5:
        angles = mirror_angles(angles)
    return name, clip_to_limits(angles)


def _at_phase(family: Action, rng: np.random.Generator) -> np.ndarray:
    """The pose at a random phase, its swing about the family's mean scaled."""
    keys = family.keys
    count = len(keys)
    phase = rng.uniform(0.0, count if family.cyclic else max(count - 1, 0))
    first = int(phase) % count
    blend = phase - int(phase)
    pose = (1.0 - blend) * keys[first] + blend * keys[(first + 1) % count]
    mean = keys.mean(axis=0)
    return mean + rng.uniform(0.75, 1.2) * (pose - mean)


def _fill(angles: np.ndarray, limbs: str, rng: np.random.Generator) -> None:
    """Gives limbs that the family leaves at rest an everyday posture, in place.

    Each side is looked at on its own; half of the time both sides agree.
    """
    postures = repertoire()[f"@{limbs}"].keys
    left = postures[int(rng.integers(len(postures)))]
    right = left if rng.random() < 0.5 else postures[int(rng.integers(len(postures)))]
    amount = rng.uniform(0.6, 1.1)
    for side, posture in (("l", left), ("r", right)):
        parts = [PART[f"{part}_{side}"] for part in _LIMBS[limbs]]
        if not np.any(angles[parts]):
            angles[parts] = amount * posture[parts]
    if limbs == "legs":
        angles[PART["root"]] += amount * left[PART["root"]]


# How much the angles of each part vary, in units of the family's noise.
_SPREADS = {
    **dict.fromkeys(TRUNK, 0.7),
    "root": 0.6,
    "arm": 1.7,
    "elbow": 1.7,
    "hip": 1.1,
    "knee": 1.1,
}
_SPREAD = np.array([[_SPREADS.get(part.split("_")[0], 1.0)] for part in PARTS])
