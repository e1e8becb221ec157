"""Handedness: volumes by hand, cuts by brute force, random signs on jointed bodies."""

import dataclasses
import itertools

import numpy as np
import pytest

from nrsfm_jax import handedness

MIRROR = np.array([1.0, 1.0, -1.0])
BONES = [(0, 1), (0, 2), (0, 3), (1, 4), (4, 5), (2, 6), (6, 7)]


def _rotations(random, n):
    Q = np.linalg.qr(random.normal(size=(n, 3, 3)))[0]
    return Q * np.linalg.det(Q)[:, None, None]


def bodies(n, *, seed=0, turned=True):
    """A rigid trunk of four points and two limbs whose knees bend one way only."""
    random = np.random.default_rng(seed)
    trunk = np.array([[0, 0, 0], [1, 0, 0], [-1, 0, 0], [0.2, 2, 0.5]], float)
    joints = [np.broadcast_to(trunk, (n, 4, 3))]
    for side in (1.0, -1.0):
        swing, bend = random.uniform(-0.7, 0.7, n), random.uniform(0.3, 2.0, n)
        out = np.full(n, 0.3 * side)
        upper = np.stack([out, -np.cos(swing), np.sin(swing)], -1)
        lower = np.stack([out, -np.cos(swing - bend), np.sin(swing - bend)], -1)
        knee = np.array([side, 0, 0]) + 1.5 * upper
        joints.append(np.stack([knee, knee + 1.5 * lower], 1))
    poses = np.concatenate(joints, 1)
    return poses @ _rotations(random, n) if turned else poses


def randomly_flipped(poses, *, share=0.5, seed=1):
    random = np.random.default_rng(seed)
    signs = np.where(random.random(len(poses)) < share, -1, 1)
    return poses * np.where(signs[:, None, None] < 0, MIRROR, 1.0), signs


def wrong_share(found, signs):
    wrong = np.mean(found != signs)
    return min(wrong, 1 - wrong)


def test_signed_volumes_are_determinants_of_bones():
    pose = np.array([[[0, 0, 0], [3, 0, 0], [0, 4, 0], [0, 0, 12], [1, 1, 1]]], float)
    edges = np.array([[0, 1], [0, 2], [0, 3], [0, 4]])
    B = pose[0, 1:] / np.sqrt(9 + 16 + 144 + 3)
    wanted = [np.linalg.det(B[list(t)]) for t in itertools.combinations(range(4), 3)]
    found = handedness.signed_volumes(pose, edges)
    np.testing.assert_allclose(found[0], wanted, rtol=1e-5)


def test_a_rigid_motion_leaves_signed_volumes_and_a_reflection_negates_them():
    poses = bodies(40)
    edges = handedness.spanning_tree(poses)
    moved = 2.5 * poses @ _rotations(np.random.default_rng(3), 40) + 7.0
    V = handedness.signed_volumes(poses, edges)
    np.testing.assert_allclose(handedness.signed_volumes(moved, edges), V, atol=1e-5)
    mirrored = handedness.signed_volumes(poses * MIRROR, edges)
    np.testing.assert_allclose(mirrored, -V, atol=1e-6)


def test_the_tree_finds_the_bones_of_a_chain():
    random = np.random.default_rng(0)
    steps = random.normal(size=(300, 6, 3))
    steps /= np.linalg.norm(steps, axis=-1, keepdims=True)
    chain = np.cumsum(steps, axis=1)[:, [3, 0, 5, 1, 4, 2]]
    found = {frozenset(map(int, e)) for e in handedness.spanning_tree(chain)}
    order = [1, 3, 5, 0, 4, 2]  # along the chain
    assert found == {frozenset(e) for e in itertools.pairwise(order)}


def test_the_best_cut_is_that_of_brute_force():
    random = np.random.default_rng(0)
    A = random.normal(size=(9, 9))
    Q = A + A.T
    found = handedness.best_cut(Q, random.choice([-1.0, 1.0], (60, 9)))
    every = np.array(list(itertools.product([-1.0, 1.0], repeat=9)))
    assert found @ Q @ found == pytest.approx(np.max(np.sum(every @ Q * every, axis=1)))


def test_the_rule_is_a_ridge_regression():
    random = np.random.default_rng(0)
    V, b = random.normal(size=(50, 4)), random.choice([-1, 1], 50)
    ridge = handedness.RIDGE * np.sum(V**2) / 4
    rows = np.concatenate([V, np.sqrt(ridge) * np.eye(4)])
    wanted = np.linalg.lstsq(rows, np.concatenate([b, np.zeros(4)]), rcond=None)[0]
    np.testing.assert_allclose(handedness.rule_of(V, b), wanted, rtol=1e-8)
    assert handedness.explained(V, b) == pytest.approx(b @ V @ wanted / 50)


@pytest.mark.parametrize("edges", [None, BONES])
def test_random_signs_are_recovered_up_to_one_bit(edges):
    poses, signs = randomly_flipped(bodies(1500))
    found, report = handedness.synchronise_signs(poses, edges)
    assert wrong_share(found, signs) < 0.005
    assert report.applied
    assert report.exists
    assert report.changed == pytest.approx(np.mean(signs < 0), abs=0.05)


def test_the_majority_keeps_its_sign_and_changed_is_the_flipped_share():
    poses, signs = randomly_flipped(bodies(1500), share=0.2)
    found, report = handedness.synchronise_signs(poses)
    assert np.mean(found != signs) < 0.005
    assert report.changed == pytest.approx(np.mean(signs < 0), abs=0.005)
    assert report.gain > 0.05


def test_the_given_signs_decide_nothing_but_the_one_bit():
    poses = bodies(1500)
    first, signs = randomly_flipped(poses, seed=5)
    found = handedness.synchronise_signs(first)[0] * signs
    assert wrong_share(found, np.ones(1500, int)) < 0.005


@pytest.mark.parametrize("n", [60, 200, 1500])
def test_the_gate_leaves_a_coherent_set_untouched(n):
    poses = bodies(n)
    poses[..., 2] += 0.1 * np.random.default_rng(2).normal(size=poses.shape[:2])
    found, report = handedness.synchronise_signs(poses)
    assert (found == 1).all()
    assert not report.applied


def test_a_set_closed_under_reflection_has_no_handedness():
    random = np.random.default_rng(0)
    worms = np.cumsum(random.normal(size=(1500, 8, 3)), axis=1)
    report = handedness.synchronise_signs(worms)[1]
    assert report.exists is False
    few = handedness.synchronise_signs(worms[:300])[1]
    assert few.exists is None


def test_few_samples_tell_nothing_however_clear_their_signs_look():
    figures = {"changed": 0.0, "applied": False, "fit": 0.9, "gain": 0.0}
    figures |= {"bimodality": 0.99, "split": 1.0}
    few = handedness.Handedness(**figures, samples=handedness.ENOUGH - 1)
    assert few.exists is None
    assert dataclasses.replace(few, samples=handedness.ENOUGH).exists is True


def test_motions_of_the_samples_change_no_sign():
    poses, _ = randomly_flipped(bodies(1500), share=0.3)
    angle = np.random.default_rng(4).uniform(0, 2 * np.pi, 1500)
    c, s, o, i = np.cos(angle), np.sin(angle), np.zeros(1500), np.ones(1500)
    turn = np.stack([c, -s, o, s, c, o, o, o, i], -1).reshape(-1, 3, 3)
    found = handedness.synchronise_signs(poses)[0]
    moved = handedness.synchronise_signs(poses @ turn + 3.0)[0]
    assert np.mean(found != moved) < 0.005


def test_samples_beyond_those_learned_from_follow_their_cluster(monkeypatch):
    monkeypatch.setattr(handedness, "_LEARNED", 1200)
    monkeypatch.setattr(handedness, "_CHUNK", 500)
    poses, signs = randomly_flipped(bodies(2400))
    found, report = handedness.synchronise_signs(poses)
    assert report.samples == 2400
    assert wrong_share(found, signs) < 0.005


def test_flat_poses_without_any_volume_are_left_alone():
    flat = bodies(100) * np.array([1.0, 1.0, 0.0])
    found, report = handedness.synchronise_signs(flat)
    assert (found == 1).all()
    assert report.exists is not True


def test_poses_that_are_not_finite_are_refused():
    poses = bodies(40)
    poses[7, 2, 1] = np.nan
    with pytest.raises(ValueError, match=r"poses\[7\] is not finite"):
        handedness.synchronise_signs(poses)


@pytest.mark.parametrize("shape", [(15, 8, 3), (40, 4, 3)])
def test_nothing_is_said_of_very_few(shape):
    found, report = handedness.synchronise_signs(
        np.random.default_rng(0).normal(size=shape)
    )
    assert (found == 1).all()
    assert report.exists is None
