"""``report.html``: settings and results of a run, in one file that loads no other."""

from __future__ import annotations

import datetime
import html
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline.skeleton import Skeleton
from view import charts, overlay, plot3d, viewer
from view.findings import findings

# Rows and poses in their order: name in results.json -> label.
LABELS = {
    "mean_pose": "Mean pose",
    "z_zero": "z = 0",
    "teacher": "Teacher",
    "labels": "Depth that students learn from",
    "weaksup_bs": "Weaksup-bs",
    "weaksup_residual": "Weaksup-bs, residual-weighted",
    "weaksup_certainty": "Weaksup-bs, weighted by certainty",
    "distill": "Distilled",
    "distill_exact": "Distilled, exact (Eq. 10)",
    "posterior": "Mahalanobis distance",
    "supervised": "Supervised (reads 3D)",
    "truth": "Truth",
}
# The mean pose has no view of its own, and z = 0 no sign: these have no meaning.
_WITHOUT_MEANING = {
    "mean_pose": ("mpjpe_mm", "depth_error_mm", "flip_fraction"),
    "z_zero": ("flip_fraction",),
}
# Baselines and the upper reference are never marked as the best of a column.
_NOT_COMPARED = ("mean_pose", "z_zero", "labels", "supervised")
COLUMNS = {
    "pa_mpjpe_mm": "PA-MPJPE",
    "mpjpe_mm": "MPJPE",
    "depth_error_mm": "Depth",
    "flip_fraction": "Flip",
}
_WITH_ANNOTATED_XY = ("pa_mpjpe_mm", "mpjpe_mm", "depth_error_mm")
_SPLITS = {"val": "Validation set", "train": "Training set"}
_DEFINITIONS = {
    "PA-MPJPE": "mm; mean distance of the joints after the best similarity transform "
    "(rotation, scale, shift; no reflection).",
    "MPJPE": "mm; mean distance after scaling to the true average bone length and "
    "moving the root joint onto the true one.",
    "Depth": "mm; mean |dz| after the same scaling, both depths centred over the "
    "joints.",
    "Flip": "share of samples whose depth is mirrored: the predicted and the true "
    "centred depths have a negative inner product.",
    "z = 0": "no depth at all: with the xy of a student (the distilled one, if "
    "trained) and with the annotated xy.",
    "Mean pose": "the Procrustes mean of the true training poses, at its best.",
    "annotated xy": "the same with the image coordinates replaced by the annotation: "
    "what is left is the error of the depth.",
}
LIFTED = "3D of every frame"  # in ``made``: a page beside the report
_SIDE = 192  # of the pictures with a prediction drawn in, pixels
# Curves that tell how fast a training runs, not how far it has come.
_HIDDEN = (
    *("learning_rate", "steps_per_second", "data_wait", "gradient_norm"),
    *("error_bar", "val_error_bar"),  # no parts of the loss
)


def write_report(
    path: str | Path,
    *,
    title: str,
    skeleton: Skeleton,
    results: Mapping[str, Any] | None = None,
    curves: Sequence[Mapping[str, Any]] = (),
    samples: Sequence[Mapping[str, Any]] = (),
    description: str = "",
    made: Mapping[str, str] | None = None,
) -> None:
    """Writes the report of a run.

    Args:
        path: of the HTML file; its folder is made if absent.
        title: first line of the page.
        skeleton: of all landmarks and poses.
        results: method -> ``{"train": metrics, "val": metrics}``, as in
            results.json; ``seconds`` (stage -> seconds) and ``environment``
            (versions, device, git revision) are shown as well, and the
            ``"verdict"`` of the teacher.
        curves: the lines of metrics.jsonl.
        samples: each with ``image`` (H, W, 3), ``keypoints_2d`` (P, 2) pixels of
            that image, optionally ``labelled`` (P,), ``poses`` (method or "truth" ->
            (P, 3), any unit), ``points`` (method -> its own x and y, (P, 2) pixels of
            that image) and ``caption``.
        description: one or two sentences on the data and the method.
        made: how the run was made, name -> text: command, seed and the like.
    """
    results = dict(results or {})
    prepared = [_prepare_sample(sample, skeleton) for sample in samples]
    parts = [
        _header(title, description, results, series(curves), made or {}),
        _pictures(prepared, skeleton),
        _viewer(prepared, skeleton),
        results_section(results),
        joints_section(results, skeleton),
        error_bars_section(results),
        curves_section(curves),
        _environment(results, made or {}),
    ]
    viewer.write_page(path, title, "".join(parts))


def _prepare_sample(sample: Mapping[str, Any], skeleton: Skeleton) -> dict[str, Any]:
    """The sample with its picture drawn on, and its poses in their order."""
    image = overlay.enlarge(sample["image"], at_least=256)
    factor = image.shape[0] / np.shape(sample["image"])[0]
    points = np.asarray(sample["keypoints_2d"]) * factor
    labelled = sample.get("labelled")
    drawn = overlay.draw_skeleton(image, points, skeleton, labelled=labelled)
    predicted = {
        name: plot3d.image_uri(
            overlay.draw_skeleton(image, np.asarray(xy) * factor, skeleton),
            max_size=_SIDE,
        )
        for name, xy in sample.get("points", {}).items()
    }
    poses, uri = _in_order(sample["poses"]), plot3d.image_uri(drawn)
    return {**sample, "image": uri, "predicted": predicted, "poses": poses}


def _in_order(found: Mapping[str, Any]) -> dict[str, Any]:
    """In the order of LABELS; what these do not name comes last."""
    return {n: found[n] for n in sorted(found, key=[*LABELS, *found].index)}


def _header(
    title: str,
    description: str,
    results: Mapping[str, Any],
    curves: Mapping[str, Mapping[str, charts.Points]],
    made: Mapping[str, str],
) -> str:
    environment = results.get("environment") or {}
    device, revision = environment.get("device"), environment.get("git")
    seconds = results.get("seconds") or {}
    facts = {
        "device": _device_text(device) if device else "",
        "time": _duration(sum(seconds.values())) if seconds else "",
        "revision": str(revision)[:12] if revision else "",
    }
    shown = "".join(
        f"<span>{n} <b>{html.escape(value)}</b></span>"
        for n, value in facts.items()
        if value
    )
    return (
        f"<h1>{html.escape(title)}</h1>"
        f'<p class="soft">{html.escape(description)}</p>'
        f'<div class="facts">{shown}</div>{_verdict(results, curves, made)}'
        f"{glance(results)}"
    )


def _verdict(
    results: Mapping[str, Any],
    curves: Mapping[str, Mapping[str, charts.Points]],
    made: Mapping[str, str],
) -> str:
    """Whether the depth can be trusted, how good each student is, what to do next."""
    verdict = (results.get("teacher") or {}).get("verdict")
    # Students that share a network share its loss: "student_weaksup_bs+distill".
    losses = {
        name: metrics["loss"]
        for stage, metrics in curves.items()
        for name in method_name(stage).split("+")
        if "loss" in metrics
    }
    told = [verdict["text"]] if verdict else []
    records = {n: r for n, r in results.items() if isinstance(r, Mapping)}
    told += findings(methods(results) or records, losses, LABELS)
    if not told:
        return ""
    parts = (
        text.partition(". " if text.startswith("Depth") else ": ") for text in told
    )
    items = "".join(
        f"<li><b>{html.escape(head + mark.rstrip())}</b> {html.escape(rest)}</li>"
        for head, mark, rest in parts
    )
    if LIFTED in made:
        link = html.escape(made[LIFTED])
        items += f"<li><b>{LIFTED}:</b> <a href='{link}'>{link}</a></li>"
    if "command" in made:
        once = ("--stage", "--config.lift.")  # said of this run alone
        words = [w for w in shlex.split(made["command"]) if not w.startswith(once)]
        more = ["--stage=lift", "--config.lift.tracks=FILE"]
        what = "lifts other 2D tracks"
        if any(stage.startswith("student") for stage in curves):
            more = ["--stage=predict", "--config.predict.images=FOLDER"]
            what = "predicts the pictures of a folder"
        command = html.escape(shlex.join([*words, *more]))
        items += f"<li><b>Next:</b> <code>{command}</code> {what}.</li>"
    return f"<div class='card verdict'><h3>What came out</h3><ul>{items}</ul></div>"


def _device_text(device: Mapping[str, Any]) -> str:
    kind, platform = device["kind"], device["platform"]
    name = kind if kind.lower() != platform.lower() else platform.upper()
    return f"{device['devices']} × {name}"


def _environment(results: Mapping[str, Any], made: Mapping[str, str]) -> str:
    rows = dict(made) | {
        f"{_label(stage)} took": _duration(seconds)
        for stage, seconds in (results.get("seconds") or {}).items()
    }
    for name, value in (results.get("environment") or {}).items():
        if name == "device":
            value = _device_text(value)
        if isinstance(value, Mapping):
            value = ", ".join(f"{k} {v}" for k, v in value.items() if v)
        rows[name] = value
    if not rows:
        return ""
    return f"<h2>How it was made</h2><div class='card'>{_definitions(rows)}</div>"


def _definitions(rows: Mapping[str, Any]) -> str:
    items = (
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(str(text))}</dd>"
        for name, text in rows.items()
    )
    return f"<dl>{''.join(items)}</dl>"


def _duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))


# --- pictures and poses ------------------------------------------------------------


def _pictures(samples: Sequence[Mapping[str, Any]], skeleton: Skeleton) -> str:
    if not samples:
        return ""
    cards = "".join(_sample_card(sample, skeleton) for sample in samples)
    colours = viewer.colour_keys(
        right="right side",
        left="left side",
        centre="centre",
        ghost="truth, behind the prediction",
    )
    return (
        "<h2>Pictures and poses</h2>"
        "<p class='soft'>First the picture with its annotated landmarks, then each "
        "method: its own landmarks drawn on the picture (without them the pose from "
        "the front), and its pose from the side, with the camera on the left: what the "
        "side view shows, no 2D label says. All poses are scaled to the same average "
        f"bone length.<br>{colours}</p>{cards}"
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
        truth = None if name == "truth" else poses.get("truth")
        label = html.escape(LABELS.get(name, name))
        views = ""
        for view in plot3d.VIEWS:
            drawn, text = None, view
            if view == "front" and name in sample["predicted"]:
                uri, text = sample["predicted"][name], "predicted"
                drawn = f'<img src="{uri}" alt="{label} on {caption}">'
            drawn = drawn or plot3d.pose_svg(
                pose, skeleton, view=view, reference=truth, reach=reach
            )
            views += f"<figure>{drawn}<figcaption>{text}</figcaption></figure>"
        blocks.append(
            f'<div class="method"><b>{label}</b><div class="views">{views}</div></div>'
        )
    return f'<div class="card sample">{"".join(blocks)}</div>'


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
        f"{viewer.viewer_html(with_poses, skeleton, labels=LABELS)}"
        "<p class='note' style='margin:12px 0 0'>Drag to turn all poses together, "
        "wheel or two fingers to zoom, double click to reset; click here, then arrow "
        "keys for the next sample.</p>"
        "</div>"
    )


# --- tables ------------------------------------------------------------------------


def method_name(name: str) -> str:
    """The method of a folder or of a stage: ``student_distill`` -> ``distill``."""
    return name.removeprefix("student_")


def _label(name: str) -> str:
    return " and ".join(LABELS.get(n, n) for n in method_name(name).split("+"))


def methods(results: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Method -> split -> metrics, in the order of the table.

    Baselines may stand beside the methods or, as the teacher's evaluation leaves
    them, under ``baselines`` of a split. Splits without 3D are left out.
    """
    found: dict[str, dict[str, Any]] = {}
    # Last, so that z = 0 stands with the xy of the distilled student, if trained.
    last = sorted(results.items(), key=lambda item: method_name(item[0]) == "distill")
    for name, record in last:
        for split in _SPLITS:
            metrics = record.get(split) if isinstance(record, Mapping) else None
            if not isinstance(metrics, Mapping):
                continue
            rows = {name: metrics, **(metrics.get("baselines") or {})}
            for row, values in rows.items():
                if any(values.get(key) is not None for key in COLUMNS):
                    splits = found.setdefault(method_name(row), {})
                    splits[split] = {**splits.get(split, {}), **values}
    return _in_order(found)


def results_section(results: Mapping[str, Any]) -> str:
    """The tables of both splits and what their columns mean."""
    rows = methods(results)
    splits = [s for s in _SPLITS if any(s in record for record in rows.values())]
    shown = [_table(rows, split) for split in splits]
    if not shown:
        return (
            "<h2>Results</h2><div class='card soft'>This data set has no 3D ground "
            "truth: there is nothing to compare with, but what the eye can tell."
            f"{_fit_without_truth(results)}</div>"
        )
    definitions = _definitions(_DEFINITIONS | _conventions(rows))
    return (
        f"<h2>Results</h2><div class='grid'>{''.join(shown)}</div>"
        f"<div class='card' style='margin-top:14px'>{definitions}</div>"
    )


def _fit_without_truth(results: Mapping[str, Any]) -> str:
    """How well the landmarks are met: all that a data set without 3D can tell."""
    fits = [
        f"{_label(name)}, {_SPLITS[split].lower()}: mean "
        f"reprojection error {record[split]['reprojection']:.4f} "
        f"({record[split].get('reprojection_unit', 'patch units')})"
        for name, record in results.items()
        for split in _SPLITS
        if isinstance(record, Mapping) and "reprojection" in (record.get(split) or {})
    ]
    return "".join(f"<br>{html.escape(fit)}" for fit in fits)


def _conventions(rows: Mapping[str, Any]) -> dict[str, str]:
    """The texts on alignment, sign and network that the evaluation left, each once."""
    texts: dict[str, dict[str, list[str]]] = {
        name: {} for name in ("alignment", "sign", "backbone", "poses")
    }
    for name, record in rows.items():
        if name in ("mean_pose", "z_zero"):
            continue
        for field, seen in texts.items():
            for text in {r[field]: None for r in record.values() if r.get(field)}:
                seen.setdefault(str(text), []).append(LABELS.get(name, name))
    return {
        field: "; ".join(
            text if len(seen) == 1 else f"{', '.join(names)}: {text}"
            for text, names in seen.items()
        )
        for field, seen in texts.items()
        if seen
    }


def _table(rows: Mapping[str, Mapping[str, Any]], split: str) -> str:
    rows = {name: r[split] for name, r in rows.items() if r.get(split)}
    groups = f"<th></th><th class='group' colspan='{len(COLUMNS)}'>predicted xy</th>"
    columns = [_column(rows, key) for key in COLUMNS]
    annotated = {n: r["annotated_xy"] for n, r in rows.items() if r.get("annotated_xy")}
    if annotated:
        more = len(_WITH_ANNOTATED_XY)
        groups += f"<th class='group split' colspan='{more}'>annotated xy</th>"
        columns += [
            _column({n: annotated.get(n, {}) for n in rows}, key, "split" * (not i))
            for i, key in enumerate(_WITH_ANNOTATED_XY)
        ]
    head = "".join(column[""] for column in columns)
    body = "".join(
        f"<tr{' class=upper' * (name in _NOT_COMPARED)}>"
        f"<td>{html.escape(LABELS.get(name, name))}</td>"
        f"{''.join(column[name] for column in columns)}</tr>"
        for name in rows
    )
    counts = sorted({int(r["count"]) for r in rows.values() if r.get("count")})
    count = f" <span class='soft'>({counts[-1]:,} samples)</span>" if counts else ""
    return (
        f"<div class='card'><h3>{_SPLITS[split]}{count}</h3><table>"
        f"<thead><tr>{groups}</tr><tr><th></th>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _column(rows: Mapping[str, Any], key: str, css: str = "") -> dict[str, str]:
    """Method -> its cell, the best one marked, and under "" the head of the column."""
    values = {name: _value(metrics, key) for name, metrics in rows.items()}
    compared = {n: v for n, v in values.items() if n not in _NOT_COMPARED}
    known = [v for v in compared.values() if v is not None]
    cells = {"": f"<th class='{css}'>{COLUMNS[key]}</th>"}
    for name, value in values.items():
        best = name in compared and len(known) > 1 and value == min(known)
        text = "–"
        if value is not None and key not in _WITHOUT_MEANING.get(name, ()):
            text = f"{value:.{3 if key == 'flip_fraction' else 1}f}"
        cells[name] = f"<td class='{css}{' best' * best}'>{text}</td>"
    return cells


def _value(metrics: Mapping[str, Any], key: str) -> float | None:
    value = metrics.get(key)
    return float(value) if value is not None and math.isfinite(value) else None


def joints_section(results: Mapping[str, Any], skeleton: Skeleton) -> str:
    """The error of each joint on the validation set, for every method."""
    errors = {
        name: record["val"]["per_joint_mm"]
        for name, record in methods(results).items()
        if len((record.get("val") or {}).get("per_joint_mm") or ())
        == skeleton.num_joints
    }
    longest = max((e for row in errors.values() for e in row if e), default=0.0)
    if not longest:
        return ""
    head = "".join(f"<th>{html.escape(LABELS.get(n, n))}</th>" for n in errors)
    body = ""
    for joint, name in enumerate(skeleton.joints):
        cells = ""
        for row in errors.values():
            value = row[joint]
            width = 100 * (value or 0.0) / longest
            cells += f"<td class='level' style='--part:{width:.0f}%'>" + (
                "–" if value is None else f"{value:.0f}"
            )
            cells += "</td>"
        body += f"<tr><td>{html.escape(name)}</td>{cells}</tr>"
    return (
        "<h2>Joints</h2><div class='card'><h3>Error of each joint on the validation "
        "set <span class='soft'>(mm after the similarity of PA-MPJPE)</span></h3>"
        f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def error_bars_section(results: Mapping[str, Any]) -> str:
    """How many errors of the validation set lie within what the students promise."""
    found = {
        name: bars
        for name, record in results.items()
        if isinstance(record, Mapping)
        and (bars := (record.get("val") or {}).get("error_bar"))
    }
    if not found:
        return ""
    columns = {key: None for bars in found.values() for key in bars}
    axes = [(key, axis) for key in columns for axis in "xyz"]
    groups = "".join(
        f"<th class='group split' colspan='3'>{key if key[0] == 'r' else f'{key} %'}"
        "</th>"
        for key in columns
    )
    head = "".join(f"<th class='{'split' * (a == 'x')}'>{a}</th>" for _, a in axes)
    body = ""
    for name, bars in found.items():
        values = [bars.get(key, {}).get(axis) for key, axis in axes]
        cells = ("–" if v is None else f"{v:.3f}" for v in values)
        body += f"<tr><td>{html.escape(_label(name))}</td>"
        body += "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
    return (
        "<h2>Error bars</h2><div class='card'><h3>Share of the joints of the "
        "validation set within the intervals <span class='soft'>(x and y: from the "
        "landmarks; z: from the true depth, about the middle of the body), and rank "
        "correlation of standard deviation and error</span></h3>"
        "<table><thead><tr><th></th>"
        f"{groups}</tr><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def glance(results: Mapping[str, Any]) -> str:
    """PA-MPJPE of every method on the validation set, as bars."""
    rows = methods(results)
    values = {n: _value(r.get("val") or {}, "pa_mpjpe_mm") for n, r in rows.items()}
    known = {name: v for name, v in values.items() if v is not None}
    if len(known) < 2:
        return ""
    longest = max(known.values())
    bars = "".join(
        f"<span>{html.escape(LABELS.get(name, name))}</span>"
        f"<span><span class='bar{' main' * (name == 'distill')}' "
        f"style='display:block;width:{100 * value / longest:.1f}%'></span></span>"
        f"<span class='value'>{value:.1f}</span>"
        for name, value in known.items()
    )
    return (
        "<div class='card' style='margin-top:16px'><h3>Error of the 3D pose on the "
        "validation set <span class='soft'>(PA-MPJPE in mm, lower is better)</span>"
        "</h3>"
        f"<div class='bars'>{bars}</div></div>"
    )


# --- curves ------------------------------------------------------------------------


def series(lines: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list]]:
    """stage -> metric -> [(step, value), ...], without missing values."""
    found: dict[str, dict[str, list]] = {}
    for line in lines:
        for name, value in line.items():
            if name in ("stage", "step", "time") or value is None:
                continue
            stage = found.setdefault(str(line["stage"]), {})
            stage.setdefault(name, []).append((line["step"], float(value)))
    return found


def curves_section(lines: Sequence[Mapping[str, Any]]) -> str:
    """A chart for each stage."""
    drawn = {
        stage: charts.line_chart(
            {name: metrics[name] for name in _shown(metrics)},
            x_title="step",
            y_title="loss and its parts",
        )
        for stage, metrics in series(lines).items()
    }
    found = "".join(
        f"<div class='card'><h3>{html.escape(_label(stage))}</h3>{chart}</div>"
        for stage, chart in drawn.items()
        if chart
    )
    return f"<h2>Training</h2><div class='grid'>{found}</div>" if found else ""


def _shown(metrics: Mapping[str, Any]) -> list[str]:
    """The loss first, then that of the validation set, then as many parts as fit."""
    names = sorted(n for n in metrics if n not in _HIDDEN)
    names.sort(key=lambda n: (n != "loss", n != "val_loss", n.startswith("val_")))
    return names[: charts.SERIES]
