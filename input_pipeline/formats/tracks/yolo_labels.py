"""The folder that a pose model of Ultralytics predicts with ``save_txt``.

A text file a frame, ``clip_12.txt``, in which a line is a class, a box, and x, y and
confidence of each joint, in parts of the picture; behind them, where they were asked
for, the score of the body and the number of its track.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from input_pipeline.formats.tracks.json_files import Detection, frame_number, tracks_of
from input_pipeline.formats.tracks.record import Tracks
from input_pipeline.skeleton import Skeleton
from runtime.reading import read_bytes

BOX = 5  # numbers before the joints
_NAME = re.compile(r"(.*?)_?(\d+)")


def read(folder: Path, unnamed: Skeleton | None) -> Tracks:
    """The bodies of one video; those without a track are followed.

    Args:
        folder: with the text files.
        unnamed: the joints; None: by their number.

    Raises:
        ValueError: a line that is no pose, or files of several videos.
    """
    found: list[Detection] = []
    videos: set[str] = set()
    for file in sorted(folder.glob("*.txt")):
        try:
            name = _NAME.fullmatch(file.stem)
            if name is None:
                raise ValueError("its name does not end in the number of a frame")
            videos.add(name[1])
            frame = frame_number(name[2])
            for line in read_bytes(file).decode().splitlines():
                found.append(_body(frame, [float(x) for x in line.split()]))
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{file}: not what a pose model of Ultralytics writes with save_txt "
                f"({error}); give the folder 'labels' of one video"
            ) from error
    if len(videos) != 1 or not found:
        names = ", ".join(sorted(videos)[:3])
        raise ValueError(
            f"{folder}: {len(found)} bodies of {len(videos)} videos ({names}); give "
            "the folder 'labels' of one video that shows somebody"
        )
    first = min(1, min(body.frame or 0 for body in found))  # Ultralytics counts from 1
    found = [body._replace(frame=(body.frame or 0) - first) for body in found]
    return tracks_of(folder / videos.pop(), found, None, unnamed)


def _body(frame: int, numbers: list[float]) -> Detection:
    """One line."""
    joints, more = divmod(len(numbers) - BOX, 3)
    if joints < 1:
        raise ValueError(f"{len(numbers)} numbers in a line, no keypoints")
    last = numbers[-1]  # of tracks, but for a score
    who = f"{last:g}" if more and last >= 1 and last.is_integer() else None
    points = np.array(numbers[BOX : BOX + 3 * joints]).reshape(joints, 3)
    return Detection(frame, None, who, points)
