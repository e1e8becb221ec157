"""Appearance: what the person wears, the light, and what stands behind them."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np


def _palette(text: str) -> np.ndarray:
    """(n, 3) in 0..1 of hexadecimal colours."""
    return np.array([[*bytes.fromhex(colour)] for colour in text.split()]) / 255.0


_SKINS = _palette("ffe0c4 f1c2a0 e0ac82 c6865c 966240 6e4630 503426")
_HAIRS = _palette("201a18 3a281e 623e26 926036 cea662 a84a28 969492 dedcd6")
_CLOTHES = _palette(
    "e63946 f18701 fac846 78aa50 2a9d8f 3a86ff 264682 8350b4 d66ea0 f0f0ec "
    "b4bac0 5c626a 2c2e36 966e50 6e2832 cde1eb"
)
_TROUSERS = _palette(
    "2d3e62 4a628c 2c2c32 605c5a 96866a c4b494 545c42 6e3234 e0ded8 3c646e"
)
_WALLS = _palette(
    "ded6c8 c4d0d8 cebeac a8bcb0 e8debe 96a4b8 d6bab4 7e868c bacee2 5c6874"
)
_FLOORS = _palette("a48262 7e7064 b0aaa0 6e865c 929296 c4ac8a 5c5452 809676")
_HAIR_STYLES = ("short", "short", "short", "long", "ponytail", "bun", "bald", "cap")
_SHIRT_STYLES = ("plain", "plain", "stripes", "stripes", "zip", "block", "print")


@dataclasses.dataclass(frozen=True)
class Look:
    """Colours (3,) in 0..1 and styles of one picture's person."""

    skin: np.ndarray
    hair: np.ndarray
    shirt: np.ndarray
    accent: np.ndarray
    trousers: np.ndarray
    belt: np.ndarray
    shoes: np.ndarray
    socks: np.ndarray
    hair_style: str
    shirt_style: str
    sleeves: float  # covered share of the arm: 0 .. 1 upper arm, 1 .. 2 forearm
    legs: float  # covered share of the leg: 0 .. 1 thigh, 1 .. 2 shank
    backpack: bool
    beard: bool
    glasses: bool
    gloves: bool
    stripe_mm: float


class Light(NamedTuple):
    """One lamp and the sky; ``direction`` points to the lamp, camera frame."""

    direction: np.ndarray
    lamp: np.ndarray
    ambient: np.ndarray


def _pick(rng: np.random.Generator, palette: np.ndarray, spread: float) -> np.ndarray:
    colour = palette[rng.integers(len(palette))]
    return np.clip(colour + rng.normal(0.0, spread, 3), 0.02, 0.98)


def draw_look(rng: np.random.Generator) -> Look:
    """Draws skin, hair and clothes."""
    shirt = _pick(rng, _CLOTHES, 0.04)
    accent = _pick(rng, _CLOTHES, 0.03)
    if np.abs(accent - shirt).sum() < 0.5:  # a pattern nobody sees is no pattern
        accent = np.clip(shirt + (0.4 if shirt.mean() < 0.5 else -0.4), 0.02, 0.98)
    return Look(
        skin=_pick(rng, _SKINS, 0.02),
        hair=_pick(rng, _HAIRS, 0.02),
        shirt=shirt,
        accent=accent,
        trousers=_pick(rng, _TROUSERS, 0.04),
        belt=_pick(rng, _HAIRS[:4], 0.02),
        shoes=_pick(rng, _CLOTHES, 0.03),
        socks=np.full(3, rng.uniform(0.2, 0.95)),
        hair_style=_HAIR_STYLES[rng.integers(len(_HAIR_STYLES))],
        shirt_style=_SHIRT_STYLES[rng.integers(len(_SHIRT_STYLES))],
        sleeves=float(rng.choice((0.15, 0.55, 0.75, 1.5, 1.93, 1.93))),
        legs=float(rng.choice((0.5, 0.75, 1.6, 1.9, 1.93, 1.93))),
        backpack=bool(rng.random() < 0.15),
        beard=bool(rng.random() < 0.2),
        glasses=bool(rng.random() < 0.15),
        gloves=bool(rng.random() < 0.08),
        stripe_mm=float(rng.uniform(55.0, 130.0)),
    )


def draw_light(rng: np.random.Generator) -> Light:
    """A lamp somewhere above and in front; its brightness trades with the sky's."""
    side, height = np.deg2rad((rng.uniform(-75.0, 75.0), rng.uniform(15.0, 65.0)))
    flat = np.cos(height)
    direction = np.array([np.sin(side) * flat, -np.sin(height), -np.cos(side) * flat])
    warm = rng.uniform(-0.06, 0.08)
    strength = rng.uniform(0.45, 0.8)
    tint = np.array([1.0 + warm, 1.0, 1.0 - warm])
    ambient = (1.02 - 0.72 * strength) * np.array([1.0 - warm, 1.0, 1.0 + warm])
    return Light(direction, strength * tint * 1.1, ambient)


def draw_background(
    rng: np.random.Generator, size: int, horizon: float
) -> tuple[np.ndarray, np.ndarray]:
    """Wall, floor, blocks and uneven light.

    Returns the picture (size, size, 3) float32 in 0..1 and, (size,), how far each row
    is floor (0..1); ``horizon``: where it begins, as a share of the height.
    """
    wall, floor = _pick(rng, _WALLS, 0.05), _pick(rng, _FLOORS, 0.05)
    y = ((np.arange(size) + 0.5) / size).astype(np.float32)
    is_floor = np.clip((y - horizon) * size + 0.5, 0.0, 1.0).astype(np.float32)
    fade_wall = 1.0 + rng.uniform(-0.25, 0.25) * (y - 0.5)
    fade_floor = 0.8 + 0.35 * (y - horizon)
    column = (1.0 - is_floor)[:, None] * wall * fade_wall[:, None]
    column += is_floor[:, None] * floor * fade_floor[:, None]
    picture = np.repeat(column[:, None, :].astype(np.float32), size, axis=1)
    kind = rng.integers(4)
    if kind == 0:  # vertical panels on the wall
        count, phase = rng.uniform(2.0, 9.0), rng.uniform()
        even = (np.arange(size) / size * count + phase) % 1.0 < 0.5
        band = np.where(even, 1.0, rng.uniform(0.82, 0.95)).astype(np.float32)
        picture[: max(int(horizon * size), 0)] *= band[None, :, None]
    for _ in range(rng.integers(0, 6) if kind != 3 else rng.integers(5, 12)):
        _block(rng, picture, wall, horizon)
    # Slow changes of brightness: a coarse grid, smoothly enlarged.
    grid = rng.normal(1.0, 0.07, (5, 5)).astype(np.float32)
    place = (np.arange(size, dtype=np.float32) + 0.5) / size * 4
    distance = np.abs(place[:, None] - np.arange(5, dtype=np.float32))
    weight = np.maximum(1.0 - distance, 0.0)
    return picture * (weight @ grid @ weight.T)[:, :, None], is_floor


def _block(
    rng: np.random.Generator, picture: np.ndarray, wall: np.ndarray, horizon: float
) -> None:
    """One box, window or picture before the wall, in place."""
    size = len(picture)
    width, height = rng.uniform(0.06, 0.4, 2) * size
    left, top = rng.uniform(-0.1, 1.0) * size, rng.uniform(-0.1, horizon) * size
    if rng.random() < 0.5:  # furniture stands on the floor
        top = (horizon + rng.uniform(0.0, 0.08)) * size - height
    rows = slice(max(int(top), 0), max(int(top + height), 0))
    columns = slice(max(int(left), 0), max(int(left + width), 0))
    colour = _pick(rng, _CLOTHES if rng.random() < 0.3 else _WALLS, 0.08)
    mix = rng.uniform(0.25, 0.9)
    patch = picture[rows, columns]
    patch *= np.float32(1.0 - mix)
    patch += (mix * (0.6 * colour + 0.4 * wall)).astype(np.float32)


def ground_shadow(
    joints: np.ndarray,
    up: np.ndarray,
    light: Light,
    *,
    scale: float,
    translation: np.ndarray,
    size: int,
) -> np.ndarray:
    """Darkness (size, size) in 0..1 of the soft shadow on the floor.

    Each joint (P, 3) (camera frame, mm) drops a blot on the plane through the lowest
    joint, away from the lamp; blots are Gaussians along the picture's axes, so their
    sum is one product of matrices. ``up``: the world's up in the camera frame;
    ``scale`` and ``translation``: pixels per mm, pixel of the frame's origin.
    """
    height = joints @ up
    height = height - height.min() + 80.0
    flat = light.direction - (light.direction @ up) * up
    spot = joints - height[:, None] * (up + 0.35 * flat)
    centre = scale * spot[:, :2] + translation
    spread = scale * (90.0 + 0.10 * height)
    tilt = max(abs(float(up[2])), 0.06)  # the floor seen from the side is a line
    at = np.arange(size, dtype=np.float64) + 0.5
    weight = 0.5 * np.exp(-height / 700.0)
    across = np.exp(-0.5 * ((at - centre[:, :1]) / spread[:, None]) ** 2)
    down = np.exp(-0.5 * ((at - centre[:, 1:]) / (tilt * spread + 0.7)[:, None]) ** 2)
    down = (down * weight[:, None]).astype(np.float32)
    # einsum, not "@": the threads of BLAS cost more here than they save.
    blot = np.einsum("py,px->yx", down, across.astype(np.float32))
    return 1.0 - np.exp(-blot)
