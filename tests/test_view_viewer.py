"""The viewer: what it is given, and how it behaves in a real browser."""

import dataclasses
import json
import re

import numpy as np
import pytest
from browser import browser, find_browser

from input_pipeline.skeleton import H36M_17, Skeleton
from view.plot3d import image_uri, normalise_pose
from view.report import write_report
from view.viewer import ViewerSample, viewer_html, write_viewer

NAMES_SHORT = Skeleton("stick", ("root", "tip"), ((0, 1),))


def samples(count, seed=0):
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        pose = rng.normal(size=(17, 3)) * 0.4
        pose -= pose[1:].mean(0)
        pose[0] = 0  # in the middle, however it is turned
        image = np.full((64, 64, 3), 40 + i % 200, np.uint8)
        spread = rng.uniform(0.02, 0.2, (17, 3))
        points = (pose[:, :2] + 1) / 2
        name = f"picture <{i}>.jpg"
        made.append(
            ViewerSample(image_uri(image), name, {"student": pose}, spread, points)
        )
    return made


def embedded(page):
    found = re.search(r'id="viewer-data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


# --- what it is given --------------------------------------------------------------


def test_the_viewer_gets_plain_json():
    pose = np.random.default_rng(0).normal(size=(17, 3))
    pose[2] = np.nan
    sample = ViewerSample("data:,", "</script><b>", {"teacher": pose})
    page = viewer_html([sample], H36M_17, labels={"teacher": "Teacher"})
    record = embedded(page)
    assert record["samples"][0]["caption"] == "</script><b>"
    assert record["samples"][0]["poses"]["teacher"][2] is None
    assert len(record["bone_sides"]) == len(record["edges"]) == 16
    assert record["joint_sides"][:5] == ["centre", "right", "right", "right", "left"]
    expected = normalise_pose(pose, H36M_17)[5]
    given = record["samples"][0]["poses"]["teacher"][5]
    np.testing.assert_allclose(given, expected, atol=6e-4)


def test_the_spread_is_in_the_unit_of_what_is_drawn():
    pose = np.array([[0.0, 0, 0], [0.0, 0.5, 0]])  # one bone of half a unit
    spread = np.array([[0.1, 0.1, 0.2], [0.05, 0.1, 0.1]])
    sample = ViewerSample(
        "data:,", "", {"student": pose}, spread, (pose[:, :2] + 1) / 2
    )
    record = embedded(viewer_html([sample], NAMES_SHORT))["samples"][0]
    np.testing.assert_allclose(record["spread_3d"], 2 * spread, atol=1e-3)
    np.testing.assert_allclose(record["spread_2d"], spread[:, :2] / 2, atol=1e-3)
    assert record["points"] == [[0.5, 0.5], [0.5, 0.75]]


def test_the_page_says_how_many_poses_it_shows(tmp_path):
    page = tmp_path / "v.html"
    write_viewer(page, samples(3), H36M_17, total=1234)
    text = page.read_text("utf-8")
    assert "3 of 1,234 poses, evenly spread; all are in predictions.json" in text
    page = tmp_path / "v.html"
    write_viewer(page, samples(3), H36M_17, total=3)
    assert ">3 poses. All that is drawn is predicted" in page.read_text("utf-8")
    assert embedded(text)["labels"]["picture"] == "picture and predicted joints"
    assert [f.name for f in tmp_path.iterdir()] == ["v.html"]


def film(rates, seed=0):
    """Three frames of each of some videos, and a picture."""
    shown = iter(samples(3 * len(rates) + 1, seed))
    frames = [
        dataclasses.replace(next(shown), film=f"{n}.mp4", seconds=2 * i / rate)
        for n, rate in enumerate(rates)
        for i in range(3)
    ]
    return [*frames, next(shown)]


def test_frames_wait_as_long_as_in_their_video():
    record = embedded(viewer_html(film([25, 10]), H36M_17))
    waits = [sample.get("wait") for sample in record["samples"]]
    assert waits == [80, 80, None, 200, 200, None, None]
    films = [sample["film"] for sample in record["samples"]]
    assert films == ["0.mp4"] * 3 + ["1.mp4"] * 3 + [""]


# --- in a browser ------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium():
    if find_browser() is None:
        pytest.skip("no Chromium on this machine")
    with browser() as page:
        yield page


@pytest.fixture
def viewer(chromium, tmp_path):
    """A page of thirty poses; nothing may be said or loaded while it is used."""
    path = tmp_path / "viewer.html"
    write_viewer(path, samples(30), H36M_17, total=30)
    chromium.problems.clear()
    chromium.open(path, width=1200, height=820)
    chromium.until("document.querySelector('canvas').dataset.sample === '0'")
    yield chromium
    assert chromium.problems == []
    assert chromium.requests == []


def count(page):
    return page.run("document.querySelector('.viewer-count').textContent")


def canvas(page, last=True):
    """A canvas as a text: equal only where the same is drawn."""
    number = "[...document.querySelectorAll('canvas')]" + (".pop()" if last else "[0]")
    return page.run(f"{number}.toDataURL()")


def middle(page):
    """The middle of the 3D canvas on the screen."""
    return page.run(
        "(() => { const a = document.querySelector('canvas.turns')"
        ".getBoundingClientRect();"
        "return [a.left + a.width / 2, a.top + a.height / 2] })()"
    )


def test_keys_and_slider_step_through_the_samples(viewer):
    assert count(viewer) == "1 / 30"
    seen = [canvas(viewer)]
    for key, expected in (
        ("ArrowRight", "2 / 30"),
        ("End", "30 / 30"),
        ("ArrowRight", "1 / 30"),
        ("ArrowLeft", "30 / 30"),
        ("Home", "1 / 30"),
        ("PageDown", "11 / 30"),
        ("PageUp", "1 / 30"),
    ):
        viewer.key(key)
        assert count(viewer) == expected
        seen.append(canvas(viewer))
    assert seen[0] == seen[3] == seen[5] == seen[7]
    assert len(set(seen)) == 4
    viewer.run(
        "(() => { const s = document.querySelector('input[type=range]');"
        "s.focus(); s.value = 7; s.dispatchEvent(new Event('input')) })()"
    )
    assert count(viewer) == "7 / 30"
    viewer.key("ArrowRight")  # with the slider in focus: one step, not two
    assert count(viewer) == "8 / 30"
    caption = viewer.run("document.querySelector('.viewer-caption').textContent")
    assert caption == "picture <7>.jpg"


def test_the_picture_is_drawn_with_its_skeleton(viewer):
    before = canvas(viewer, last=False)
    viewer.key("b")
    bare = canvas(viewer, last=False)
    assert bare != before
    pixel = viewer.run(
        "[...document.querySelector('canvas').getContext('2d')"
        ".getImageData(5, 5, 1, 1).data]"
    )
    np.testing.assert_allclose(pixel, [40, 40, 40, 255], atol=3)
    viewer.key("b")
    assert canvas(viewer, last=False) == before


def test_the_mouse_turns_and_zooms(viewer):
    x, y = middle(viewer)
    seen = [canvas(viewer)]
    viewer.drag((x, y), (x + 60, y + 20))
    seen.append(canvas(viewer))
    viewer.mouse("mouseWheel", x, y, deltaX=0, deltaY=-200)
    seen.append(canvas(viewer))
    for key in ("f", "s", "t", "u", "n"):
        viewer.key(key)
        seen.append(canvas(viewer))
    assert len(set(seen)) == len(seen)
    viewer.key("u")
    viewer.key("n")
    viewer.key("r")
    viewer.mouse("mouseMoved", 5, 5)
    assert canvas(viewer) == seen[0]


def test_fingers_turn_and_zoom(viewer, tmp_path):
    viewer.open(tmp_path / "viewer.html", width=420, height=1300, touch=True)
    x, y = middle(viewer)
    seen = [canvas(viewer)]
    viewer.touch("touchStart", (x, y))
    viewer.touch("touchMove", (x + 50, y))
    viewer.touch("touchEnd")
    seen.append(canvas(viewer))
    viewer.touch("touchStart", (x - 30, y), (x + 30, y))
    viewer.touch("touchMove", (x - 60, y), (x + 60, y))
    viewer.touch("touchEnd")
    seen.append(canvas(viewer))
    assert len(set(seen)) == 3
    wide = viewer.run("document.documentElement.scrollWidth")
    assert wide <= 420  # nothing sticks out of a telephone's screen


def test_a_joint_is_named_under_the_mouse(viewer):
    viewer.key("n")  # no names
    without = canvas(viewer), canvas(viewer, last=False)
    viewer.mouse("mouseMoved", *middle(viewer))
    viewer.until(f"document.querySelector('canvas').toDataURL() !== '{without[1]}'")
    assert canvas(viewer) != without[0]
    viewer.mouse("mouseMoved", 5, 5)
    viewer.until(f"document.querySelector('canvas').toDataURL() === '{without[1]}'")
    assert canvas(viewer) == without[0]


def test_playing_goes_through_the_samples(viewer):
    viewer.key(" ")
    viewer.until("document.querySelector('.viewer-count').textContent > '2'")
    viewer.key(" ")
    here = count(viewer)
    viewer.run("new Promise((done) => setTimeout(done, 400))")
    assert count(viewer) == here


def test_keys_turn_and_zoom(viewer):
    seen = [canvas(viewer)]
    for key in ("ArrowUp", "+"):
        viewer.key(key)
        seen.append(canvas(viewer))
    viewer.key("-")
    viewer.key("ArrowDown")
    assert canvas(viewer) == seen[0]
    assert len(set(seen)) == 3
    assert count(viewer) == "1 / 30"


def test_a_joint_is_traced_over_the_frames_of_a_video(chromium, tmp_path):
    path = tmp_path / "v.html"
    write_viewer(path, film([25, 10]), H36M_17, total=7)
    chromium.open(path, width=1200, height=1600)
    before = canvas(chromium)
    chromium.key("ArrowRight")
    assert canvas(chromium) != before
    x, y, width = chromium.run(
        "(() => { const a = [...document.querySelectorAll('canvas')].pop()"
        ".getBoundingClientRect(); return [a.left, a.top, a.width] })()"
    )
    chromium.drag((x + width / 2, y + 20), (x + width - 3, y + 20))
    assert count(chromium) == "3 / 7"
    chromium.key("End")  # a picture has no time
    hidden = chromium.run("document.querySelector('.viewer-trace').hidden")
    assert hidden
    assert chromium.problems == []


@pytest.mark.parametrize("number", [0, 1, 3000])
def test_one_pose_or_thousands_are_shown(chromium, tmp_path, number):
    path = tmp_path / "v.html"
    write_viewer(path, samples(1) * number, H36M_17, total=number)
    chromium.open(path, dark=True)
    if number:
        assert count(chromium) == f"1 / {number}"
    hidden = chromium.run("document.querySelector('input[type=range]').hidden")
    assert hidden == (number < 2)
    assert chromium.problems == []
    assert chromium.requests == []


def test_the_report_runs_without_network_or_complaint(chromium, tmp_path):
    rng = np.random.default_rng(0)
    shown = [
        {
            "image": rng.integers(0, 255, (64, 64, 3)).astype(np.uint8),
            "keypoints_2d": rng.uniform(5, 60, (17, 2)),
            "poses": {n: rng.normal(size=(17, 3)) for n in ("distill", "truth")},
            "caption": f"sample {i}",
        }
        for i in range(3)
    ]
    lines = [{"stage": "teacher", "step": i, "loss": 1 / i} for i in range(1, 5)]
    path = tmp_path / "report.html"
    write_report(
        path,
        title="A run",
        skeleton=H36M_17,
        curves=lines,
        samples=shown,
    )
    chromium.open(path)
    assert count(chromium) == "1 / 3"
    before = canvas(chromium)
    chromium.run("document.querySelector('.viewer').focus()")
    chromium.key("ArrowRight")
    assert count(chromium) == "2 / 3"
    assert canvas(chromium) != before
    assert chromium.run("document.querySelectorAll('svg.chart').length") == 1
    assert chromium.problems == []
    assert chromium.requests == []
