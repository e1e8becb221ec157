"""How a pose is drawn from the repertoire: phase, amplitude, asymmetry, noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from input_pipeline.synthetic.body import (
    PART,
    PARTS,
    TRUNK,
    clip_to_limits,
    mirror_angles,
)
from input_pipeline.synthetic.repertoire import ACTIONS, IDLE_ARMS, IDLE_LEGS, Action

_IDLE = {"arms": IDLE_ARMS, "legs": IDLE_LEGS}
_LIMB_PARTS = {
    "arms": ("clavicle", "arm", "elbow", "wrist"),
    "legs": ("hip", "knee", "ankle"),
}
ACTION_NAMES = tuple(ACTIONS)


def draw_pose(
    rng: np.random.Generator, action: str | None = None
) -> tuple[str, np.ndarray]:
    """Draws one pose.

    Args:
        rng: the only source of chance.
        action: a name of :data:`ACTIONS`; by default one is drawn uniformly.

    Returns:
        The action's name and the angles (PARTS, 3) in degrees, inside the limits.

    Raises:
        ValueError: ``action`` is not in the repertoire.
    """
    name = ACTION_NAMES[rng.integers(len(ACTION_NAMES))] if action is None else action
    if name not in ACTIONS:
        raise ValueError(f"unknown action {name!r}; known: {', '.join(ACTION_NAMES)}")
    family = ACTIONS[name]
    angles = _at_phase(family, rng)
    for limbs in family.idle:
        _fill(angles, limbs, _IDLE[limbs], rng)
    angles = angles * rng.uniform(0.8, 1.15)
    angles += _variation(rng, family.noise)
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


def _fill(
    angles: np.ndarray,
    limbs: str,
    postures: Sequence[np.ndarray],
    rng: np.random.Generator,
) -> None:
    """Gives limbs that the family leaves at rest an everyday posture, in place.

    Each side is looked at on its own; half of the time both sides agree.
    """
    left = postures[int(rng.integers(len(postures)))]
    right = left if rng.random() < 0.5 else postures[int(rng.integers(len(postures)))]
    amount = rng.uniform(0.6, 1.1)
    for side, posture in (("l", left), ("r", right)):
        parts = [PART[f"{part}_{side}"] for part in _LIMB_PARTS[limbs]]
        if not np.any(angles[parts]):
            angles[parts] = amount * posture[parts]
    if limbs == "legs":
        angles[PART["root"]] += amount * left[PART["root"]]


_SPREAD = np.ones((len(PARTS), 1))
_SPREAD[[PART[p] for p in TRUNK]] = 0.7
_SPREAD[[PART[f"{p}_{s}"] for p in ("arm", "elbow") for s in "lr"]] = 1.7
_SPREAD[[PART[f"{p}_{s}"] for p in ("hip", "knee") for s in "lr"]] = 1.1
_SPREAD[PART["root"]] = 0.6


def _variation(rng: np.random.Generator, noise: float) -> np.ndarray:
    """Per-angle noise; the head also looks around, and sides differ on purpose."""
    variation = noise * _SPREAD * rng.standard_normal((len(PARTS), 3))
    variation[PART["neck"]] += rng.normal(0.0, (8.0, 5.0, 18.0))
    return variation
