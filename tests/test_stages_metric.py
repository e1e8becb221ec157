"""Millimetres from a known length."""

import numpy as np
import pytest
from tiny_student import SKELETON

from input_pipeline.skeleton import Skeleton
from stages.metric import metric_scale, parse_length


def test_a_length_is_two_joints_and_millimetres():
    assert parse_length("Neck-Head=120", SKELETON) == ((3, 4), 120.0)
    assert parse_length(" LHip - RHip = 7.5 ", SKELETON) == ((1, 2), 7.5)
    named = Skeleton("x", ("a-b", "c", "tail=1"), ((0, 1),))
    assert parse_length("a-b-c=1e3", named) == ((0, 1), 1000.0)
    assert parse_length("c-tail=1=2", named) == ((1, 2), 2.0)


@pytest.mark.parametrize(
    "text",
    ["", "120", "Neck=120", "Neck-Neck=1", "Neck-Head", "Neck-Head=0", "Neck-Head=-1"]
    + ["Neck-Head=nan", "Neck-Head=inf", "Neck-Head=1m", "Neck-Tail=1"],
)
def test_another_text_is_refused_with_an_example_and_the_joints(text):
    with pytest.raises(
        ValueError, match=r"such as 'Pelvis-Head=120'; the joints are Pe"
    ):
        parse_length(text, SKELETON)


def test_poses_of_one_body_at_any_distance_get_their_millimetres():
    rng = np.random.default_rng(0)
    body = rng.normal(size=(SKELETON.num_joints, 3)) * 100  # millimetres
    length = float(np.linalg.norm(body[1] - body[4]))  # no bone
    turned = np.linalg.qr(rng.normal(size=(7, 3, 3)))[0]
    factors = rng.uniform(0.1, 9, 7)
    points = (body @ turned + rng.normal(size=(7, 1, 3))) * factors[:, None, None]
    scale = metric_scale(points, SKELETON.edges, (1, 4), length)
    np.testing.assert_allclose(scale, 1 / factors)


def test_one_wrong_distance_and_missing_joints_do_not_matter():
    rng = np.random.default_rng(1)
    points = np.repeat(rng.normal(size=(1, SKELETON.num_joints, 3)), 9, axis=0)
    length = float(np.linalg.norm(points[0, 1] - points[0, 2]))  # no bone
    points[0, 1] += 5.0
    points[1, 2] = np.nan
    points[2] = np.nan
    points[3] = 0.0
    scale = metric_scale(points, SKELETON.edges, (1, 2), length)
    np.testing.assert_allclose(scale[4:], 1.0)
    assert np.isnan(scale[2:4]).all()
    with pytest.raises(
        ValueError, match=r"joints \(1, 2\) of the known length lie apart"
    ):
        metric_scale(points[2:4], SKELETON.edges, (1, 2), length)
