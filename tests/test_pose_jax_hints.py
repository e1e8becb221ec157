"""The cross-entropy of the heat, and which way a body faces."""

import jax.numpy as jnp
import numpy as np
import pytest

from input_pipeline.skeleton import COCO_17, H36M_17, LSP_14, Skeleton
from pose_jax.hints import facing_pairs, heat_cross_entropy, yaw_divergence

CELLS = np.array([-0.75, -0.25, 0.25, 0.75])


def gaussian(x):
    weights = np.exp(-0.5 * ((CELLS - x) / 0.5 / 0.6) ** 2)
    return weights / weights.sum()


def test_the_heat_with_the_least_cross_entropy_is_the_gaussian_itself():
    points = np.array([[0.1, -0.6], [0.7, 0.2], [0.0, 0.0]], np.float32)
    labelled = jnp.array([True, True, False])
    heat = np.stack([np.outer(gaussian(y), gaussian(x)) for x, y in points], -1)
    entropy = -(heat * np.log(heat))[..., :2].sum()
    log_heat = jnp.asarray(np.log(heat), jnp.float32)
    least = heat_cross_entropy(log_heat, jnp.asarray(points), labelled)
    assert float(least) == pytest.approx(entropy, rel=1e-5)
    rng = np.random.default_rng(0)
    other = heat * np.exp(0.2 * rng.normal(size=heat.shape))
    other = jnp.asarray(np.log(other / other.sum((0, 1))), jnp.float32)
    assert float(heat_cross_entropy(other, jnp.asarray(points), labelled)) > entropy


def test_a_landmark_outside_of_the_picture_has_a_finite_cost():
    even = jnp.full((4, 4, 1), -np.log(16), jnp.float32)
    found = heat_cross_entropy(even, jnp.asarray([[3.0, -40.0]]), jnp.ones(1, bool))
    assert float(found) == pytest.approx(np.log(16), rel=1e-5)


def test_pairs_across_the_trunk():
    def names(skeleton):
        left, _ = facing_pairs(skeleton).T
        return {skeleton.joints[joint] for joint in left}

    assert names(H36M_17) == {"LHip", "LShoulder"}
    assert names(COCO_17) == {"left_eye", "left_shoulder", "left_hip"}
    assert names(LSP_14) == {"LShoulder"}
    loose = Skeleton("loose", ("a", "L", "R"), (), ((1, 2),))
    np.testing.assert_array_equal(facing_pairs(loose), [[1, 2]])
    assert facing_pairs(Skeleton("none", ("a", "b"), ((0, 1),))).shape == (0, 2)


def divergence(logits, angle, labelled=(True, True)):
    # The left joint lies from the right one at this angle in x and z, at any height.
    across = np.array([np.cos(angle), 0.3, np.sin(angle)])
    pose = jnp.asarray(np.stack([across, np.zeros(3)]), jnp.float32)
    pairs = np.array([[0, 1]])
    return float(yaw_divergence(logits, pose, jnp.asarray(labelled), pairs))


def test_the_yaw_of_a_pose_by_hand():
    angles = np.pi / 4 * np.arange(8)
    for turn in range(8):
        logits = jnp.asarray(4 * np.cos(turn * np.pi / 4 - angles), jnp.float32)
        assert divergence(logits, turn * np.pi / 4) == pytest.approx(0, abs=1e-5)
        assert divergence(logits, (turn + 4) * np.pi / 4) > 3
    # Of even probabilities: log 8 less the entropy of the label.
    q = np.exp(4 * np.cos(0.5 - angles))
    q /= q.sum()
    wanted = np.log(8) + (q * np.log(q)).sum()
    assert divergence(jnp.zeros(8), 0.5) == pytest.approx(wanted, rel=1e-5)
    assert divergence(jnp.zeros(8), 0.5, (True, False)) == 0.0
