"""Which samples a fit takes, their mirror images, and the order of their gaps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from em_bodies import complete

from input_pipeline.skeleton import H36M_17, Skeleton
from nrsfm_jax.em.gaussians import features_of, log_joints, pair_terms, single_gaussian
from nrsfm_jax.em.samples import (
    Samples,
    beside_mirrored,
    check_landmarks,
    choose_samples,
    equal_gaps,
    gap_steps,
    mirror_of,
    most_gaps,
)
from nrsfm_jax.em.views import upright_views

MIRROR = np.array([0, 2, 1])
P = 6


def test_mirror_images_by_hand():
    W = np.array([[[0.1, -0.5], [0.3, 0.2], [-0.4, 0.3]]], np.float32)
    labelled = np.array([[True, True, False]])
    both = beside_mirrored(Samples(W, labelled), MIRROR)
    np.testing.assert_array_equal(both.W[0], W[0])
    image = np.array([[-0.1, -0.5], [0.4, 0.3], [-0.3, 0.2]], np.float32)
    np.testing.assert_array_equal(both.W[1], image)
    np.testing.assert_array_equal(both.labelled, [[1, 1, 0], [1, 0, 1]])


def test_without_left_and_right_there_is_no_mirror_image():
    lone = Skeleton(name="lone", joints=("a", "b"), edges=((0, 1),))
    samples = complete(np.ones((4, 2, 2), np.float32))
    assert beside_mirrored(samples, mirror_of(lone)) is samples
    mirror = mirror_of(H36M_17)
    assert mirror is not None
    assert H36M_17.joints[mirror[H36M_17.joints.index("LKnee")]] == "RKnee"


def test_the_mirrored_shape_at_the_mirrored_yaw_explains_the_mirror_image():
    """So that the grid of views of the EM holds for mirror images as well."""
    rng = np.random.default_rng(0)
    P, yaws, views = 3, 6, upright_views((-10.0, 30.0), 6)
    W = rng.normal(size=(5, P, 2)).astype(np.float32)
    mu = rng.normal(size=3 * P).astype(np.float32)
    root = 0.3 * rng.normal(size=(3 * P, 3 * P)).astype(np.float32)
    turn = np.kron(np.eye(P)[MIRROR], np.diag([-1, 1, 1])).astype(np.float32)

    def log_p(W, mu, Sigma):
        terms = pair_terms(single_gaussian(mu, Sigma, 0.1, views))
        features = features_of(jnp.asarray(W).reshape(len(W), -1))
        return log_joints(features, terms).reshape(len(W), -1, yaws)

    Sigma = root @ root.T
    image = np.asarray(beside_mirrored(complete(W), MIRROR).W)[5:]
    there = log_p(image, turn @ mu, turn @ Sigma @ turn.T)
    here = log_p(W, mu, Sigma)
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
    assert samples.labelled.all(1).sum() == complete
    assert (most_gaps(samples.labelled) == 0) == (count == 40)


def test_samples_that_miss_fewest_are_chosen():
    labelled = np.ones((90, P), bool)
    labelled[30:, 0] = np.arange(60) % 2 == 0
    labelled[60:, 1] = False
    W = np.zeros((90, P, 2), np.float32)
    samples = choose_samples(W, labelled, key=jax.random.key(0), num_samples=50)
    assert np.sort((~samples.labelled).sum(1)).tolist() == [0] * 45 + [1] * 5


def test_a_joint_of_few_samples_is_not_lost():
    """Only samples that miss two others have joint 0."""
    labelled = np.ones((100, P), bool)
    labelled[:60, 0] = False
    labelled[60:, 1:3] = False
    W = np.zeros((100, P, 2), np.float32)
    samples = choose_samples(W, labelled, key=jax.random.key(0), num_samples=50)
    assert 10 < samples.labelled[:, 0].sum() < 30


def test_samples_without_a_landmark_are_never_chosen():
    labelled = np.arange(12)[:, None] < np.full((1, P), 5)
    W = np.zeros((12, P, 2), np.float32)
    samples = choose_samples(W, labelled, key=jax.random.key(0), num_samples=8)
    assert len(samples.W) == 5
    with pytest.raises(ValueError, match=r"1 of 12 samples have a landmark"):
        choose_samples(
            W,
            labelled & (np.arange(12)[:, None] < 1),
            key=jax.random.key(0),
            num_samples=8,
        )


def test_what_stands_at_a_missing_joint_becomes_zero():
    W = np.full((2, P, 2), np.nan)
    labelled = np.zeros((2, P), bool)
    landmarks, mask = check_landmarks(W, labelled)
    assert not landmarks.any()
    np.testing.assert_array_equal(mask, labelled)
    with pytest.raises(ValueError, match=r"W\[0\].*not finite \(2 such samples\)"):
        check_landmarks(W, None)


def test_every_row_comes_with_at_least_its_gaps():
    labelled = np.random.default_rng(0).random((60, 17)) < 0.7
    labelled[0] = False
    seen = set()
    for rows, gaps in equal_gaps(labelled, chunk=16):
        assert len(rows) <= 16
        assert (~labelled[rows]).sum(1).max() <= gaps
        seen |= set(rows.tolist())
    assert seen == set(range(60))
    assert len(gap_steps(17)) <= 10  # few programs
