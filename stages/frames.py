"""The pictures of tracks, where they are given: of videos, or found by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from input_pipeline.crops import landmark_boxes, square_crops
from input_pipeline.decoding import Upright
from input_pipeline.formats.tracks.read import video_of
from input_pipeline.formats.tracks.record import Tracks
from input_pipeline.pictures import (
    cut_patch,
    is_video,
    open_picture,
    read_video,
    video_facts,
)
from stages.boxes import find_files
from stages.drawings import FILM, LONGEST
from view.plot3d import encode_jpeg

LOOK, PADDING = 256, 1.25  # crops in the viewer


@dataclasses.dataclass(frozen=True)
class Frame:
    """What is kept of a picture, as JPEG: of all of it, and of its bodies."""

    looks: Sequence[bytes | None]
    size: tuple[int, int] = (0, 0)
    rate: float = 0.0
    thumbnail: bytes | None = None


class Frames:
    """Pictures in the order of the tracks.

    A video belongs to the tracks whose file's name begins with its own, or that are the
    only ones. Pictures are found by the names in the tracks; without these they are
    the frames, in the order of their names.

    Args:
        images: pictures, folders, patterns or videos, with commas; may be empty.
        tracks: what is asked for.

    Raises:
        ValueError: nothing there, a missing file, or tracks that no video belongs to.
    """

    def __init__(self, images: str, tracks: Tracks) -> None:
        self.failures: list[dict[str, str]] = []
        self._tracks = tracks
        files = find_files(images, "lift.images") if images else []
        if missing := [file for file in files if not file.exists()]:
            raise ValueError(f"config.lift.images: {missing[0]} does not exist")
        videos = [file for file in files if is_video(file)]
        self._pictures = [file for file in files if not is_video(file)]
        self._by_name = {file.name: file for file in self._pictures}
        self._videos = {
            i: video
            for i, name in enumerate(tracks.files)
            if (video := video_of(name, videos))
        }
        if not self._videos and len(tracks.files) == len(videos) == 1:
            self._videos = {0: videos[0]}
        if videos and not self._videos:
            raise ValueError(
                f"none of {[v.name for v in videos]} belongs to the tracks "
                f"{list(tracks.files)}: their names should begin with the video's"
            )
        self._open: tuple[int, Iterator[tuple[int, Image.Image]]] | None = None
        self._rates: dict[int, float] = {}

    def at(self, rows: np.ndarray, points: np.ndarray, looked: Sequence[bool]) -> Frame:
        """The picture of some rows of the tracks, which share it.

        Args:
            rows: (N,); frames of a file come in their order.
            points: (N, P, 2) pixels, around which the bodies are cut.
            looked: which of them are cut.
        """
        file, frame = (int(a[rows[0]]) for a in (self._tracks.file, self._tracks.frame))
        nothing = Frame([None] * len(rows), rate=self._tracks.rates[file])
        if file in self._videos:
            image = self._frame(file, frame)
            found = nothing if image is None else _kept(Upright(image), points, looked)
            return dataclasses.replace(found, rate=self._rates.get(file, 0.0))
        path = self._picture(int(rows[0]), frame)
        if path is None:
            return nothing
        try:
            with open_picture(path) as picture:
                return _kept(picture, points, looked, longest=LONGEST)
        except ValueError as error:
            self.failures.append({"file": path.name, "error": str(error)})
            return nothing

    def _picture(self, row: int, frame: int) -> Path | None:
        if not self._tracks.pictures:
            return self._pictures[frame] if frame < len(self._pictures) else None
        return self._by_name.get(Path(self._tracks.pictures[row]).name)

    def _frame(self, file: int, frame: int) -> Image.Image | None:
        """A frame of a video, at or after the last one that was asked for."""
        if self._open is None or self._open[0] != file:
            self._open = file, read_video(self._videos[file])
            self._rates[file] = video_facts(self._videos[file])[1]
        try:
            for number, image in self._open[1]:
                if number == frame:
                    return image
        except (ValueError, OSError) as error:
            name = self._videos[file].name
            self.failures.append({"file": name, "error": str(error)})
        return None


def _kept(
    picture: Upright, points: np.ndarray, looked: Sequence[bool], longest: int = FILM
) -> Frame:
    boxes = landmark_boxes(points.astype(np.float32), np.ones(points.shape[:2], bool))
    centre, half = square_crops(boxes, padding=PADDING)
    looks = [
        encode_jpeg(Image.fromarray(cut_patch(picture, centre[i], half[i], LOOK)))
        if wanted
        else None
        for i, wanted in enumerate(looked)
    ]
    small = encode_jpeg(picture.thumbnail(longest), quality=92)
    return Frame(looks, picture.size, thumbnail=small)
