"""Files of poses, as ``--stage=predict`` writes them: JSON, CSV, overlays, viewer."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import sys
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from input_pipeline.pictures import cut_patch
from pose_jax.estimator import Crop, Poses
from pose_jax.state import StudentRecord
from runtime.files import write_json
from stages.boxes import Picture
from view.overlay import draw_skeleton
from view.plot3d import image_uri
from view.viewer import ViewerSample, write_viewer

# Of what this module writes, for :func:`runtime.files.own_outputs`.
NAMES = ("predictions.json", "predictions*.csv", "overlays", "viewer.html")
NAMED = 5  # failures in the last message
THUMBNAIL = 256  # side of a picture in the viewer, pixels
UNITS = {
    "keypoints": "x, y in pixels of the picture ((0, 0) is the outer corner of its "
    "first pixel), and a score in 0..1 that is not calibrated; per joint",
    "keypoints_std": "standard deviation along x and y, pixels; see 'spread'",
    "keypoints_3d": "x right, y down, z away from the camera, in pixels of the "
    "picture, relative to the root joint",
    "keypoints_3d_std": "standard deviation along x, y, z, same unit",
    "bbox": "x, y, width, height of the square crop that the network saw, pixels",
    "csv": "x, y in pixels of the picture; z relative to the root joint, in the same "
    "pixels; error is the standard deviation in the image, pixels; ncams is 1",
}
SPREADS = {
    "heat": "standard deviations are those of the heat map; not a calibrated error",
    "mirror": "standard deviations are those of the poses of the picture and of its "
    "mirror image, whose mean is the pose; not a calibrated error",
}


@dataclasses.dataclass(frozen=True)
class View:
    """A picture, decoded as RGB, and one crop for each body in it."""

    picture: Picture
    image: Image.Image
    crops: Sequence[Crop]


class Predictions:
    """Collects poses and writes them; a context manager.

    ``predictions.json``: a COCO results list, one entry per body.
    ``predictions.csv``: the first body of each picture in anipose's columns; further
    bodies in ``predictions_person2.csv`` and so on. ``overlays/``, ``viewer.html``, and
    ``about.json``: units, frame, skeleton, student, failures.

    They are complete after :meth:`finish`.

    Args:
        folder: an empty one, of :func:`runtime.files.own_outputs`.
        record: of the student.
        spread: where the standard deviations come from, a key of :data:`SPREADS`.
        expected: about how many bodies there will be, for an even choice.
        overlays: whether to draw them.
        viewer_samples: poses in the viewer at most, evenly spread; 0 for no viewer.
        pool: draws the overlays.
    """

    def __init__(
        self,
        folder: Path,
        record: StudentRecord,
        *,
        spread: str,
        expected: int,
        overlays: bool,
        viewer_samples: int,
        pool: Executor,
    ) -> None:
        self.folder, self.record = folder, record
        self.pictures = self.poses = 0  # so far
        self.failures: list[dict[str, str]] = []  # of pictures: "file" and "error"
        self._spread = SPREADS[spread]
        self._pool, self._overlays = pool, overlays
        self._shown: list[ViewerSample] = []
        self._limit = viewer_samples
        self._step = max(1, -(-expected // max(viewer_samples, 1)))
        if overlays:
            (folder / "overlays").mkdir()
        self._files = contextlib.ExitStack()
        self._json = self._open("predictions.json")
        self._json.write("[")
        self._csv = [self._open_csv("predictions.csv")]
        self._names: set[str] = set()

    def __enter__(self) -> Predictions:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def add(self, views: Sequence[View], poses: Poses) -> None:
        """The poses of some pictures, in the order of their crops."""
        if not np.isfinite(poses.pose).all():
            raise ValueError(
                "the student gives poses that are not finite: its training diverged; "
                "train it again with a smaller config.student.learning_rate"
            )
        jobs, row = [], 0
        for view in views:
            rows = range(row, row + len(view.crops))
            row += len(view.crops)
            for person, i in enumerate(rows):
                self._add_person(view, person, poses, i)
            if self._overlays:
                path = self.folder / "overlays" / self._overlay_name(view.picture)
                points = [poses.keypoints[i] for i in rows]
                job = self._pool.submit(_draw, view, points, poses.skeleton, path)
                jobs.append(job)
            self.pictures += 1
        for job in jobs:
            job.result()

    def _add_person(self, view: View, person: int, poses: Poses, i: int) -> None:
        entry = json.dumps(_result(view, person, poses, i), ensure_ascii=False)
        self._json.write(("," if self.poses else "") + "\n" + entry)
        while len(self._csv) <= person:
            name = f"predictions_person{len(self._csv) + 1}.csv"
            self._csv.append(self._open_csv(name))
        frame = view.picture.frame
        number = view.picture.number if frame is None else frame
        self._csv[person].writerow(_csv_row(poses, i, number))
        if self._limit and self.poses % self._step == 0:
            self._shown.append(_viewer_sample(view, person, poses, i))
        if len(self._shown) > self._limit:  # more than expected: half as many from now
            self._shown = self._shown[::2]
            self._step *= 2
        self.poses += 1

    def finish(self) -> None:
        """Writes the ends of all files, the viewer and ``about.json``.

        Raises:
            ValueError: not one picture could be read.
        """
        if not self.pictures:
            reasons = "; ".join(f["error"] for f in self.failures[:3])
            raise ValueError(f"no pose to write: {reasons}")
        self._json.write("\n]\n")
        self._files.close()
        if self._limit:
            page, skeleton = self.folder / "viewer.html", self.record.skeleton
            write_viewer(page, self._shown, skeleton, total=self.poses)
        about = {
            "format": 1,
            "units": UNITS,
            "spread": self._spread,
            "student": {"mode": self.record.mode, "net": self.record.net},
            "skeleton": self.record.skeleton.to_dict(),
            "pictures": self.pictures,
            "poses": self.poses,
            "poses_in_viewer": len(self._shown),
            "failures": self.failures,
        }
        write_json(self.folder / "about.json", about)

    def report(self, folder: Path) -> None:
        """Says what was written to ``folder``, on the error output.

        Raises:
            ValueError: pictures that could not be read.
        """
        text = f"{self.poses} poses of {self.pictures} pictures"
        if not self.poses:
            text += ": no box in any of them; see config.predict.annotations"
        elif self._limit:
            text += f"; viewer.html shows {len(self._shown)} of them"
        print(text, file=sys.stderr)
        if failed := [failure["error"] for failure in self.failures]:
            more = f"; and {len(failed) - NAMED} more" if len(failed) > NAMED else ""
            raise ValueError(
                f"{len(failed)} could not be read: {'; '.join(failed[:NAMED])}{more}. "
                f"The others are in {folder / 'predictions.json'}; about.json "
                "beside it lists all failures"
            )

    def _open(self, name: str) -> IO[str]:
        path = self.folder / name
        return self._files.enter_context(
            open(path, "w", encoding="utf-8", newline="")  # closed by finish or exit
        )

    def _open_csv(self, name: str) -> Any:
        writer = csv.writer(self._open(name), lineterminator="\n")
        writer.writerow(csv_columns(self.record.skeleton.joints))
        return writer

    def _overlay_name(self, picture: Picture) -> str:
        """``<name>.jpg``, numbered where two pictures share a name."""
        frame = "" if picture.frame is None else f"_{picture.frame:06d}"
        stem, copy = Path(picture.source.name).stem + frame, 1
        name = f"{stem}.jpg"
        while name in self._names:
            copy += 1
            name = f"{stem}_{copy}.jpg"
        self._names.add(name)
        return name


# --- one body ----------------------------------------------------------------------


def _result(view: View, person: int, poses: Poses, i: int) -> dict[str, Any]:
    """One entry of a COCO results list."""
    picture = view.picture
    image_id = picture.source.image_id
    annotation_id = picture.persons[person].annotation_id
    scores = poses.scores[i].astype(np.float64)
    keypoints = np.concatenate([poses.keypoints[i], scores[:, None]], axis=1)
    corner, side = poses.centre[i] - poses.half_side[i], 2 * poses.half_side[i]
    return {
        "image_id": picture.number if image_id is None else image_id,
        **({} if annotation_id is None else {"annotation_id": annotation_id}),
        "file_name": picture.source.name,
        **({} if picture.frame is None else {"frame": picture.frame}),
        "category_id": 1,
        "keypoints": _rounded(keypoints).ravel().tolist(),
        "keypoints_std": _rounded(poses.keypoints_std[i]).tolist(),
        "keypoints_3d": _rounded(poses.keypoints_3d[i]).tolist(),
        "keypoints_3d_std": _rounded(poses.keypoints_3d_std[i]).tolist(),
        "score": round(float(scores.mean()), 4),
        "bbox": _rounded(np.array([*corner, side, side])).tolist(),
    }


def _rounded(values: np.ndarray) -> np.ndarray:
    return np.round(np.asarray(values, np.float64), 3)


def csv_columns(joints: Sequence[str]) -> list[str]:
    """The header that anipose writes for these joints.

    Examples:
        >>> csv_columns(["nose"])[:6]
        ['nose_x', 'nose_y', 'nose_z', 'nose_error', 'nose_ncams', 'nose_score']
    """
    parts = ("x", "y", "z", "error", "ncams", "score")
    columns = [f"{joint}_{part}" for joint in joints for part in parts]
    columns += [f"M_{i}{j}" for i in range(3) for j in range(3)]
    return [*columns, *(f"center_{i}" for i in range(3)), "fnum"]


def _csv_row(poses: Poses, i: int, number: int) -> list[Any]:
    """x and y stay in the picture, so that a body moves from frame to frame."""
    xy, z = poses.keypoints[i], poses.keypoints_3d[i][:, 2:]
    error = np.linalg.norm(poses.keypoints_std[i], axis=1, keepdims=True)
    ones = np.ones_like(z)
    values = np.concatenate([xy, z, error, ones, poses.scores[i][:, None]], axis=1)
    frame = [*np.eye(3).ravel().tolist(), 0.0, 0.0, 0.0]
    return [*_rounded(values).ravel().tolist(), *frame, number]


def _viewer_sample(view: View, person: int, poses: Poses, i: int) -> ViewerSample:
    crop, many, frame = view.crops[person], len(view.crops), view.picture.frame
    caption = view.picture.source.name
    caption += "" if frame is None else f", frame {frame}"
    patch = cut_patch(view.image, crop.centre, crop.half_side, THUMBNAIL)
    return ViewerSample(
        image=image_uri(patch),
        caption=caption + f" · person {person + 1} of {many}" * (many > 1),
        poses={"student": poses.pose[i]},
        spread=poses.spread[i],
        points=(poses.pose[i, :, :2] + 1) / 2,
    )


def _draw(view: View, points: list[np.ndarray], skeleton: Any, path: Path) -> None:
    image = np.asarray(view.image)
    # Fine lines need no finer drawing where the picture itself is fine.
    supersample = max(1, min(4, 2048 // max(image.shape)))
    for body in points:
        image = draw_skeleton(image, body, skeleton, supersample=supersample)
    Image.fromarray(image).save(path, quality=90)
