"""EM for one Gaussian shape with a latent view, against dense formulas and scipy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp, softmax
from scipy.stats import multivariate_normal

from nrsfm_jax import gaussian_shape as gs
from nrsfm_jax import view_likelihood
from nrsfm_jax.missing import start_features
from nrsfm_jax.views import rotation_views, upright_views
from nrsfm_jax.visibility import Samples

P = 6


@pytest.fixture(scope="module")
def shape() -> gs.GaussianShape:
    """A body of six joints, longer in y than in x and z."""
    rng = np.random.default_rng(0)
    S = rng.normal(size=(P, 3)) * (0.3, 0.5, 0.25)
    centring = np.kron(np.eye(P) - 1 / P, np.eye(3))
    root = 0.05 * centring @ rng.normal(size=(3 * P, 3 * P))
    mu = (S - S.mean(0)).reshape(-1).astype(np.float32)
    Sigma = (root @ root.T).astype(np.float32)
    views = upright_views((-10.0, 5.0, 20.0, 35.0), 12)
    return gs.GaussianShape(
        *map(jnp.asarray, (mu, Sigma, np.float32(0.04), views, np.float32(0)))
    )


def sample(shape, count, seed=1):
    """Landmarks centred over the joints, and true depth centred likewise."""
    rng = np.random.default_rng(seed)
    s = rng.multivariate_normal(shape.mu, shape.Sigma, size=count, check_valid="ignore")
    g = rng.integers(len(shape.views), size=count)
    S_cam = np.einsum(
        "npa,nab->npb", s.reshape(count, P, 3), np.asarray(shape.views)[g]
    )
    S_cam[..., :2] += rng.normal(size=(count, P, 2)) * float(shape.sigma)
    S_cam -= S_cam.mean(1, keepdims=True)
    return S_cam[..., :2].astype(np.float32), S_cam[..., 2], g


def flips(ours, z):
    return np.mean(np.sum(ours * z, axis=1) < 0)


def dense(shape, shown):
    """float64 A_g mu, C_g and K_g over the shown joints, straight from the model."""
    mu, Sigma = np.float64(shape.mu), np.float64(shape.Sigma)
    rows = np.repeat(shown, 2)
    out = []
    for R in np.float64(shape.views):
        A = np.kron(np.eye(P), R[:, :2].T)[rows]
        shift = (
            view_likelihood.SHIFT_VARIANCE
            * np.tile(np.eye(2), (P, P))[np.ix_(rows, rows)]
        )
        C = A @ Sigma @ A.T + float(shape.sigma) ** 2 * np.eye(len(A)) + shift
        out.append((A @ mu, C, Sigma @ A.T @ np.linalg.inv(C)))
    return out


def dense_log_p(shape, w, shown):
    rows = np.repeat(shown, 2)
    return np.stack(
        [
            multivariate_normal(m, C).logpdf(w[:, rows]).reshape(len(w))
            for m, C, _ in dense(shape, shown)
        ],
        axis=1,
    )


PATTERNS = [np.ones(P, bool), np.arange(P) != 2, np.isin(np.arange(P), (0, 1, 5))]


def test_inverse_and_log_determinant():
    """Condition 1e4, as C_g has with little noise."""
    Q = np.linalg.qr(np.random.default_rng(0).normal(size=(34, 34)))[0]
    C = (Q * np.geomspace(1e-4, 1, 34)) @ Q.T
    inverse, log_det = view_likelihood.inverse_and_log_det(jnp.asarray(C, jnp.float32))
    np.testing.assert_allclose(inverse @ C, np.eye(34), atol=5e-3)
    np.testing.assert_allclose(log_det, np.linalg.slogdet(C)[1], atol=5e-3)


@pytest.mark.parametrize("shown", PATTERNS)
def test_view_log_likelihoods_match_scipy(shape, shown):
    w = sample(shape, 40)[0].reshape(40, -1) * np.repeat(shown, 2)
    terms = view_likelihood.view_terms(*shape[:4], jnp.asarray(shown))
    ours = view_likelihood.view_log_likelihoods(
        view_likelihood.features_of(jnp.asarray(w)), terms
    )
    theirs = dense_log_p(shape, w, shown)
    near = theirs > theirs.max(1, keepdims=True) - 30
    np.testing.assert_allclose(np.asarray(ours)[near], theirs[near], atol=5e-3)
    np.testing.assert_allclose(
        jax.nn.softmax(ours, axis=1), softmax(theirs, axis=1), atol=3e-3
    )


@pytest.mark.parametrize("shown", PATTERNS)
def test_posterior_depth_matches_dense_formula(shape, shown):
    W = sample(shape, 30)[0] * shown[:, None].astype(np.float32)
    z, view, log_p = gs.posterior_depth(shape, W, np.tile(shown, (30, 1)))
    joint = dense_log_p(shape, W.reshape(30, -1), shown)
    terms, rows = dense(shape, shown), np.repeat(shown, 2)
    for i in range(30):
        mean, _, K = terms[view[i]]
        s = np.float64(shape.mu) + K @ (W[i].reshape(-1)[rows] - mean)
        depth = s.reshape(P, 3) @ np.float64(shape.views[view[i], :, 2])
        np.testing.assert_allclose(z[i], depth - depth.mean(), atol=2e-4)
        assert joint[i, view[i]] > joint[i].max() - 1e-2
    expected = logsumexp(joint, axis=1) - np.log(len(shape.views))
    np.testing.assert_allclose(log_p, expected, atol=5e-3)


def test_em_step_matches_textbook_formulas(shape):
    """K_g, responsibilities and second moments per sample, as they are written."""
    W, _, _ = sample(shape, 20)
    samples = Samples(jnp.asarray(W), None)
    shown = np.ones((20, P), bool)
    start = shape._replace(mu=shape.mu + 0.02, Sigma=1.5 * shape.Sigma)
    mu, Sigma, _, _ = gs._em_step(*start[:4], start_features(samples), samples)
    mean, second = np.zeros(3 * P), np.zeros((3 * P, 3 * P))
    mu0, Sigma0 = np.float64(start.mu), np.float64(start.Sigma)
    for w, v in zip(W.reshape(20, -1), shown, strict=True):
        rows = np.repeat(v, 2)
        r = softmax(dense_log_p(start, w[None], v)[0])
        for g, (m, _, K) in enumerate(dense(start, v)):
            A = np.kron(np.eye(P), np.float64(start.views[g])[:, :2].T)[rows]
            s = mu0 + K @ (w[rows] - m)
            mean += r[g] * s / 20
            cov = Sigma0 - K @ A @ Sigma0
            second += r[g] * (np.outer(s, s) + cov) / 20
    np.testing.assert_allclose(mu, mean, atol=1e-4)
    np.testing.assert_allclose(Sigma, second - np.outer(mean, mean), atol=1e-4)


@pytest.mark.parametrize("missing", [False, True])
def test_likelihood_never_falls_at_fixed_sigma(shape, missing):
    W, _, _ = sample(shape, 300)
    shown = np.ones((300, P), bool)
    if missing:
        shown[np.arange(300), np.arange(300) % 3] = False
        W = np.where(shown[..., None], W, np.float32(0))
    samples = Samples(W, shown if missing else None)
    mu, Sigma = gs._initial(gs._upright_start(samples))
    *_, trace = gs._run_em(
        mu, Sigma, jnp.full(30, 0.06), shape.views, samples, jnp.float32(0)
    )
    assert np.diff(trace).min() > -1e-3
    assert trace[-1] > trace[0] + 1


@pytest.mark.parametrize("seed", [0, 1])
def test_recovers_true_depth_not_its_mirror_image(shape, seed):
    """The camera looks down on average, and that alone decides the sign."""
    W, z, _ = sample(shape, 1500)
    fit = gs.fit_gaussian_shape(
        W,
        key=jax.random.key(seed),
        elevations_deg=(-10.0, 5.0, 20.0, 35.0),
        num_yaws=12,
    )
    ours, _, _ = gs.posterior_depth(fit, W, chunk=512)
    known, _, _ = gs.posterior_depth(shape, W, chunk=512)
    assert flips(ours, z) < flips(known, z) + 0.03
    error, best = np.abs(ours - z).mean(), np.abs(known - z).mean()
    assert best < error < 1.15 * best
    mirrored = shape.mu * jnp.tile(jnp.array([1, 1, -1], jnp.float32), P)
    wrong = gs.posterior_depth(shape._replace(mu=mirrored), W, chunk=512)[2].mean()
    assert fit.log_likelihood > wrong


def test_incomplete_samples_are_left_out_where_complete_ones_suffice(shape):
    """Fitting with incomplete rows present equals dropping these rows."""
    W, _, _ = sample(shape, 900)
    shown = np.ones((900, P), bool)
    shown[600:, 1] = False
    options = {"num_yaws": 8, "elevations_deg": (0.0, 20.0), "iterations": 5}
    key = jax.random.key(3)
    options["num_samples"] = 600
    full = gs.fit_gaussian_shape(W, labelled=shown, key=key, **options)
    dropped = gs.fit_gaussian_shape(W[:600], key=key, **options)
    np.testing.assert_array_equal(full.mu, dropped.mu)
    np.testing.assert_array_equal(full.Sigma, dropped.Sigma)


def test_fit_without_any_complete_sample(shape):
    """Each sample lacks one joint; its depth is predicted nevertheless."""
    W, z, _ = sample(shape, 800)
    shown = np.ones((800, P), bool)
    shown[np.arange(800), np.arange(800) % P] = False
    W = W * shown[..., None]
    W = (W - W.sum(1, keepdims=True) / (P - 1)) * shown[..., None]
    fit = gs.fit_gaussian_shape(
        W.astype(np.float32),
        labelled=shown,
        key=jax.random.key(0),
        elevations_deg=(-10.0, 5.0, 20.0, 35.0),
        num_yaws=12,
    )
    ours, _, _ = gs.posterior_depth(fit, W.astype(np.float32), shown)
    assert np.isfinite(ours).all()
    known, _, _ = gs.posterior_depth(shape, W.astype(np.float32), shown)
    assert flips(ours, z) < flips(known, z) + 0.05
    for joints in (shown, ~shown):
        best = np.abs(known - z)[joints].mean()
        assert np.abs(ours - z)[joints].mean() < 1.15 * best


def test_missing_joint_is_ignored_whatever_its_value(shape):
    W = sample(shape, 10)[0]
    shown = np.tile(PATTERNS[1], (10, 1))
    noise = np.where(shown[..., None], W, np.float32(np.nan))
    for a, b in zip(
        gs.posterior_depth(shape, W, shown),
        gs.posterior_depth(shape, noise, shown),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_centring_over_visible_joints_changes_nothing(shape):
    """The free shift absorbs the mean, whichever joints it was taken over."""
    W = sample(shape, 50)[0]
    shown = np.tile(PATTERNS[1], (50, 1))
    moved = W - W[:, PATTERNS[1]].mean(1, keepdims=True)
    z, view, _ = gs.posterior_depth(shape, W, shown)
    z_moved, view_moved, _ = gs.posterior_depth(shape, moved, shown)
    same = view == view_moved
    assert same.mean() > 0.95
    np.testing.assert_allclose(z[same], z_moved[same], atol=1e-2)


@pytest.mark.parametrize(
    "views", [upright_views((-10.0, 0.0, 30.0), 24), rotation_views(300)]
)
def test_views_are_rotations(views):
    products = np.einsum("gab,gcb->gac", views, views)
    np.testing.assert_allclose(
        products, np.tile(np.eye(3), (len(views), 1, 1)), atol=1e-6
    )
    np.testing.assert_allclose(np.linalg.det(views.astype(np.float64)), 1, atol=1e-6)


def test_elevation_sign_by_hand():
    """From 30 degrees above, the head is nearer than the feet."""
    R = upright_views((30.0,), 4)
    head = np.array([0.0, 1.0, 0.0], np.float32) @ R
    np.testing.assert_allclose(
        head, np.tile([0, -np.sqrt(0.75), -0.5], (4, 1)), atol=1e-6
    )
    # The body's z faces the camera at yaw 0, and appears low in the picture.
    np.testing.assert_allclose(R[0, 2], [0, 0.5, -np.sqrt(0.75)], atol=1e-6)
    np.testing.assert_allclose(R[1, 2], [1, 0, 0], atol=1e-6)


def test_rotation_views_are_spread_evenly():
    """The mean of a uniform set of rotations is 0, and no gap is wide."""
    views = rotation_views(400).astype(np.float64)
    assert np.abs(views.mean(0)).max() < 0.02
    rng = np.random.default_rng(0)
    others = np.linalg.qr(rng.normal(size=(500, 3, 3)))[0]
    others *= np.linalg.det(others)[:, None, None]
    cosine = (np.einsum("nab,gab->ng", others, views).max(1) - 1) / 2
    assert np.rad2deg(np.arccos(cosine)).max() < 35


def test_rotation_views_fit_runs_and_explains_the_data(shape):
    W, _, _ = sample(shape, 600)
    fit = gs.fit_gaussian_shape(
        W, key=jax.random.key(0), views=rotation_views(150), level_iterations=20
    )
    assert np.isfinite(fit.log_likelihood)
    assert fit.views.shape == (150, 3, 3)
    np.testing.assert_allclose(fit.mu.reshape(P, 3).mean(0), 0, atol=1e-5)


def test_useless_input_is_refused(shape):
    W = sample(shape, 5)[0]
    W[3, 2, 0] = np.nan
    with pytest.raises(ValueError, match=r"W\[3\]"):
        gs.posterior_depth(shape, W)
    with pytest.raises(ValueError, match="show a landmark"):
        gs.fit_gaussian_shape(W, labelled=np.zeros((5, P), bool), key=jax.random.key(0))
    with pytest.raises(ValueError, match="num_yaws=0"):
        upright_views((0.0,), 0)
