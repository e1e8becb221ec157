"""The report: the numbers given, nothing loaded from elsewhere, gaps allowed."""

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from input_pipeline.skeleton import H36M_17
from view import report
from view.report import LIFTED, write_report


def _metrics(pa, **more):
    return {
        "pa_mpjpe_mm": pa,
        "mpjpe_mm": pa + 20.01,
        "n_mpjpe_mm": pa + 18,
        "depth_error_mm": pa + 8.02,
        "flip_fraction": 0.0125,
        "count": 1234,
        "alignment": "average bone length",
        "sign": "given, +1",
        **more,
    }


RESULTS = {
    "mean_pose": {"train": _metrics(111.1), "val": _metrics(112.2)},
    "z_zero": {"train": _metrics(97.7), "val": _metrics(98.8)},
    "teacher": {"train": _metrics(61.1), "val": _metrics(64.4)},
    "student_weaksup_bs": {"train": _metrics(58.8), "val": _metrics(66.6)},
    "student_distill": {
        "train": _metrics(55.5),
        "val": _metrics(62.2, annotated_xy=_metrics(47.3)),
    },
    "seconds": {"teacher": 93.0, "student_distill": 120.0},
    "environment": {
        "python": "3.11.7",
        "versions": {"jax": "0.10.2", "tensorflow": None},
        "device": {"platform": "cpu", "kind": "cpu", "devices": 4},
        "git": "0123456789abcdef",
    },
}
CURVES = [
    {"stage": stage, "step": step, "time": 1.0, "loss": 1 / step, "bad": None}
    for stage in ("teacher", "student_distill")
    for step in (100, 200, 300)
]


class _Page(HTMLParser):
    """Collects what a page loads and whether its tags are balanced."""

    VOID = ("meta", "img", "br", "line", "link")

    def __init__(self, text):
        super().__init__()
        self.loads, self.open, self.text, self.tags = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "data", "action", "poster"):
                self.loads.append(value)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)

    def words(self):
        return " ".join(self.text)


def _samples(count=2, names=("teacher", "weaksup_bs", "distill", "truth")):
    rng = np.random.default_rng(0)
    return [
        {
            "image": rng.integers(0, 255, (64, 64, 3)).astype(np.uint8),
            "keypoints_2d": rng.uniform(5, 60, (17, 2)),
            "poses": {name: rng.normal(size=(17, 3)) for name in names},
            "caption": f"sample <{i}>",
        }
        for i in range(count)
    ]


def _write(tmp_path, **arguments):
    path = tmp_path / "report.html"
    write_report(path, title="A <run>", skeleton=H36M_17, **arguments)
    return _Page(path.read_text("utf-8"))


def test_the_numbers_given_are_in_the_tables(tmp_path):
    page = _write(tmp_path, results=RESULTS, curves=CURVES)
    words = page.words()
    for number in ("62.2", "82.2", "70.2", "0.013", "47.3", "111.1", "98.8", "64.4"):
        assert number in words, number
    for text in (
        "A <run>",
        "(1,234 samples)",
        "given, +1",
        "jax 0.10.2",
        "4 × CPU",
        "0:01:33",
    ):
        assert text in words, text
    order = [words.index(label, words.index("predicted xy")) for label in ROWS]
    assert order == sorted(order)


ROWS = ("Mean pose", "z = 0", "Teacher", "Weaksup-bs", "Distilled")


def test_the_page_loads_nothing_from_elsewhere(tmp_path):
    page = _write(tmp_path, results=RESULTS, curves=CURVES, samples=_samples())
    assert len(page.loads) >= 2
    assert all(value.startswith("data:") for value in page.loads)
    assert "link" not in page.tags
    text = (tmp_path / "report.html").read_text("utf-8")
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_the_best_compared_method_is_marked_in_each_column():
    section = report.results_section(RESULTS)
    best = re.findall(r"<td class='[a-z ]*best'>([\d.]+)</td>", section)
    assert "62.2" in best
    assert "55.5" in best
    assert "66.6" not in best


def test_baselines_may_stand_under_the_teacher():
    baselines = {"z_zero": _metrics(98.8), "mean_pose": _metrics(112.2)}
    results = {"teacher": {"val": _metrics(64.4, baselines=baselines)}}
    assert list(report.methods(results)) == ["mean_pose", "z_zero", "teacher"]
    section = report.results_section(results)
    assert "98.8" in section
    assert "112.2" in section
    assert "132.2" not in section  # MPJPE of a pose without a view


def test_conventions_name_their_methods_where_these_differ():
    results = {
        "teacher": {"val": _metrics(64.4, sign="chosen")},
        "distill": {"val": _metrics(62.2, sign="chosen")},
        "supervised": {"val": _metrics(40.4, sign="learned")},
    }
    section = report.results_section(results)
    assert "Teacher, Distilled: chosen; Supervised (reads 3D): lea" in section
    assert "<dd>average bone length</dd>" in section


def test_without_3d_the_fit_to_the_landmarks_is_told():
    results = {"teacher": {"val": {"message": "no 3D", "reprojection": 0.0123}}}
    section = report.results_section(results)
    assert "no 3D ground truth" in section
    assert "Teacher, validation set: mean reprojection error 0.0123" in section


def test_the_upper_reference_is_set_apart():
    results = RESULTS | {"student_supervised": {"val": _metrics(40.4)}}
    section = report.results_section(results)
    assert "Supervised (reads 3D)" in section
    assert "best'>40.4" not in section
    assert "best'>62.2" in section


def test_each_sample_shows_its_poses_from_two_sides_and_in_the_viewer(tmp_path):
    page = _write(tmp_path, samples=_samples(3))
    assert page.tags.count("svg") == 3 * 4 * 2
    assert page.tags.count("img") == 3
    text = (tmp_path / "report.html").read_text("utf-8")
    assert 'id="viewer-data"' in text
    assert "sample &lt;1&gt;" in text


@pytest.mark.parametrize("names", [("teacher",), ("teacher", "distill"), ()])
def test_truth_and_students_may_be_missing(tmp_path, names):
    page = _write(tmp_path, samples=_samples(1, names), results={})
    assert page.tags.count("svg") == 2 * len(names)
    assert 'class="ghost"' not in (tmp_path / "report.html").read_text("utf-8")
    assert "no 3D ground truth" in page.words()


def test_an_empty_run_still_has_a_page(tmp_path):
    assert "A <run>" in _write(tmp_path).words()


def test_curves_leave_out_missing_values():
    lines = [*CURVES, {"stage": "teacher", "step": 400, "loss": None}]
    found = report.series(lines)
    assert found["teacher"] == {"loss": [(100, 0.01), (200, 0.005), (300, 1 / 300)]}


def test_one_chart_for_each_stage():
    section = report.curves_section([line | {"lr": 1.0} for line in CURVES])
    assert section.count("<svg") == section.count("<h3>") == 2
    assert section.count("class='curve c0'") == 2
    assert ">step<" in section


def test_a_page_of_pictures_is_small(tmp_path):
    _write(tmp_path, results=RESULTS, curves=CURVES * 500, samples=_samples(12))
    assert (tmp_path / "report.html").stat().st_size < 2e6


def test_the_prediction_is_drawn_on_the_picture(tmp_path):
    samples = _samples(2)
    for sample in samples:
        sample["points"] = {"distill": sample["keypoints_2d"] + 3}
    page = _write(tmp_path, samples=samples)
    # The annotated picture and the predicted one; a view from the side remains.
    assert page.tags.count("img") == 2 * 2
    assert page.tags.count("svg") == 2 * (4 * 2 - 1)


def test_the_error_of_each_joint_is_told():
    errors = [None, *np.arange(1.0, 17.0)]
    results = {"teacher": {"val": _metrics(64.4, per_joint_mm=errors)}}
    section = report.joints_section(results, H36M_17)
    assert section.count("<tr>") == 1 + 17
    assert "--part:50%'>8<" in section
    assert section.count("–") == 1
    assert report.joints_section(RESULTS, H36M_17) == ""


def test_error_bars_say_what_they_cover():
    assert report.error_bars_section(RESULTS) == ""
    without_3d = {"95": {"x": 0.941, "y": 0.952}, "rank correlation": {"x": 0.61}}
    text = report.error_bars_section(
        {"student_distill": {"val": {"error_bar": without_3d}}}
    )
    cells = re.findall(r"<td>([^<]*)</td>", text)
    assert cells == ["Distilled", "0.941", "0.952", "–", "0.610", "–", "–"]
    assert "95 %" in text


def test_lines_can_be_seen():
    """At least 3:1 against the card, on the light and on the dark page."""
    css = (Path(report.__file__).parent / "report.css").read_text("utf-8")
    light, dark = re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    for theme in (light, dark):
        colours = dict(re.findall(r"--([a-z0-9]+): (#[0-9a-f]{6})", theme))
        names = (
            "left",
            "right",
            "centre",
            "ghost",
            "bar",
            "c0",
            "c1",
            "c2",
            "c3",
            "c4",
        )
        for name in names:
            assert _contrast(colours[name], colours["card"]) >= 3, name


def _contrast(one, other):
    """By WCAG 2.1, of two colours."""
    bright = []
    for colour in (one, other):
        parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        parts = np.where(
            parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4
        )
        bright.append(0.05 + parts @ (0.2126, 0.7152, 0.0722))
    return max(bright) / min(bright)


def test_bars_are_to_scale():
    text = report.glance(RESULTS)
    widths = [float(w) for w in re.findall(r"width:([\d.]+)%", text)]
    values = [float(v) for v in re.findall(r"class='value'>([\d.]+)<", text)]
    np.testing.assert_allclose(
        np.array(widths) / widths[0], np.array(values) / values[0], atol=2e-3
    )


def test_the_verdict_stands_at_the_top(tmp_path):
    text = "Depth: NOT TRUSTED. A single view explains <them> better."
    teacher = RESULTS["teacher"] | {"verdict": {"trusted": False, "text": text}}
    path = tmp_path / "a.html"
    write_report(
        path,
        title="A",
        skeleton=H36M_17,
        results=RESULTS | {"teacher": teacher},
        curves=CURVES,
        made={"command": "python main.py --config=a.py --workdir='my run' --stage=all"},
    )
    page = path.read_text("utf-8")
    assert "<b>Depth: NOT TRUSTED.</b> A single view explains &lt;them&gt;" in page
    assert "<b>Distilled:</b> PA-MPJPE 62.2 mm on the validation set" in page
    command = (
        "python main.py --config=a.py &#x27;--workdir=my run&#x27; --stage=predict"
    )
    assert f"<code>{command} --config.predict.images=FOLDER</code>" in page
    assert page.index("NOT TRUSTED") < page.index("PA-MPJPE")


def test_of_tracks_alone_the_next_step_is_to_lift_others(tmp_path):
    path = tmp_path / "a.html"
    write_report(
        path,
        title="A",
        skeleton=H36M_17,
        results={
            "teacher": {"verdict": {"trusted": True, "text": "Depth: coherent. So."}},
            "distill": {"val": {"message": "no 3D", "xy_error": 0.1}},  # of another run
            "seconds": {"teacher": 1.0},
        },
        curves=[line for line in CURVES if line["stage"] == "teacher"],
        made={
            "command": "python main.py --config=tracks --config.lift.images=a.mp4",
            LIFTED: "lifted/viewer.html",
        },
    )
    page = path.read_text("utf-8")
    link = "<a href='lifted/viewer.html'>lifted/viewer.html</a>"
    assert f"<b>3D of every frame:</b> {link}" in page
    assert "--config=tracks --stage=lift --config.lift.tracks=FILE</code>" in page
    assert "stage=predict" not in page
    assert "pictures below" not in page
    assert "<b>Distilled:</b> on the validation set its joints are 0.100" in page


def test_the_last_number_under_a_chart_is_not_cut():
    section = report.curves_section(CURVES)
    assert "text-anchor='end'>300<" in section
    assert "text-anchor='middle'>200<" in section
