"""NaN, infinity, extreme scale, few and many joints, in every public function."""

import functools

import jax
import numpy as np
import pytest

import losses
import nrsfm_jax
from nrsfm_jax.em import gaussians

METRICS = {
    name: functools.partial(getattr(losses, name), **how)
    for names, how in (
        (("mpjpe", "n_mpjpe", "pck3d", "auc"), {"root": 0}),
        (("pa_mpjpe", "pa_mpjpe_rigid", "pa_mpjpe_reflection"), {}),
        (("depth_error", "flipped"), {}),
    )
    for name in names
}


@pytest.mark.parametrize("joints", [1, 2, 200])
@pytest.mark.parametrize("name", METRICS)
def test_metrics(name, joints):
    """Finite at any scale and where nothing moves; what is no number stays none."""
    rng = np.random.default_rng(0)
    pred, truth = rng.normal(size=(2, 3, joints, 3))
    for scale in (1, 0, 1e-100, 1e100):
        assert np.isfinite(METRICS[name](scale * pred, scale * truth)).all()
    assert np.isfinite(METRICS[name](pred, pred)).all()
    pred[1, 0, 2] = np.nan
    if name in ("flipped", "pck3d", "auc"):  # shares, of which it is no part
        assert not METRICS[name](pred, truth)[1] > 1
        return
    values = METRICS[name](pred, truth)
    assert np.isnan(values).tolist() == [False, True, False]


@pytest.mark.parametrize("spoil", [np.nan, np.inf])
def test_a_score_of_what_is_no_number_is_refused(spoil):
    pred, truth = np.random.default_rng(0).normal(size=(2, 3, 4, 3))
    pred[1, 2, 0] = spoil
    how = {"edges": [(0, 1)], "root": 0}
    with pytest.raises(ValueError, match="prediction of sample 1, joint 2 is"):
        losses.evaluate_poses(pred, truth, **how)
    with pytest.raises(ValueError, match="truth of sample 1, joint 2 is"):
        losses.per_action_table(truth, pred, ["a"] * 3, **how)


@pytest.mark.parametrize("joints", [1, 2, 5, 200])
def test_handedness(joints):
    poses = np.random.default_rng(0).normal(size=(40, joints, 3))
    for scale in (1, 0, 1e-30, 1e30):
        signs, report = nrsfm_jax.synchronise_signs(scale * poses)
        assert set(signs) <= {-1, 1}
        assert np.isfinite([report.fit, report.gain, report.bimodality]).all()
    poses[7] = np.nan
    if joints >= 5:
        with pytest.raises(ValueError, match=r"poses\[7\] is not finite"):
            nrsfm_jax.synchronise_signs(poses)


@pytest.mark.parametrize("joints", [1, 2])
def test_posterior(joints):
    """At any size of the landmarks; those that are no numbers are refused."""
    rng = np.random.default_rng(0)
    A = rng.normal(size=(3 * joints, 3 * joints)) / 10
    H = np.asarray(gaussians.centring(joints))
    views = np.linalg.qr(rng.normal(size=(2, 3, 3)))[0]
    mixture = gaussians.single_gaussian(
        np.zeros(3 * joints), H @ A @ A.T @ H, 0.05, views.astype(np.float32)
    )
    W = rng.normal(size=(2, joints, 2)).astype(np.float32)
    for scale in (1, 0, 1e-20, 1e6):
        found = nrsfm_jax.posterior_of(mixture, W * np.float32(scale))
        assert all(np.isfinite(array).all() for array in found)
    labelled = np.ones((2, joints), bool)
    labelled[0, 0] = False
    W[0, 0] = np.nan
    found = nrsfm_jax.posterior_of(mixture, W, labelled)
    assert all(np.isfinite(array).all() for array in found)
    with pytest.raises(ValueError, match=r"W\[0\] has a landmark that is not finite"):
        nrsfm_jax.expected_pose(mixture, W)
    with pytest.raises(ValueError, match="not finite"):
        nrsfm_jax.fit_shapes(W, key=jax.random.key(0))
