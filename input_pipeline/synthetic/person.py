"""The solid person: which cones hang on which joints, and how they are dressed."""

from __future__ import annotations

from input_pipeline.synthetic.body import JOINT, Body, Posture
from input_pipeline.synthetic.cones import Cones, build_cones, parse_parts
from input_pipeline.synthetic.scene import Look

# start | end | radii | colour, see cones.parse_parts.
_BODY = """
LHip | RHip | 96 96 | trousers
Pelvis 0 20 0 | Pelvis 0 55 0 | 102 102 | belt | frame pelvis, span Hip .48 50, widths 1 .25 1
Pelvis 0 80 0 | Spine | 102 104 | shirt | frame pelvis, span Hip .46 48, widths 1 .7 1, height 55 220
Spine | Thorax 0 4 0 | 106 112 | shirt | frame chest, span Shoulder .4 0, widths 1 .95 1, height 220 460
Thorax 0 62 0 | *Shoulder | 66 62 | shirt | frame chest, height 490 520
Thorax 0 40 0 | Neck | 62 54 | skin | frame chest
Head 0 -10 0 | Head 0 10 0 | 100 100 | face | frame head, size head, widths .82 1.12 .97
Head 0 12 92 | Head 0 -22 112 | 10 19 | nose | frame head, size head
*Wrist 0 -25 0 | *Wrist 0 -125 0 | 39 29 | hand | frame *Hand, size one, widths .65 1 1.1
*Wrist 0 -40 15 | *Wrist 0 -85 52 | 17 13 | hand | frame *Hand, size one
LWrist 0 22 0 | LWrist 0 34 0 | 36 36 | belt | frame LHand, size one
*Knee 0 0 -16 > *Ankle .22 | *Knee 0 0 -14 > *Ankle .5 | 52 45 | calf | frame *Foot
*Ankle 0 -42 -30 | *Ankle 0 -56 150 | 46 33 | shoes .75 sole | frame *Foot, size foot, widths 1.08 .9 1
*Ankle | *Ankle 0 -42 -30 | 44 44 | shoes | frame *Foot, size foot
"""  # noqa: E501
_EARS = "Head 80 14 -8 | Head 80 -14 -8 | 15 12 | ear | frame head, size head, both\n"
_SCALP = """
Head 0 22 -30 | Head 0 38 -30 | 96 96 | hair | frame head, size head, widths .88 .9 .98
"""
_HAIR = {
    "bald": _EARS,
    "short": _EARS + _SCALP,
    "long": _SCALP
    + "Head 0 10 -30 | Head 0 -190 -65 | 92 70 | hair"
    + "| frame head, size head, widths 1.05 1 .7",
    "ponytail": _EARS
    + _SCALP
    + "Head 0 40 -115 | Head 0 -170 -120 | 34 20 | hair | frame head, size head",
    "bun": _EARS
    + _SCALP
    + "Head 0 75 -105 | Head 0 83 -105 | 45 40 | hair | frame head, size head",
    "cap": _EARS
    + """
Head 0 38 -6 | Head 0 58 -6 | 94 94 | accent | frame head, size head, widths .9 .85 1.06
Head 0 54 64 | Head 0 54 119 | 66 60 | brim | frame head, size head, widths 1 .18 1
""",
}
_BACKPACK = """
Spine 0 -20 -165 | Thorax 0 10 -165 | 85 75 | accent .55 pack | frame chest, span Shoulder .3 0, widths 1 .8 1
"""  # noqa: E501


def build_person(posture: Posture, body: Body, look: Look) -> Cones:
    """Dresses a posture.

    Args:
        posture: in the frame in which the cones are wanted, mm.
        body: thickness of the limbs and size of the head.
        look: colours and styles.

    Returns:
        The cones, mm.
    """
    arm = ("*Shoulder", "*Elbow", "*Wrist")
    leg = ("*Hip", "*Knee", "*Ankle")
    ankles = "socks" if look.legs > 1.8 else "skin"
    parts = (
        *parse_parts(_BODY),
        *parse_parts(_HAIR[look.hair_style]),
        *parse_parts(_BACKPACK if look.backpack else ""),
        *_limb(arm, (57, 43, 42, 30), look.sleeves, "shirt", "skin"),
        *_limb(leg, (90, 59, 58, 40), look.legs, "trousers", ankles),
    )
    colours = {
        **vars(look),
        "face": look.skin,
        "nose": 0.96 * look.skin,
        "ear": 0.92 * look.skin,
        "brim": 0.8 * look.accent,
        "pack": 0.6 * look.accent,
        "hand": look.belt if look.gloves else look.skin,
        "calf": look.trousers if look.legs > 1.4 else look.skin,
        "sole": 0.85 * look.shoes + 0.1,
    }
    return build_cones(parts, posture, tuple(JOINT), sizes=body.sizes, colours=colours)


def _limb(
    joints: tuple[str, str, str],
    radii: tuple[float, float, float, float],
    covered: float,
    cloth: str,
    end: str,
):
    """An arm or a leg, of which the share ``covered`` (0..2) is under cloth."""
    top, middle, tip = joints
    upper, lower = min(covered, 1.0), max(covered - 1.0, 0.0)
    table = f"""
{top} | {middle} | {radii[0]} {radii[1]} | {cloth} {upper} skin
{middle} | {tip} | {radii[2]} {radii[3]} | {cloth if lower else "skin"} {lower} {end}
"""
    if upper < 1.0:  # a loose short sleeve stands off the arm
        wide = (1.06 * radii[0], (1.06 - 0.16 * upper) * radii[0])
        table += f"{top} | {top} > {middle} {upper} | {wide[0]} {wide[1]} | {cloth}"
    return parse_parts(table)
