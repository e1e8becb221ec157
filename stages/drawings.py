"""Skeletons drawn on pictures, and videos of them with the pose turning beside."""

from __future__ import annotations

import collections
import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from input_pipeline.decoding import open_header
from input_pipeline.skeleton import Skeleton
from view.overlay import draw_skeleton
from view.plot3d import pose_reach, turning_view

LONGEST = 1920  # side of a drawn picture, pixels
FILM = 960  # longer side of a picture in a film, pixels
RATE = 25.0  # of a film of a video that does not say its own
TURN = 8.0  # seconds in which a pose turns once
STEM = 200  # bytes of a name that are kept: file systems allow 255
WAITING = 8  # pictures that are drawn and not yet written


@dataclasses.dataclass(frozen=True)
class Body:
    """One body of a picture, besides its pose."""

    annotation_id: Any = None  # of the file of boxes
    look: bytes | None = None  # its crop for the viewer, a JPEG
    table: int | None = None  # number of its table; None: its place in the picture
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # for the JSON


@dataclasses.dataclass(frozen=True)
class View:
    """A picture or a frame and its bodies, as the results name them."""

    name: str  # of the picture or the video
    number: int  # of all pictures of a run, from 0
    bodies: Sequence[Body]
    frame: int | None = None  # number in its video
    rate: float = 0.0  # frames of the video in a second; 0: not known
    image_id: Any = None  # of the file of boxes; else the number
    size: tuple[int, int] = (0, 0)  # width and height, pixels
    thumbnail: bytes | None = None  # for the drawing, a JPEG of the same shape


class Drawings:
    """Writes ``<name>.jpg`` for pictures and ``<name>.mp4`` for videos.

    Args:
        folder: made.
        skeleton: of the poses.
        pool: draws.
    """

    def __init__(self, folder: Path, skeleton: Skeleton, pool: Executor) -> None:
        folder.mkdir()
        self._folder, self._skeleton, self._pool = folder, skeleton, pool
        self._names: set[str] = set()
        self._film: Film | None = None
        self._reach = 0.0  # of the poses of the film so far, bone lengths

    def add(
        self, views: Sequence[View], keypoints: np.ndarray, poses: np.ndarray
    ) -> None:
        """Draws some pictures that have thumbnails.

        Args:
            views: the pictures.
            keypoints: (N, P, 2) of their bodies, in their order, pixels.
            poses: (N, P, 3) of the same in the camera frame, any unit.
        """
        jobs: collections.deque[tuple[View, Future[Image.Image | None]]] = (
            collections.deque()
        )
        row = 0
        for view in views:
            rows = slice(row, row + len(view.bodies))
            row = rows.stop
            if view.thumbnail is None:
                continue
            arguments = keypoints[rows], self._skeleton, self._turned(view, poses[rows])
            path = None if view.frame is not None else self._path(view.name, ".jpg")
            jobs.append((view, self._pool.submit(_draw, view, *arguments, path)))
            if len(jobs) > WAITING:
                self._finish(*jobs.popleft())
        for job in jobs:
            self._finish(*job)

    def _turned(
        self, view: View, poses: np.ndarray
    ) -> tuple[np.ndarray, float, float] | None:
        """The pose beside a frame, its angle, and what all poses so far need."""
        if view.frame is None or not len(poses):
            return None
        self._reach = max(self._reach, *pose_reach([poses[0]], self._skeleton))
        turns = view.frame / ((view.rate or RATE) * TURN)
        return poses[0], 2 * math.pi * turns, self._reach

    def _finish(self, view: View, job: Future[Image.Image | None]) -> None:
        """Waits until a picture is drawn; a frame goes into its film."""
        drawn = job.result()
        if drawn is None or view.frame is None:
            return
        if self._film is None or self._film.name != view.name:
            self.close()
            path = self._path(view.name, ".mp4")
            self._film = Film(path, view.name, drawn.size, view.rate or RATE)
        self._film.add(drawn, view.frame)

    def close(self) -> None:
        """Ends the film that is being written."""
        if self._film is not None:
            self._film.close()
        self._film = None

    def _path(self, name: str, suffix: str) -> Path:
        """Numbered where two pictures share a name, whatever the case of letters."""
        stem = Path(name).stem.encode("utf-8", "backslashreplace")
        stem, copy = stem[:STEM].decode("utf-8", "ignore"), 1
        found = f"{stem}{suffix}"
        while found.casefold() in self._names:
            copy += 1
            found = f"{stem}_{copy}{suffix}"
        self._names.add(found.casefold())
        return self._folder / found


def _draw(
    view: View,
    keypoints: np.ndarray,
    skeleton: Skeleton,
    turned: tuple[np.ndarray, float, float] | None,
    path: Path | None,
) -> Image.Image | None:
    """Draws a picture, and writes it to a path or returns it."""
    assert view.thumbnail is not None
    image = np.asarray(open_header(io.BytesIO(view.thumbnail)))
    height, width = image.shape[:2]
    # Fine lines need no finer drawing where the picture itself is fine.
    supersample = max(1, min(4, 2048 // max(width, height)))
    scale = np.array([width, height]) / view.size
    for body in keypoints:
        image = draw_skeleton(image, body * scale, skeleton, supersample=supersample)
    if path is not None:
        Image.fromarray(image).save(path, quality=90)
        return None
    pair = Image.new("RGB", (width + height, height), "white")
    pair.paste(Image.fromarray(image))
    if turned is not None:
        pose, yaw, reach = turned
        beside = turning_view(pose, skeleton, yaw=yaw, reach=reach, size=height)
        pair.paste(Image.fromarray(beside), (width, 0))
    return pair


class Film:
    """A video that is being written, by PyAV.

    Args:
        path: of the file.
        name: of what it shows.
        size: width and height of its frames, pixels.
        rate: frames in a second of what it shows.
    """

    def __init__(
        self, path: Path, name: str, size: tuple[int, int], rate: float
    ) -> None:
        import av

        self.name = name
        self._container = av.open(str(path), "w")
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        rational = Fraction(rate).limit_denominator(1001)
        self._stream: Any = self._container.add_stream(codec, rate=rational)
        self._stream.width, self._stream.height = (n // 2 * 2 for n in size)
        self._stream.pix_fmt = "yuv420p"
        self._tick = 1 / rational
        self._first: int | None = None

    def add(self, picture: Image.Image, number: int) -> None:
        """The next frame, at the time of the frame with that number."""
        import av

        self._first = number if self._first is None else self._first
        size = (self._stream.width, self._stream.height)
        frame = av.VideoFrame.from_image(
            picture.resize(size) if picture.size != size else picture
        )
        frame.pts, frame.time_base = number - self._first, self._tick
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Ends the file."""
        self._container.mux(self._stream.encode())
        self._container.close()
