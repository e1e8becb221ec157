"""Charts: every value at its place, ticks that are round."""

import re

import pytest

from view import charts


def _path(svg, number):
    (found,) = re.findall(rf"class='curve c{number}' d='M([^']*)'", svg)
    return [tuple(map(float, point.split())) for point in found.split("L")]


def test_values_lie_where_the_ticks_say():
    series = {"a": [(0, 1.0), (50, 10.0), (100, 100.0)], "<b>": [(0, 10.0), (100, 1.0)]}
    svg = charts.line_chart(series, x_title="step", y_title="loss")
    a, b = _path(svg, 0), _path(svg, 1)
    # On a logarithmic axis the middle of 1 and 100 is 10.
    assert a[1][1] == pytest.approx((a[0][1] + a[2][1]) / 2, abs=0.1)
    assert a[1][0] == pytest.approx((a[0][0] + a[2][0]) / 2, abs=0.1)
    assert b[0][1] == a[1][1]
    assert "&lt;b&gt;" in svg
    assert "<b>" not in svg
    for text in ("step", "loss", "100", "10", "1"):
        assert f">{text}<" in svg


def test_a_value_of_zero_or_less_makes_the_axis_linear():
    series = {"a": [(0, -1.0), (1, 0.0), (2, 1.0)]}
    svg = charts.line_chart(series, x_title="x", y_title="y")
    a = _path(svg, 0)
    assert a[1][1] == pytest.approx((a[0][1] + a[2][1]) / 2, abs=0.1)
    assert ">-1<" in svg


def test_what_is_not_finite_is_left_out():
    series = {"a": [(0, 1.0), (1, float("nan")), (2, 2.0)], "b": [(0, float("inf"))]}
    svg = charts.line_chart(series, x_title="x", y_title="y")
    assert len(_path(svg, 0)) == 2
    assert "nan" not in svg
    assert "c1" not in svg
    assert charts.line_chart({"b": series["b"]}, x_title="x", y_title="y") == ""


def test_a_single_value_and_a_constant_have_a_chart():
    for points in ([(5, 3.0)], [(0, 3.0), (1, 3.0)], [(0, 0.0), (9, 0.0)]):
        assert "class='curve c0'" in charts.line_chart(
            {"a": points}, x_title="x", y_title="y"
        )


def test_too_many_curves_are_refused():
    series = {str(i): [(0, 1.0)] for i in range(charts.SERIES + 1)}
    with pytest.raises(ValueError, match="6 curves"):
        charts.line_chart(series, x_title="x", y_title="y")
