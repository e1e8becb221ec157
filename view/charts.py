"""Line charts as SVG: curves of a training, with titled axes and few colours."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

Points = Sequence[tuple[float, float]]

SERIES = 5  # at most; the style has as many colours
_WIDTH, _HEIGHT = 560, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 10, 10, 42


def line_chart(series: Mapping[str, Points], *, x_title: str, y_title: str) -> str:
    """Curves over the same axes, the values on a logarithmic one if all are positive.

    Args:
        series: name -> (x, value) in the order of x; at most ``SERIES``.
        x_title: of the horizontal axis.
        y_title: of the vertical axis.

    Returns:
        The chart and its legend; "" where there is no finite value.

    Raises:
        ValueError: more than ``SERIES`` curves.
    """
    if len(series) > SERIES:
        raise ValueError(f"{len(series)} curves; a chart has at most {SERIES}")
    kept = {
        n: [p for p in points if math.isfinite(p[1])] for n, points in series.items()
    }
    kept = {name: points for name, points in kept.items() if points}
    if not kept:
        return ""
    xs, ys = zip(*(p for points in kept.values() for p in points), strict=True)
    log = min(ys) > 0
    to_y = math.log10 if log else float
    y_ticks = _log_ticks(min(ys), max(ys)) if log else _ticks(min(ys), max(ys))
    x_at = _scale(min(xs), max(xs), _LEFT, _WIDTH - _RIGHT)
    low, high = to_y(min(*ys, *y_ticks)), to_y(max(*ys, *y_ticks))
    y_at = _scale(low, high, _HEIGHT - _BOTTOM, _TOP)
    parts = [_x_tick(x_at(x), x) for x in _ticks(min(xs), max(xs))]
    for y in y_ticks:
        at = y_at(to_y(y))
        parts.append(f"<path class='rule' d='M{_LEFT} {at:.1f}H{_WIDTH - _RIGHT}'/>")
        parts.append(_tick(_LEFT - 6, at + 4, y, "end"))
    for i, points in enumerate(kept.values()):
        path = "L".join(f"{x_at(x):.1f} {y_at(to_y(y)):.1f}" for x, y in points)
        # A single point is drawn as the round cap of a line without length.
        parts.append(
            f"<path class='curve c{i}' d='M{path}{'h0' * (len(points) == 1)}'/>"
        )
    middle = (_HEIGHT - _BOTTOM + _TOP) / 2
    parts.append(_title(_LEFT + (_WIDTH - _LEFT) / 2, _HEIGHT - 6, x_title))
    parts.append(_title(14, middle, y_title, f" transform='rotate(-90 14 {middle})'"))
    legend = "".join(
        f"<span><span class='key c{i}'></span>{html.escape(name)}</span> "
        for i, name in enumerate(kept)
    )
    return (
        f"<div class='legend'>{legend}</div><svg class='chart' role='img' aria-label="
        f"'{html.escape(y_title, quote=True)}' viewBox='0 0 {_WIDTH} {_HEIGHT}'>"
        f"{''.join(parts)}</svg>"
    )


def _scale(low: float, high: float, start: float, stop: float):
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (stop - start)


def _ticks(low: float, high: float) -> list[float]:
    """About five round values from ``low`` to ``high``."""
    span = (high - low) or abs(high) or 1.0
    power = 10 ** math.floor(math.log10(span / 5))
    step = next(s * power for s in (1, 2, 5, 10) if span / (s * power) <= 5.5)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)] or [low]


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten about the values; over many decades only 1."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    digits = (1, 2, 5) if last - first <= 3 else (1,)
    every = [d * 10.0**p for p in range(first, last + 1) for d in digits]
    below = max((t for t in every if t <= low), default=every[0])
    above = min((t for t in every if t >= high), default=every[-1])
    return [t for t in every if below <= t <= above]


def _tick(x: float, y: float, value: float, anchor: str) -> str:
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.6g}"
    return f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}'>{text}</text>"


def _x_tick(x: float, value: float) -> str:
    anchor = "middle" if x < _WIDTH - _RIGHT - 20 else "end"  # not cut at the edge
    return _tick(x, _HEIGHT - _BOTTOM + 16, value, anchor)


def _title(x: float, y: float, text: str, more: str = "") -> str:
    return (
        f"<text class='title' x='{x:.1f}' y='{y:.1f}' text-anchor='middle'{more}>"
        f"{html.escape(text)}</text>"
    )
