"""3D of every frame of a tracker's files: ``--stage=lift``. No pictures are needed.

:mod:`stages.poses` writes the files of ``--stage=predict``, :mod:`stages.lifted_files`
those of trackers. From Python, without files: :class:`nrsfm_jax.PoseLifter`.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from input_pipeline.crops import landmark_boxes, pixels_to_patch, square_crops
from input_pipeline.dataset import Dataset, open_dataset
from input_pipeline.formats.tracks.linking import segments
from input_pipeline.formats.tracks.read import find_files, read_tracks
from input_pipeline.formats.tracks.record import Tracks, make_tracks
from input_pipeline.landmarks import join
from input_pipeline.skeleton import Skeleton
from input_pipeline.sources.tracks import TrackedLandmarks
from nrsfm_jax import Lifted, PoseLifter
from nrsfm_jax.lifting.cameras import check_camera
from pose_jax.estimator import Poses
from runtime.files import own_outputs, read_json
from runtime.progress import progress, working
from stages.drawings import Body, View
from stages.frames import Frames
from stages.lifted_files import NAMES as TRACKED
from stages.lifted_files import write_lifted
from stages.metric import parse_length
from stages.poses import NAMES, Predictions

TOGETHER = 256  # pictures written at once
PADDING = 1.25  # of the crops in the viewer
ODD = 0.01  # a pose is said to be odd below this quantile of the training samples
NAMED = 5  # frames in a message
SPREAD = (
    "standard deviations are those of the posterior of the landmarks under the "
    "teacher's shapes, enlarged by 'inflation'; how often they hold: docs/lift.md"
)


def lift(config: Any, workdir: str | Path, data: Dataset | None = None) -> Path:
    """Lifts the tracks of ``config.lift``, or what the teacher was trained on.

    Writes to ``workdir/lifted``, or to ``config.lift.out``, and says on the error
    output what was lifted and whether the depth can be trusted. The files are whole or
    not there, and replace only those of an earlier run.

    Args:
        config: ``lift`` is used, and ``data`` for the names of joints, ``min_score``
            and, without ``config.lift.tracks``, the landmarks.
        workdir: the folder of the run, with a trained teacher.
        data: of ``open_dataset(config.data)``, where it is open already.

    Returns:
        The folder.

    Raises:
        ValueError: no teacher, no tracks, other joints than those of the teacher, or
            a folder with files that are no earlier run's.
    """
    options = config.lift
    lifter = PoseLifter.load(workdir)
    skeleton = Skeleton.from_dict(lifter.teacher.skeleton)
    length = parse_length(options.length, skeleton) if options.length else None
    tracks = _tracks(config, skeleton, lifter, data)
    frames = Frames(options.images, tracks)
    # Labelled pictures, other than a video's frames, are each by itself.
    pictures = not options.tracks and config.data.name != "tracks"
    alone = np.arange(len(tracks)), list[int]()
    pieces, broken = alone if pictures else segments(tracks)
    believed = tracks.score >= config.data.min_score
    xy = np.where(believed[..., None], tracks.xy, np.nan)
    score = np.where(believed, tracks.score, 0)
    camera = _camera(options, tracks)
    check_camera(xy, *camera)  # before the work
    if options.principal and options.focal != np.inf:
        warn_far_off(options.principal, xy, tracks.sizes)
    if not options.tracks:
        lifter = dataclasses.replace(lifter, adapted=True)  # in the training
    elif 0 < options.adapt <= len(tracks):
        with working("lift: fits the shapes to the new tracks as well"):
            lifter = lifter.adapt(xy, score, pieces)
    with working(f"lift: {len(tracks)} poses"):
        lifted = lifter(xy, score, pieces, *camera)
    shown = np.flatnonzero(np.isfinite(lifted.keypoints_3d).all((1, 2)))
    if not len(shown):
        raise ValueError(
            f"{tracks.files[0]}: none of {len(tracks)} detections shows two joints "
            f"apart with a score of {config.data.min_score} or more; lower "
            "--config.data.min_score, or look at the joints' names"
        )
    facts = _facts(workdir, tracks, lifted, shown, broken)
    facts["adapted"] = lifter.adapted
    folder = Path(options.out) if options.out else Path(workdir) / "lifted"
    found = Found(tracks, pieces, lifted, shown, frames)
    _write(folder, options, found, facts, length)
    return folder


class Found(NamedTuple):
    """What is written: tracks, the pieces they are in, their poses, the good rows, and
    their pictures.
    """

    tracks: Tracks
    pieces: np.ndarray
    lifted: Lifted
    shown: np.ndarray
    frames: Frames


def _write(
    folder: Path,
    options: Any,
    found: Found,
    facts: dict[str, Any],
    length: tuple[tuple[int, int], float] | None,
) -> None:
    """All files, and what is said of them."""
    tracks, pieces, lifted, shown, frames = found
    inputs = find_files(options.tracks, "lift.tracks") if options.tracks else []
    skeleton = tracks.skeleton
    with (
        own_outputs(folder, (*NAMES, *TRACKED), inputs=inputs) as temporary,
        ThreadPoolExecutor(4) as pool,
        Predictions(
            temporary,
            skeleton,
            about={"spread": SPREAD, **facts},
            expected=len(shown),
            overlays=options.overlays and bool(options.images),
            viewer_samples=options.viewer_samples,
            pool=pool,
            length=length,
        ) as predictions,
        progress("lift: files", total=len(shown)) as bar,
    ):
        for rows, views in _views(found, options.viewer_samples):
            predictions.add(views, shown_poses(lifted, tracks, rows, skeleton))
            bar.update(predictions.poses)
        predictions.failures += frames.failures
        predictions.finish()
        write_lifted(temporary, tracks, pieces, lifted, skeleton, length)
    print("\n".join(_said(facts)), file=sys.stderr)
    predictions.report(folder)


# --- what is lifted -------------------------------------------------------------------


def _tracks(
    config: Any, skeleton: Skeleton, lifter: PoseLifter, data: Dataset | None
) -> Tracks:
    if config.lift.tracks:
        names = open_dataset(config.data).settings.joint_names
        return read_tracks(
            config.lift.tracks,
            field="lift.tracks",
            skeleton=skeleton,
            joint_names=dict(names),
            picture_size=config.data.picture_size,
        )
    data = data or open_dataset(config.data)
    if data.identity != lifter.teacher.config.get("data_identity"):
        raise ValueError(
            "config.data is not what the teacher was trained on; give the same config "
            "as for the training, or the files to lift by --config.lift.tracks"
        )
    if isinstance(data.source, TrackedLandmarks):
        return data.source.tracks
    return landmarks_as_tracks(data)


def landmarks_as_tracks(data: Dataset) -> Tracks:
    """The landmarks of both splits, each sample a picture by itself."""
    marks = join([data.landmarks(split) for split in ("train", "val")])
    names = [marks.name(row) for row in range(len(marks))]
    return make_tracks(
        Path(data.settings.annotations or data.settings.name),
        marks.skeleton,
        np.where(marks.labelled[..., None], marks.keypoints, np.nan),
        None,
        np.arange(len(marks)),
        pictures=names,
    )


def _camera(
    options: Any, tracks: Tracks
) -> tuple[float | None, tuple[float, float] | None]:
    """Focal length and principal point; None where they are not known."""
    focal = float(options.focal) or None
    if options.principal:
        return focal, options.principal
    sizes = set(tracks.sizes)
    size = sizes.pop() if len(sizes) == 1 else None
    return focal, size and (size[0] / 2, size[1] / 2)


def warn_far_off(
    principal: Sequence[float], xy: np.ndarray, sizes: Sequence[tuple[int, int] | None]
) -> None:
    """Says that no camera is likely to have its optical axis there."""
    known = [size for size in sizes if size]
    points = xy[np.isfinite(xy).all(-1)]
    if known:
        low, high = np.zeros(2), np.max(known, axis=0)
        what = "outside the pictures of {} x {}".format(*high)
    elif not len(points):
        return
    else:
        low, high = points.min(0), points.max(0)
        away = np.max(high - low)
        low, high = low - away, high + away
        what = f"more than {away:.0f} pixels, the extent of all landmarks, off them"
    if ((principal < low) | (principal > high)).any():
        x, y = principal
        print(
            f"lift: warning: the principal point ({x:g}, {y:g}) lies {what}; depth is "
            "wrong unless the picture was cut: leave --config.lift.principal out for "
            "the middle of the picture",
            file=sys.stderr,
        )


# --- what is said of it ---------------------------------------------------------------


def _facts(
    workdir: str | Path,
    tracks: Tracks,
    lifted: Lifted,
    shown: np.ndarray,
    broken: Sequence[int],
) -> dict[str, Any]:
    """What ``about.json`` says besides."""
    path = Path(workdir) / "teacher" / "verdict.json"
    verdict = read_json(path) if path.exists() else None
    odd = lifted.evidence_quantile[shown] < ODD
    return {
        "verdict": verdict and {k: verdict[k] for k in ("trusted", "text")},
        "tracks": list(tracks.files),
        "individuals": list(tracks.individuals),
        "detections": len(tracks),
        "not_lifted": len(tracks) - len(shown),
        "odd_poses": int(odd.sum()),
        "outliers": float(lifted.outlier[shown].mean()),
        "joints_not_detected": [
            tracks.skeleton.joints[j] for j in np.flatnonzero(~tracks.score.any(0))
        ],
        "noise": lifted.noise,
        "inflation": lifted.inflation,
        "focal": lifted.focal,
        "breaks": [tracks.name(row) for row in broken],
    }


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _said(facts: dict[str, Any]) -> Iterator[str]:
    count = facts["detections"]
    lifted = count - facts["not_lifted"]
    yield (
        f"lifted {lifted} of {count} detections: noise of the landmarks "
        f"{facts['noise']:.1%} of their box, {facts['outliers']:.1%} outliers, "
        f"standard deviations times {facts['inflation']:.2f}"
    )
    if none := facts["joints_not_detected"]:
        yield (
            f"joints that no frame shows are guessed: {_few(none)}; if the file calls "
            "them otherwise, name them by --config.data.joint_names"
        )
    if odd := facts["odd_poses"]:
        yield (
            f"{odd} poses ({odd / lifted:.0%}) are unlike those of the training "
            f"(evidence_quantile below {ODD}): trust them less"
        )
    if breaks := facts["breaks"]:
        yield (
            f"{len(breaks)} times a body jumps or two seem exchanged, and its track is "
            f"parted: {_few(breaks)}"
        )
    if facts["verdict"] is not None:
        yield facts["verdict"]["text"]


# --- for the writers ------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class LiftedPoses(Poses):
    """Lifted poses as the writers take them; see :class:`pose_jax.Poses`.

    Args:
        relative: (N, P, 3) ``keypoints_3d``.
        given: (N, P) the tracker's scores.
    """

    relative: np.ndarray
    given: np.ndarray

    @property
    def keypoints_3d(self) -> np.ndarray:
        return self.relative

    @property
    def scores(self) -> np.ndarray:
        return self.given


def shown_poses(
    lifted: Lifted, tracks: Tracks, rows: np.ndarray, skeleton: Skeleton
) -> LiftedPoses:
    """Some of the lifted poses, in crops around their landmarks."""
    points = lifted.keypoints[rows].astype(np.float32)
    centre, half = crops_of(points)
    depth = lifted.keypoints_3d[rows][..., 2:] / half[:, None, None]
    patch = pixels_to_patch(points, centre, half)
    return LiftedPoses(
        pose=np.concatenate([patch, depth], -1).astype(np.float32),
        spread=lifted.keypoints_3d_std[rows] / half[:, None, None],
        centre=centre,
        half_side=half,
        skeleton=skeleton,
        relative=lifted.keypoints_3d[rows],
        given=tracks.score[rows],
    )


def crops_of(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre (N, 2) and half side (N,) of crops around points (N, P, 2), pixels."""
    boxes = landmark_boxes(points, np.ones(points.shape[:2], bool))
    return square_crops(boxes, padding=PADDING)


def _views(
    found: Found, viewer_samples: int
) -> Iterator[tuple[np.ndarray, list[View]]]:
    """Rows and the pictures they are in, some pictures at a time."""
    tracks, shown = found.tracks, found.shown
    order = shown[np.lexsort((shown, tracks.frame[shown], tracks.file[shown]))]
    places = np.stack([tracks.file[order], tracks.frame[order]], 1)
    starts = np.flatnonzero((np.diff(places, axis=0, prepend=-1) != 0).any(1))
    # As many crops as the viewer takes.
    step = max(1, -(-len(order) // max(viewer_samples, 1)))
    looked = np.arange(len(order)) % step == 0
    groups = np.split(order, starts[1:])
    wanted = np.split(looked, starts[1:])
    for first in range(0, len(groups), TOGETHER):
        some = groups[first : first + TOGETHER]
        yield (
            np.concatenate(some),
            [
                _view(found, rows, looked, number)
                for number, (rows, looked) in enumerate(
                    zip(some, wanted[first : first + TOGETHER], strict=True), first
                )
            ],
        )


def _view(found: Found, rows: np.ndarray, looked: np.ndarray, number: int) -> View:
    """The picture of some rows."""
    tracks, row = found.tracks, int(rows[0])
    picture = found.frames.at(rows, found.lifted.keypoints[rows], looked.tolist())
    bodies = [
        Body(look=look, table=int(tracks.individual[i]), facts=_body(found, i))
        for i, look in zip(rows.tolist(), picture.looks, strict=True)
    ]
    video = not tracks.pictures
    return View(
        tracks.files[tracks.file[row]] if video else tracks.pictures[row],
        number,
        bodies,
        frame=int(tracks.frame[row]) if video else None,
        rate=picture.rate,
        size=picture.size,
        thumbnail=picture.thumbnail,
    )


def _body(found: Found, row: int) -> dict[str, Any]:
    """What the results say of one body besides its pose."""
    tracks, pieces, lifted = found[:3]
    joints = tracks.skeleton.joints
    return {
        "individual": tracks.individuals[tracks.individual[row]],
        "track": int(pieces[row]),
        "depth_flip_probability": round(float(lifted.depth_flip_probability[row]), 4),
        "evidence_quantile": round(float(lifted.evidence_quantile[row]), 4),
        "outliers": [joints[j] for j in np.flatnonzero(lifted.outlier[row])],
    }
