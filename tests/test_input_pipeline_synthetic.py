"""The embedded data set: body, camera, renderer, samples."""

import dataclasses

import numpy as np
import pytest

from input_pipeline.skeleton import H36M_17
from input_pipeline.sources.motion import Motion
from input_pipeline.synthetic.body import (
    JOINT,
    LIMITS,
    PART,
    PARTS,
    Posture,
    draw_body,
    forward_kinematics,
    mirror_angles,
    posture_from_joints,
)
from input_pipeline.synthetic.camera import (
    draw_view,
    frame_person,
    view_rotation,
)
from input_pipeline.synthetic.cones import Cones, build_cones, parse_parts
from input_pipeline.synthetic.person import build_person
from input_pipeline.synthetic.poses import action_names, draw_pose, repertoire
from input_pipeline.synthetic.render import (
    hidden_joints,
    rasterise,
    ray_depths,
    render,
)
from input_pipeline.synthetic.sample import NUM_SUBJECTS, render_sample
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
    lengths = {joint: float(np.linalg.norm(bone)) for joint, _, _, bone in body.bones}
    left, right = joints[JOINT["LHip"]], joints[JOINT["RHip"]]
    np.testing.assert_allclose(left * [-1, 1, 1], right)
    assert left[0] > 0.0  # x points to the person's left
    knee, ankle = joints[JOINT["LKnee"]], joints[JOINT["LAnkle"]]
    np.testing.assert_allclose(ankle[[0, 2]], left[[0, 2]])
    assert left[1] - knee[1] == pytest.approx(lengths["LKnee"])
    assert ankle[1] < knee[1] < left[1]
    height = sum(lengths[name] for name in ("Spine", "Thorax", "Neck", "Head"))
    np.testing.assert_allclose(joints[JOINT["Head"]], [0.0, height, 0.0], atol=1e-9)


@pytest.mark.parametrize(
    ("start", "end", "pose", "direction"),
    [
        ("LShoulder", "LElbow", {"Larm": 90}, (0, 0, 1)),
        ("LShoulder", "LElbow", {"Larm": (0, 90)}, (1, 0, 0)),
        ("RShoulder", "RElbow", {"Rarm": (0, 90)}, (-1, 0, 0)),
        ("LElbow", "LWrist", {"Lelbow": 90}, (0, 0, 1)),
        # With a bent elbow, turning the arm inwards brings the hand to the middle.
        ("LElbow", "LWrist", {"Lelbow": 90, "Larm": (0, 0, 80)}, (-0.985, 0, 0.174)),
        ("RElbow", "RWrist", {"Relbow": 90, "Rarm": (0, 0, 80)}, (0.985, 0, 0.174)),
        ("RHip", "RKnee", {"Rhip": 90}, (0, 0, 1)),
        ("RHip", "RKnee", {"Rhip": (0, 30)}, (-0.5, -0.866, 0)),
        ("RKnee", "RAnkle", {"Rknee": 90}, (0, 0, -1)),
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


@pytest.fixture(scope="module")
def poses():
    """2,000 poses of one body: actions, angles (n, PARTS, 3), joints (n, 17, 3)."""
    rng, body = np.random.default_rng(0), draw_body(0, 0)
    names, angles = zip(*(draw_pose(rng) for _ in range(2000)), strict=True)
    joints = np.array([forward_kinematics(a, body).joints for a in angles])
    return names, np.array(angles), joints


def test_every_action_is_drawn_equally_often_and_stays_inside_the_limits(poses):
    names, angles, _ = poses
    found, counts = np.unique(names, return_counts=True)
    assert found.tolist() == sorted(action_names())
    assert len(found) >= 65
    # 31 each on the average; a spread of 5.5 by chance.
    assert counts.min() > 8
    assert counts.max() < 62
    assert np.all((angles >= LIMITS[..., 0]) & (angles <= LIMITS[..., 1]))


def test_the_repertoire_respects_the_limits():
    for name, action in repertoire().items():
        out = (action.keys < LIMITS[..., 0]) | (action.keys > LIMITS[..., 1])
        where = [(PARTS[p], int(c)) for _, p, c in np.argwhere(out)]
        assert not where, (name, where)
        assert len(action.keys)


def test_the_repertoire_reads_key_poses_by_hand():
    waving, walking = repertoire()["waving"], repertoire()["walking"]
    assert (waving.cyclic, waving.noise, waving.idle) == (False, 7.0, ("legs",))
    assert waving.keys.shape == (3, len(PARTS), 3)
    np.testing.assert_array_equal(waving.keys[0, PART["Rarm"]], (25, 95, -60))
    np.testing.assert_array_equal(waving.keys[0, PART["Relbow"]], (60, 0, 0))
    assert not waving.keys[0, PART["Larm"]].any()
    # A gait: the second half is the first with the sides exchanged.
    assert walking.cyclic
    for first, second in ((0, 2), (1, 3)):
        mirrored = mirror_angles(walking.keys[first])
        np.testing.assert_array_equal(walking.keys[second], mirrored)
    np.testing.assert_array_equal(walking.keys[0, PART["Rhip"]], (26, 3, 0))
    # A posture by its name, "trunk" in halves, a part without a side for both.
    punch = repertoire()["punching"].keys[1]
    np.testing.assert_array_equal(punch[PART["Lhip"]], (22, 12, 0))
    np.testing.assert_array_equal(punch[PART["Relbow"]], (5, 0, 0))
    for part in ("waist", "chest"):
        np.testing.assert_array_equal(punch[PART[part]], (6, 0, 22.5))


def test_poses_are_many_and_not_degenerate(poses):
    """The spectrum of the joints' covariance: its entropy, its components for 95 %."""
    flat = poses[2].reshape(len(poses[2]), -1)
    share = np.linalg.eigvalsh(np.cov(flat.T))[::-1]
    share = share[share > 1e-9 * share[0]] / share.sum()
    assert np.exp(-(share * np.log(share)).sum()) > 10.5
    assert np.searchsorted(np.cumsum(share), 0.95) + 1 >= 13


def test_every_limb_moves_and_everyday_postures_all_occur(poses):
    at = {name: poses[2][:, i] for name, i in JOINT.items()}
    spread = {name: float(np.sqrt(p.var(0).sum())) for name, p in at.items()}
    for side in "LR":
        least = {"Knee": 200, "Ankle": 330, "Elbow": 260, "Wrist": 400}
        assert all(spread[side + joint] > mm for joint, mm in least.items()), spread
        assert spread["Head"] > 270
    up = at["Thorax"] - at["Pelvis"]
    lifted = [at[f"{s}Knee"][:, 1] - at[f"{s}Hip"][:, 1] > -200 for s in "LR"]
    shares = {
        "sitting or squatting": np.mean(lifted[0] & lifted[1]),
        "a hand above the head": np.mean(
            np.maximum(at["LWrist"], at["RWrist"])[:, 1] > at["Head"][:, 1]
        ),
        "bent over": np.mean(up[:, 1] < 0.7 * np.linalg.norm(up, axis=1)),
        "crossed arms": np.mean(at["LWrist"][:, 0] < at["RWrist"][:, 0]),
        "crossed legs": np.mean(at["LAnkle"][:, 0] < at["RAnkle"][:, 0]),
    }
    least = dict(zip(shares, (0.06, 0.18, 0.055, 0.005, 0.015), strict=True))
    assert all(shares[name] > share for name, share in least.items()), shares


def test_depth_zero_is_a_bad_guess():
    depth = np.array(
        [
            render_sample(i, split="train", seed=0, size=64, picture=False).positions_mm
            for i in range(400)
        ]
    )[..., 2]
    depth -= depth.mean(1, keepdims=True)
    assert np.abs(depth).mean() == pytest.approx(158, rel=0.1)
    low, high = np.percentile(depth, (1, 99))
    assert low < -400
    assert high > 430


def test_posture_from_joints_finds_the_frames_of_a_plain_stance():
    body = draw_body(0, 1)
    truth = forward_kinematics(_pose(Larm=(0, 20), Rarm=(0, 20)), body)
    guess = posture_from_joints(truth.joints)
    assert guess.frames.keys() < truth.frames.keys()
    for name in ("root", "chest", "head"):
        np.testing.assert_allclose(guess.frames[name], np.eye(3), atol=1e-12)
    for name in ("Lankle", "Rankle"):
        np.testing.assert_allclose(guess.frames[name], truth.frames[name], atol=1e-6)


def test_posture_from_joints_survives_equal_joints():
    posture = posture_from_joints(np.zeros((17, 3)))
    assert all(np.isfinite(frame).all() for frame in posture.frames.values())


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


def test_frame_person_fills_the_picture_and_keeps_landmarks_inside():
    rng = np.random.default_rng(0)
    for _ in range(200):
        points = rng.normal(size=(17, 3)) * rng.uniform(50, 900, 3)
        scale, shift = frame_person(rng, points)
        xy = scale * points[:, :2] + shift
        assert 0.63 < np.ptp(xy, axis=0).max() < 0.84
        assert np.all((xy > 0.02) & (xy < 0.98))


def test_views_come_from_all_around_and_inside_the_range_of_elevations():
    rng = np.random.default_rng(0)
    views = np.array([draw_view(rng, (-10.0, 30.0)) for _ in range(400)])
    azimuth, elevation, roll = views.T
    assert np.all(np.histogram(azimuth, 4, (0.0, 360.0))[0] > 70)
    assert -10.0 <= elevation.min() < -8.0
    assert 28.0 < elevation.max() <= 30.0
    assert 2.0 < roll.std() < 4.0


def test_elevation_reaches_the_sample():
    """From straight above, heads and feet of standing people nearly coincide."""
    sample = render_sample(
        0, split="train", seed=0, size=32, elevation_deg=(90, 90), picture=False
    )
    level = render_sample(
        0, split="train", seed=0, size=32, elevation_deg=(0, 0), picture=False
    )
    drop = level.positions_mm[:, 1] - level.positions_mm[0, 1]
    # What was down in the picture is now away from the camera, but for the roll.
    assert np.corrcoef(drop, sample.positions_mm[:, 2])[0, 1] > 0.95


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
    t = np.linspace(0.0, 1.0, 5_001)[:, None]
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
        points = rng.normal(size=(12, 2)) * 10.0
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
    buffers = rasterise(cones, 64, 64)
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
    buffers = rasterise(cones, 16, 12)
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


def test_parts_of_a_table_by_hand():
    """Offsets, points between joints, both sides, sizes and spans."""
    names = ("LHip", "RHip", "Head")
    posture = Posture(
        np.array([(100.0, 0, 0), (-100.0, 0, 0), (0.0, 500, 0)]),
        {"head": view_rotation(180.0, 0.0) * (1, -1, -1)},
    )
    table = """
    *Hip | *Hip > Head .5 | 10 20 | skin .25 cloth | clear *Hip
    Head 30 0 50 | Head 30 5 50 | 8 8 | cloth | frame head, size big, both
    LHip | RHip | 40 60 | skin | span Hip .5 25, widths 1 .5 2, height 0 90
    """
    cones = build_cones(
        parse_parts(table),
        posture,
        names,
        sizes={"girth": 1.0, "big": 2.0},
        colours={"skin": np.full(3, 0.7), "cloth": np.full(3, 0.2)},
    )
    np.testing.assert_allclose(cones.start[:2], posture.joints[:2])
    np.testing.assert_allclose(cones.end[:2], [(50, 250, 0), (-50, 250, 0)])
    np.testing.assert_allclose(cones.radii[:2], [(10, 20), (10, 20)])
    np.testing.assert_array_equal(cones.clear[:2, :2], np.eye(2, dtype=bool))
    np.testing.assert_allclose(cones.colours[0], [(0.7,) * 3, (0.2,) * 3])
    assert cones.split[0] == 0.25
    # 30 to the left of a head that is turned about, in its size of 2.
    front = posture.frames["head"][:, 2]
    left = posture.frames["head"][:, 0]
    for row, sign in ((2, 1), (3, -1)):
        expected = posture.joints[2] + 60 * sign * left + 100 * front
        np.testing.assert_allclose(cones.start[row], expected, atol=1e-9)
    np.testing.assert_allclose(cones.radii[2:4], 16)
    # Half of 200 mm and 25 more, over a mean radius of 50.
    np.testing.assert_allclose(cones.widths[4], (2.5, 0.5, 2))
    assert cones.pattern.astype(bool).tolist() == [False] * 4 + [True]


def test_arm_before_the_chest_hides_it_from_the_front_only():
    body = draw_body(0, 0)
    pose = _pose(Rarm=(35, -20, 60), Relbow=95)
    arm = parse_parts("RElbow | RWrist | 42 30 | skin")
    for azimuth, expected in ((0.0, True), (180.0, False)):
        view = view_rotation(azimuth, 0.0)
        posture = forward_kinematics(pose, body).rotated(view, 0)
        cones = build_cones(
            arm,
            posture,
            H36M_17.joints,
            sizes=body.sizes,
            colours={"skin": np.ones(3)},
        )
        # A point just inside the chest, in the picture where the wrist is.
        spine, wrist = posture.joints[[JOINT["Spine"], JOINT["RWrist"]]]
        target = np.array([(wrist[0], wrist[1], spine[2])])
        hidden = hidden_joints(_only(cones, 1), target, np.full(1, 100.0))
        assert hidden.tolist() == [expected]


# --- the samples ------------------------------------------------------------------


def _same(a, b):
    for name, value in vars(a).items():
        np.testing.assert_array_equal(value, getattr(b, name), err_msg=name)


def test_sample_depends_on_its_number_alone():
    first = [render_sample(i, split="train", seed=3, size=32) for i in (4, 5)]
    again = [render_sample(i, split="train", seed=3, size=32) for i in (5, 4)]
    for a, b in zip(first, reversed(again), strict=True):
        _same(a, b)
    other = render_sample(4, split="train", seed=4, size=32)
    val = render_sample(4, split="val", seed=3, size=32)
    for sample in (other, val, first[1]):
        assert not np.array_equal(sample.image, first[0].image)
        assert not np.array_equal(sample.keypoints, first[0].keypoints)


@pytest.fixture(scope="module")
def samples():
    return [render_sample(i, split="train", seed=0, size=64) for i in range(12)]


def test_landmarks_without_picture_are_the_same(samples):
    for i, sample in enumerate(samples):
        bare = render_sample(i, split="train", seed=0, size=64, picture=False)
        assert bare.image.size == 0
        _same(dataclasses.replace(sample, image=bare.image), bare)


def test_sample_has_the_promised_types_and_ranges(samples):
    for s in samples:
        assert s.image.shape == (64, 64, 3)
        assert s.image.dtype == np.uint8
        assert s.keypoints.dtype == s.positions_mm.dtype == np.float32
        assert np.all((s.keypoints > 0) & (s.keypoints < 64))
        np.testing.assert_array_equal(s.positions_mm[0], 0.0)
        assert s.image.std() > 10.0


def test_keypoints_are_the_weak_perspective_image_of_the_positions():
    s = render_sample(7, split="train", seed=0, size=96, picture=False)
    xy = s.positions_mm[:, :2] - s.positions_mm[:, :2].mean(0)
    uv = s.keypoints - s.keypoints.mean(0)
    scale = np.sum(xy * uv) / np.sum(xy * xy)
    np.testing.assert_allclose(uv, scale * xy, atol=1e-3)
    larger = render_sample(7, split="train", seed=0, size=192, picture=False)
    np.testing.assert_allclose(larger.keypoints, 2.0 * s.keypoints, rtol=1e-6)
    np.testing.assert_array_equal(larger.positions_mm, s.positions_mm)


def test_subjects_of_the_splits_are_disjoint():
    found = {
        split: {
            render_sample(i, split=split, seed=0, size=32, picture=False).subject
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
    posture = posture.rotated(view_rotation(azimuth, 0.0), 0)
    scale, shift = 0.8 * size / 1750.0, np.array([0.5 * size, 0.52 * size])
    cones = build_person(posture, body, draw_look(np.random.default_rng(5)))
    picture = render(
        cones.to_pixels(scale, shift),
        np.zeros((size, size, 3), np.float32),
        look=draw_look(np.random.default_rng(5)),
        light=Light(np.array([0.0, -0.5, -0.86]), np.full(3, 0.6), np.full(3, 0.5)),
        up=np.array([0.0, -1.0, 0.0]),
    )
    return picture, scale * posture.joints[:, :2] + shift


def test_every_keypoint_lies_on_the_person():
    rng = np.random.default_rng(2)
    for azimuth in (0.0, 70.0, 200.0):
        picture, xy = _person_picture(draw_pose(rng, "walking")[1], azimuth)
        rows, columns = xy[:, 1].astype(int), xy[:, 0].astype(int)
        assert np.all(picture[rows, columns].sum(-1) > 0.0)


def test_front_and_back_and_the_two_sides_look_different():
    still = _pose(Larm=(0, 15), Rarm=(0, 15))
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
        render_sample(i, split="train", seed=0, size=64, motion=motion, picture=False)
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
