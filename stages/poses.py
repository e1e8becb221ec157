"""Files of poses, as ``--stage=predict`` writes them: JSON, CSV, overlays, viewer."""

from __future__ import annotations

import contextlib
import csv
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import IO, Any

import numpy as np

from input_pipeline.skeleton import Skeleton
from pose_jax.estimator import Poses
from runtime.files import plain, write_json
from stages.drawings import Drawings, View
from stages.metric import metric_scale
from view.plot3d import jpeg_uri
from view.viewer import ViewerSample, write_viewer

# Of what this module writes, for :func:`runtime.files.own_outputs`.
NAMES = ("predictions.json", "predictions*.csv", "overlays", "viewer.html")
NAMED = 5  # failures in the last message
UNITS = {
    "keypoints": "x, y in pixels of the picture ((0, 0) is the outer corner of its "
    "first pixel), and a score in 0..1 that is not calibrated; per joint",
    "keypoints_std": "standard deviation along x and y, pixels; see 'spread'",
    "keypoints_3d": "x right, y down, z away from the camera, in pixels of the "
    "picture, relative to the root joint",
    "keypoints_3d_std": "standard deviation along x, y, z, same unit",
    "bbox": "x, y, width, height of the square crop that the network saw, pixels",
    "csv": "x, y in pixels of the picture; z relative to the root joint, in the same "
    "pixels; error is the standard deviation in the image, pixels; ncams is 1; picture "
    "and frame name the row",
}
UNITS_MM = {
    "keypoints_3d_mm": "keypoints_3d in millimetres, from the length that was given: "
    "the same body, or bodies of one size, in all pictures",
}
SPREAD = (
    "standard deviations are those of the error in pictures like those of the "
    "training: 95 of 100 joints lie within 1.96 of them"
)


class Predictions:
    """Collects poses and writes them; a context manager.

    ``predictions.json``: a COCO results list, one entry per body.
    ``predictions.csv``: the first body of each picture in anipose's columns; further
    bodies in ``predictions_person2.csv`` and so on. ``overlays/``: the pictures with
    their skeletons, and videos with the pose turning beside them. ``viewer.html``, and
    ``about.json``: units, frame, skeleton, failures. All are complete after
    :meth:`finish`.

    Args:
        folder: an empty one, of :func:`runtime.files.own_outputs`.
        skeleton: of the poses.
        about: what ``about.json`` says besides, such as the student.
        expected: about how many bodies there will be, for an even choice.
        overlays: whether to draw them.
        viewer_samples: poses in the viewer at most, evenly spread; 0 for no viewer.
        length: two joints and their distance in millimetres, of
            :func:`stages.metric.parse_length`; then the poses are also in millimetres.
        pool: draws the overlays.
    """

    def __init__(
        self,
        folder: Path,
        skeleton: Skeleton,
        *,
        about: Mapping[str, Any],
        expected: int,
        overlays: bool,
        viewer_samples: int,
        pool: Executor,
        length: tuple[tuple[int, int], float] | None = None,
    ) -> None:
        self.folder, self.skeleton = folder, skeleton
        self.pictures = self.poses = 0  # so far
        self.failures: list[dict[str, str]] = []  # of pictures: "file" and "error"
        self._about = dict(about)
        self._shown: list[ViewerSample] = []
        self._limit = viewer_samples
        self._step = max(1, -(-expected // max(viewer_samples, 1)))
        self._length, self._points = length, []
        self._files = contextlib.ExitStack()
        self._drawings = (
            Drawings(folder / "overlays", skeleton, pool) if overlays else None
        )
        # One entry a line, until all are known that the scale depends on.
        self._entries = self._files.enter_context(
            tempfile.TemporaryFile("w+", dir=folder, encoding="ascii")  # noqa: SIM115
        )

    def __enter__(self) -> Predictions:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()
        if self._drawings is not None:
            self._drawings.close()

    def add(self, views: Sequence[View], poses: Poses) -> None:
        """The poses of some pictures, in the order of their bodies."""
        if not (np.isfinite(poses.pose).all() and np.isfinite(poses.spread).all()):
            raise ValueError(
                "the student gives poses that are not finite: its training diverged; "
                "train it again with a smaller config.student.learning_rate"
            )
        if self._length is not None:
            self._points.append(poses.keypoints_3d.astype(np.float32))
        row = 0
        for view in views:
            for person in range(len(view.bodies)):
                self._add_body(view, person, poses, row + person)
            row += len(view.bodies)
            self.pictures += 1
        if self._drawings is not None:
            self._drawings.add(views, poses.keypoints, poses.pose)

    def _add_body(self, view: View, person: int, poses: Poses, i: int) -> None:
        table = view.bodies[person].table
        table = person if table is None else table
        line = table, view.number, _result(view, person, poses, i)
        self._entries.write(json.dumps(line, allow_nan=False) + "\n")
        if self._limit and self.poses % self._step == 0:
            self._shown.append(_viewer_sample(view, person, poses, i))
        if len(self._shown) > self._limit:  # more than expected: half as many from now
            self._shown = self._shown[::2]
            self._step *= 2
        self.poses += 1

    def finish(self) -> None:
        """Writes the tables, the viewer and ``about.json``.

        Raises:
            ValueError: not one picture could be read, or the joints of the known
                length lie apart in no pose.
        """
        if not self.pictures:
            reasons = "; ".join(f["error"] for f in self.failures[:3])
            raise ValueError(f"no pose to write: {reasons}")
        units = dict(UNITS)
        scales = None
        if self._length is not None and self.poses:
            points = np.concatenate(self._points)
            scales = metric_scale(points, self.skeleton.edges, *self._length)
            units |= UNITS_MM
        self._write_tables(scales)
        if self._drawings is not None:
            self._drawings.close()
        if self._limit:
            page = self.folder / "viewer.html"
            write_viewer(page, self._shown, self.skeleton, total=self.poses)
        about = {
            "format": 1,
            "units": units,
            **self._about,
            "skeleton": self.skeleton.to_dict(),
            "pictures": self.pictures,
            "poses": self.poses,
            "poses_in_viewer": len(self._shown),
            "failures": self.failures,
        }
        write_json(self.folder / "about.json", about)

    def _write_tables(self, scales: np.ndarray | None) -> None:
        """``predictions.json`` and the tables, from the lines of the entries."""
        self._entries.seek(0)
        file = self._open("predictions.json")
        file.write("[")
        tables = [self._open_table(0, metric=scales is not None)]
        for i, line in enumerate(self._entries):
            person, number, entry = json.loads(line)
            if scales is not None:
                points = np.array(entry["keypoints_3d"])
                entry["keypoints_3d_mm"] = plain(_rounded(points * scales[i]))
            text = json.dumps(entry, ensure_ascii=False, allow_nan=False)
            file.write(("," if i else "") + "\n" + text)
            while len(tables) <= person:
                tables.append(self._open_table(len(tables), metric=scales is not None))
            tables[person].writerow(_csv_row(entry, number))
        file.write("\n]\n")
        self._files.close()

    def _open_table(self, person: int, *, metric: bool) -> Any:
        suffix = f"_person{person + 1}" if person else ""
        file = self._open(f"predictions{suffix}.csv")
        table = csv.writer(file, lineterminator="\n")
        table.writerow(csv_columns(self.skeleton.joints, metric=metric))
        return table

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
        # Names of files need not be text; JSON reads what is written for their bytes.
        return self._files.enter_context(
            open(  # closed when the tables are written
                self.folder / name,
                "w",
                encoding="utf-8",
                errors="backslashreplace",
                newline="",
            )
        )


# --- one body ----------------------------------------------------------------------


def _result(view: View, person: int, poses: Poses, i: int) -> dict[str, Any]:
    """One entry of a COCO results list."""
    annotation_id = plain(view.bodies[person].annotation_id)
    scores = poses.scores[i].astype(np.float64)
    keypoints = np.concatenate([poses.keypoints[i], scores[:, None]], axis=1)
    corner, side = poses.centre[i] - poses.half_side[i], 2 * poses.half_side[i]
    return {
        "image_id": view.number if view.image_id is None else plain(view.image_id),
        **({} if annotation_id is None else {"annotation_id": annotation_id}),
        "file_name": view.name,
        **({} if view.frame is None else {"frame": view.frame}),
        "category_id": 1,
        "keypoints": _rounded(keypoints).ravel().tolist(),
        "keypoints_std": _rounded(poses.keypoints_std[i]).tolist(),
        "keypoints_3d": _rounded(poses.keypoints_3d[i]).tolist(),
        "keypoints_3d_std": _rounded(poses.keypoints_3d_std[i]).tolist(),
        "score": round(float(scores.mean()), 4),
        "bbox": _rounded(np.array([*corner, side, side])).tolist(),
        **view.bodies[person].facts,
    }


def _rounded(values: np.ndarray) -> np.ndarray:
    return np.round(np.asarray(values, np.float64), 3)


def csv_columns(joints: Sequence[str], *, metric: bool = False) -> list[str]:
    """The header that anipose writes for these joints, and what names the row.

    ``metric``: with the columns of the poses in millimetres.

    Examples:
        >>> csv_columns(["nose"])[:6]
        ['nose_x', 'nose_y', 'nose_z', 'nose_error', 'nose_ncams', 'nose_score']
        >>> csv_columns(["nose"])[-3:]
        ['fnum', 'picture', 'frame']
    """
    joints = [_cell(joint) for joint in joints]
    parts = ("x", "y", "z", "error", "ncams", "score")
    columns = [f"{joint}_{part}" for joint in joints for part in parts]
    columns += [f"M_{i}{j}" for i in range(3) for j in range(3)]
    columns += [*(f"center_{i}" for i in range(3)), "fnum", "picture", "frame"]
    return columns + [f"{j}_{p}_mm" for j in joints if metric for p in "xyz"]


def _cell(text: str) -> str:
    """Text of which a spreadsheet makes no formula."""
    return "'" + text if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _csv_row(entry: Mapping[str, Any], number: int) -> list[Any]:
    """x and y stay in the picture, so that a body moves from frame to frame."""
    keypoints = np.reshape(entry["keypoints"], (-1, 3))
    z = np.array(entry["keypoints_3d"])[:, 2]
    error = np.linalg.norm(entry["keypoints_std"], axis=1)
    columns = [*keypoints.T[:2], z, error, np.ones_like(z), keypoints[:, 2]]
    frame = entry.get("frame")
    return [
        *_rounded(np.stack(columns, axis=1)).ravel().tolist(),
        *np.eye(3).ravel().tolist(),
        *(0.0, 0.0, 0.0),
        number if frame is None else frame,
        _cell(entry["file_name"]),
        frame,
        *np.ravel(entry.get("keypoints_3d_mm", ())).tolist(),
    ]


def _viewer_sample(view: View, person: int, poses: Poses, i: int) -> ViewerSample:
    frame, many, look = view.frame, len(view.bodies), view.bodies[person].look
    caption = view.name + ("" if frame is None else f", frame {frame}")
    return ViewerSample(
        image=None if look is None else jpeg_uri(look),
        caption=caption + f" · individual {person + 1} of {many}" * (many > 1),
        poses={"student": poses.pose[i]},
        spread=poses.spread[i],
        points=(poses.pose[i, :, :2] + 1) / 2,
        film=view.name if view.rate and frame is not None else "",
        seconds=frame / view.rate if view.rate and frame is not None else 0.0,
    )
