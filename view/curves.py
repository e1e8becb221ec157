"""Training curves: one plotly chart for each stage of metrics.jsonl."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import plotly.offline

from view import tables

_COLOURS = ("#3b82f6", "#ef7d32", "#22a06b", "#a855f7", "#d4a017", "#64748b")
_GREY = "#8a94a3"  # readable on a light and on a dark page
_HIDDEN = ("learning_rate", "lr", "steps_per_second", "data_wait")


def read_lines(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; none if it is absent, broken ones left out."""
    path = Path(path)
    lines = []
    for text in path.read_text("utf-8").splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines


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
    """A chart for each stage, with plotly.js inside the page."""
    stages = series(lines)
    if not stages:
        return ""
    charts = "".join(
        f"<div class='card'><h3>{html.escape(_stage_label(stage))}</h3>"
        f"{_chart(metrics)}</div>"
        for stage, metrics in stages.items()
    )
    return (
        f"<script>{plotly.offline.get_plotlyjs()}</script>"
        "<h2>Training</h2><p class='soft'>A click on a name in the legend shows or "
        f"hides its curve.</p><div class='grid'>{charts}</div>"
        # A chart drawn before its neighbour stood beside it was given all the width.
        "<script>addEventListener('load', () => document.querySelectorAll("
        "'.js-plotly-plot').forEach((p) => Plotly.Plots.resize(p)));</script>"
    )


def _stage_label(stage: str) -> str:
    return tables.LABELS.get(tables.method_name(stage), stage)


def _chart(metrics: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    figure = go.Figure()
    shown = [n for n in metrics if n not in _HIDDEN]
    for i, (name, points) in enumerate(metrics.items()):
        steps, values = zip(*points, strict=True)
        figure.add_scatter(
            x=list(steps),
            y=list(values),
            name=name,
            mode="lines" if len(steps) > 1 else "markers",
            line={"color": _COLOURS[i % len(_COLOURS)], "width": 2},
            visible=True if name in shown else "legendonly",
        )
    positive = all(v > 0 for n in shown for _, v in metrics[n])
    axis = {"gridcolor": "rgba(138,148,163,.25)", "zeroline": False}
    figure.update_layout(
        height=300,
        margin={"l": 50, "r": 10, "t": 10, "b": 40},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": _GREY, "size": 12},
        xaxis={**axis, "title": {"text": "step"}},
        yaxis={**axis, **({"type": "log", "dtick": "D2"} if positive else {})},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        hovermode="x unified",
        hoverlabel={"bgcolor": "#ffffff", "font": {"color": "#1c2430"}},
        showlegend=True,
    )
    return figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        config={"displaylogo": False, "responsive": True, "displayModeBar": False},
    )
