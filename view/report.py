"""``report.html``: what a run did and reached, in one file without a network.

:func:`write_report` makes the page from values; :func:`collect_report` gathers the
values from the files of a workdir.
"""

from __future__ import annotations

import html
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline.skeleton import Skeleton
from view import curves as curves_view
from view import overlay, plot3d, tables, viewer

# The poses of a sample, in the order in which they are shown.
POSES = (
    *(n for n in tables.LABELS if n not in ("mean_pose", "z_zero", "supervised")),
    *("student", "supervised", "truth"),
)
POSE_LABELS = {**tables.LABELS, "student": "Student", "truth": "Truth"}


def write_report(
    path: str | Path,
    *,
    title: str,
    skeleton: Skeleton,
    results: Mapping[str, Any] | None = None,
    curves: Sequence[Mapping[str, Any]] = (),
    samples: Sequence[Mapping[str, Any]] = (),
    environment: Mapping[str, Any] | None = None,
    description: str = "",
) -> Path:
    """Writes the report of a run.

    Args:
        path: of the HTML file; its folder is made if absent.
        title: first line of the page.
        skeleton: of all landmarks and poses.
        results: method -> ``{"train": metrics, "val": metrics}``, as in
            results.json; ``seconds`` (stage -> seconds) is shown as well. Empty
            where the data set has no 3D.
        curves: the lines of metrics.jsonl.
        samples: each with ``image`` (H, W, 3), ``keypoints_2d`` (P, 2) pixels of
            that image, optionally ``labelled`` (P,), ``poses`` (name of
            :data:`POSES` -> (P, 3), any unit) and ``caption``.
        environment: versions, device and git revision.
        description: one or two sentences on the data and the method.

    Returns:
        The path written.
    """
    results, environment = dict(results or {}), dict(environment or {})
    prepared = [_prepare_sample(sample, skeleton) for sample in samples]
    parts = [
        _header(title, description, results, environment),
        tables.results_section(results),
        _pictures(prepared, skeleton),
        _viewer(prepared, skeleton),
        curves_view.curves_section(curves),
        _environment(results, environment),
    ]
    style = (Path(__file__).parent / "report.css").read_text("utf-8")
    style += viewer.viewer_css()
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{style}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(page, encoding="utf-8")
    os.replace(temporary, path)
    return path


def collect_report(
    workdir: str | Path,
    *,
    skeleton: Skeleton,
    sample_ids: Sequence[int] = (),
    images: Sequence[np.ndarray] = (),
    keypoints_2d: Sequence[np.ndarray] = (),
    labelled: Sequence[np.ndarray] | None = None,
    truth: Sequence[np.ndarray | None] | None = None,
    captions: Sequence[str] | None = None,
    split: str = "val",
    title: str = "3D pose without 3D labels",
    description: str = "",
) -> Path:
    """Writes ``workdir/report.html`` from the files of a run.

    Reads what is there of results.json, metrics.jsonl,
    ``teacher/predictions_{split}.npz`` and ``student_*/predictions_{split}.npz``.

    Args:
        workdir: the folder of the run.
        skeleton: of the data.
        sample_ids: the samples to show, ids as in the predictions.
        images: a picture for each of them.
        keypoints_2d: (P, 2) each, pixels of its picture.
        labelled: (P,) bool each.
        truth: (P, 3) each, camera frame, any unit; None where it is not known.
        captions: a line for each.
        split: from which predictions the poses are taken.
        title: of the page.
        description: what this run is, in a sentence or two.

    Raises:
        ValueError: the arguments about samples differ in length.
    """
    workdir = Path(workdir)
    count = len(sample_ids)
    given = {"images": images, "keypoints_2d": keypoints_2d, "labelled": labelled}
    for name, values in (given | {"truth": truth, "captions": captions}).items():
        if values is not None and len(values) != count:
            raise ValueError(f"{count} sample_ids, but {len(values)} {name}")
    predictions = _read_predictions(workdir, split)
    samples = []
    for i, sample_id in enumerate(sample_ids):
        poses = {n: p[sample_id] for n, p in predictions.items() if sample_id in p}
        true_pose = None if truth is None else truth[i]
        if true_pose is not None:
            poses["truth"] = true_pose
        samples.append(
            {
                "image": images[i],
                "keypoints_2d": keypoints_2d[i],
                "labelled": None if labelled is None else labelled[i],
                "poses": poses,
                "caption": captions[i] if captions else f"{split} sample {sample_id}",
            }
        )
    results = _read_json(workdir / "results.json")
    return write_report(
        workdir / "report.html",
        title=title,
        skeleton=skeleton,
        results=results,
        curves=curves_view.read_lines(workdir / "metrics.jsonl"),
        samples=samples,
        environment=results.get("environment", {}),
        description=description,
    )


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def _read_predictions(workdir: Path, split: str) -> dict[str, dict[int, np.ndarray]]:
    """Pose name -> sample id -> (P, 3), of every method that left predictions."""
    found = {}
    for path in sorted(workdir.glob(f"*/predictions_{split}.npz")):
        with np.load(path) as file:
            ids, poses = file["sample_ids"], file["pose"]
        found[tables.method_name(path.parent.name)] = {
            int(i): pose for i, pose in zip(ids, poses, strict=True)
        }
    return found


def _prepare_sample(sample: Mapping[str, Any], skeleton: Skeleton) -> dict[str, Any]:
    """The sample with its picture drawn on, and its poses in the order of POSES."""
    image = overlay.enlarge(sample["image"], at_least=256)
    factor = image.shape[0] / np.shape(sample["image"])[0]
    drawn = overlay.draw_skeleton(
        image,
        np.asarray(sample["keypoints_2d"]) * factor,
        skeleton,
        labelled=sample.get("labelled"),
    )
    poses = {
        name: pose
        for name, pose in (sample.get("poses") or {}).items()
        if pose is not None
    }
    order = [n for n in POSES if n in poses] + [n for n in poses if n not in POSES]
    return {
        "image": plot3d.image_uri(drawn),
        "caption": str(sample.get("caption", "")),
        "poses": {name: np.asarray(poses[name]) for name in order},
    }


def _header(
    title: str, description: str, results: Mapping, environment: Mapping
) -> str:
    facts = []
    device = environment.get("device") or {}
    if device:
        facts.append(("device", _device_text(device)))
    seconds = results.get("seconds") or {}
    if seconds:
        facts.append(("time", tables.duration(sum(map(float, seconds.values())))))
    revision = environment.get("git")
    if revision:
        facts.append(("revision", str(revision)[:12]))
    shown = "".join(
        f"<span>{n} <b>{html.escape(str(value))}</b></span>" for n, value in facts
    )
    return (
        f"<h1>{html.escape(title)}</h1>"
        f'<p class="soft">{html.escape(description)}</p>'
        f'<div class="facts">{shown}</div>{tables.glance(results)}'
    )


def _device_text(device: Mapping[str, Any] | str) -> str:
    if isinstance(device, str):
        return device
    kind, platform = device.get("kind", ""), device.get("platform", "")
    name = kind if kind.lower() != platform.lower() else platform.upper()
    return f"{device.get('devices', 1)} × {name}"


def _pictures(samples: Sequence[Mapping[str, Any]], skeleton: Skeleton) -> str:
    if not samples:
        return ""
    cards = "".join(_sample_card(sample, skeleton) for sample in samples)
    colours = "".join(
        f'<span class="key" style="background:var(--{name})"></span>{text}'
        for name, text in (
            ("right", "right side"),
            ("left", "left side"),
            ("centre", "centre"),
            ("ghost", "truth, behind the prediction"),
        )
    )
    return (
        "<h2>Pictures and poses</h2>"
        "<p class='soft'>Each pose from the front, as the camera sees it, and from the "
        "side, with the camera on the left: what the side view shows, no 2D label "
        "says. All poses are scaled to the same average bone length.<br>"
        f"{colours}</p>{cards}"
    )


def _sample_card(sample: Mapping[str, Any], skeleton: Skeleton) -> str:
    poses = sample["poses"]
    reach = plot3d.pose_reach(list(poses.values()), skeleton)
    caption = html.escape(sample["caption"])
    blocks = [
        f'<figure class="picture"><img src="{sample["image"]}" alt="{caption}">'
        f"<figcaption>{caption}</figcaption></figure>"
    ]
    for name, pose in poses.items():
        behind = None if name == "truth" else poses.get("truth")
        views = "".join(
            f"<figure>{_svg(pose, skeleton, view, behind, reach)}"
            f"<figcaption>{view}</figcaption></figure>"
            for view in plot3d.VIEWS
        )
        label = html.escape(POSE_LABELS.get(name, name))
        blocks.append(
            f'<div class="method"><b>{label}</b><div class="views">{views}</div></div>'
        )
    return f'<div class="card sample">{"".join(blocks)}</div>'


def _svg(
    pose: np.ndarray,
    skeleton: Skeleton,
    view: str,
    behind: np.ndarray | None,
    reach: tuple[float, float],
) -> str:
    return plot3d.pose_svg(pose, skeleton, view=view, reference=behind, reach=reach)


def _viewer(samples: Sequence[Mapping[str, Any]], skeleton: Skeleton) -> str:
    with_poses = [
        viewer.ViewerSample(sample["image"], sample["caption"], sample["poses"])
        for sample in samples
        if sample["poses"]
    ]
    if not with_poses:
        return ""
    return (
        "<h2>Turn them</h2><div class='card'>"
        f"{viewer.viewer_html(with_poses, skeleton, labels=POSE_LABELS)}"
        "<p class='note' style='margin:12px 0 0'>Drag to turn all poses together, "
        "wheel or two fingers to zoom, double click to reset; click here, then arrow "
        "keys for the next sample.</p>"
        "</div>"
    )


def _environment(results: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    rows = [
        (f"{tables.LABELS.get(tables.method_name(stage), stage)} took", text)
        for stage, seconds in (results.get("seconds") or {}).items()
        for text in (tables.duration(float(seconds)),)
    ]
    for name, value in environment.items():
        if name == "device":
            value = _device_text(value)
        if isinstance(value, Mapping):
            value = ", ".join(f"{k} {v}" for k, v in value.items() if v)
        rows.append((name, value))
    if not rows:
        return ""
    items = "".join(
        f"<dt>{html.escape(str(n))}</dt><dd>{html.escape(str(v))}</dd>" for n, v in rows
    )
    return f"<h2>How it was made</h2><div class='card'><dl>{items}</dl></div>"
