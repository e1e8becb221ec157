"""The turning pose: what is drawn from the front is what the camera sees."""

import numpy as np

from benchmarks import moving_picture
from input_pipeline.synthetic.animal import JOINTS


def test_a_half_turn_exchanges_left_and_right():
    pose = np.zeros((len(JOINTS), 3))
    pose[0, 0] = 0.5
    front, back = (moving_picture.turning(pose, yaw) for yaw in (0.0, np.pi))
    shape = (moving_picture.SIDE, moving_picture.SIDE, 3)
    assert front.shape == back.shape == shape
    drawn = [(picture != 255).any(-1) for picture in (front, back)]
    assert drawn[0].sum() > 100
    ends = [np.flatnonzero(picture.any(axis=0))[[0, -1]] for picture in drawn]
    np.testing.assert_allclose(ends[0], moving_picture.SIDE - ends[1][::-1], atol=2)
