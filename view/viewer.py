"""A page, or a part of one, that shows 3D poses to rotate beside their pictures.

The page contains everything: no network, no library, no WebGL.
"""

from __future__ import annotations

import dataclasses
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline.skeleton import Skeleton
from runtime.files import write_text
from view import overlay, plot3d

_HERE = Path(__file__).parent
PREDICTED = {"student": "predicted 3D pose", "picture": "picture and predicted joints"}


@dataclasses.dataclass(frozen=True)
class ViewerSample:
    """What is shown at once."""

    image: str | None  # a "data:" address
    caption: str  # one line
    poses: Mapping[str, np.ndarray]  # (P, 3) each, camera frame; NaN is left out
    spread: np.ndarray | None = None  # standard deviations of the only pose
    # (P, 2) to be drawn on the picture, as parts of its width and height.
    points: np.ndarray | None = None
    film: str = ""  # the video that it is a frame of
    seconds: float = 0.0  # when, in that video


def viewer_html(
    samples: Sequence[ViewerSample],
    skeleton: Skeleton,
    *,
    labels: Mapping[str, str] | None = None,
    page: bool = False,
) -> str:
    """A part of a page: poses of one sample at a time, turned by mouse or finger.

    All poses of a sample turn together; keys, buttons and a slider go through the
    samples, and play them: frames of a video at its rate. Below frames, a joint is
    traced over time. Its style is that of :func:`write_page`. ``labels``: name of a
    pose -> its title, and that of the ``"picture"``; ``page``: whether it has the page
    for itself, so that the keys work everywhere, and the joints are named from the
    start.
    """
    shown = [_record(sample, skeleton) for sample in samples]
    for sample, following, record in zip(samples, samples[1:], shown, strict=False):
        gap = following.seconds - sample.seconds
        if sample.film and sample.film == following.film and gap > 0:
            record["wait"] = round(1000 * gap)
    record = {
        "joints": list(skeleton.joints),
        "edges": [list(edge) for edge in skeleton.edges],
        "bone_sides": list(overlay.bone_sides(skeleton)),
        "joint_sides": list(skeleton.sides),
        "labels": dict(labels or {}),
        "page": page,
        "samples": shown,
    }
    text = json.dumps(record, ensure_ascii=False, allow_nan=False)
    # So that it may stand inside a script element.
    text = text.replace("</", "<\\/").replace("<!--", "<\\u0021--")
    script = (_HERE / "viewer.js").read_text("utf-8")
    return (
        '<div class="viewer"></div>'
        '<script type="application/json" id="viewer-data">'
        f"{text}</script><script>{script}</script>"
    )


def write_page(path: str | Path, title: str, body: str, *, kind: str = "") -> None:
    """Writes a page that loads nothing; ``kind`` is the body's class in the style."""
    style = "".join(
        (_HERE / name).read_text("utf-8") for name in ("report.css", "viewer.css")
    )
    write_text(
        path,
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{style}</style></head>"
        f'<body class="{kind}"><main>{body}</main></body></html>\n',
    )


def write_viewer(
    path: str | Path,
    samples: Sequence[ViewerSample],
    skeleton: Skeleton,
    *,
    total: int,
) -> None:
    """Writes a page with nothing but the viewer of some of ``total`` poses."""
    shown = f"{len(samples):,} poses"
    if total > len(samples):
        shown = (
            f"{len(samples):,} of {total:,} poses, evenly spread; all are in "
            "predictions.json"
        )
    colours = colour_keys(right="right", left="left", centre="centre")
    body = (
        f"<h1>Predicted poses</h1><p class='soft'>{shown}. All that is drawn is "
        "predicted, also on the pictures; no label is shown. Depth is relative, in the "
        f"unit of the picture: one picture tells no metres. {colours}</p>"
        + viewer_html(samples, skeleton, labels=PREDICTED, page=True)
        + "<noscript>This page draws with JavaScript; please allow it.</noscript>"
    )
    write_page(path, "Predicted poses", body, kind="viewer-page")


def colour_keys(**texts: str) -> str:
    """The legend of the lines: colour of the style -> what it stands for."""
    return "".join(
        '<span style="white-space:nowrap"><span class="key" '
        f'style="background:var(--{name})"></span>{text}</span> '
        for name, text in texts.items()
    )


def _record(sample: ViewerSample, skeleton: Skeleton) -> dict[str, Any]:
    poses = {n: np.asarray(p, np.float64) for n, p in sample.poses.items()}
    record: dict[str, Any] = {
        "image": sample.image,
        "caption": sample.caption,
        "film": sample.film,
        "reach": round(max(plot3d.pose_reach(list(poses.values()), skeleton)), 3),
        "poses": {
            name: _rounded(plot3d.normalise_pose(pose, skeleton))
            for name, pose in poses.items()
        },
    }
    if sample.points is not None:
        record["points"] = _rounded(np.asarray(sample.points, np.float64))
    if sample.spread is not None and len(poses) == 1:
        spread = np.asarray(sample.spread, np.float64)
        # The picture is two units of the pose wide where its points are given.
        record["spread_2d"] = _rounded(spread[:, :2] / 2)
        scale = _scale(next(iter(poses.values())), skeleton)
        record["spread_3d"] = _rounded(spread * scale)
    return record


def _scale(pose: np.ndarray, skeleton: Skeleton) -> float:
    """What :func:`view.plot3d.normalise_pose` multiplies lengths by."""
    before = pose - np.nanmean(pose, axis=0)
    after = plot3d.normalise_pose(pose, skeleton)
    size = float(np.sqrt(np.nansum(before**2)))
    return float(np.sqrt(np.nansum(after**2))) / size if size > 0 else 1.0


def _rounded(values: np.ndarray) -> list[Any]:
    return [
        [round(float(v), 3) for v in row] if np.isfinite(row).all() else None
        for row in values
    ]
