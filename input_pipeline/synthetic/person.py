"""The solid person: which cones hang on which joints, and how they are dressed."""

from __future__ import annotations

from input_pipeline.synthetic.body import JOINT, Body, Posture
from input_pipeline.synthetic.cones import Cones, build_cones, parse_parts
from input_pipeline.synthetic.scene import Look

# start | end | radii | colour | options, see cones.parse_parts.
_BODY = """
LHip | RHip | 96 96 | trousers
Pelvis 0 20 0 | Pelvis 0 55 0 | 102 102 | belt | frame root, span Hip .48 50, widths 1 .25 1
Pelvis 0 80 0 | Spine | 102 104 | shirt | frame root, span Hip .46 48, widths 1 .7 1, height 55 220
Spine | Thorax 0 4 0 | 106 112 | shirt | frame chest, span Shoulder .4 0, widths 1 .95 1, height 220 460
Thorax 0 62 0 | *Shoulder | 66 62 | shirt | frame chest, height 490 520
Thorax 0 40 0 | Neck | 62 54 | skin | frame chest
Head 0 -10 0 | Head 0 10 0 | 100 100 | face | frame head, size head, widths .82 1.12 .97
Head 0 12 92 | Head 0 -22 112 | 10 19 | nose | frame head, size head
Head 80 14 -8 | Head 80 -14 -8 | 15 12 | ear | frame head, size head, both, only bald short ponytail bun cap
Head 0 22 -30 | Head 0 38 -30 | 96 96 | hair | frame head, size head, widths .88 .9 .98, only short long ponytail bun
Head 0 10 -30 | Head 0 -190 -65 | 92 70 | hair | frame head, size head, widths 1.05 1 .7, only long
Head 0 40 -115 | Head 0 -170 -120 | 34 20 | hair | frame head, size head, only ponytail
Head 0 75 -105 | Head 0 83 -105 | 45 40 | hair | frame head, size head, only bun
Head 0 38 -6 | Head 0 58 -6 | 94 94 | accent | frame head, size head, widths .9 .85 1.06, only cap
Head 0 54 64 | Head 0 54 119 | 66 60 | brim | frame head, size head, widths 1 .18 1, only cap
Spine 0 -20 -165 | Thorax 0 10 -165 | 85 75 | accent .55 pack | frame chest, span Shoulder .3 0, widths 1 .8 1, only backpack
*Wrist 0 -25 0 | *Wrist 0 -125 0 | 39 29 | hand | frame *wrist, size one, widths .65 1 1.1
*Wrist 0 -40 15 | *Wrist 0 -85 52 | 17 13 | hand | frame *wrist, size one
LWrist 0 22 0 | LWrist 0 34 0 | 36 36 | belt | frame Lwrist, size one
*Knee 0 0 -16 > *Ankle .22 | *Knee 0 0 -14 > *Ankle .5 | 52 45 | calf | frame *ankle
*Ankle 0 -42 -30 | *Ankle 0 -56 150 | 46 33 | shoes .75 sole | frame *ankle, size foot, widths 1.08 .9 1
*Ankle | *Ankle 0 -42 -30 | 44 44 | shoes | frame *ankle, size foot
"""  # noqa: E501
# A limb under cloth: up to a share of its upper, or all of it and a share of its lower
# bone. A loose short sleeve or leg stands off the limb.
_LONG = """
*{0} | *{1} | {4} {5} | {3}
*{1} | *{2} | {6} {7} | {3} {lower} {end}
"""
_SHORT = """
*{0} | *{1} | {4} {5} | {3} {upper} skin
*{0} | *{0} > *{1} {upper} | {8} {9} | {3}
*{1} | *{2} | {6} {7} | skin
"""
_ARM = ("Shoulder", "Elbow", "Wrist", "shirt", 57, 43, 42, 30, 61, 58)
_LEG = ("Hip", "Knee", "Ankle", "trousers", 90, 59, 58, 40, 94, 84)


def build_person(posture: Posture, body: Body, look: Look) -> Cones:
    """Dresses a posture: the cones in its frame, mm."""
    styles = {look.hair_style, "backpack" if look.backpack else ""}
    parts = [
        part
        for part in parse_parts(_BODY)
        if "only" not in part.options or styles & {*part.options["only"]}
    ]
    ankles = "socks" if look.legs > 1.8 else "skin"
    for limb, covered, end in ((_ARM, look.sleeves, "skin"), (_LEG, look.legs, ankles)):
        table = _LONG if covered > 1.0 else _SHORT
        table = table.format(*limb, upper=covered, lower=covered - 1.0, end=end)
        parts += parse_parts(table)
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
