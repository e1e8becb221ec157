"""Solid bodies: a table of round cones hung on the joints of a posture.

A round cone is the union of spheres whose centre and radius move linearly from one
end to the other; its metric lets the spheres be ellipsoids, which makes flat
torsos, heads and hands from the same primitive.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from input_pipeline.synthetic.body import Posture

PLAIN, SHIRT, FACE = range(3)


# Joint, offset (left, up, front), the joint to which it is moved by a share of the way.
_Point = tuple[str, tuple[float, ...], str, float]


class Part(NamedTuple):
    """One row of a table of parts, see :func:`parse_parts`."""

    ends: tuple[_Point, _Point]
    radii: tuple[float, ...]
    colours: tuple[str, str]
    split: float
    options: Mapping[str, Sequence[str]]


@functools.lru_cache(maxsize=64)
def parse_parts(table: str) -> tuple[Part, ...]:
    """Reads the parts of a body from a table, one cone a line.

    ``start | end | radii | colour [share other] | options``: an end is a joint, moved
    by an offset to the left, up and front of the part ("Head 0 -10 0") or towards
    another joint ("*Knee > *Ankle 0.5"); the colour changes to the other after a share
    of the length. "*" makes one cone on either side, mirrored. Options, by commas:

    - ``frame F``: of the posture; ``size S``: what scales lengths, "girth" by default;
    - ``widths x y z``: half axes of the spheres along the columns of the frame, in
      units of the radius; ``span J share mm``: x instead from the distance between the
      left and the right joint J;
    - ``height low high``: a shirt, and where on it the ends are, mm;
    - ``clear J ...``: joints which this cone belongs to and does not hide;
    - ``only style ...``: drawn for these styles alone; ``both``: as "*".

    Lengths are mm of a body whose size is 1.
    """
    parts = []
    for line in filter(str.strip, table.splitlines()):
        start, end, radii, colour, *rest = line.split("|")
        words = [option.split() for option in rest[0].split(",")] if rest else []
        options = {name: values for name, *values in words}
        if "*" in start + end:
            options["both"] = []
        first, share, other = (*colour.split(), "2", colour.strip())[:3]
        ends = _parse_point(start), _parse_point(end)
        colours = (first, other)
        parts.append(
            Part(ends, _numbers(radii.split()), colours, float(share), options)
        )
    return tuple(parts)


def _parse_point(text: str) -> _Point:
    near, _, far = text.partition(">")
    joint, *offset = near.split()
    to, share = far.split() or ("", 0)
    return joint, _numbers(offset or "000"), to, float(share)


def _numbers(words: Iterable[str]) -> tuple[float, ...]:
    return tuple(float(word) for word in words)


@dataclasses.dataclass(frozen=True)
class Cones:
    """N round cones.

    ``start``, ``end`` (N, 3) and ``radii`` (N, 2): the end spheres; ``widths``
    (N, 3): half axes of the spheres in units of the radius along the columns of
    ``frame`` (N, 3, 3); ``colours`` (N, 2, 3) before and after the share ``split``
    (N,); ``pattern`` (N,): PLAIN, SHIRT or FACE; ``height`` (N, 2) and ``clear``
    (N, P) as in :func:`parse_parts`.
    """

    start: np.ndarray
    end: np.ndarray
    radii: np.ndarray
    widths: np.ndarray
    frame: np.ndarray
    colours: np.ndarray
    split: np.ndarray
    pattern: np.ndarray
    height: np.ndarray
    clear: np.ndarray

    def metric(self) -> np.ndarray:
        """(N, 3, 3) matrices Q: the spheres are ``x Q x = radius^2``."""
        scaled = self.frame / self.widths[:, None, :]
        return scaled @ np.swapaxes(scaled, 1, 2)

    def to_pixels(self, scale: float, translation: np.ndarray) -> Cones:
        """The cones in pixels, under weak perspective (depth too is in pixels)."""
        shift = np.array([*translation, 0.0])
        return dataclasses.replace(
            self,
            start=scale * self.start + shift,
            end=scale * self.end + shift,
            radii=scale * self.radii,
        )


def build_cones(
    parts: Iterable[Part],
    posture: Posture,
    joint_names: Sequence[str],
    *,
    sizes: Mapping[str, float],
    colours: Mapping[str, np.ndarray],
) -> Cones:
    """The solid body of a posture, in its frame and in mm.

    ``sizes`` and ``colours`` (3,) go by the names that the parts use; a part whose
    colour is ``face`` is painted.
    """
    places = dict(zip(joint_names, posture.joints, strict=True))
    rows = []
    for part in parts:
        options = part.options
        size = sizes[options.get("size", ["girth"])[0]]
        widths = _numbers(options.get("widths", "111"))
        if "span" in options:
            joint, share, more = options["span"]
            across = np.linalg.norm(places["L" + joint] - places["R" + joint])
            wide = float(share) * across / size + float(more)
            widths = (2.0 * wide / sum(part.radii), *widths[1:])
        height = _numbers(options.get("height", "00"))
        pattern = FACE if part.colours[0] == "face" else SHIRT * ("height" in options)
        for side in "LR" if "both" in options else " ":
            name = options.get("frame", [""])[0].replace("*", side)
            frame = posture.frames[name] if name else np.eye(3)
            own = [joint.replace("*", side) for joint in options.get("clear", ())]
            rows.append(
                (
                    *(_place(end, side, places, size * frame) for end in part.ends),
                    (size * part.radii[0], size * part.radii[1]),
                    *(widths, frame, [colours[name] for name in part.colours]),
                    *(part.split, pattern, height),
                    [name in own for name in joint_names],
                )
            )
    return Cones(*(np.array(column) for column in zip(*rows, strict=True)))


def _place(
    point: _Point, side: str, places: Mapping[str, np.ndarray], frame: np.ndarray
) -> np.ndarray:
    joint, (x, y, z), to, share = point
    near = places[joint.replace("*", side)]
    place = near + frame @ (-x if side == "R" else x, y, z)
    return place + share * (places[to.replace("*", side)] - near) if to else place
