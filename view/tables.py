"""The results of a run as tables in the form of the paper's Tables 1 and 2."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from typing import Any

# Rows in the order of the table: name in results.json -> label.
LABELS = {
    "mean_pose": "Mean pose",
    "z_zero": "z = 0",
    "teacher": "Teacher",
    "weaksup_bs": "Weaksup-bs",
    "weaksup_residual": "Weaksup-bs, residual-weighted",
    "weaksup_em": "Weaksup-bs, the EM's depth",
    "weaksup_em_weighted": "The EM's depth, weighted by certainty",
    "distill": "Distilled",
    "distill_exact": "Distilled, exact (Eq. 10)",
    "posterior": "EM posterior",
    "posterior_teacher": "EM covariance about the teacher",
    "supervised": "Supervised (reads 3D)",
}
# The mean pose has no view of its own, and z = 0 no sign: these have no meaning.
_WITHOUT_MEANING = {
    "mean_pose": ("mpjpe_mm", "depth_error_mm", "flip_fraction"),
    "z_zero": ("flip_fraction",),
}
# Baselines and the upper reference are never marked as the best of a column.
_NOT_COMPARED = ("mean_pose", "z_zero", "supervised")
_ALIASES = {"z0": "z_zero", "z=0": "z_zero", "zero_depth": "z_zero"}
COLUMNS = {
    "pa_mpjpe_mm": "P-MPJPE",
    "mpjpe_mm": "MPJPE",
    "depth_error_mm": "Depth",
    "flip_fraction": "Flip",
}
_WITH_ANNOTATED_XY = ("pa_mpjpe_mm", "mpjpe_mm", "depth_error_mm")
_SPLITS = {"val": "Validation set", "train": "Training set"}
_DEFINITIONS = {
    "P-MPJPE": "mm; mean distance of the joints after the best similarity transform "
    "(rotation, scale, shift; no reflection), PA-MPJPE in the paper's text.",
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


def method_name(name: str) -> str:
    """``student_distill`` -> ``distill``; the baselines by one spelling.

    Examples:
        >>> method_name("student_weaksup_bs"), method_name("zero_depth")
        ('weaksup_bs', 'z_zero')
    """
    name = name.removeprefix("student_")
    return _ALIASES.get(name, name)


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
    order = [n for n in LABELS if n in found] + [n for n in found if n not in LABELS]
    return {name: found[name] for name in order}


def results_section(results: Mapping[str, Any]) -> str:
    """The tables of both splits and what their columns mean."""
    rows = methods(results)
    splits = [s for s in _SPLITS if any(s in record for record in rows.values())]
    shown = [_table(rows, split) for split in splits]
    if not shown:
        return (
            "<h2>Results</h2><div class='card soft'>This data set has no 3D ground "
            "truth: there is nothing to compare with, the pictures below are all the "
            f"evidence.{_fit_without_truth(results)}</div>"
        )
    definitions = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>"
        for name, text in (_DEFINITIONS | _conventions(rows)).items()
    )
    return (
        f"<h2>Results</h2><div class='grid'>{''.join(shown)}</div>"
        f"<div class='card' style='margin-top:14px'><dl>{definitions}</dl></div>"
    )


def _fit_without_truth(results: Mapping[str, Any]) -> str:
    """How well the landmarks are met: all that a data set without 3D can tell."""
    fits = [
        f"{LABELS.get(method_name(name), name)}, {_SPLITS[split].lower()}: mean "
        f"reprojection error {record[split]['reprojection']:.4f} "
        f"({record[split].get('reprojection_unit', 'patch units')})"
        for name, record in results.items()
        for split in _SPLITS
        if isinstance(record, Mapping) and "reprojection" in (record.get(split) or {})
    ]
    return "".join(f"<br>{html.escape(fit)}" for fit in fits)


def _conventions(rows: Mapping[str, Any]) -> dict[str, str]:
    """The texts on alignment and sign that the evaluation left, each once."""
    texts: dict[str, dict[str, list[str]]] = {"alignment": {}, "sign": {}}
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
    annotated = any(r.get("annotated_xy") for r in rows.values())
    cells = [(key, False) for key in COLUMNS]
    cells += [(key, True) for key in _WITH_ANNOTATED_XY if annotated]
    head = "".join(
        f"<th{_split_class(i)}>{COLUMNS[key]}</th>" for i, (key, _) in enumerate(cells)
    )
    groups = f"<th></th><th class='group' colspan='{len(COLUMNS)}'>predicted xy</th>"
    if annotated:
        groups += (
            f"<th class='group split' colspan='{len(_WITH_ANNOTATED_XY)}'>"
            "annotated xy</th>"
        )
    body = "".join(_row(name, rows, cells) for name in rows)
    counts = sorted({int(r["count"]) for r in rows.values() if r.get("count")})
    count = f" <span class='soft'>({counts[-1]:,} samples)</span>" if counts else ""
    return (
        f"<div class='card'><h3>{_SPLITS[split]}{count}</h3><table>"
        f"<thead><tr>{groups}</tr><tr><th></th>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _split_class(i: int) -> str:
    return " class='split'" if i == len(COLUMNS) else ""


def _row(name: str, rows: Mapping[str, Any], cells: list[tuple[str, bool]]) -> str:
    texts = []
    for i, (key, annotated) in enumerate(cells):
        value = _value(rows[name], key, annotated)
        classes = ["split"] if i == len(COLUMNS) else []
        others = [
            _value(r, key, annotated) for n, r in rows.items() if n not in _NOT_COMPARED
        ]
        finite = [v for v in others if v is not None]
        compared = name not in _NOT_COMPARED and len(finite) > 1
        if compared and value == min(finite):
            classes.append("best")
        attribute = f" class='{' '.join(classes)}'" if classes else ""
        if key in _WITHOUT_MEANING.get(name, ()):
            value = None
        texts.append(f"<td{attribute}>{_number(value, key)}</td>")
    label = html.escape(LABELS.get(name, name))
    upper = " class='upper'" if name in _NOT_COMPARED else ""
    return f"<tr{upper}><td>{label}</td>{''.join(texts)}</tr>"


def _value(metrics: Mapping[str, Any], key: str, annotated: bool) -> float | None:
    if annotated:
        metrics = metrics.get("annotated_xy") or {}
    value = metrics.get(key)
    return float(value) if value is not None and math.isfinite(value) else None


def _number(value: float | None, key: str) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if key == "flip_fraction" else f"{value:.1f}"


def glance(results: Mapping[str, Any]) -> str:
    """PA-MPJPE of every method on the validation set, as bars."""
    rows = methods(results)
    values = {
        n: _value(r.get("val") or {}, "pa_mpjpe_mm", False) for n, r in rows.items()
    }
    known = {name: v for name, v in values.items() if v is not None}
    if len(known) < 2:
        return ""
    longest = max(known.values())
    bars = "".join(
        f"<span>{html.escape(LABELS.get(name, name))}</span>"
        f"<span class='bar-cell'><span class='bar{' main' * (name == 'distill')}' "
        f"style='width:{88 * value / longest:.1f}%'></span>{value:.1f}</span>"
        for name, value in known.items()
    )
    return (
        "<div class='card' style='margin-top:16px'><h3>Error of the 3D pose on the "
        "validation set <span class='soft'>(P-MPJPE in mm, lower is better)</span></h3>"
        f"<div class='bars'>{bars}</div></div>"
    )


def duration(seconds: float) -> str:
    """A time as a person says it.

    Examples:
        >>> duration(8.25), duration(130), duration(7320)
        ('8.2 s', '2 min 10 s', '2 h 2 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, second = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {second} s"
    return f"{minutes // 60} h {minutes % 60} min"
