"""The repertoire of action families (``repertoire.txt``) and how poses are drawn.

A family is a row of key poses between which a random phase chooses. What it leaves
open (arms, legs) is filled from everyday postures, so that families combine.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from input_pipeline.synthetic.body import (
    KINDS,
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
    text = Path(__file__).with_name("repertoire.txt").read_text("utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    sections: dict[str, Action] = {}
    for block in re.split(r"\n(?! )", "\n".join(lines)):
        header, *rows = block.split("\n")
        name, _, words = header.partition(":")
        options = {k: v for k, _, v in (w.partition("=") for w in words.split())}
        keys = [_key_pose(row.split("#")[0], sections) for row in rows]
        if "mirrored" in options:
            keys += [mirror_angles(key) for key in keys]
        sections[name] = Action(
            keys=np.array(keys),
            cyclic="cyclic" in options,
            noise=float(options.get("noise", 7.0)),
            idle=tuple(filter(None, options.get("idle", "").split(","))),
        )
    return sections


@functools.cache
def action_names() -> tuple[str, ...]:
    """The actions of the repertoire, in its order."""
    return tuple(name for name in repertoire() if not name.startswith("@"))


def _key_pose(text: str, sections: Mapping[str, Action]) -> np.ndarray:
    """(PARTS, 3) degrees of one line of the repertoire."""
    pose = np.zeros((len(PARTS), 3))
    for word, *numbers in (item.split() for item in text.split(",")):
        row = np.array([float(number) for number in (*numbers, 0, 0)][:3])
        if word.startswith("@"):
            pose = sections[word].keys[0].copy()
        elif word == "trunk":  # shared between waist and chest
            pose[[PART["waist"], PART["chest"]]] = 0.5 * row
        else:
            for part in (word,) if word in PART else (f"L{word}", f"R{word}"):
                pose[PART[part]] = row
    return pose


def draw_pose(
    rng: np.random.Generator, action: str | None = None
) -> tuple[str, np.ndarray]:
    """Draws one pose of an action, by default of one drawn uniformly.

    Returns the action's name and the angles (PARTS, 3) in degrees, inside the limits.
    """
    names = action_names()
    name = names[rng.integers(len(names))] if action is None else action
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
    for side, posture in (("L", left), ("R", right)):
        parts = [PART[f"{side}{part}"] for part in _LIMBS[limbs]]
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
_SPREAD = np.array([[_SPREADS.get(kind, 1.0)] for kind in KINDS])
