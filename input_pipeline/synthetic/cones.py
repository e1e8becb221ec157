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


class Point(NamedTuple):
    """A joint, moved by an offset and by a share of the way to the joint ``to``.

    ``offset``: left, up, front in the frame of the part, mm.
    """

    joint: str
    offset: tuple[float, ...]
    to: str
    share: float


class Part(NamedTuple):
    """One cone of a body; lengths are mm of a body whose ``size`` is 1.

    ``colours``: it changes to the second after the share ``split`` of the length;
    ``widths``: half axes of the spheres along the columns of ``frame``, in units of
    the radius; ``span``: replaces the first of them by a share of the distance between
    the left and the right joint of a name, plus mm; ``height``: where the ends are on
    the wearer's shirt, mm; ``clear``: joints which this cone belongs to and does not
    hide; ``both``: one on either side, mirrored, "*" in names stands for the side.
    """

    start: Point
    end: Point
    radii: tuple[float, ...]
    colours: tuple[str, str]
    split: float
    frame: str
    size: str
    widths: tuple[float, ...]
    span: tuple[str, ...]
    height: tuple[float, ...]
    clear: str
    both: bool


@functools.lru_cache(maxsize=64)
def parse_parts(table: str) -> tuple[Part, ...]:
    """Reads parts from a table, one a line.

    ``start | end | radii | colour [split other] | options``: an end is a joint with an
    offset ("Head 0 -10 0") or on the way to another ("*Knee > *Ankle 0.5"); options
    are the fields of :class:`Part` ("frame head, size head, widths 1 0.5 1, both").
    """
    parts = []
    for line in filter(str.strip, table.splitlines()):
        start, end, radii, colour, *rest = line.split("|")
        words = [option.split() for option in rest[0].split(",")] if rest else []
        options = {name: values for name, *values in words}
        first, *change = colour.split()
        parts.append(
            Part(
                start=_parse_point(start),
                end=_parse_point(end),
                radii=_numbers(radii.split()),
                colours=(first, change[1] if change else first),
                split=float(change[0]) if change else 2.0,
                frame=" ".join(options.get("frame", ())),
                size=" ".join(options.get("size", ("girth",))),
                widths=_numbers(options.get("widths", "111")),
                span=tuple(options.get("span", ())),
                height=_numbers(options.get("height", "00")),
                clear=" ".join(options.get("clear", ())),
                both="both" in options or "*" in start + end,
            )
        )
    return tuple(parts)


def _parse_point(text: str) -> Point:
    near, _, far = text.partition(">")
    joint, *offset = near.split()
    to, share = far.split() or ("", 0)
    return Point(joint, _numbers(offset or "000"), to, float(share))


def _numbers(words: Iterable[str]) -> tuple[float, ...]:
    return tuple(float(word) for word in words)


@dataclasses.dataclass(frozen=True)
class Cones:
    """N round cones.

    ``start``, ``end`` (N, 3) and ``radii`` (N, 2): the end spheres; ``widths``
    (N, 3): half axes of the spheres in units of the radius along the columns of
    ``frame`` (N, 3, 3); ``colours`` (N, 2, 3) before and after the share ``split``
    (N,) of the length; ``pattern`` (N,) which painting the shader applies;
    ``height`` (N, 2) where the ends are on the wearer's shirt, mm; ``clear``
    (N, P): joints which this cone belongs to and does not hide.
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
    """The solid body of a posture.

    Args:
        parts: its table.
        posture: in the frame in which the cones are wanted, mm.
        joint_names: of the posture's joints.
        sizes: factors by which ``Part.size`` scales lengths.
        colours: (3,) by the names that the parts use; ``face`` is painted.

    Returns:
        The cones, mm.
    """
    places = dict(zip(joint_names, posture.joints, strict=True))
    frames = {"": np.eye(3), **posture.frames}
    rows = []
    for part in parts:
        for side in "LR" if part.both else ("",):
            size, frame = sizes[part.size], frames[part.frame.replace("*", side)]
            own = part.clear.replace("*", side).split()
            rows.append(
                (
                    _place(part.start, side, places, frame * size),
                    _place(part.end, side, places, frame * size),
                    np.multiply(size, part.radii),
                    _widths(part, places, size),
                    frame,
                    [colours[name] for name in part.colours],
                    part.split,
                    FACE if part.colours[0] == "face" else SHIRT * any(part.height),
                    part.height,
                    [name in own for name in joint_names],
                )
            )
    return Cones(*(np.array(column) for column in zip(*rows, strict=True)))


def _place(
    point: Point, side: str, places: Mapping[str, np.ndarray], frame: np.ndarray
) -> np.ndarray:
    joint = places[point.joint.replace("*", side)]
    x, y, z = point.offset
    place = joint + frame @ (-x if side == "R" else x, y, z)
    if point.to:
        place = place + point.share * (places[point.to.replace("*", side)] - joint)
    return place


def _widths(
    part: Part, places: Mapping[str, np.ndarray], size: float
) -> tuple[float, ...]:
    if not part.span:
        return part.widths
    joint, share, more = part.span
    across = float(np.linalg.norm(places["L" + joint] - places["R" + joint]))
    wide = float(share) * across / size + float(more)
    return (2.0 * wide / sum(part.radii), *part.widths[1:])
