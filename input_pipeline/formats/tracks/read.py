"""From files of trackers to :class:`Tracks`: which reader, by what a file contains."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np

from input_pipeline.formats.hdf5 import check_hdf5
from input_pipeline.formats.tracks import (
    deeplabcut,
    json_files,
    sleap_files,
    tables,
    yolo_labels,
)
from input_pipeline.formats.tracks.record import Tracks, join
from input_pipeline.pictures import is_video, video_facts, video_size
from input_pipeline.skeleton import Skeleton
from runtime.files import read_npz
from runtime.reading import open_file

SUFFIXES = (".h5", ".hdf5", ".csv", ".tsv", ".slp", ".json", ".npz")
NORMALISED = 2.0  # no body in pixels reaches less far than this
_FILTERED = "_filtered"


def read_tracks(
    text: str,
    *,
    field: str,
    skeleton: Skeleton | None = None,
    joint_names: Mapping[str, str] | None = None,
    picture_size: Sequence[int] = (0, 0),
) -> Tracks:
    """All tracks of the files that ``text`` names, in the joints of ``skeleton``.

    Args:
        text: a file, a folder, a pattern, or several of them with commas. Of a folder
            with OpenPose's files the whole is one video.
        field: of the config that ``text`` comes from, for messages.
        skeleton: the wanted joints; None: those of the first file. It also names the
            joints of files that do not.
        joint_names: joint of the files -> joint of the skeleton, where they differ.
        picture_size: width and height of the pictures, for coordinates in 0..1.

    Raises:
        ValueError: no file, a file of no known format, a joint in no file.
    """
    parts = []
    for path in find_files(text, field):
        part = read_file(path, skeleton)
        parts.append(_in_pixels(_with_video(part, path), path, picture_size))
    joined = join(parts, joint_names or {})
    if skeleton is None or skeleton.joints == joined.skeleton.joints:
        return (
            joined
            if skeleton is None
            else dataclasses.replace(joined, skeleton=skeleton)
        )
    return joined.brought_to(skeleton, joint_names or {})


def find_files(text: str, field: str) -> list[Path]:
    """The files of a list with commas, in order.

    Raises:
        ValueError: one of the entries names no file.
    """
    found: list[Path] = []
    whole = bool(text) and Path(text).expanduser().exists()  # may hold a comma itself
    for entry in [text] if whole else filter(None, map(str.strip, text.split(","))):
        path = Path(entry).expanduser()
        if path.is_dir():
            some = _in_folder(path)
        elif path.is_file():
            some = [path]
        else:
            base = Path(path.anchor) if path.is_absolute() else Path()
            pattern = str(path.relative_to(base))
            some = sorted(p for p in base.glob(pattern) if p.is_file())
        if not some:
            raise ValueError(
                f"{entry}: no tracks there; set --config.{field} to a file of a "
                f"tracker ({', '.join(SUFFIXES)}), a folder of them or a pattern"
            )
        found += some
    if not found:
        raise ValueError(f"--config.{field} is empty; give the file of a tracker")
    return list(dict.fromkeys(found))


def _in_folder(folder: Path) -> list[Path]:
    """One file a video: DeepLabCut keeps .h5, .csv and filtered tracks side by side."""
    files = [p for p in sorted(folder.iterdir()) if p.suffix.lower() in SUFFIXES]
    json_only = bool(files) and all(p.suffix.lower() == ".json" for p in files)
    if json_only and not json_files.about_a_video(files[0]):
        return [folder]
    if not files and any(folder.glob("*.txt")):
        return [folder]
    best: dict[str, Path] = {}
    # Later ones win: .csv, then .h5, then filtered ones.
    for path in sorted(files, key=lambda p: (_FILTERED in p.stem, p.suffix == ".h5")):
        best[path.stem.replace(_FILTERED, "")] = path
    return sorted(best.values())


def read_file(path: Path, unnamed: Skeleton | None = None) -> Tracks:
    """The tracks of one file, whichever program wrote it.

    Raises:
        ValueError: a format that is not known, or a damaged file.
    """
    if path.is_dir():
        one_a_picture = yolo_labels if any(path.glob("*.txt")) else json_files
        return one_a_picture.read(path, unnamed)
    if is_video(path):
        raise ValueError(
            f"{path}: a video has no tracks; give the file that a tracker, such as "
            "DeepLabCut, made of it"
        )
    try:
        with open_file(path) as opened:
            start = opened.read(4096)
        if not start:
            raise ValueError(f"{path}: the file is empty; export it again")
        if start.startswith(b"\x89HDF"):
            return _read_hdf5(path)
        if start.startswith(b"PK\x03\x04"):
            return tables.read_npz(path, read_npz(path), unnamed)
        if b"\0" in start:
            raise ValueError(
                f"{path}: neither text nor one of {', '.join(SUFFIXES)}; export it as "
                "one of these: an array by np.savez('tracks.npz', xy=xy, joints=names)"
            )
        text = start.decode("utf-8-sig", errors="ignore").lstrip()
        if text.startswith(("[", "{")):
            return json_files.read(path, unnamed)
        first = {line.split(",")[0].strip().lower() for line in text.splitlines()[:4]}
        if {"bodyparts", "coords"} <= first:
            return deeplabcut.read(path)
        return tables.read(path, unnamed)
    except (OSError, ValueError) as error:
        if str(path) in str(error) and not isinstance(error, OSError):
            raise
        raise ValueError(
            f"{path}: cannot be read ({error}); copy it again, or export it again"
        ) from error


def _read_hdf5(path: Path) -> Tracks:
    check_hdf5(path)
    with h5py.File(path, "r", locking=False) as file:
        try:
            if "node_names" in file and "tracks" in file:
                return sleap_files.read_analysis(path, file)
            if "metadata" in file and "instances" in file:
                return sleap_files.read_slp(path, file)
        except (LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"{path}: not what SLEAP writes ({error!r}); export it again"
            ) from error
    return deeplabcut.read(path)


def _in_pixels(tracks: Tracks, path: Path, size: Sequence[int]) -> Tracks:
    """MediaPipe's coordinates are in 0..1 of the picture."""
    usual = np.nanmedian(np.nanmax(np.abs(tracks.xy), axis=(1, 2)))
    if usual > NORMALISED:
        return tracks
    width, height = tracks.sizes[0] or (size[0], size[1])
    if min(width, height) < 1:
        raise ValueError(
            f"{path}: coordinates are parts of the picture (about {usual:.2f}); give "
            "its size by --config.data.picture_size='(width, height)'"
        )
    xy = tracks.xy * np.array([width, height], np.float32)
    sizes = tuple((width, height) for _ in tracks.files)
    return dataclasses.replace(tracks, xy=xy, sizes=sizes)


def _with_video(tracks: Tracks, path: Path) -> Tracks:
    """What a file does not tell: of the videos beside it, their rate and size."""
    if tracks.pictures:
        return tracks
    beside = [p for p in sorted(path.parent.iterdir()) if p.is_file() and is_video(p)]
    videos = [video_of(name, beside) for name in tracks.files]
    pairs = list(zip(tracks.rates, tracks.sizes, videos, strict=True))
    return dataclasses.replace(
        tracks,
        rates=tuple(rate or (video_facts(v)[1] if v else 0.0) for rate, _, v in pairs),
        sizes=tuple(size or (video_size(v) if v else None) for _, size, v in pairs),
    )


def video_of(name: str, videos: Sequence[Path]) -> Path | None:
    """The video of tracks in a file of that name, which begins with the video's."""
    fitting = [video for video in videos if Path(name).name.startswith(video.stem)]
    return max(fitting, key=lambda video: len(video.stem), default=None)
