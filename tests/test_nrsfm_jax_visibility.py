"""Which samples a fit takes, and their mirror images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from input_pipeline.skeleton import H36M_17, Skeleton
from nrsfm_jax.first_pose import mirror_of
from nrsfm_jax.view_likelihood import features_of, view_log_likelihoods, view_terms
from nrsfm_jax.views import upright_views
from nrsfm_jax.visibility import Samples, beside_mirrored, choose_samples

MIRROR = np.array([0, 2, 1])


def test_mirror_images_by_hand():
    W = np.array([[[0.1, -0.5], [0.3, 0.2], [-0.4, 0.3]]], np.float32)
    shown = np.array([[True, True, False]])
    both = beside_mirrored(Samples(W, shown), MIRROR)
    np.testing.assert_array_equal(both.W[0], W[0])
    image = np.array([[-0.1, -0.5], [0.4, 0.3], [-0.3, 0.2]], np.float32)
    np.testing.assert_array_equal(both.W[1], image)
    np.testing.assert_array_equal(both.shown, [[1, 1, 0], [1, 0, 1]])


def test_complete_samples_stay_complete():
    both = beside_mirrored(Samples(np.ones((4, 3, 2), np.float32), None), MIRROR)
    assert both.labelled is None
    assert both.W.shape == (8, 3, 2)


def test_without_left_and_right_there_is_no_mirror_image():
    lone = Skeleton(name="lone", joints=("a", "b"), edges=((0, 1),))
    samples = Samples(np.ones((4, 2, 2), np.float32), None)
    assert beside_mirrored(samples, mirror_of(lone)) is samples
    mirror = mirror_of(H36M_17)
    assert mirror is not None
    assert H36M_17.joints[mirror[H36M_17.joints.index("LKnee")]] == "RKnee"


def test_the_mirrored_shape_at_the_mirrored_yaw_explains_the_mirror_image():
    """So that the grid of views of the EM holds for mirror images as well."""
    rng = np.random.default_rng(0)
    P, yaws, elevations = 3, 6, (-10.0, 30.0)
    W = rng.normal(size=(5, P, 2)).astype(np.float32)
    mu = rng.normal(size=(P, 3)).astype(np.float32)
    root = 0.3 * rng.normal(size=(3 * P, 3 * P)).astype(np.float32)
    turn = np.kron(np.eye(P)[MIRROR], np.diag([-1, 1, 1])).astype(np.float32)

    def log_p(W, mu, Sigma):
        views = jnp.asarray(upright_views(elevations, yaws))
        sigma, all_joints = jnp.float32(0.1), jnp.ones(P, bool)
        terms = view_terms(
            jnp.asarray(mu), jnp.asarray(Sigma), sigma, views, all_joints
        )
        features = features_of(jnp.asarray(W).reshape(len(W), -1))
        return view_log_likelihoods(features, terms).reshape(len(W), -1, yaws)

    Sigma = root @ root.T
    image = np.asarray(beside_mirrored(Samples(W, None), MIRROR).W)[5:]
    there = log_p(image, turn @ mu.ravel(), turn @ Sigma @ turn.T)
    here = log_p(W, mu.ravel(), Sigma)
    np.testing.assert_allclose(there, here[..., -np.arange(yaws)], rtol=1e-4)


@pytest.mark.parametrize(("complete", "count"), [(40, 40), (30, 80), (0, 80)])
def test_more_samples_where_complete_ones_are_too_few(complete, count):
    labelled = np.ones((200, 4), bool)
    gap = np.arange(complete, 200)
    labelled[gap, gap % 4] = False
    W = np.arange(1600, dtype=np.float32).reshape(200, 4, 2)
    samples = choose_samples(
        W, labelled, key=jax.random.key(0), num_samples=40, num_incomplete=80
    )
    assert len(samples.W) == count
    assert samples.shown.all(1).sum() == complete
    assert (samples.labelled is None) == (count == 40)
