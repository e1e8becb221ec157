"""The one bit that 2D landmarks do not determine: the sign of all depths.

It comes from the config (``teacher.depth_sign``), or from what a person sees in a
picture: a sentence such as ``LWrist is nearer than RWrist in image 12``
(``teacher.depth_sign_cue``). Both can be changed after the training; the arrays of the
teacher do not change. No 3D is read.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from nrsfm_jax import teacher as teachers
from runtime import teacher_file

# "A is nearer than B in image 12", or "in sample 40" where a picture shows several.
_SENTENCE = re.compile(
    r"^\s*(?P<a>.+?)\s+is\s+(?P<word>nearer|closer|farther|further)\s+than\s+"
    r"(?P<b>.+?)\s+in\s+(?P<what>image|picture|sample)\s+(?P<which>.+?)\s*\.?\s*$",
    re.IGNORECASE,
)
FORM = "'<joint> is nearer than <joint> in image <name>' ('farther', 'in sample <id>')"
FIELD = "config.teacher.depth_sign_cue"
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
class Samples:
    """What cues may speak of.

    Attributes:
        names: of the pictures of N samples.
        sample_ids: (N,) of the samples.
        poses: (N, P, 3) of the teacher with ``depth_sign = +1``, camera frame.
    """

    names: Sequence[str]
    sample_ids: Int[np.ndarray, " n"]
    poses: Float[np.ndarray, "n p 3"]


def settle(
    folder: Path, settings: Any, samples: Callable[[], Sequence[Samples]]
) -> bool:
    """Gives a trained teacher the sign that the config asks for.

    Args:
        folder: of the teacher; only its ``teacher.json`` is written.
        settings: ``config.teacher``.
        samples: reads the training samples and the validation samples.

    Returns:
        Whether anything changed; results of another sign are then out of date.

    Raises:
        ValueError: cues that cannot be understood or contradict each other.
    """
    file = teacher_file.read(folder)
    before = file.config.get("teacher", {})
    cue = str(settings.get("depth_sign_cue", ""))
    given = int(settings.depth_sign)
    if cue:
        if file.depth_sign_source == "cue" and before.get("depth_sign_cue") == cue:
            return False
        sign, text = decide(parse_cues(cue, file.skeleton["joints"]), samples())
        print(f"teacher: depth sign {sign:+d}, by {text}", flush=True)
    elif (file.depth_sign_source, file.depth_sign) == ("given", given):
        return False
    else:
        sign = given
    changed = before | {"depth_sign": given, "depth_sign_cue": cue}
    teacher_file.set_depth_sign(
        folder, sign, "cue" if cue else "given", file.config | {"teacher": changed}
    )
    return True


def parse_cues(cues: str, joints: Sequence[str]) -> list[Cue]:
    """The sentences of ``config.teacher.depth_sign_cue``.

    Args:
        cues: sentences with semicolons between them.
        joints: names of the skeleton.

    Raises:
        ValueError: a sentence of another form, or an unknown joint; it lists them.
    """
    return [_parse(text.strip(), joints) for text in cues.split(";") if text.strip()]


def _parse(text: str, joints: Sequence[str]) -> Cue:
    found = _SENTENCE.match(text)
    if found is None:
        raise ValueError(f"{FIELD}: {text!r} is not {FORM}")
    lower = {joint.lower(): i for i, joint in enumerate(joints)}
    places = []
    for name in (found["a"], found["b"]):
        if name.lower() not in lower:
            raise ValueError(
                f"{FIELD}: {text!r}: no joint {name!r}; the joints are "
                f"{', '.join(joints)}"
            )
        exact = joints.index(name) if name in joints else None
        places.append(lower[name.lower()] if exact is None else exact)
    if places[0] == places[1]:
        raise ValueError(f"{FIELD}: {text!r}: one joint twice")
    if found["word"].lower() in ("farther", "further"):
        places.reverse()
    what = "sample" if found["what"].lower() == "sample" else "image"
    return Cue(text, places[0], places[1], what, found["which"].strip("'\""))


def find_rows(cue: Cue, samples: Samples) -> list[int]:
    """All rows that a sentence could mean, by the closest way to name them.

    An image is named by its file (with or without folder and ending) or by the number
    that its name ends with; a sample by its id.
    """
    if cue.what == "sample":
        return [i for i, key in enumerate(samples.sample_ids) if str(key) == cue.which]

    def ways(name: str) -> Iterator[bool]:
        path = Path(name)
        digits = re.findall(r"\d+", path.stem)[-1:] if cue.which.isdecimal() else []
        yield from (cue.which == n for n in (name, path.name, path.stem))
        yield bool(digits) and int(digits[0]) == int(cue.which)

    matches = np.array([list(ways(name)) for name in samples.names]).reshape(-1, 4)
    for column in matches.T:
        if column.any():
            return np.flatnonzero(column).tolist()
    return []


def find_pose(cue: Cue, splits: Sequence[Samples]) -> Float[np.ndarray, "p 3"]:
    """The pose of a cue's sample, of the first split that has one.

    Raises:
        ValueError: no such image, or several samples in it.
    """
    found = next(((s, r) for s in splits if (r := find_rows(cue, s))), None)
    if found is None:
        first = splits[0]
        shown = first.sample_ids[:8] if cue.what == "sample" else first.names[:8]
        raise ValueError(
            f"{FIELD}: {cue.text!r}: no {cue.what} {cue.which!r} among "
            f"{len(first.names)}, which are {', '.join(map(str, shown))}, ..."
        )
    samples, rows = found
    if len(rows) > 1:
        ids = ", ".join(str(samples.sample_ids[i]) for i in rows[:8])
        raise ValueError(
            f"{FIELD}: {cue.text!r}: {len(rows)} samples are in that image; say "
            f"'in sample <id>' with one of {ids}"
        )
    return samples.poses[rows[0]]


def decide(cues: Sequence[Cue], splits: Sequence[Samples]) -> tuple[int, str]:
    """The sign that most of the cues ask for, and in words how.

    Args:
        cues: of :func:`parse_cues`.
        splits: training samples, then validation samples; ids and names are looked
            for in this order.

    Raises:
        ValueError: no cue, an unknown image, or as many cues for as against.
    """
    if not cues:
        raise ValueError(f"{FIELD} is empty; say {FORM}")
    votes = []
    for cue in cues:
        pose = find_pose(cue, splits)
        size = float(np.linalg.norm(pose - pose.mean(axis=0), axis=-1).max())
        votes.append(float(pose[cue.far, 2] - pose[cue.near, 2]) / max(size, 1e-9))

    def quoted(chosen: Sequence[bool]) -> str:
        return ", ".join(
            f"{cue.text!r}" for cue, one in zip(cues, chosen, strict=True) if one
        )

    plus, minus = [v > 0 for v in votes], [v <= 0 for v in votes]
    if sum(plus) == sum(minus):
        raise ValueError(
            f"{FIELD}: the cues contradict each other: +1 by {quoted(plus)}, -1 by "
            f"{quoted(minus)}; look at the pictures again or add one more"
        )
    sign = 1 if sum(plus) > sum(minus) else -1
    text = f"{max(sum(plus), sum(minus))} of {len(cues)} cues"
    against, weak = quoted(minus if sign == 1 else plus), [abs(v) < WEAK for v in votes]
    text += f"; against it: {against}" if against else ""
    text += f"; at nearly the same depth: {quoted(weak)}" if any(weak) else ""
    return sign, text


@dataclasses.dataclass(frozen=True)
class TellingSample:
    """A sample that shows best what the sign decides.

    Attributes:
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
    teacher = teachers.load(folder)
    split = teachers.load_reconstruction(folder, "train")
    flip = np.array([1, 1, teacher.depth_sign], np.float32)
    pose = split.poses(teacher.dictionary) * flip
    known = np.where(split.labelled[..., None], pose, np.nan)
    extent = np.nanmax(known, axis=1) - np.nanmin(known, axis=1)
    count = split.labelled.sum(axis=1)
    good = (split.residual <= np.median(split.residual)) & (count >= np.median(count))
    ratio = extent[:, 2] / np.maximum(extent[:, :2].max(axis=1), 1e-9)
    row = int(np.argmax(np.where(good, ratio, -1.0)))
    joints = int(np.nanargmin(known[row, :, 2])), int(np.nanargmax(known[row, :, 2]))
    return TellingSample(
        int(split.sample_ids[row]),
        pose[row].astype(np.float32),
        joints,
        teacher.depth_sign,
    )
