"""Landmarks on pictures: colours, places, missing joints, sheets, two readings."""

import numpy as np
import pytest

from input_pipeline.skeleton import COCO_17, H36M_17, Skeleton
from view.overlay import (
    CAPTION,
    COLOURS,
    bone_sides,
    contact_sheet,
    depth_readings,
    draw_skeleton,
    enlarge,
    side_view,
    with_caption,
)

CROSS = Skeleton(
    name="cross",
    joints=("pelvis", "left_hand", "right_hand"),
    edges=((0, 1), (0, 2)),
    left_right=((1, 2),),
)
POINTS = np.array([[50.5, 50.5], [80.5, 50.5], [20.5, 50.5]])


def _grey(height=100, width=100):
    return np.full((height, width, 3), 128, np.uint8)


def test_joints_and_bones_have_the_colour_of_their_side():
    image = draw_skeleton(_grey(), POINTS, CROSS, line_width=3)
    assert tuple(image[50, 50]) == COLOURS["centre"]
    assert tuple(image[50, 80]) == COLOURS["left"]
    assert tuple(image[50, 20]) == COLOURS["right"]
    assert tuple(image[50, 65]) == COLOURS["left"]
    assert tuple(image[50, 35]) == COLOURS["right"]
    assert (image[10] == 128).all()


def test_the_right_side_is_blue_and_the_left_red():
    assert np.argmax(COLOURS["right"]) == 2
    assert np.argmax(COLOURS["left"]) == 0


@pytest.mark.parametrize("at", [(50.5, 50.5), (30.0, 71.25), (62.8, 41.1)])
def test_a_mark_is_centred_on_its_landmark(at):
    dot = Skeleton(name="dot", joints=("nose",), edges=())
    black = np.zeros((100, 100, 3), np.uint8)
    cover = draw_skeleton(black, np.array([at]), dot, line_width=4).max(-1) / 255
    middle = np.arange(100) + 0.5  # pixel i spans [i, i + 1)
    centre = [cover.sum(0) @ middle, cover.sum(1) @ middle] / cover.sum()
    np.testing.assert_allclose(centre, at, atol=0.15)


def test_missing_joints_leave_no_mark():
    points = POINTS.copy()
    points[1] = np.nan
    image = draw_skeleton(
        _grey(), points, CROSS, labelled=np.array([True, True, False])
    )
    assert (image[:, 70:] == 128).all()
    assert (image[:, :30] == 128).all()
    assert tuple(image[50, 50]) == COLOURS["centre"]


def test_lines_are_antialiased_and_the_picture_stays_sharp():
    noise = np.random.default_rng(0).integers(0, 255, (100, 100, 3)).astype(np.uint8)
    image = draw_skeleton(noise, POINTS + [0, 0.3], CROSS, line_width=2)
    np.testing.assert_array_equal(image[:40], noise[:40])
    slanted = np.array([[50.5, 50.5], [80.5, 57.5], [20.5, 50.5]])
    grey = draw_skeleton(_grey(), slanted, CROSS, line_width=2)
    assert len(np.unique(grey[:, 55:75, 0])) > 8


def test_a_wrong_number_of_landmarks_is_refused():
    with pytest.raises(ValueError, match=r"'h36m_17' has 17 joints, .* \(3, 2\)"):
        draw_skeleton(_grey(), POINTS, H36M_17)


def test_bones_belong_to_the_side_of_their_ends():
    sides = dict(zip(H36M_17.edges, bone_sides(H36M_17), strict=True))
    assert sides[(0, 1)] == sides[(14, 15)] == "right"
    assert sides[(0, 4)] == sides[(11, 12)] == "left"
    assert sides[(0, 7)] == "centre"
    sides = dict(zip(COCO_17.edges, bone_sides(COCO_17), strict=True))
    assert sides[(11, 12)] == "centre"  # joins both hips


def test_a_sheet_holds_every_picture_in_its_cell():
    images = [np.full((8, 16, 3), v, np.uint8) for v in (10, 20, 30)]
    sheet = contact_sheet(images, columns=2, cell=32, gap=2)
    assert sheet.shape == (70, 70, 3)
    assert [sheet[18, 18, 0], sheet[18, 52, 0], sheet[52, 18, 0]] == [10, 20, 30]
    assert sheet[52, 52, 0] == 255
    assert sheet[4, 18, 0] == 255  # a wide picture leaves room above
    assert contact_sheet(images, columns=3).shape == (24, 64, 3)  # cells as needed
    with pytest.raises(ValueError, match="got 0 and 2"):
        contact_sheet([], columns=2)


def test_small_pictures_are_enlarged_and_large_ones_left():
    assert enlarge(_grey(32, 64), at_least=128).shape == (128, 256, 3)
    assert enlarge(_grey(200, 300), at_least=128).shape == (200, 300, 3)


def _centroid(image, colour):
    """(x, y) of the pixels of about this colour."""
    far = np.abs(image.astype(int) - colour).max(axis=-1)
    y, x = np.nonzero(far < 40)
    return np.array([x.mean() + 0.5, y.mean() + 0.5])


@pytest.mark.parametrize("caption", ["", "a" * 500, "Mäuse 日本.png", "\n"])
def test_any_caption_fits(caption):
    tile = with_caption(np.zeros((64, 64, 3), np.uint8), caption)
    assert tile.shape == (64 + CAPTION, 64, 3)


def test_the_side_view_has_the_camera_on_the_left():
    """Depth grows to the right, y downwards."""
    near_and_high = np.array([[0.0, -1.0, -1.0], [0.0, 1.0, 1.0]])
    only = Skeleton("s", ("left_a", "right_a"), (), ((0, 1),))
    view = side_view(near_and_high, only, size=200)
    left, right = _centroid(view, (220, 38, 38)), _centroid(view, (37, 99, 235))
    assert left[0] < right[0]
    assert left[1] < right[1]


def test_both_readings_are_mirror_images():
    rng = np.random.default_rng(0)
    pose = rng.normal(size=(17, 3))
    crop = np.zeros((50, 50, 3), np.uint8)
    image = depth_readings(crop, pose, H36M_17, size=120, caption="c")
    plus = side_view(pose, H36M_17, size=120)
    minus = side_view(pose * (1, 1, -1), H36M_17, size=120)
    assert image.shape[1] > 3 * 120
    assert (plus != minus).any()
    for view in (plus, minus):
        body = np.abs(view.astype(int) - 250).max(axis=-1)[:90, 36:]
        assert (body > 60).sum() > 100
