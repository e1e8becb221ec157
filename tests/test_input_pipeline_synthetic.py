"""The embedded data set: body, camera, renderer, samples."""

import dataclasses

import numpy as np
import pytest

from input_pipeline.skeleton import H36M_17
from input_pipeline.sources.motion import Motion
from input_pipeline.synthetic import (
    ACTION_NAMES,
    NUM_SUBJECTS,
    draw_body,
    draw_pose,
    forward_kinematics,
    project,
    project_landmarks,
    render_sample,
    render_samples,
    view_rotation,
)
from input_pipeline.synthetic.body import (
    JOINT,
    LIMITS,
    PART,
    PARTS,
    mirror_angles,
    posture_from_joints,
)
from input_pipeline.synthetic.camera import draw_view, frame_person
from input_pipeline.synthetic.figure import Cones, build_figure, joint_radii
from input_pipeline.synthetic.render import (
    hidden_joints,
    rasterise,
    ray_depths,
    render,
)
from input_pipeline.synthetic.repertoire import ACTIONS, IDLE_ARMS, IDLE_LEGS
from input_pipeline.synthetic.scene import Light, draw_look

EDGES = np.array(H36M_17.edges)


def _bones(joints):
    return np.linalg.norm(joints[EDGES[:, 0]] - joints[EDGES[:, 1]], axis=-1)


def _pose(**parts):
    angles = np.zeros((len(PARTS), 3))
    for name, values in parts.items():
        row = np.atleast_1d(values)
        angles[PART[name], : len(row)] = row
    return angles


def _joints(body=None, **parts):
    return forward_kinematics(_pose(**parts), body or draw_body(0, 0)).joints


# --- the body ---------------------------------------------------------------------


def test_rest_pose_stands_with_hanging_arms():
    body, joints = draw_body(0, 0), _joints()
    left, right = joints[JOINT["LHip"]], joints[JOINT["RHip"]]
    np.testing.assert_allclose(left * [-1, 1, 1], right)
    assert left[0] > 0.0  # x points to the person's left
    knee = left - [0.0, body.thigh, 0.0]
    np.testing.assert_allclose(joints[JOINT["LKnee"]], knee)
    np.testing.assert_allclose(
        joints[JOINT["LAnkle"]], knee - [0.0, body.shank, 0.0], atol=1e-9
    )
    np.testing.assert_allclose(
        joints[JOINT["Head"]],
        [0.0, body.lower_spine + body.upper_spine + body.neck + body.head, 0.0],
    )


@pytest.mark.parametrize(
    ("start", "end", "pose", "direction"),
    [
        ("LShoulder", "LElbow", {"arm_l": 90}, (0, 0, 1)),
        ("LShoulder", "LElbow", {"arm_l": (0, 90)}, (1, 0, 0)),
        ("RShoulder", "RElbow", {"arm_r": (0, 90)}, (-1, 0, 0)),
        ("LElbow", "LWrist", {"elbow_l": 90}, (0, 0, 1)),
        # With a bent elbow, turning the arm inwards brings the hand to the middle.
        ("LElbow", "LWrist", {"elbow_l": 90, "arm_l": (0, 0, 80)}, (-0.985, 0, 0.174)),
        ("RElbow", "RWrist", {"elbow_r": 90, "arm_r": (0, 0, 80)}, (0.985, 0, 0.174)),
        ("RHip", "RKnee", {"hip_r": 90}, (0, 0, 1)),
        ("RHip", "RKnee", {"hip_r": (0, 30)}, (-0.5, -0.866, 0)),
        ("RKnee", "RAnkle", {"knee_r": 90}, (0, 0, -1)),
        ("Pelvis", "Spine", {"waist": 30}, (0, 0.866, 0.5)),
        ("Pelvis", "Spine", {"waist": (0, 20)}, (0.342, 0.940, 0)),
    ],
)
def test_angles_turn_the_bones_as_named(start, end, pose, direction):
    joints = _joints(**pose)
    bone = joints[JOINT[end]] - joints[JOINT[start]]
    np.testing.assert_allclose(bone / np.linalg.norm(bone), direction, atol=1e-3)


def test_mirrored_pose_is_the_mirror_image():
    rng, body = np.random.default_rng(3), draw_body(0, 2)
    for _ in range(20):
        angles = draw_pose(rng)[1]
        joints = forward_kinematics(angles, body).joints
        mirrored = forward_kinematics(mirror_angles(angles), body).joints
        np.testing.assert_allclose(
            mirrored, joints[H36M_17.flip_permutation] * [-1, 1, 1], atol=1e-9
        )


def test_bone_lengths_are_constant_within_a_subject_and_differ_between_subjects():
    rng = np.random.default_rng(0)
    table = []
    for subject in range(6):
        body = draw_body(0, subject)
        bones = [
            _bones(forward_kinematics(draw_pose(rng)[1], body).joints)
            for _ in range(12)
        ]
        np.testing.assert_allclose(bones, np.tile(bones[0], (12, 1)), rtol=1e-9)
        table.append(bones[0])
    spread = np.std(table, axis=0) / np.mean(table, axis=0)
    assert np.all(spread > 0.01)
    shape = np.array(table) / np.sum(table, axis=1, keepdims=True)
    assert np.all(shape.std(0) / shape.mean(0) > 0.004)  # not only another size


@pytest.mark.parametrize("name", ACTION_NAMES)
def test_every_action_stays_inside_the_joint_limits(name):
    rng = np.random.default_rng(1)
    for _ in range(10):
        drawn, angles = draw_pose(rng, name)
        assert drawn == name
        assert np.all(angles >= LIMITS[..., 0])
        assert np.all(angles <= LIMITS[..., 1])


def test_key_poses_themselves_respect_the_limits():
    for name, action in ACTIONS.items():
        out = (action.keys < LIMITS[..., 0]) | (action.keys > LIMITS[..., 1])
        where = [(PARTS[p], int(c)) for _, p, c in np.argwhere(out)]
        assert not where, (name, where)
    for posture in (*IDLE_ARMS, *IDLE_LEGS):
        assert np.all((posture >= LIMITS[..., 0]) & (posture <= LIMITS[..., 1]))


def test_poses_are_many_and_not_degenerate():
    """PCA of body-frame joints: at least ten components hold 95 % of the variance."""
    assert len(ACTION_NAMES) >= 36
    rng, body = np.random.default_rng(0), draw_body(0, 0)
    joints = np.array(
        [forward_kinematics(draw_pose(rng)[1], body).joints for _ in range(1500)]
    )
    flat = joints.reshape(len(joints), -1)
    energy = np.linalg.svd(flat - flat.mean(0), compute_uv=False) ** 2
    share = np.cumsum(energy) / energy.sum()
    assert np.searchsorted(share, 0.95) + 1 >= 10
    knee_to_hip = joints[:, JOINT["LKnee"], 2] - joints[:, JOINT["LHip"], 2]
    assert knee_to_hip.std() > 100.0


def test_depth_zero_is_a_bad_guess():
    depth = np.array(
        [
            project_landmarks(i, split="train", seed=0, size=64).positions_mm[:, 2]
            for i in range(150)
        ]
    )
    assert np.abs(depth - depth.mean(1, keepdims=True)).mean() > 110.0


def test_unknown_action_is_named():
    with pytest.raises(ValueError, match=r"unknown action 'juggling'.*walking"):
        draw_pose(np.random.default_rng(0), "juggling")


def test_posture_from_joints_finds_the_frames_of_a_plain_stance():
    body = draw_body(0, 1)
    truth = forward_kinematics(_pose(arm_l=(0, 20), arm_r=(0, 20)), body)
    guess = posture_from_joints(truth.joints)
    np.testing.assert_allclose(guess.frames[:3], np.tile(np.eye(3), (3, 1, 1)))
    np.testing.assert_allclose(guess.frames[5:], truth.frames[5:], atol=1e-6)


def test_posture_from_joints_survives_equal_joints():
    posture = posture_from_joints(np.zeros((17, 3)))
    assert np.isfinite(posture.frames).all()


# --- the camera -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("azimuth", "elevation", "world", "camera"),
    [
        (0, 0, (1, 2, 3), (1, -2, -3)),  # facing the camera, left is right
        (90, 0, (0, 0, 1), (1, 0, 0)),  # turned to the own left: nose to the right
        (180, 0, (1, 0, 1), (-1, 0, 1)),  # seen from behind
        # From 30 degrees above: a point towards the camera (z = 1) lies lower in
        # the picture by sin 30, one above (y = 1) higher by cos 30 and nearer.
        (0, 30, (0, 0, 1), (0, 0.5, -np.sqrt(0.75))),
        (0, 30, (0, 1, 0), (0, -np.sqrt(0.75), -0.5)),
    ],
)
def test_view_rotation_by_hand(azimuth, elevation, world, camera):
    rotation = view_rotation(azimuth, elevation)
    np.testing.assert_allclose(rotation @ world, camera, atol=1e-12)


def test_view_rotation_is_a_rotation_and_roll_turns_the_picture():
    rotation = view_rotation(33.0, 12.0, 7.0)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1.0)
    flat = view_rotation(33.0, 12.0)
    np.testing.assert_allclose(rotation[2], flat[2])
    # Positive roll turns x (right) towards y (down): clockwise on the screen.
    right = view_rotation(0.0, 0.0, 90.0) @ (1.0, 0.0, 0.0)
    np.testing.assert_allclose(right, (0.0, 1.0, 0.0), atol=1e-12)


def test_project_by_hand():
    points = np.array([(0.0, 0.0, 5.0), (100.0, -200.0, -7.0)])
    pixels = project(points, scale=0.1, translation=np.array([32.0, 40.0]))
    np.testing.assert_allclose(pixels, [(32.0, 40.0), (42.0, 20.0)])


def test_frame_person_fills_the_picture_and_keeps_landmarks_inside():
    rng = np.random.default_rng(0)
    for _ in range(200):
        points = rng.normal(size=(17, 3)) * rng.uniform(50, 900, 3)
        scale, shift = frame_person(rng, points)
        xy = project(points, scale=scale, translation=shift)
        assert 0.63 < np.ptp(xy, axis=0).max() < 0.84
        assert np.all((xy > 0.02) & (xy < 0.98))


def test_empty_elevation_range_is_refused():
    with pytest.raises(ValueError, match="elevation_deg="):
        draw_view(np.random.default_rng(0), (30.0, -10.0))


# --- the renderer -----------------------------------------------------------------


def _cones(ends, radii, widths=None, frames=None, colours=None):
    """Cones without clothes from (N, 2, 3) ends and (N, 2) radii."""
    ends, radii = np.asarray(ends, np.float64), np.asarray(radii, np.float64)
    count = len(ends)
    frame = np.tile(np.eye(3), (count, 1, 1)) if frames is None else np.array(frames)
    return Cones(
        start=ends[:, 0],
        end=ends[:, 1],
        radii=radii,
        widths=np.ones((count, 3)) if widths is None else np.asarray(widths, float),
        frame=frame,
        colours=np.full((count, 2, 3), 0.5) if colours is None else np.asarray(colours),
        split=np.full(count, 2.0),
        pattern=np.zeros(count, int),
        height=np.zeros((count, 2)),
        clear=np.zeros((count, 17), bool),
    )


def _march(cones, n, point):
    """Depth of cone n at a picture point by brute force: many spheres, float64."""
    t = np.linspace(0.0, 1.0, 20_001)[:, None]
    centre = cones.start[n] + t * (cones.end[n] - cones.start[n])
    radius = cones.radii[n, 0] + t[:, 0] * (cones.radii[n, 1] - cones.radii[n, 0])
    axes = cones.frame[n] / cones.widths[n]
    metric = axes @ axes.T
    uv = point - centre[:, :2]
    # a w^2 + 2 b w + c = 0 for the depth w relative to the centre
    a = metric[2, 2]
    b = uv @ metric[:2, 2]
    c = np.einsum("ni,ij,nj->n", uv, metric[:2, :2], uv) - radius**2
    root = b * b - a * c
    hit = root >= 0.0
    if not hit.any():
        return np.inf
    return (centre[hit, 2] + (-b[hit] - np.sqrt(root[hit])) / a).min()


def _random_cones(rng, count):
    frames = np.linalg.qr(rng.normal(size=(count, 3, 3)))[0]
    ends = rng.normal(size=(count, 2, 3)) * (12.0, 12.0, 20.0)
    return _cones(
        ends,
        rng.uniform(2.0, 9.0, (count, 2)),
        rng.uniform(0.5, 1.4, (count, 3)),
        frames,
    )


def test_ray_depths_agree_with_brute_force():
    rng = np.random.default_rng(0)
    cones = _random_cones(rng, 24)
    # Seen end-on, one end inside the other, and a single sphere.
    special = _cones(
        [[(0, 0, 0), (0, 0, 30)], [(0, 0, 0), (1, 0, 2)], [(3, 1, 0), (3, 1, 0)]],
        [(5, 8), (9, 3), (6, 6)],
    )
    for scene in (cones, special):
        points = rng.normal(size=(20, 2)) * 10.0
        depth = ray_depths(scene, points)
        for n in range(len(scene.radii)):
            for k, point in enumerate(points):
                truth = _march(scene, n, point)
                grazing = not np.isfinite(truth) or not np.isfinite(depth[n, k])
                if grazing:
                    assert np.isinf(truth) == np.isinf(depth[n, k]), (n, k)
                else:
                    assert depth[n, k] == pytest.approx(truth, abs=1e-3), (n, k)


def test_raster_agrees_with_single_rays():
    rng = np.random.default_rng(1)
    cones = _random_cones(rng, 12).to_pixels(1.0, np.array([32.0, 32.0]))
    buffers, _ = rasterise(cones, 64, 64)
    grid = np.stack(np.meshgrid(np.arange(64), np.arange(64)), -1) + 0.5
    truth = ray_depths(cones, grid.reshape(-1, 2)).min(0).reshape(64, 64)
    agree = np.isinf(truth) == np.isinf(buffers.depth)
    assert agree.mean() > 0.998  # float32 may decide differently on an outline
    both = np.isfinite(truth) & np.isfinite(buffers.depth)
    error = np.abs(truth[both] - buffers.depth[both])
    assert np.median(error) < 1e-4
    assert np.quantile(error, 0.99) < 0.02


def test_sphere_at_a_pixel_centre_has_the_depth_of_its_front():
    cones = _cones([[(8.5, 4.5, 10.0), (8.5, 4.5, 10.0)]], [(3.0, 3.0)])
    buffers, _ = rasterise(cones, 16, 12)
    assert buffers.depth.shape == (12, 16)
    assert buffers.depth[4, 8] == pytest.approx(7.0)
    # 2 px to the side: 10 - sqrt(9 - 4)
    assert buffers.depth[4, 10] == pytest.approx(10.0 - np.sqrt(5.0), abs=1e-5)
    assert buffers.cone[4, 8] == 0
    assert buffers.cone[4, 12] == -1


def test_nearer_cone_wins_and_outline_is_smooth():
    red, blue = (0.9, 0.1, 0.1), (0.1, 0.1, 0.9)
    ends = [[(6, 16, 9), (26, 16, 9)], [(16, 6, -9), (16, 26, -9)]]
    cones = _cones(ends, [(4, 4), (4, 4)], colours=[(red, red), (blue, blue)])
    light = Light(np.array([0.0, 0.0, -1.0]), np.full(3, 0.5), np.full(3, 0.5))
    picture = render(
        cones,
        np.ones((32, 32, 3), np.float32),
        look=draw_look(np.random.default_rng(0)),
        light=light,
        up=np.array([0.0, -1.0, 0.0]),
    )
    assert picture[16, 16, 2] > picture[16, 16, 0]  # the blue bar is in front
    assert picture[16, 8, 0] > picture[16, 8, 2]
    np.testing.assert_array_equal(picture[1, 1], 1.0)
    green = np.unique(np.round(picture[:, 16, 1], 2))
    assert len(green) > 3  # partly covered pixels lie between person and background


def test_hidden_joints_of_a_hand_made_scene():
    joints = np.array([(0.0, 0.0, 0.0), (0.0, 0.0, 50.0), (40.0, 0.0, 0.0)])
    ball = _cones([[(0, 0, 20), (0, 0, 20)]], [(10, 10)])
    # Front of the ball at z = 10: before it, behind it, beside it.
    hidden = hidden_joints(_only(ball, 3), joints, np.full(3, 5.0))
    np.testing.assert_array_equal(hidden, [False, True, False])
    # In front by less than the tolerance, or by the joint's own limb: not hidden.
    assert not hidden_joints(_only(ball, 3), joints, np.full(3, 45.0)).any()
    own = _only(ball, 3)
    own.clear[0, 1] = True
    assert not hidden_joints(own, joints, np.full(3, 5.0)).any()


def _only(cones, joints):
    """The cones for a scene with fewer joints than a person."""
    return dataclasses.replace(cones, clear=np.zeros((len(cones.radii), joints), bool))


def test_hand_before_the_chest_hides_it_from_the_front_only():
    body = draw_body(0, 0)
    pose = _pose(arm_r=(35, -20, 60), elbow_r=95)
    look = draw_look(np.random.default_rng(0))
    for azimuth, expected in ((0.0, True), (180.0, False)):
        posture = forward_kinematics(pose, body).rotated(view_rotation(azimuth, 0.0))
        target = posture.joints.copy()
        # A point just inside the chest, in the picture where the wrist is.
        target[JOINT["Spine"], :2] = target[JOINT["RWrist"], :2]
        cones = build_figure(posture, body, look)
        cones.clear[:, JOINT["Spine"]] = False
        only_arm = cones.clear[:, JOINT["RWrist"]]
        arm = type(cones)(**{k: v[only_arm] for k, v in vars(cones).items()})
        hidden = hidden_joints(arm, target, joint_radii(body))
        assert hidden[JOINT["Spine"]] == expected


# --- the samples ------------------------------------------------------------------


def _same(a, b):
    for name, value in vars(a).items():
        np.testing.assert_array_equal(value, getattr(b, name), err_msg=name)


def test_sample_depends_on_its_number_alone():
    first = [render_sample(i, split="train", seed=3, size=48) for i in (4, 5, 6)]
    again = [render_sample(i, split="train", seed=3, size=48) for i in (6, 4, 5)]
    for a, b in zip(first, (again[1], again[2], again[0]), strict=True):
        _same(a, b)
    other = render_sample(4, split="train", seed=4, size=48)
    val = render_sample(4, split="val", seed=3, size=48)
    for sample in (other, val, first[1]):
        assert not np.array_equal(sample.image, first[0].image)
        assert not np.array_equal(sample.keypoints, first[0].keypoints)


def test_workers_do_not_change_the_samples():
    alone = list(render_samples(range(3), split="val", seed=1, size=32))
    shared = list(render_samples(range(3), split="val", seed=1, size=32, workers=1))
    for a, b in zip(alone, shared, strict=True):
        _same(a, b)


def test_landmarks_without_picture_are_the_same():
    for i in range(12):
        sample = render_sample(i, split="val", seed=0, size=32)
        marks = project_landmarks(i, split="val", seed=0, size=32)
        for name, value in vars(marks).items():
            np.testing.assert_array_equal(value, getattr(sample, name), err_msg=name)


def test_sample_has_the_promised_types_and_ranges():
    for i in range(15):
        s = render_sample(i, split="train", seed=0, size=64)
        assert s.image.shape == (64, 64, 3)
        assert s.image.dtype == np.uint8
        assert s.keypoints.dtype == s.positions_mm.dtype == np.float32
        assert s.occlusion.dtype == np.int8
        assert set(s.occlusion.tolist()) <= {1, 2}
        assert np.all((s.keypoints > 0) & (s.keypoints < 64))
        assert -10.0 <= s.elevation_deg <= 30.0
        assert 0.0 <= s.azimuth_deg < 360.0
        np.testing.assert_array_equal(s.positions_mm[0], 0.0)
        assert s.image.std() > 10.0


def test_keypoints_are_the_weak_perspective_image_of_the_positions():
    s = project_landmarks(7, split="train", seed=0, size=96)
    xy = s.positions_mm[:, :2] - s.positions_mm[:, :2].mean(0)
    uv = s.keypoints - s.keypoints.mean(0)
    scale = np.sum(xy * uv) / np.sum(xy * xy)
    np.testing.assert_allclose(uv, scale * xy, atol=1e-3)
    larger = project_landmarks(7, split="train", seed=0, size=192)
    np.testing.assert_allclose(larger.keypoints, 2.0 * s.keypoints, rtol=1e-6)
    np.testing.assert_array_equal(larger.positions_mm, s.positions_mm)


def test_subjects_of_the_splits_are_disjoint():
    found = {
        split: {
            project_landmarks(i, split=split, seed=0, size=32).subject
            for i in range(150)
        }
        for split in ("train", "val")
    }
    assert not found["train"] & found["val"]
    assert len(found["train"]) > 0.8 * NUM_SUBJECTS["train"]
    assert len(found["val"]) == NUM_SUBJECTS["val"]


def _person_picture(joints_pose, azimuth, size=96):
    """A person in a plain setting; returns the picture and its keypoints."""
    body = draw_body(0, 1)
    posture = forward_kinematics(joints_pose, body)
    posture = posture.rotated(view_rotation(azimuth, 0.0))
    scale, shift = 0.8 * size / 1750.0, np.array([0.5 * size, 0.52 * size])
    cones = build_figure(posture, body, draw_look(np.random.default_rng(5)))
    picture = render(
        cones.to_pixels(scale, shift),
        np.zeros((size, size, 3), np.float32),
        look=draw_look(np.random.default_rng(5)),
        light=Light(np.array([0.0, -0.5, -0.86]), np.full(3, 0.6), np.full(3, 0.5)),
        up=np.array([0.0, -1.0, 0.0]),
    )
    return picture, project(posture.joints, scale=scale, translation=shift)


def test_every_keypoint_lies_on_the_person():
    rng = np.random.default_rng(2)
    for azimuth in (0.0, 70.0, 200.0):
        picture, xy = _person_picture(draw_pose(rng, "walking")[1], azimuth)
        rows, columns = xy[:, 1].astype(int), xy[:, 0].astype(int)
        assert np.all(picture[rows, columns].sum(-1) > 0.0)


def test_front_and_back_and_the_two_sides_look_different():
    still = _pose(arm_l=(0, 15), arm_r=(0, 15))
    front, back = _person_picture(still, 0.0)[0], _person_picture(still, 180.0)[0]
    # The outline of a symmetric stance is the same from both sides; the paint is not.
    inside = (front.sum(-1) > 0) & (back.sum(-1) > 0)
    assert np.abs(front - back[:, ::-1])[inside].mean() > 0.01
    assert np.abs(front - back)[inside].mean() > 0.01
    left, right = _person_picture(still, 90.0)[0], _person_picture(still, 270.0)[0]
    either = (left.sum(-1) > 0) | (right.sum(-1) > 0)
    assert np.abs(left - right)[either].mean() > 0.02
    # Badge and watch tell left from right: the front is not its own mirror image.
    assert np.abs(front - front[:, ::-1]).max() > 0.2


def test_wrong_arguments_are_named():
    for arguments, words in (
        ({"split": "test"}, "split 'test'"),
        ({"size": 4}, "size=4"),
        ({"seed": -1}, "seed=-1"),
    ):
        with pytest.raises(ValueError, match=words):
            render_sample(0, **{"split": "train", "seed": 0, "size": 32} | arguments)
    with pytest.raises(ValueError, match="workers=-1"):
        next(render_samples([0], split="val", seed=0, size=32, workers=-1))


def test_poses_of_a_motion_are_taken_once_and_split_by_subject():
    rng = np.random.default_rng(0)
    joints = np.array(
        [
            forward_kinematics(draw_pose(rng)[1], draw_body(0, i // 4)).joints
            for i in range(20)
        ],
        np.float32,
    )
    motion = Motion(joints, np.repeat(np.arange(5), 4), np.array(["walk"] * 20), "test")
    samples = [
        project_landmarks(i, split="train", seed=0, size=64, motion=motion)
        for i in range(16)
    ]
    assert {s.subject for s in samples} == {0, 1, 2, 3}
    assert all(s.action == "walk" for s in samples)
    # Each frame is there once: recognised by its distances, which no view changes.
    known = np.sort([np.linalg.norm(j - j[0], axis=1).sum() for j in joints[:16]])
    seen = np.sort([np.linalg.norm(s.positions_mm, axis=1).sum() for s in samples])
    np.testing.assert_allclose(seen, known, rtol=1e-5)
    val = render_sample(0, split="val", seed=0, size=64, motion=motion)
    assert val.subject == 4
    with pytest.raises(ValueError, match=r"sample 4 of 'val'.*only 4 frames"):
        render_sample(4, split="val", seed=0, size=64, motion=motion)
