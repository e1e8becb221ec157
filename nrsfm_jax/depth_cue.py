"""The sign of the depth from what a person sees in a picture, without any 3D.

2D landmarks leave one bit open: all depths of all samples may be negated. A sentence
such as ``LWrist is nearer than RWrist in image 12`` settles it, once for a teacher.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from nrsfm_jax import teacher as teacher_files

# "A is nearer than B in image 12", or "in sample 40" where a picture shows several.
_SENTENCE = re.compile(
    r"^\s*(?P<a>.+?)\s+is\s+(?P<word>nearer|closer|farther|further)\s+than\s+"
    r"(?P<b>.+?)\s+in\s+(?P<what>image|picture|sample)\s+(?P<which>.+?)\s*\.?\s*$",
    re.IGNORECASE,
)
FORM = "'<joint> is nearer than <joint> in image <name>' ('farther', 'in sample <id>')"
# Depth differences below this part of the body's size say little.
WEAK = 0.05


@dataclasses.dataclass(frozen=True)
class Cue:
    """One sentence: joint ``near`` is nearer to the camera than joint ``far``."""

    text: str
    near: int
    far: int
    what: str
    which: str


@dataclasses.dataclass(frozen=True)
class Decision:
    """The sign, and in words how the cues came to it."""

    sign: int
    text: str


def parse_cues(cues: str | Sequence[str], joints: Sequence[str]) -> list[Cue]:
    """The sentences of ``config.teacher.depth_sign_cue``.

    Args:
        cues: one text with the sentences parted by semicolons, or several texts.
        joints: names of the skeleton.

    Raises:
        ValueError: a sentence of another form, or an unknown joint; it lists them.
    """
    texts = cues.split(";") if isinstance(cues, str) else list(cues)
    return [_parse(text.strip(), joints) for text in texts if text.strip()]


def _parse(text: str, joints: Sequence[str]) -> Cue:
    found = _SENTENCE.match(text)
    if found is None:
        raise ValueError(f"config.teacher.depth_sign_cue: {text!r} is not {FORM}")
    lower = {joint.lower(): i for i, joint in enumerate(joints)}
    places = []
    for name in (found["a"], found["b"]):
        place = joints.index(name) if name in joints else lower.get(name.lower())
        if place is None:
            raise ValueError(
                f"config.teacher.depth_sign_cue: {text!r}: no joint {name!r}; the "
                f"joints are {', '.join(joints)}"
            )
        places.append(place)
    if places[0] == places[1]:
        raise ValueError(f"config.teacher.depth_sign_cue: {text!r}: one joint twice")
    if found["word"].lower() in ("farther", "further"):
        places.reverse()
    what = "sample" if found["what"].lower() == "sample" else "image"
    return Cue(text, places[0], places[1], what, found["which"].strip("'\""))


def find_sample(cue: Cue, names: Sequence[str], sample_ids: np.ndarray) -> int:
    """The row that a sentence speaks of.

    An image is named by its file (with or without folder and ending) or by the number
    that its name is; a sample by its id.

    Raises:
        ValueError: no such image, or several samples in it.
    """
    rows = _rows(cue, names, sample_ids)
    if len(rows) == 1:
        return rows[0]
    start = f"config.teacher.depth_sign_cue: {cue.text!r}: "
    if not rows:
        shown = sample_ids[:8].tolist() if cue.what == "sample" else list(names[:8])
        raise ValueError(
            f"{start}no {cue.what} {cue.which!r} among {len(names)}, which are "
            f"{', '.join(map(str, shown))}, ..."
        )
    ids = ", ".join(str(sample_ids[i]) for i in rows[:8])
    raise ValueError(
        f"{start}{len(rows)} samples are in that image; say 'in sample <id>' with one "
        f"of {ids}"
    )


def _rows(cue: Cue, names: Sequence[str], sample_ids: np.ndarray) -> list[int]:
    """All rows that a sentence could mean, by the closest way to name them."""
    if cue.what == "sample":
        return [i for i, key in enumerate(sample_ids) if str(key) == cue.which]
    for fits in (_same_name, _same_file, _same_stem, _same_number):
        rows = [i for i, name in enumerate(names) if fits(name, cue.which)]
        if rows:
            return rows
    return []


def _same_name(name: str, which: str) -> bool:
    return name == which


def _same_file(name: str, which: str) -> bool:
    return Path(name).name == which


def _same_stem(name: str, which: str) -> bool:
    return Path(name).stem == which


def _same_number(name: str, which: str) -> bool:
    digits = re.findall(r"\d+", Path(name).stem)
    return which.isdecimal() and bool(digits) and int(digits[-1]) == int(which)


@dataclasses.dataclass(frozen=True)
class Samples:
    """What cues may speak of.

    Args:
        names: of the pictures of N samples.
        sample_ids: (N,) of the samples.
        poses: (N, P, 3) of the teacher with ``depth_sign = +1``, camera frame.
    """

    names: Sequence[str]
    sample_ids: Int[np.ndarray, " n"]
    poses: Float[np.ndarray, "n p 3"]


def _spoken_of(cue: Cue, splits: Sequence[Samples]) -> Float[np.ndarray, "p 3"]:
    """The pose of a cue's sample: of the first split that has one."""
    for samples in splits:
        if _rows(cue, samples.names, samples.sample_ids):
            break
    else:
        samples = splits[0]  # where finding it says what there is
    return samples.poses[find_sample(cue, samples.names, samples.sample_ids)]


def decide(cues: Sequence[Cue], splits: Sequence[Samples]) -> Decision:
    """The sign that most of the cues ask for.

    Args:
        cues: of :func:`parse_cues`.
        splits: training samples, then validation samples; ids and names are looked
            for in this order.

    Raises:
        ValueError: no cue, an unknown image, or as many cues for as against.
    """
    if not cues:
        raise ValueError(f"config.teacher.depth_sign_cue is empty; say {FORM}")
    votes = []
    for cue in cues:
        pose = _spoken_of(cue, splits)
        difference = float(pose[cue.far, 2] - pose[cue.near, 2])
        size = float(np.linalg.norm(pose - pose.mean(axis=0), axis=-1).max())
        votes.append((difference / max(size, 1e-9), cue))
    plus = [cue for vote, cue in votes if vote > 0]
    minus = [cue for vote, cue in votes if vote <= 0]
    if len(plus) == len(minus):
        raise ValueError(
            "config.teacher.depth_sign_cue: the cues contradict each other: +1 by "
            f"{_quoted(plus)}, -1 by {_quoted(minus)}; look at the pictures again or "
            "add one more"
        )
    sign = 1 if len(plus) > len(minus) else -1
    text = f"{max(len(plus), len(minus))} of {len(cues)} cues"
    against = minus if sign == 1 else plus
    weak = [cue for vote, cue in votes if abs(vote) < WEAK]
    if against:
        text += f"; against it: {_quoted(against)}"
    if weak:
        text += f"; at nearly the same depth: {_quoted(weak)}"
    return Decision(sign, text)


def _quoted(cues: Sequence[Cue]) -> str:
    return ", ".join(f"{cue.text!r}" for cue in cues)


@dataclasses.dataclass(frozen=True)
class TellingSample:
    """A sample that shows best what the sign decides.

    Args:
        sample_id: of the training split.
        pose: (P, 3) with ``depth_sign = +1``, camera frame.
        joints: (nearer, farther) joint in that reading.
        depth_sign: what the teacher has now.
    """

    sample_id: int
    pose: Float[np.ndarray, "p 3"]
    joints: tuple[int, int]
    depth_sign: int


def telling_sample(folder: str | Path) -> TellingSample:
    """Of the better half by residual, the sample that is deepest for its size.

    Raises:
        ValueError: no teacher in the folder.
    """
    teacher = teacher_files.load(folder)
    split = teacher_files.load_reconstruction(folder, "train")
    pose = split.poses(teacher.dictionary) * np.array([1, 1, teacher.depth_sign])
    depth = np.where(split.labelled, pose[..., 2], np.nan)
    flat = np.where(split.labelled[..., None], pose[..., :2], np.nan)
    with np.errstate(invalid="ignore"):
        reach = np.nanmax(flat, axis=1) - np.nanmin(flat, axis=1)
        ratio = (np.nanmax(depth, axis=1) - np.nanmin(depth, axis=1)) / reach.max(1)
    good = split.residual <= np.median(split.residual)
    complete = split.labelled.sum(axis=1)
    good &= complete >= np.median(complete)
    row = int(np.argmax(np.where(good, np.nan_to_num(ratio), -1.0)))
    joints = int(np.nanargmin(depth[row])), int(np.nanargmax(depth[row]))
    return TellingSample(
        int(split.sample_ids[row]),
        pose[row].astype(np.float32),
        joints,
        teacher.depth_sign,
    )
