"""Crops with landmarks, and one pose in both readings of its depth."""

import numpy as np
import pytest
from PIL import Image

from input_pipeline.skeleton import H36M_17, Skeleton
from view import sheet

LINE = Skeleton("line", ("a", "b"), ((0, 1),))


def _centroid(image, colour):
    """(x, y) of the pixels of about this colour."""
    far = np.abs(image.astype(int) - colour).max(axis=-1)
    y, x = np.nonzero(far < 40)
    return np.array([x.mean() + 0.5, y.mean() + 0.5])


def test_a_crop_is_the_square_around_its_centre():
    image = np.zeros((40, 60, 3), np.uint8)
    image[10:14, 20:24] = (255, 0, 0)
    crop = sheet.crop_square(Image.fromarray(image), np.array([22, 12]), 8, size=64)
    assert crop.shape == (64, 64, 3)
    np.testing.assert_allclose(_centroid(crop, (255, 0, 0)), (32, 32), atol=0.6)


def test_beyond_the_picture_a_crop_is_grey():
    image = Image.new("RGB", (20, 20), (0, 0, 255))
    crop = sheet.crop_square(image, np.array([0.0, 10.0]), 10, size=40)
    assert (crop[:, :19] == sheet.GREY).all()
    assert (crop[:, 21:] == (0, 0, 255)).all()


def test_a_crop_of_a_single_pixel():
    image = Image.new("RGB", (1, 1), (1, 2, 3))
    crop = sheet.crop_square(image, np.array([0.5, 0.5]), 0.01, size=8)
    assert (crop == (1, 2, 3)).all()


def test_landmarks_lie_where_they_are_in_the_picture():
    image = Image.new("RGB", (100, 100), (0, 0, 0))
    points = np.array([[60.0, 40.0], [60.0, 40.0]])
    tile = sheet.labelled_tile(
        image,
        points,
        np.array([True, False]),
        LINE,
        centre=np.array([50.0, 50.0]),
        half_side=25,
        caption="x",
        size=100,
    )
    assert tile.shape == (100 + sheet.CAPTION, 100, 3)
    np.testing.assert_allclose(_centroid(tile[:100], (234, 179, 8)), (70, 30), atol=1)


@pytest.mark.parametrize("caption", ["", "a" * 500, "Mäuse 日本.png", "\n"])
def test_any_caption_fits(caption):
    tile = sheet.with_caption(np.zeros((64, 64, 3), np.uint8), caption)
    assert tile.shape == (64 + sheet.CAPTION, 64, 3)


def test_the_side_view_has_the_camera_on_the_left():
    """Depth grows to the right, y downwards."""
    near_and_high = np.array([[0.0, -1.0, -1.0], [0.0, 1.0, 1.0]])
    only = Skeleton("s", ("left_a", "right_a"), (), ((0, 1),))
    view = sheet.side_view(near_and_high, only, size=200)
    left, right = _centroid(view, (220, 38, 38)), _centroid(view, (37, 99, 235))
    assert left[0] < right[0]
    assert left[1] < right[1]


def test_both_readings_are_mirror_images():
    rng = np.random.default_rng(0)
    pose = rng.normal(size=(17, 3))
    crop = np.zeros((50, 50, 3), np.uint8)
    image = sheet.depth_readings(crop, pose, H36M_17, size=120, caption="c")
    plus = sheet.side_view(pose, H36M_17, size=120)
    minus = sheet.side_view(pose * (1, 1, -1), H36M_17, size=120)
    assert image.shape[1] > 3 * 120
    assert (plus != minus).any()
    for view in (plus, minus):
        body = np.abs(view.astype(int) - 250).max(axis=-1)[:90, 36:]
        assert (body > 60).sum() > 100


def test_a_sheet_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="needs images"):
        sheet.tile_sheet([])
