"""Boxes and patch coordinates against numbers worked out by hand."""

import numpy as np
import pytest

from input_pipeline import crops


def test_box_ignores_unlabelled_landmarks():
    keypoints = np.array([[[10.0, 20.0], [30.0, 60.0], [999.0, -999.0]]])
    labelled = np.array([[True, True, False]])
    assert crops.landmark_boxes(keypoints, labelled).tolist() == [[10, 20, 20, 40]]


def test_box_of_nobody_is_zero_without_a_warning():
    boxes = crops.landmark_boxes(np.ones((1, 2, 2)), np.zeros((1, 2), bool))
    assert boxes.tolist() == [[0, 0, 0, 0]]


def test_crop_is_square_about_the_middle_with_the_padding():
    centre, half_side = crops.square_crops(
        np.array([[10.0, 20.0, 20.0, 40.0]]), padding=1.5
    )
    assert centre.tolist() == [[20.0, 40.0]]
    assert half_side.tolist() == [30.0]


def test_patch_corners():
    """The crop of centre (20, 40), half side 30 spans x -10..50 and y 10..70."""
    centre, half_side = np.array([20.0, 40.0]), np.array(30.0)
    pixels = np.array([[-10.0, 10.0], [50.0, 70.0], [20.0, 40.0], [35.0, 40.0]])
    patch = crops.pixels_to_patch(pixels, centre, half_side)
    expected = [[-1, -1], [1, 1], [0, 0], [0.5, 0]]
    np.testing.assert_allclose(patch, expected)


@pytest.mark.parametrize("seed", range(3))
def test_patch_round_trip(seed):
    rng = np.random.default_rng(seed)
    pixels = rng.uniform(-100, 500, (5, 17, 2))
    centre, half_side = rng.uniform(0, 300, (5, 2)), rng.uniform(1, 200, 5)
    patch = crops.pixels_to_patch(pixels, centre, half_side)
    again = crops.patch_to_pixels(patch, centre, half_side)
    np.testing.assert_allclose(again, pixels, atol=1e-9)
