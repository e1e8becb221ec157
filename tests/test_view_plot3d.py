"""3D drawings: what is front, side, near, and what the viewer is given."""

import re

import numpy as np
import pytest

from input_pipeline.skeleton import H36M_17, Skeleton
from view.plot3d import normalise_pose, pose_reach, pose_svg

STICK = Skeleton("stick", ("root", "tip"), ((0, 1),))


def _line(svg):
    found = re.search(r'x1="(.*?)" y1="(.*?)" x2="(.*?)" y2="(.*?)"', svg)
    assert found is not None
    return [float(v) for v in found.groups()]


def test_normalised_poses_are_centred_with_bones_of_length_one():
    pose = np.random.default_rng(0).normal(size=(17, 3)) * 300 + 4000
    flat = normalise_pose(pose, H36M_17)
    np.testing.assert_allclose(flat.mean(0), 0, atol=1e-9)
    lengths = [np.linalg.norm(flat[a] - flat[b]) for a, b in H36M_17.edges]
    assert np.mean(lengths) == pytest.approx(1)
    np.testing.assert_allclose(normalise_pose(7 * pose + 1, H36M_17), flat, atol=1e-9)


def test_a_missing_joint_takes_only_its_bones_away():
    pose = np.random.default_rng(0).normal(size=(17, 3))
    pose[3] = np.nan
    assert pose_svg(pose, H36M_17).count("<line") == 15
    assert pose_svg(np.full((17, 3), np.nan), H36M_17).count("<line") == 0


def test_front_shows_x_and_side_shows_depth_with_the_camera_on_the_left():
    forward = np.array([[0.0, 0, 0], [0.0, 0, 1.0]])  # points away from the camera
    x1, y1, x2, y2 = _line(pose_svg(forward, STICK, view="front"))
    assert (x1, y1) == (x2, y2)
    x1, y1, x2, y2 = _line(pose_svg(forward, STICK, view="side"))
    assert x2 > x1
    assert y1 == y2
    down = np.array([[0.0, 0, 0], [0.0, 1.0, 0]])
    for view in ("front", "side"):
        x1, y1, x2, y2 = _line(pose_svg(down, STICK, view=view))
        assert x1 == x2
        assert y2 > y1


def test_near_bones_are_drawn_over_far_ones():
    fork = Skeleton(
        "fork",
        ("root", "left_a", "right_a"),
        ((0, 1), (0, 2)),
        left_right=((1, 2),),
    )
    pose = np.array([[0.0, 0, 0], [1.0, 0, 1.0], [-1.0, 0, -1.0]])
    front = pose_svg(pose, fork, view="front")
    assert front.index('class="left"') < front.index('class="right"')  # right is nearer
    # Seen with the camera on the left, the eye stands on the side of +x.
    side = pose_svg(pose, fork, view="side")
    assert side.index('class="right"') < side.index('class="left"')


def test_everything_stays_inside_the_drawing():
    rng = np.random.default_rng(1)
    for _ in range(20):
        pose, truth = rng.normal(size=(2, 17, 3)) * rng.uniform(0.2, 3, size=3)
        for view in ("front", "side"):
            svg = pose_svg(pose, H36M_17, view=view, reference=truth, size=(100, 140))
            assert svg.count("ghost") == 16
            x = [abs(float(v)) for v in re.findall(r'x[12]="(.*?)"', svg)]
            y = [abs(float(v)) for v in re.findall(r'y[12]="(.*?)"', svg)]
            assert max(x) <= 50
            assert max(y) <= 70
    assert pose_reach([np.full((2, 3), np.nan)], STICK) == (1.0, 1.0)


def test_a_pose_of_another_skeleton_is_refused():
    with pytest.raises(ValueError, match=r"'h36m_17' has 17 joints, .* \(16, 3\)"):
        normalise_pose(np.zeros((16, 3)), H36M_17)
