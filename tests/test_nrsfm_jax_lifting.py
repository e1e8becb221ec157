"""Lifting: closed forms, invariances, and what it finds on draws from the model."""

import dataclasses
from pathlib import Path

import em_bodies as bodies
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize
from scipy.stats import multivariate_normal

from nrsfm_jax import PoseLifter, model, teacher
from nrsfm_jax.em.gaussians import SHIFT_VARIANCE
from nrsfm_jax.lifting import (
    adapt,
    bones,
    cameras,
    chain,
    frames,
    hidden,
    looser,
    patches,
    posterior,
    prior,
    records,
    setting,
    tracks,
)
from nrsfm_jax.lifting import lifter as lifter_module

EDGES = ((0, 1), (1, 2), (0, 3), (3, 4), (0, 5))
PAIRS = ((1, 3), (2, 4))
NOISE = 0.04


@pytest.fixture(scope="module")
def mixture():
    return bodies.two_poses(sigma=NOISE)


@pytest.fixture(scope="module")
def drawn(mixture):
    """Landmarks and depth, patch units."""
    return bodies.sample(mixture, 200)


@pytest.fixture(scope="module")
def fitted(mixture):
    """Pairs and terms without tails: the model that the samples are drawn from."""
    pairs = looser.as_fitted(mixture)
    return pairs, looser.terms_of(pairs, jnp.float32(NOISE))


@pytest.fixture(scope="module")
def lifter(mixture, drawn):
    names = [f"j{i}" for i in range(bodies.P)]
    skeleton = {"joints": names, "edges": EDGES, "left_right": PAIRS, "root": 0}
    params = model.init(
        jax.random.key(0), num_landmarks=bodies.P, dictionary_sizes=(8, 4)
    )
    params = jax.tree.map(np.asarray, params)
    record = teacher.Teacher(params, skeleton)
    W = drawn[0]
    half = patches.extent(W, np.ones(W.shape[:2], bool)) / 1.6
    W = W / half[:, None, None]
    return PoseLifter(mixture, record, 1.25, W, np.ones(W.shape[:2], bool))


@pytest.fixture(scope="module")
def pixels(drawn):
    return 100.0 * drawn[0][:24].astype(np.float64) + (320, 240)


@pytest.fixture(scope="module")
def lifted(lifter, pixels):
    return lifter(pixels, noise=0.02, focal=np.inf, covariance=True)


def given(fitted, W, labelled, variance=NOISE**2, gaps=0):
    own = jnp.asarray(W), jnp.asarray(labelled)
    noise = jnp.full(labelled.shape, variance, jnp.float32)
    return posterior.poses_given(*fitted, *own, noise, gaps=gaps)


# --- the posterior ------------------------------------------------------------------


@pytest.mark.parametrize("near", [False, True])
@pytest.mark.parametrize("missing", [(), (2,), (0, 4)])
def test_the_posterior_of_one_pair_is_that_of_a_gaussian(mixture, drawn, missing, near):
    w, P = drawn[0][0], bodies.P
    labelled = ~np.isin(np.arange(P), missing)
    variance = np.linspace(0.01, 0.06, P, dtype=np.float32) ** 2
    slope = near * np.linspace(-0.4, 0.5, 2 * P, dtype=np.float32).reshape(P, 2)
    pairs = looser.as_fitted(mixture)
    mean, S = posterior.shapes_of(pairs, jnp.array([5]))
    own = jnp.asarray(w), jnp.asarray(labelled), jnp.asarray(variance)
    camera = jnp.asarray(slope) if near else None
    found = posterior.given_pairs(mean, S, pairs.log_prior[5:6], *own, camera)
    pair = list(bodies.pairs(mixture))[5]
    turn = np.kron(np.eye(P), pair.R.T)  # S_cam = S R
    m, V = turn @ pair.mu, turn @ pair.Sigma @ turn.T
    A = np.zeros((P, 2, P, 3))
    for p in range(P):
        A[p, :, p, :2] = np.eye(2)
        A[p, :, :, 2] = slope[p, :, None] / P
        A[p, :, p, 2] -= slope[p]
    A = A[labelled].reshape(-1, 3 * P)
    noise = np.diag(np.repeat(variance[labelled], 2))
    shift = SHIFT_VARIANCE * np.tile(np.eye(2), (labelled.sum(), labelled.sum()))
    C = A @ V @ A.T + noise + shift
    gain = V @ A.T @ np.linalg.inv(C)
    image = w[labelled].ravel()
    np.testing.assert_allclose(
        found.pose[0].ravel(), m + gain @ (image - A @ m), atol=2e-5
    )
    np.testing.assert_allclose(found.covariance[0], V - gain @ A @ V, atol=2e-6)
    log_p = pair.log_prior + multivariate_normal.logpdf(image, A @ m, C)
    assert float(found.log_joint[0]) == pytest.approx(log_p, abs=1e-3)


def test_landmarks_without_noise_are_expected_where_they_are(fitted, drawn):
    W = drawn[0][:8]
    found = given(fitted, W, np.ones(W.shape[:2], bool), 1e-6)
    np.testing.assert_allclose(found.image, W, atol=1e-3)


def test_all_pairs_together_have_the_evidence_of_the_em(mixture, fitted, drawn):
    W = drawn[0][:16]
    found = given(fitted, W, np.ones(W.shape[:2], bool))
    np.testing.assert_allclose(
        found.log_p, bodies.log_evidence(mixture, W), rtol=1e-3, atol=0.01
    )


def test_pairs_are_ranked_by_what_they_explain(mixture, fitted, drawn):
    W = drawn[0][:8]
    every = jnp.ones(W.shape[:2], bool)
    ranked = posterior.rank(*fitted, jnp.asarray(W), every, gaps=0)
    expected = bodies.log_joint(mixture, W, np.ones(W.shape[:2], bool))
    np.testing.assert_allclose(ranked, expected, rtol=1e-3, atol=0.02)


def test_with_landmarks_missing_the_likeliest_pairs_are_still_ranked(mixture, drawn):
    """By the views that a broad Gaussian knows, among views in any rotation as well."""
    W, labelled = drawn[0][:8].copy(), np.ones((8, bodies.P), bool)
    labelled[:, 1] = labelled[4:, 3] = False
    W = np.where(labelled[..., None], W, 0)
    W -= (
        np.where(labelled[..., None], W.sum(1, keepdims=True), 0)
        / labelled.sum(1)[:, None, None]
    )
    own = jnp.asarray(W), jnp.asarray(labelled)
    ranked = posterior.rank(*model_of(mixture), *own, gaps=2)
    exact = bodies.log_joint(mixture, W, labelled)
    best = np.argsort(-exact, axis=1)[:, :3]
    for name in (np.asarray(ranked), exact):
        assert np.isfinite(np.take_along_axis(name, best, 1)).all()
    np.testing.assert_allclose(
        np.take_along_axis(np.asarray(ranked), best, 1),
        np.take_along_axis(exact, best, 1),
        rtol=1e-3,
        atol=0.02,
    )
    pairs = looser.looser(mixture)
    ranked = posterior.rank(
        pairs, looser.terms_of(pairs, jnp.float32(NOISE)), *own, gaps=2
    )
    top = np.asarray(jnp.argmax(ranked, axis=1))
    assert (np.asarray(pairs.component)[top] == best[:, 0] // len(mixture.views)).all()


def test_the_interval_covers_draws_from_the_model(fitted, drawn):
    W, depth = drawn
    found = given(fitted, W, np.ones(W.shape[:2], bool))
    variance = np.einsum("naa->na", found.covariance).reshape(*W.shape[:2], 3)[..., 2]
    inside = np.abs(found.pose[..., 2] - depth) < 1.96 * np.sqrt(variance)
    assert 0.92 < inside.mean() < 0.98


def test_the_gradient_is_finite(fitted, drawn):
    pairs, terms = fitted
    w = jnp.asarray(drawn[0][0])
    every, noise = jnp.ones(bodies.P, bool), jnp.full(bodies.P, np.float32(NOISE**2))

    def depth(w):
        ranked = posterior.rank(pairs, terms, w[None], every[None], gaps=0)[0]
        return posterior.pose_given(pairs, ranked, w, every, noise).pose[1, 2]

    slope = jax.grad(depth)(w)
    assert np.isfinite(slope).all()
    assert np.abs(slope).max() > 0


def test_tails_and_free_views_are_a_distribution_over_all_pairs(mixture):
    pairs = looser.looser(mixture)
    assert float(jnp.exp(jax.nn.logsumexp(pairs.log_prior))) == pytest.approx(
        1, abs=1e-3
    )
    share = float(jnp.exp(jax.nn.logsumexp(pairs.log_prior[pairs.free])))
    assert share == pytest.approx(looser.FREE_WEIGHT, abs=1e-3)


# --- outliers and hidden joints -----------------------------------------------------


def test_a_joint_left_out_is_as_if_it_were_missing(mixture, fitted, drawn):
    pairs, _ = fitted
    w, every = drawn[0][0], np.ones(bodies.P, bool)
    noise = jnp.full(bodies.P, np.float32(NOISE**2))
    found = hidden.others_exactly(
        pairs, jnp.arange(6), jnp.asarray(w), jnp.asarray(every), noise
    )
    for p in (0, 3):
        labelled = every.copy()
        labelled[p] = False
        expected = bodies.log_joint(mixture, w[None], labelled[None])[0, :6]
        np.testing.assert_allclose(found.without[p], expected, rtol=1e-3, atol=0.01)


def test_some_joints_have_the_density_of_their_marginal(mixture, fitted, drawn):
    W = drawn[0][:4]
    for i, part in zip(looser.parts_of(bodies.P), fitted[1].parts, strict=True):
        labelled = np.tile(np.isin(np.arange(bodies.P), i // 2), (4, 1))
        expected = bodies.log_joint(mixture, W, labelled)
        found = looser.quadratic(part, jnp.asarray(W.reshape(4, -1)[:, i]))
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=0.02)


def test_each_pair_hides_what_pays_most_as_if_it_were_missing(mixture, fitted, drawn):
    w, P, cost = drawn[0][0].copy(), bodies.P, 3.0
    w[[1, 4]] += 0.5
    found = hidden.hiding(
        fitted[0],
        jnp.arange(6),
        jnp.asarray(w),
        jnp.ones(P, bool),
        jnp.full(P, np.float32(NOISE**2)),
        jnp.full(P, np.float32(cost)),
    )
    steps = int(np.isclose(found.log_joint[:, 0], hidden._NEVER).argmax())
    assert 2 <= steps <= 1 + P // 2  # half of the joints remain
    for h in range(steps):
        left = np.asarray(found.left[h].T)
        assert np.all((~left).sum(1) == h)
        expected = bodies.log_joint(mixture, np.tile(w, (6, 1, 1)), left)
        own = expected[np.arange(6), np.arange(6)] - h * cost
        np.testing.assert_allclose(found.log_joint[h], own, rtol=1e-3, atol=0.05)
        for pair in range(6 if h + 1 < steps else 0):
            # No other joint would have paid more.
            tried = np.tile(left[pair], (P, 1)) & ~np.eye(P, dtype=bool)
            tried = tried[left[pair]]
            each = bodies.log_joint(mixture, np.tile(w, (len(tried), 1, 1)), tried)
            best = each[:, pair].max() - (h + 1) * cost
            assert float(found.log_joint[h + 1, pair]) == pytest.approx(best, abs=0.1)


@pytest.mark.parametrize(
    ("most", "size", "sure", "others"),
    [
        (1, 1.0, hidden.SURE, 0.01),
        (2, 1.0, hidden.SURE, 0.01),
        (1, 0.7, hidden._SURE_FITTED, 0.03),
    ],
)
def test_outliers_are_found_and_others_kept(fitted, drawn, most, size, sure, others):
    pairs, terms = fitted
    rng = np.random.default_rng(0)
    W = drawn[0][:64].copy()
    wrong = np.zeros(W.shape[:2], bool)
    for row in wrong[:48]:
        row[rng.permutation(bodies.P)[:most]] = True
    W[wrong] += size * np.sign(rng.normal(size=(48 * most, 2)))
    every = np.ones(W.shape[:2], bool)
    given = patches.Patches(W, every, np.zeros((64, 2)), np.ones(64))
    noise = np.full(W.shape[:2], NOISE**2, np.float32)
    cost = hidden.price(np.full(W.shape[:2], hidden.OUTLIERS))
    own = pairs, terms, given, W - W.mean(1, keepdims=True), noise, cost
    found = hidden.find_outliers(*own, sure=sure)
    assert found[wrong].mean() > 0.9
    assert found[~wrong].mean() < others


def test_hidden_joints_tell_that_error_bars_are_too_short(mixture, drawn):
    W = jnp.asarray(drawn[0][:64])
    every = jnp.ones(W.shape[:2], bool)
    best = {}
    for name, factor in (("true", 1.0), ("narrow", 0.4)):
        narrow = mixture._replace(Sigma=mixture.Sigma * factor**2)
        pairs = looser.as_fitted(narrow)
        terms = looser.terms_of(pairs, jnp.float32(NOISE))
        chosen = hidden.likeliest_by_parts(terms, W)
        noise = jnp.full(W.shape[:2], np.float32(NOISE**2))
        best[name] = hidden.likeliest_inflation(pairs, chosen, W, every, noise)
    assert best["true"] <= 1.1
    assert best["narrow"] > 1.4


def test_a_landmark_far_off_is_found_by_the_box():
    xy = np.array([[[0.0, 0], [1, 1], [2, 0], [0, 2], [30, 1]]])
    far = patches.far_joints(xy, np.ones((1, 5), bool), 0.6)
    assert far.tolist() == [[False, False, False, False, True]]


# --- bones --------------------------------------------------------------------------


def walker(frames=48):
    """A body of constant bones that turns and swings, and a rough idea of its depth."""
    rng = np.random.default_rng(3)
    length = np.array([0.5, 0.4, 0.5, 0.4, 0.6])
    t = np.linspace(0, 2 * np.pi, frames)
    pose = np.zeros((frames, bodies.P, 3))
    for b, (a, c) in enumerate(EDGES):
        phase = rng.uniform(0, 2 * np.pi)
        tilt, turn = 0.8 * np.sin(t + phase), t + phase
        way = np.stack(
            [np.cos(tilt) * np.cos(turn), np.sin(tilt), np.cos(tilt) * np.sin(turn)], -1
        )
        pose[:, c] = pose[:, a] + length[b] * way
    pose -= pose.mean(1, keepdims=True)
    rough = pose[..., 2] + 0.08 * rng.normal(size=pose.shape[:2])
    C = np.tile(0.08**2 * np.eye(bodies.P), (frames, 1, 1))
    xy = pose[..., :2]
    return pose, length, chain.Track(xy, rough, C, chain.motion_rate(xy), 0.01)


def test_the_bones_of_a_track_are_found_and_give_its_depth():
    pose, length, track = walker()
    groups = bones.same_bones(EDGES, PAIRS)
    assert groups.tolist() == [0, 1, 0, 1, 2]
    likely = chain.Lengths(2 * length * (1, 1.1, 1, 1.1, 0.9))
    z, L = chain.fit_track(track, likely, edges=EDGES, groups=groups)
    np.testing.assert_allclose(L, length, rtol=0.03)
    before = np.abs(track.m - pose[..., 2]).mean()
    assert np.abs(z - pose[..., 2]).mean() < 0.4 * before


@pytest.mark.parametrize("known", [False, True])
def test_no_other_depth_of_a_track_is_likelier_nearby(known):
    """The cost written once more, and the frames of a track that is hardly one."""
    _, length, track = walker(6)
    groups = bones.same_bones(EDGES, PAIRS)
    lengths = chain.Lengths(1.1 * length, known)
    z, L = chain.fit_track(track, lengths, edges=EDGES, groups=groups)

    def cost(z, L):
        bone = np.linalg.norm(
            [[(track.xy[t, b] - track.xy[t, a]).tolist() + [z[t, b] - z[t, a]]
              for a, b in EDGES] for t in range(6)], axis=-1)  # fmt: skip
        turn = (z[2:] - 2 * z[1:-1] + z[:-2]) ** 2
        one = L[:1].tolist() + L[1:2].tolist() + L[4:].tolist()
        ell = lengths.ell[[0, 1, 4]]
        scale = (L * lengths.ell).sum() / (lengths.ell**2).sum()
        odd = 0 if known else 6 * (((one / (scale * ell) - 1) / 0.4) ** 2).sum()
        noise = 1e-4 * 0.08**2 + 0.01 * track.tau**2
        own = ((z - track.m) ** 2).sum() / ((1.5 * 0.08) ** 2 + noise)
        bones = ((bone - L) ** 2).sum() / track.tau**2
        return own + bones + (track.rate[:4, None] * turn).sum() + odd

    least, rng = cost(z, L), np.random.default_rng(0)
    for size in (0.001, 0.01):
        step = size * rng.normal(size=z.shape)
        assert cost(z + step - step.mean(1, keepdims=True), L) > least
    if not known:
        assert cost(z, L * 1.001) > least
        assert cost(z, L * 0.999) > least


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_a_few_frames_are_a_track_when_the_lengths_are_known(frames):
    _, length, track = walker()
    few = chain.Track(*(x[:frames] for x in track[:3]), np.zeros(frames), track.tau)
    few = few._replace(rate=chain.motion_rate(few.xy))
    groups = bones.same_bones(EDGES, PAIRS)
    z, L = chain.fit_track(few, chain.Lengths(length, True), edges=EDGES, groups=groups)
    assert z.shape == (frames, bodies.P)
    np.testing.assert_allclose(L, length)


def test_proportions_sharpen_a_single_frame_at_any_scale():
    pose, length, track = walker()
    for scale in (1.0, 1.5):
        own = (jnp.asarray(scale * x, jnp.float32) for x in track[:2])
        C = jnp.asarray(scale**2 * track.C, jnp.float32)
        ell = jnp.asarray(length, jnp.float32)
        z = bones.fit_depths(*own, C, ell, jnp.float32(0.05), edges=EDGES)
        before = np.abs(track.m - pose[..., 2]).mean()
        assert np.abs(z / scale - pose[..., 2]).mean() < 0.85 * before


def test_no_other_depth_of_a_frame_is_likelier_nearby():
    """Nor is it one that whole steps go to and fro about."""
    _, length, track = walker()
    rng, tau = np.random.default_rng(5), 0.02
    m = 0.2 * rng.normal(size=track.m.shape)
    m -= m.mean(1, keepdims=True)
    C = 0.4**2 / bones.LOOSER**2 * np.eye(bodies.P)
    own = (track.xy, m, np.tile(C, (len(m), 1, 1)), length, tau)
    found = bones.fit_depths(*(jnp.asarray(x, jnp.float32) for x in own), edges=EDGES)

    def cost(z, xy, m):
        bone = bones.differences(np.array(EDGES), bodies.P) @ np.column_stack([xy, z])
        far = np.sqrt(np.sum(bone**2, axis=1) + 1e-4)
        far = far - far @ length / (length @ length) * length
        return np.sum((z - m) ** 2) / 0.4**2 + np.sum(far**2) / tau**2

    for z, *own in zip(np.asarray(found), track.xy, m, strict=True):
        better = optimize.minimize(cost, z, args=tuple(own))
        assert cost(z, *own) < 1.02 * better.fun + 0.05


@pytest.mark.parametrize("axis", [0, 1])
def test_the_mirror_image_counts_where_the_network_can_lift_it(
    lifter, monkeypatch, axis
):
    """A depth that goes with y is the same there, one that goes with x is not."""
    monkeypatch.setattr(PoseLifter, "_said", lambda self, W, labelled: W[..., axis])
    own = dataclasses.replace(lifter)
    found = own.network_depth(own.W, own.labelled)
    np.testing.assert_allclose(found, own.W[..., axis])
    assert (own._mirror is None) == (axis == 0)
    assert dataclasses.replace(own, adapted=True)._mirror is None


def test_a_mirrored_pose_has_the_mirrored_depth(lifter):
    own, joints = dataclasses.replace(lifter), np.array([0, 3, 4, 1, 2, 5])
    vars(own)["_mirror"] = joints
    depth = own.network_depth(own.W, own.labelled)
    other = own.network_depth(own.W[:, joints] * np.float32([-1, 1]), own.labelled)
    np.testing.assert_allclose(other, depth[:, joints], atol=1e-5)


def test_the_proportions_of_other_bodies_are_found(lifter):
    pose, length, track = walker()
    seen = {name: np.float32(getattr(track, name)) for name in ("m", "C")}
    some = lifter._training._replace(image=np.float32(track.xy), **seen)
    trained = np.float32(length * (1.2, 0.8, 1.2, 0.8, 1))
    own = setting.own_proportions(lifter, some, prior.EXACT, trained)
    true = length / length.mean()
    before, after = (x / x.mean() - true for x in (trained, own))
    assert np.abs(after).max() < 0.6 * np.abs(before).max()
    old, new = (
        np.abs(tracks.single_depth(some, prior.EXACT, ell, EDGES) - pose[..., 2]).mean()
        for ell in (trained, own)
    )
    assert new < old


# --- cameras ------------------------------------------------------------------------


def test_the_correction_is_exact_where_the_depth_is_known():
    rng = np.random.default_rng(0)
    pose = rng.normal(size=(3, 7, 3))
    pose -= pose.mean(1, keepdims=True)
    focal, distance, centre = 800.0, 6.0, np.array([320.0, 240.0])
    place = np.array([0.4, -0.3, distance])
    scale = focal / distance
    at = pose + place
    xy = centre + focal * at[..., :2] / at[..., 2:]
    moved, _ = cameras.as_weak_perspective(xy, scale * pose[..., 2], focal, centre)
    np.testing.assert_allclose(moved, centre + scale * at[..., :2], rtol=1e-9)


def test_a_near_camera_tells_more_of_the_depth(fitted, drawn):
    W, depth = drawn
    every, noise = np.ones(W.shape[:2], bool), jnp.full(W.shape[:2], NOISE**2)
    depth = depth - depth.mean(1, keepdims=True)
    w = W / (1 + depth[..., None] / 1.5)
    camera = patches.Near(jnp.asarray(w), jnp.asarray(w / 1.5))
    own = jnp.asarray(W), jnp.asarray(every), noise.astype(jnp.float32)
    near = posterior.poses_given(*fitted, *own, camera, gaps=0)
    error = {
        name: np.abs(found.pose[..., 2] - depth).mean()
        for name, found in {
            "near": near,
            "far": given(fitted, W, every),
            "not told": given(fitted, w - w.mean(1, keepdims=True), every),
        }.items()
    }
    assert error["near"] < error["far"] < error["not told"]


def test_the_landmarks_of_a_near_camera_come_back(lifter, pixels):
    found = lifter(pixels, focal=300.0, principal=(320.0, 240.0), noise=0.005)
    assert (~found.outlier).any()
    np.testing.assert_allclose(
        found.keypoints[~found.outlier], pixels[~found.outlier], atol=0.1
    )


# --- the lifter ---------------------------------------------------------------------


def test_shapes_and_what_is_given(lifted, pixels):
    n, P = pixels.shape[:2]
    assert lifted.keypoints_3d.shape == lifted.keypoints_3d_std.shape == (n, P, 3)
    assert lifted.covariance.shape == (n, 3 * P, 3 * P)
    assert np.isfinite(lifted.keypoints_3d).all()
    assert not lifted.keypoints_3d[:, 0].any()  # the root
    assert ((lifted.evidence_quantile >= 0) & (lifted.evidence_quantile <= 1)).all()
    own = np.einsum("naa->na", lifted.covariance).reshape(n, P, 3)
    np.testing.assert_allclose(np.sqrt(own), lifted.keypoints_3d_std, rtol=1e-3)


def test_what_the_bones_move_belongs_to_the_error(lifter, lifted, pixels):
    skeleton = lifter.teacher.skeleton | {"edges": ()}
    loose = dataclasses.replace(lifter.teacher, skeleton=skeleton)
    bare = dataclasses.replace(lifter, teacher=loose)
    found = bare(pixels, noise=0.02, focal=np.inf)
    with_bones, without = (x.keypoints_3d[..., 2] for x in (lifted, found))
    moved = with_bones - without
    moved = moved - moved.mean(1, keepdims=True)
    more = lifted.keypoints_3d_std[..., 2] ** 2 - found.keypoints_3d_std[..., 2] ** 2
    assert np.abs(moved).max() > 1
    np.testing.assert_allclose(more, moved**2, rtol=0.02, atol=0.5)


def test_scale_and_place_in_the_picture_do_not_matter(lifter, lifted, pixels):
    moved = lifter(2 * pixels + 50, noise=0.02, focal=np.inf)
    np.testing.assert_allclose(
        moved.keypoints_3d, 2 * lifted.keypoints_3d, rtol=1e-2, atol=0.2
    )
    np.testing.assert_allclose(moved.keypoints, 2 * lifted.keypoints + 50, rtol=1e-3)
    np.testing.assert_allclose(moved.log_evidence, lifted.log_evidence, atol=0.05)


def test_the_order_of_the_frames_does_not_matter(lifter, lifted, pixels):
    order = np.random.default_rng(0).permutation(len(pixels))
    found = lifter(pixels[order], noise=0.02, focal=np.inf)
    np.testing.assert_allclose(
        found.keypoints_3d, lifted.keypoints_3d[order], rtol=1e-2, atol=0.2
    )


def test_a_mirrored_teacher_negates_the_depth_alone(lifter, lifted, pixels):
    turned = dataclasses.replace(lifter, teacher=lifter.teacher.mirrored())
    found = turned(pixels, noise=0.02, focal=np.inf, covariance=True)
    signs = np.array([1, 1, -1])
    np.testing.assert_allclose(
        found.keypoints_3d, signs * lifted.keypoints_3d, rtol=1e-3, atol=0.01
    )
    both = np.tile(signs, bodies.P)
    np.testing.assert_allclose(
        found.covariance, lifted.covariance * np.outer(both, both), rtol=1e-2, atol=0.1
    )


def test_frames_that_show_nothing_are_not_numbers(lifter, pixels):
    xy = pixels[:8].copy()
    xy[0] = np.nan  # nothing
    xy[1, 1:] = np.nan  # one joint
    xy[2, 3] = np.nan
    found = lifter(xy, noise=0.02, focal=np.inf)
    assert np.isnan(found.keypoints_3d[:2]).all()
    assert np.isnan(found.log_evidence[:2]).all()
    assert found.evidence_quantile[:2].tolist() == [0, 0]
    assert np.isfinite(found.keypoints_3d[2:]).all()
    missing = found.keypoints_3d_std[2, 3, :2].mean()
    assert missing > 1.2 * found.keypoints_3d_std[2, :3, :2].mean()


@pytest.mark.parametrize(("adapted", "left"), [(False, 0.25), (True, 1.0)])
def test_the_frames_of_a_track_leave_less_variance(
    lifter, pixels, monkeypatch, adapted, left
):
    """Of looser shapes; what was fitted to the landmarks is no wider than it should."""
    lifter = dataclasses.replace(lifter, adapted=adapted, share=0.0)
    track = np.repeat([7, 9], 12)
    options = {"track": track, "noise": 0.02, "focal": np.inf, "covariance": True}
    found = []
    for factor in (1.0, 0.25):
        monkeypatch.setattr(lifter_module, "_JOINED", factor)
        found.append(lifter(pixels, **options))
    assert np.isfinite(found[0].keypoints_3d).all()
    std, other = (x.keypoints_3d_std for x in found)
    np.testing.assert_allclose(other, left**0.5 * std, rtol=1e-5)
    own = np.einsum("naa->na", found[1].covariance).reshape(std.shape)
    np.testing.assert_allclose(np.sqrt(own), other, rtol=1e-3)


def test_a_noisy_track_is_smoothed(lifter, pixels):
    """Of a body that stands still the noise alone is left, and less of it."""
    rng = np.random.default_rng(0)
    xy = np.tile(pixels[:1], (40, 1, 1)) + 4 * rng.normal(size=(40, *pixels.shape[1:]))
    track = np.zeros(40, int)
    level = 0.04  # of the longer side of the box
    alone, joined = (
        lifter(xy, track=t, noise=level, focal=np.inf) for t in (None, track)
    )
    for name in ("keypoints", "keypoints_3d"):
        spread = [getattr(found, name).std(axis=0).mean() for found in (alone, joined)]
        assert spread[1] < 0.7 * spread[0], name


@pytest.mark.parametrize(
    ("true", "turns"), [(0.0, 6), (0.03, 6), (0.0, 60), (0.0, 900)]
)
def test_the_noise_of_a_track_is_what_no_motion_explains(lifter, true, turns):
    """Of bodies that turn slowly, fast, or anyhow between two frames, with outliers."""
    rng, t = np.random.default_rng(0), np.linspace(0, turns, 120)[:, None]
    angle = rng.uniform(0, 6, bodies.P) + 2 * t
    xy = 100 * np.stack([np.cos(angle), np.sin(angle)], -1)
    half_side = 1.25 * 200 / 2
    xy = xy + true * half_side * rng.normal(size=xy.shape)
    xy[rng.random(xy.shape[:2]) < 0.02] += 300
    labelled = rng.random(xy.shape[:2]) < 0.95
    frames = records.Landmarks(xy, labelled, np.ones(labelled.shape))
    found = setting.noise_in_time(lifter, frames, np.repeat([4, 2], 60))
    assert abs(found - true) < 0.2 * true + 0.002
    for track in (np.arange(120), np.full(120, -1)):
        assert setting.noise_in_time(lifter, frames, track) == 0


def test_frames_of_few_joints_teach_nothing(lifter, pixels):
    few = pixels.copy()
    few[:, 2:] = np.nan
    with pytest.raises(ValueError, match=r"0 of 24 frames .* half of the joints"):
        lifter.adapt(few)


@pytest.mark.parametrize("most", [0.0, 0.5])
@pytest.mark.parametrize("adapted", [False, True])
def test_the_share_of_the_network_falls_with_free_views(lifter, pixels, most, adapted):
    """It has seen views around upright bodies only; fitted shapes have no others."""
    own = dataclasses.replace(lifter, adapted=adapted, share=most)
    patch = patches.patches_of(pixels, np.ones(pixels.shape[:2], bool), padding=1.25)
    nobody, doubt = np.zeros(patch.labelled.shape, bool), np.ones(patch.labelled.shape)
    posed = frames.posed(own, patch, nobody, doubt, 0.02)
    free, shapes = posed.given.free, posed.given.pose[..., 2]
    other = own.network_depth(posed.image, patch.labelled) - shapes
    share = ((posed.m - shapes) * other).sum(1) / np.square(other).sum(1)
    np.testing.assert_allclose(share, most * (1 - free / 2), atol=1e-3)
    assert not (adapted and free.any())
    apart = share * (1 - share) * np.square(other).mean(1)
    np.testing.assert_allclose(posed.apart, apart, rtol=0.01, atol=1e-6)


@pytest.mark.parametrize("most", [0.0, 0.5])
def test_the_network_tells_the_sign_of_what_the_shapes_have_not_seen(
    lifter, pixels, most
):
    """And the xz and yz covariances of a pose that is turned over change sign."""
    own = dataclasses.replace(lifter, share=most)
    patch = patches.patches_of(pixels, np.ones(pixels.shape[:2], bool), padding=1.25)
    nobody, doubt = np.zeros(patch.labelled.shape, bool), np.ones(patch.labelled.shape)
    before = frames.posed(own, patch, nobody, doubt, 0.02)
    nats = np.asarray(before.given.log_p) / bodies.P
    limit = float(np.median(nats))
    after = frames.posed(own, patch, nobody, doubt, 0.02, limit)
    said = own.network_depth(before.image, patch.labelled)
    against = np.sum(said * before.given.pose[..., 2], axis=1) < 0
    over = against & (nats < limit) & (most > 0)
    assert not most or (0 < over.sum() < against.sum())
    sign = np.where(over[:, None], -1, 1)
    np.testing.assert_array_equal(
        after.given.pose, before.given.pose * np.stack([sign**2, sign**2, sign], -1)
    )
    turned = np.kron(np.eye(bodies.P), np.diag([1, 1, -1]))
    expected = np.where(
        over[:, None, None],
        turned @ before.given.covariance @ turned,
        before.given.covariance,
    )
    np.testing.assert_array_equal(after.given.covariance, expected)
    assert (after.given.mirrored[over] == 0.5).all()
    np.testing.assert_array_equal(after.C, before.C)


def test_a_score_says_which_landmark_to_believe(lifter, pixels):
    score = np.ones(pixels.shape[:2])
    score[:, 2] = 0.1
    sure = lifter(pixels, noise=0.05, focal=np.inf)
    found = lifter(pixels, score=score, noise=0.05, focal=np.inf)
    spread = found.keypoints_3d_std[:, 2, :2] / sure.keypoints_3d_std[:, 2, :2]
    assert np.median(spread) > 1.1


def test_arrays_that_do_not_fit_are_refused(lifter, pixels):
    with pytest.raises(ValueError, match="6 joints"):
        lifter(pixels[:, :5])
    with pytest.raises(ValueError, match="score has shape"):
        lifter(pixels, score=np.ones(3))
    with pytest.raises(ValueError, match="track has shape"):
        lifter(pixels, track=np.ones(3, int))
    for focal in (-1.0, 0.0, np.nan):
        with pytest.raises(ValueError, match=r"focal = .* is not above 0; inf"):
            lifter(pixels, focal=focal)
    with pytest.raises(ValueError, match=r"focal = 35 pixels .* touch .* millimetres"):
        lifter(pixels, focal=35.0)
    with pytest.raises(ValueError, match=r"principal = .* is not x and y in pixels"):
        lifter(pixels, principal=(320.0, np.nan))


def test_no_teacher_no_lifter(tmp_path: Path):
    with pytest.raises(ValueError, match="teacher"):
        PoseLifter.load(tmp_path)


def test_shapes_fitted_again_explain_new_poses_in_the_same_frame(mixture):
    """Draws of a third pose that the mixture does not have."""
    W, _ = bodies.sample(mixture, 150, seed=4)
    other = mixture._replace(mu=mixture.mu[::-1] * 1.4)
    new, depth = bodies.sample(other, 150, seed=5)
    begun = given(model_of(mixture), new, np.ones(new.shape[:2], bool))
    log_p, poses = np.asarray(begun.log_p), np.asarray(begun.pose)
    old = bodies.complete(W)
    fitted = adapt.refit(mixture, old, bodies.complete(new), poses, log_p, sigma=NOISE)
    assert posterior_evidence(fitted, new).mean() > log_p.mean() + 0.5
    found = given(model_of(fitted), new, np.ones(new.shape[:2], bool))
    agree = (np.asarray(found.pose[..., 2]) * depth).sum(1) > 0
    assert agree.mean() > 0.8


def test_a_component_begins_at_the_pose_that_it_is_given(mixture):
    """And explains it: seen from one of the views the mean is that pose."""
    poses = np.random.default_rng(0).normal(size=(3, bodies.P, 3)).astype(np.float32)
    poses -= poses.mean(1, keepdims=True)
    started = adapt.with_components(mixture, poses)
    added = np.asarray(started.mu[-3:]).reshape(3, 1, bodies.P, 3)
    away = np.abs(added @ np.asarray(mixture.views) - poses[:, None]).max((2, 3))
    assert away.min(1).max() < 1e-5
    assert float(jnp.exp(started.log_weight).sum()) == pytest.approx(1, abs=1e-5)


def test_poses_that_are_alike_begin_one_component():
    near = np.zeros((40, 2, 3))
    far = np.concatenate([near, near + 5, near - 7])
    assert sorted(adapt.apart(far, 3)[:, 0, 0].tolist()) == [-7, 0, 5]
    assert len(adapt.apart(near, 3)) == 1


def model_of(mixture):
    pairs = looser.as_fitted(mixture)
    return pairs, looser.terms_of(pairs, jnp.float32(NOISE))


def posterior_evidence(mixture, W):
    return np.asarray(given(model_of(mixture), W, np.ones(W.shape[:2], bool)).log_p)
