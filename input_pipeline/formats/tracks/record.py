"""2D tracks: which joint of whom is where, in which frame. No TensorFlow here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from input_pipeline.formats.annotations import FAR_PX
from input_pipeline.skeleton import Skeleton, match_joints
from runtime.reading import most_growth

CENTRE_PX = 0.5  # DeepLabCut and SLEAP have the centre of the first pixel at 0
MOST_FRAMES = 2**53
MOST_PAIRS = 2**24  # of bodies of one frame, times their joints
Size = tuple[int, int] | None


@dataclasses.dataclass(frozen=True)
class Tracks:
    """T detections, by file, individual and frame; conventions in ``crops``.

    Args:
        skeleton: P joints, with the bones that the file tells.
        xy: (T, P, 2) float32 pixels, NaN where a joint was not detected.
        score: (T, P) float32 in 0..1; 0 where not detected, 1 where there are none.
        individual: (T,) int32 into ``individuals``.
        frame: (T,) int64, of the video or picture.
        file: (T,) int32 into ``files``.
        individuals: their names; one empty name where there is one animal.
        files: names of the files, or of the videos that one file is about.
        sizes: (width, height) of the pictures of each file; None: not told.
        rates: frames of each file in a second; 0: not told.
        pictures: name of the picture of each detection; empty for videos.
        strays: joints that were detected, far from their places just before and after.
    """

    skeleton: Skeleton
    xy: np.ndarray
    score: np.ndarray
    individual: np.ndarray
    frame: np.ndarray
    file: np.ndarray
    individuals: tuple[str, ...]
    files: tuple[str, ...]
    sizes: tuple[Size, ...]
    rates: tuple[float, ...]
    pictures: Sequence[str] = ()
    strays: int = 0

    def __len__(self) -> int:
        return len(self.frame)

    def name(self, row: int) -> str:
        """What to call a detection in a message."""
        frame = self.pictures[row] if self.pictures else f"frame {self.frame[row]}"
        who = self.individuals[self.individual[row]]
        return f"{self.files[self.file[row]]} {frame}" + (f" {who}" if who else "")

    def take(self, rows: np.ndarray) -> Tracks:
        """Some detections, by their numbers or by a mask."""
        rows = np.arange(len(self))[rows]
        arrays = {name: getattr(self, name)[rows] for name in _ARRAYS}
        pictures = tuple(self.pictures[i] for i in rows) if self.pictures else ()
        return dataclasses.replace(self, pictures=pictures, **arrays)

    def without(self, joints: np.ndarray) -> Tracks:
        """The same with these (T, P) not detected, and their number in ``strays``."""
        return dataclasses.replace(
            self,
            xy=np.where(joints[..., None], np.float32(np.nan), self.xy),
            score=np.where(joints, np.float32(0), self.score),
            strays=int(joints.sum()),
        )

    def brought_to(self, skeleton: Skeleton, names: Mapping[str, str]) -> Tracks:
        """The same in the joints of ``skeleton``, by name.

        Raises:
            ValueError: see :func:`input_pipeline.skeleton.match_joints`.
        """
        try:
            places = match_joints(self.skeleton.joints, skeleton, names)
        except ValueError as error:
            raise ValueError(f"{self.files[0]}: {error}") from error
        absent = places < 0
        xy = np.where(absent[:, None], np.float32(np.nan), self.xy[:, places])
        score = np.where(absent, np.float32(0), self.score[:, places])
        return dataclasses.replace(self, skeleton=skeleton, xy=xy, score=score)


_ARRAYS = ("xy", "score", "individual", "frame", "file")


def make_tracks(
    path: Path,
    skeleton: Skeleton,
    xy: np.ndarray,
    score: np.ndarray | None,
    frame: np.ndarray,
    *,
    individuals: Sequence[str] = ("",),
    individual: np.ndarray | None = None,
    size: Size = None,
    rate: float = 0.0,
    pictures: Sequence[str] = (),
) -> Tracks:
    """Detections of one file in any order; those without a joint are left out.

    A joint counts as detected where x and y are numbers and its score is above 0; a
    score that is no number counts as 1.

    Raises:
        ValueError: no detection at all, or two of one individual in one frame.
    """
    xy, score, detected = _detected(xy, score)
    who = np.zeros(len(xy), np.int32) if individual is None else individual
    rows = np.lexsort((frame, who))
    rows = rows[np.any(detected, axis=1)[rows]]
    if not len(rows):
        none = f"no joint was detected in any of its {len(xy)} rows"
        raise ValueError(f"{path}: {none}; look whether the tracker found anything")
    frame, who = np.asarray(frame, np.int64)[rows], who[rows].astype(np.int32)
    check_crowd(frame, xy.shape[1])
    if not pictures:
        _check_once(path, frame, who, individuals)
    return Tracks(
        skeleton=skeleton,
        xy=np.where(detected[..., None], xy, np.float32(np.nan))[rows],
        score=np.where(detected, score, np.float32(0))[rows],
        individual=who,
        frame=frame,
        file=np.zeros(len(rows), np.int32),
        individuals=tuple(individuals),
        files=(path.name,),
        sizes=(size,),
        rates=(rate,),
        pictures=tuple(str(pictures[int(i)]) for i in rows) if pictures else (),
    )


def _check_once(
    path: Path, frame: np.ndarray, who: np.ndarray, individuals: Sequence[str]
) -> None:
    twice = np.flatnonzero((np.diff(frame) == 0) & (np.diff(who) == 0))
    if len(twice):
        name = individuals[int(who[twice[0]])]
        raise ValueError(
            f"{path}: frame {frame[twice[0]]} has {name!r} twice; give every animal of "
            "a frame a name of its own"
        )


def check_room(path: Path, detections: int, joints: int) -> None:
    """Raises a ValueError where the rows of a small file would be large arrays."""
    taken, most = 12 * detections * joints, most_growth(path)
    if taken > most:
        raise ValueError(
            f"{path}: {detections} detections of {joints} joints would take {taken} "
            f"bytes, more than {most}; look whether frames and joints are exchanged"
        )


def check_crowd(frame: np.ndarray, joints: int) -> None:
    """Raises a ValueError where a frame has more bodies than can be compared."""
    count = int(np.unique(frame, return_counts=True)[1].max(initial=0))
    if count**2 * joints > MOST_PAIRS:
        most = int((MOST_PAIRS / joints) ** 0.5)
        raise ValueError(
            f"{count} bodies in one frame; at most {most} of {joints} joints can be "
            "told from each other; look whether the frames are numbered"
        )


def _detected(
    xy: np.ndarray, score: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places, scores in 0..1, and which joints were detected."""
    with np.errstate(over="ignore"):  # what is too large is no landmark
        xy = np.asarray(xy, np.float32)
    score = np.ones(xy.shape[:2], np.float32) if score is None else np.array(score)
    score = np.clip(np.where(np.isnan(score), 1, score), 0, 1).astype(np.float32)
    near = np.nan_to_num(np.abs(xy), nan=FAR_PX) < FAR_PX
    return xy, score, np.asarray(near.all(-1)) & (score > 0)


def join(parts: Sequence[Tracks], names: Mapping[str, str]) -> Tracks:
    """Tracks one after the other, in the joints of the first.

    Raises:
        ValueError: no joint in common, or pictures and videos together.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    individuals = tuple(dict.fromkeys(n for part in parts for n in part.individuals))
    same, start = [], 0
    for part in parts:
        if bool(part.pictures) != bool(first.pictures):
            raise ValueError(
                f"{part.files[0]} is about {'pictures' if part.pictures else 'a video'}"
                f" and {first.files[0]} is not; give one kind at a time"
            )
        if part.skeleton.joints != first.skeleton.joints:
            part = part.brought_to(first.skeleton, names)
        places = np.array([individuals.index(n) for n in part.individuals], np.int32)
        moved = {"individual": places[part.individual], "file": part.file + start}
        same.append(dataclasses.replace(part, **moved))
        start += len(part.files)
    arrays = {
        name: np.concatenate([getattr(p, name) for p in same]) for name in _ARRAYS
    }
    return dataclasses.replace(
        first,
        individuals=individuals,
        files=tuple(name for part in parts for name in part.files),
        sizes=tuple(size for part in parts for size in part.sizes),
        rates=tuple(rate for part in parts for rate in part.rates),
        pictures=tuple(name for part in parts for name in part.pictures),
        **arrays,
    )
