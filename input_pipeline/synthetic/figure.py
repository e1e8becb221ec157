"""The solid person: round cones around the joints of a posture.

A round cone is the union of spheres whose centre and radius move linearly from one
end to the other; its metric lets the spheres be ellipsoids, which makes flat
torsos, heads and hands from the same primitive.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from input_pipeline.synthetic.body import JOINT, Body, Posture
from input_pipeline.synthetic.scene import Look

PLAIN, SHIRT, FACE = range(3)
_CHEST, _HEAD, _HAND, _FOOT = 1, 2, 3, 5  # rows of Posture.frames


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


_ROUND = (1.0, 1.0, 1.0)


class ConeBuilder:
    """Collects cones one by one; ``joints`` maps the names in ``clear`` to indices."""

    def __init__(self, joints: Mapping[str, int]) -> None:
        self.joints = joints
        self.rows: list[tuple] = []

    def add(
        self,
        ends: tuple[np.ndarray, np.ndarray],
        radii: tuple[float, float],
        colour: np.ndarray,
        *,
        frame: np.ndarray | None = None,
        widths: tuple[float, float, float] = _ROUND,
        other: np.ndarray | None = None,
        split: float = 2.0,
        pattern: int = PLAIN,
        height: tuple[float, float] = (0.0, 0.0),
        clear: tuple[str, ...] = (),
    ) -> None:
        """Adds a cone; see :class:`Cones` for the words, ``other`` colour after it."""
        frame = _IDENTITY if frame is None else frame
        colours = (colour, colour if other is None else other)
        own = np.zeros(len(self.joints), bool)
        own[[self.joints[name] for name in clear]] = True
        self.rows.append(
            (*ends, radii, widths, frame, colours, split, pattern, height, own)
        )

    def build(self) -> Cones:
        return Cones(*(np.array(column) for column in zip(*self.rows, strict=True)))


_IDENTITY = np.eye(3)


def build_figure(posture: Posture, body: Body, look: Look) -> Cones:
    """Dresses a posture.

    Args:
        posture: in the frame in which the cones are wanted, mm.
        body: thickness of the limbs and size of the head.
        look: colours and styles.

    Returns:
        The cones, mm.
    """
    builder = ConeBuilder(JOINT)
    _trunk(builder, posture, body, look)
    _head(builder, posture, body, look)
    for side in "LR":
        _arm(builder, posture, body, look, side)
        _leg(builder, posture, body, look, side)
    return builder.build()


def joint_radii(body: Body) -> np.ndarray:
    """(17,) mm: how deep inside the body each joint lies."""
    thick = {
        "Pelvis": 115,
        "Spine": 110,
        "Thorax": 115,
        "Neck": 60,
        "Hip": 100,
        "Knee": 62,
        "Ankle": 48,
        "Shoulder": 66,
        "Elbow": 48,
        "Wrist": 36,
    }
    radii = [
        100.0 * body.head_size
        if name == "Head"
        else thick[name.removeprefix("L").removeprefix("R")] * body.girth
        for name in JOINT
    ]
    return np.array(radii)


def _trunk(builder: ConeBuilder, posture: Posture, body: Body, look: Look) -> None:
    joints, (pelvis, chest) = posture.joints, posture.frames[:2]
    girth, clear = body.girth, ("Pelvis", "Spine", "Thorax")
    spine, thorax = joints[JOINT["Spine"]], joints[JOINT["Thorax"]]
    hips = joints[JOINT["LHip"]], joints[JOINT["RHip"]]
    shoulders = joints[JOINT["LShoulder"]], joints[JOINT["RShoulder"]]
    hip_wide = 0.5 * float(np.linalg.norm(hips[0] - hips[1])) + 52.0 * girth
    chest_wide = 0.40 * float(np.linalg.norm(shoulders[0] - shoulders[1]))
    builder.add(hips, (96 * girth, 96 * girth), look.trousers, clear=clear)
    builder.add(
        (joints[0] + 20.0 * pelvis[:, 1], joints[0] + 55.0 * pelvis[:, 1]),
        (102 * girth, 102 * girth),
        look.belt,
        frame=pelvis,
        widths=(0.96 * hip_wide / (102 * girth), 0.25, 1.0),
        clear=clear,
    )
    builder.add(
        (joints[0] + 80.0 * pelvis[:, 1], spine),
        (102 * girth, 104 * girth),
        look.shirt,
        frame=pelvis,
        widths=(0.92 * hip_wide / (102 * girth), 0.7, 1.0),
        pattern=SHIRT,
        height=(55.0, 220.0),
        clear=clear,
    )
    builder.add(
        (spine, thorax + 4.0 * chest[:, 1]),
        (106 * girth, 112 * girth),
        look.shirt,
        frame=chest,
        widths=(chest_wide / (108 * girth), 0.95, 1.0),
        pattern=SHIRT,
        height=(220.0, 460.0),
        clear=clear,
    )
    _shoulders(builder, posture, body, look)
    if look.backpack:
        _backpack(builder, posture, look, 0.75 * chest_wide, girth)


def _shoulders(builder: ConeBuilder, posture: Posture, body: Body, look: Look) -> None:
    joints, chest = posture.joints, posture.frames[_CHEST]
    middle = joints[JOINT["Thorax"]] + 62.0 * chest[:, 1]
    for side in "LR":
        builder.add(
            (middle, joints[JOINT[f"{side}Shoulder"]]),
            (66 * body.girth, 62 * body.girth),
            look.shirt,
            frame=chest,
            height=(490.0, 520.0),
            pattern=SHIRT,
            clear=(f"{side}Shoulder", "Thorax", "Neck"),
        )


def _backpack(
    builder: ConeBuilder, posture: Posture, look: Look, wide: float, girth: float
) -> None:
    """Belongs to no joint: it hides the trunk's joints from behind."""
    chest = posture.frames[_CHEST]
    back = -165.0 * girth * chest[:, 2]
    low = posture.joints[JOINT["Spine"]] - 20.0 * chest[:, 1] + back
    high = posture.joints[JOINT["Thorax"]] + 10.0 * chest[:, 1] + back
    builder.add(
        (low, high),
        (85.0, 75.0),
        look.shirt_accent,
        frame=chest,
        widths=(wide / 80.0, 0.8, 1.0),
        other=0.6 * look.shirt_accent,
        split=0.55,
    )


def _head(builder: ConeBuilder, posture: Posture, body: Body, look: Look) -> None:
    joints, chest, head = posture.joints, posture.frames[_CHEST], posture.frames[_HEAD]
    size, girth = body.head_size, body.girth
    left, up, front = head.T
    neck, centre = joints[JOINT["Neck"]], joints[JOINT["Head"]]
    base = joints[JOINT["Thorax"]] + 40.0 * chest[:, 1]
    own = ("Neck", "Head", "Thorax")
    builder.add((base, neck), (62 * girth, 54 * girth), look.skin, clear=own)
    builder.add(
        (centre - 10.0 * size * up, centre + 10.0 * size * up),
        (100 * size, 100 * size),
        look.skin,
        frame=head,
        widths=(0.82, 1.12, 0.97),
        pattern=FACE,
        clear=own,
    )
    nose = centre + size * (92.0 * front + 12.0 * up)
    tip = centre + size * (112.0 * front - 22.0 * up)
    builder.add((nose, tip), (10 * size, 19 * size), 0.96 * look.skin, clear=own)
    if look.hair_style not in ("long",):
        for sign in (1.0, -1.0):
            ear = centre + size * (sign * 80.0 * left - 8.0 * front)
            ends = (ear + 14 * size * up, ear - 14 * size * up)
            builder.add(ends, (15 * size, 12 * size), 0.92 * look.skin, clear=own)
    _hair(builder, centre, head, look, size, own)


def _hair(
    builder: ConeBuilder,
    centre: np.ndarray,
    head: np.ndarray,
    look: Look,
    size: float,
    own: tuple[str, ...],
) -> None:
    _, up, front = head.T
    back = centre - 30.0 * size * front
    hair, style = look.hair, look.hair_style
    if style in ("short", "bun", "ponytail", "long"):
        builder.add(
            (back + 22 * size * up, back + 38 * size * up),
            (96 * size, 96 * size),
            hair,
            frame=head,
            widths=(0.88, 0.9, 0.98),
            clear=own,
        )
    if style == "long":
        ends = (back + 10 * size * up, back - size * (190 * up + 35 * front))
        wide = (1.05, 1.0, 0.7)
        radii = (92 * size, 70 * size)
        builder.add(ends, radii, hair, frame=head, widths=wide, clear=own)
    if style == "ponytail":
        ends = (
            back + size * (40 * up - 85 * front),
            back - size * (170 * up + 90 * front),
        )
        builder.add(ends, (34 * size, 20 * size), hair, clear=own)
    if style == "bun":
        knot = back + size * (75 * up - 75 * front)
        builder.add((knot, knot + 8 * up), (45 * size, 40 * size), hair, clear=own)
    if style == "cap":
        _cap(builder, centre, head, look, size, own)


def _cap(
    builder: ConeBuilder,
    centre: np.ndarray,
    head: np.ndarray,
    look: Look,
    size: float,
    own: tuple[str, ...],
) -> None:
    _, up, front = head.T
    crown = centre + size * (38 * up - 6 * front)
    builder.add(
        (crown, crown + 20 * size * up),
        (94 * size, 94 * size),
        look.shirt_accent,
        frame=head,
        widths=(0.90, 0.85, 1.06),
        clear=own,
    )
    brim = crown + size * (16 * up + 70 * front)
    builder.add(
        (brim, brim + 55 * size * front),
        (66 * size, 60 * size),
        0.8 * look.shirt_accent,
        frame=head,
        widths=(1.0, 0.18, 1.0),
        clear=own,
    )


def _arm(
    builder: ConeBuilder, posture: Posture, body: Body, look: Look, side: str
) -> None:
    joints, girth = posture.joints, body.girth
    names = [f"{side}{n}" for n in ("Shoulder", "Elbow", "Wrist")]
    shoulder, elbow, wrist = (joints[JOINT[n]] for n in names)
    clear = tuple(names)
    cloth, skin = look.shirt, look.skin
    upper, fore = min(look.sleeves, 1.0), max(look.sleeves - 1.0, 0.0)
    builder.add(
        (shoulder, elbow),
        (57 * girth, 43 * girth),
        cloth,
        other=skin if upper < 1.0 else cloth,
        split=upper,
        clear=clear,
    )
    if upper < 1.0:  # a loose short sleeve stands off the arm
        ends = (shoulder, shoulder + upper * (elbow - shoulder))
        radii = (62 * girth, (64 - 8 * upper) * girth)
        builder.add(ends, radii, cloth, clear=clear)
    radii = (42 * girth, 30 * girth)
    builder.add(
        (elbow, wrist),
        radii,
        cloth if fore > 0.0 else skin,
        other=skin,
        split=fore,
        clear=clear,
    )
    _hand(builder, wrist, posture.frames[_HAND + (side == "R")], look, side, clear)


def _hand(
    builder: ConeBuilder,
    wrist: np.ndarray,
    frame: np.ndarray,
    look: Look,
    side: str,
    clear: tuple[str, ...],
) -> None:
    _, up, front = frame.T
    colour = look.belt if look.gloves else look.skin
    builder.add(
        (wrist - 25.0 * up, wrist - 125.0 * up),
        (39.0, 29.0),
        colour,
        frame=frame,
        widths=(0.65, 1.0, 1.1),
        clear=clear,
    )
    thumb = (wrist - 40.0 * up + 15.0 * front, wrist - 85.0 * up + 52.0 * front)
    builder.add(thumb, (17.0, 13.0), colour, clear=clear)
    if side == "L":  # the watch is always on the left
        band = (wrist + 22.0 * up, wrist + 34.0 * up)
        builder.add(band, (36.0, 36.0), look.belt, clear=clear)


def _leg(
    builder: ConeBuilder, posture: Posture, body: Body, look: Look, side: str
) -> None:
    joints, girth = posture.joints, body.girth
    names = [f"{side}{n}" for n in ("Hip", "Knee", "Ankle")]
    hip, knee, ankle = (joints[JOINT[n]] for n in names)
    clear = (*names, "Pelvis")
    cloth, skin = look.trousers, look.skin
    upper, lower = min(look.legs, 1.0), max(look.legs - 1.0, 0.0)
    builder.add(
        (hip, knee),
        (90 * girth, 59 * girth),
        cloth,
        other=skin if upper < 1.0 else cloth,
        split=upper,
        clear=clear,
    )
    if upper < 1.0:
        ends = (hip, hip + upper * (knee - hip))
        builder.add(ends, (94 * girth, (92 - 14 * upper) * girth), cloth, clear=clear)
    radii = (58 * girth, 40 * girth)
    builder.add(
        (knee, ankle),
        radii,
        cloth if lower > 0.0 else skin,
        other=look.socks if lower > 0.8 else skin,
        split=lower,
        clear=clear,
    )
    frame = posture.frames[_FOOT + (side == "R")]
    front = frame[:, 2]
    builder.add(
        (
            knee + 0.22 * (ankle - knee) - 16.0 * front,
            knee + 0.5 * (ankle - knee) - 14.0 * front,
        ),
        (52 * girth, 45 * girth),
        cloth if lower > 0.4 else skin,
        clear=clear,
    )
    _foot(builder, ankle, frame, look, 0.5 * (girth + body.shank / 415.0), clear)


def _foot(
    builder: ConeBuilder,
    ankle: np.ndarray,
    frame: np.ndarray,
    look: Look,
    size: float,
    clear: tuple[str, ...],
) -> None:
    _, up, front = frame.T
    heel = ankle + size * (-30.0 * front - 42.0 * up)
    toe = ankle + size * (150.0 * front - 56.0 * up)
    builder.add(
        (heel, toe),
        (46 * size, 33 * size),
        look.shoes,
        frame=frame,
        widths=(1.08, 0.9, 1.0),
        other=0.85 * look.shoes + 0.1,
        split=0.75,
        clear=clear,
    )
    builder.add((ankle, heel), (44 * size, 44 * size), look.shoes, clear=clear)
