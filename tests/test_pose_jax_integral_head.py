"""pose_jax/integral_head.py: the expectation over the heat map, and the head."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from pose_jax import integral_head
from pose_jax.integral_head import IntegralHead, LocationHead, voxel_centres

soft_argmax = jax.jit(integral_head.soft_argmax)


def logits_of(seed, *shape):
    return 3.0 * jax.random.normal(jax.random.key(seed), shape)


def brute_force(logits):
    """Mean and deviation by an explicit volume of coordinates, in float64."""
    h, w, j, d = logits.shape
    heat = np.exp(np.asarray(logits, np.float64))
    heat /= heat.sum((0, 1, 3), keepdims=True)
    y, x, z = np.meshgrid(
        *((np.arange(n) + 0.5) / n * 2 - 1 for n in (h, w, d)), indexing="ij"
    )
    mean, spread = np.zeros((j, 3)), np.zeros((j, 3))
    for axis, (volume, n) in enumerate(((x, w), (y, h), (z, d))):
        for joint in range(j):
            p = heat[:, :, joint]
            mean[joint, axis] = (p * volume).sum()
            variance = (p * (volume - mean[joint, axis]) ** 2).sum()
            spread[joint, axis] = np.sqrt(variance + (2 / n) ** 2 / 12)
    return mean, spread


def test_voxel_centres_by_hand():
    np.testing.assert_allclose(voxel_centres(2), [-0.5, 0.5])
    np.testing.assert_allclose(voxel_centres(5), [-0.8, -0.4, 0.0, 0.4, 0.8], atol=1e-7)


def test_soft_argmax_equals_a_volume_of_coordinates():
    logits = logits_of(0, 3, 4, 2, 5)
    mean, spread = soft_argmax(logits)
    expected_mean, expected_spread = brute_force(logits)
    np.testing.assert_allclose(mean, expected_mean, atol=1e-6)
    np.testing.assert_allclose(spread, expected_spread, atol=1e-6)


def test_soft_argmax_by_hand():
    """Three quarters of the heat at (x, y, z) = (.75, -.5, .5), a quarter mirrored."""
    logits = jnp.full((2, 4, 1, 2), -1e4)
    logits = logits.at[0, 3, 0, 1].set(jnp.log(3.0)).at[1, 0, 0, 0].set(0.0)
    mean, spread = soft_argmax(logits)
    np.testing.assert_allclose(mean, [[0.375, -0.25, 0.25]], atol=1e-6)
    # Variance of the two points, and of a point spread evenly over a voxel.
    x = np.sqrt(0.75 * 0.25 * 1.5**2 + 0.5**2 / 12)
    yz = np.sqrt(0.75 * 0.25 + 1.0 / 12)
    np.testing.assert_allclose(spread, [[x, yz, yz]], rtol=1e-5)


def test_even_heat_is_the_centre_with_the_deviation_of_a_uniform_cube():
    mean, spread = soft_argmax(jnp.zeros((4, 5, 3, 6)))
    np.testing.assert_allclose(mean, jnp.zeros((3, 3)), atol=1e-6)
    np.testing.assert_allclose(spread, np.full((3, 3), 1 / np.sqrt(3)), rtol=1e-5)


def test_a_shift_of_the_logits_changes_nothing():
    logits = logits_of(1, 3, 4, 2, 5)
    shift = jnp.asarray([1e3, -1e3]).reshape(1, 1, 2, 1)
    np.testing.assert_allclose(
        soft_argmax(logits + shift)[0], soft_argmax(logits)[0], atol=1e-3
    )


def test_turned_logits_turn_the_mean():
    logits = logits_of(2, 4, 4, 2, 3)
    mean, turned = soft_argmax(logits)[0], soft_argmax(jnp.rot90(logits))[0]
    # rot90 carries the right edge (+x) to the top (-y).
    expected = jnp.stack([mean[:, 1], -mean[:, 0], mean[:, 2]], axis=1)
    np.testing.assert_allclose(turned, expected, atol=1e-6)


def test_soft_argmax_gradient():
    check_grads(
        soft_argmax, (logits_of(3, 2, 3, 2, 2),), order=1, modes=["rev"], rtol=5e-2
    )


_gradient = jax.jit(jax.grad(lambda x: sum(map(jnp.sum, integral_head.soft_argmax(x)))))


@pytest.mark.parametrize("peak", [1e4, 1e30])
def test_extreme_logits_stay_finite_with_their_gradient(peak):
    logits = jnp.zeros((3, 3, 1, 3)).at[0, 2, 0, 1].set(peak)
    grad = _gradient(logits)
    mean, _ = soft_argmax(logits)
    np.testing.assert_allclose(mean, [[2 / 3, -2 / 3, 0.0]], atol=1e-6)
    assert bool(jnp.isfinite(grad).all())


def test_bfloat16_logits_are_summed_in_float32():
    logits = logits_of(4, 12, 12, 1, 12).astype(jnp.bfloat16)
    mean, spread = soft_argmax(logits)
    assert mean.dtype == spread.dtype == jnp.float32
    np.testing.assert_allclose(
        mean, brute_force(logits.astype(jnp.float32))[0], atol=1e-5
    )


def test_head_doubles_per_transposed_convolution_and_counts_its_parameters():
    """The paper's head on 2048 channels: 3 x 256 channels, 17 x 64 outputs."""
    head = IntegralHead(num_joints=17)
    features = jax.ShapeDtypeStruct((2, 8, 8, 2048), jnp.float32)
    found, variables = jax.eval_shape(
        lambda x: head.init_with_output(jax.random.key(0), x, train=False), features
    )
    assert found.spread.shape == (2, 1, 17, 3)
    assert found.depths.shape == (2, 1, 17)
    assert found.log_heat.shape == (2, 64, 64, 17)
    params = variables["params"]
    assert params["deconv1"]["kernel"].shape == (4, 4, 2048, 256)
    assert params["final"]["kernel"].shape == (1, 1, 256, 17 * 64)
    bars = params.pop("error_bar")
    assert sum(leaf.size for leaf in jax.tree.leaves(bars)) == 17 * (9 + 3)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    kernels = 16 * 256 * (2048 + 256 + 256) + 256 * 17 * 64
    assert count == kernels + 3 * 2 * 256 + 17 * 64


def widths(modes, joints):
    """An error bar that is the width of the heat."""
    kernel = jnp.broadcast_to(jnp.eye(3), (modes, joints, 3, 3))
    return {"kernel": kernel, "bias": jnp.zeros((modes, joints, 3))}


def test_nothing_but_its_own_layer_learns_from_the_error_bar():
    head = LocationHead(num_joints=2, num_depths=2, yaw_classes=3)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 4, 5)), jnp.float32)
    coarse = x[:, ::2, ::2]
    params = head.init(jax.random.key(0), (x, coarse), train=False)["params"]

    def total(params, x):
        return head.apply({"params": params}, (x, coarse), train=False).spread.sum()

    own, of_x = jax.jit(jax.grad(total, argnums=(0, 1)))(params, x)
    assert not np.any(of_x)
    moved = {name for name, leaf in own.items() if any(map(np.any, leaf.values()))}
    assert moved == {"error_bar"}


def test_channels_are_joint_major():
    """The final channel of joint j and cell d is ``j * depth_bins + d``."""
    head = IntegralHead(num_joints=3, depth_bins=4, num_deconv=0)
    x = jnp.ones((1, 2, 2, 5))
    init = functools.partial(head.init, train=False)
    variables = jax.eval_shape(init, jax.random.key(0), x)
    bias = jnp.zeros(12).at[1 * 4 + 3].set(50.0)
    final = {"kernel": jnp.zeros((1, 1, 5, 12)), "bias": bias}
    assert set(variables["params"]) == {"final", "error_bar"}
    apply = jax.jit(functools.partial(head.apply, train=False))
    found = apply({"params": {"final": final, "error_bar": widths(1, 3)}}, x)
    expected = jnp.zeros((1, 3, 3)).at[0, 1, 2].set(0.75)
    np.testing.assert_allclose(found.pose, expected, atol=1e-6)
    np.testing.assert_allclose(found.log_heat, -np.log(4), rtol=1e-5)  # even in x, y


def test_a_map_of_depth_is_averaged_under_the_heat():
    """Heat, then the depths of each mode, by hand; and the kernel that turns with yaw.

    The first feature is the row; class 0 of the yaw adds 2 to each depth of mode 1.
    """
    head = LocationHead(num_joints=1, num_depths=2, yaw_classes=2)
    rows = jnp.broadcast_to(jnp.arange(2.0).reshape(1, 2, 1, 1), (1, 2, 2, 1))
    ones = jnp.ones((1, 2, 2, 1))
    x = jnp.concatenate([rows, ones], axis=-1)
    final = jnp.asarray([[np.log(3.0), 1.0, 0.0], [0.0, 0.0, 5.0]], jnp.float32)
    facing = jnp.zeros((2, 2, 3)).at[0, 1, 2].set(2.0)
    params = {
        "final": {"kernel": final[None, None], "bias": jnp.zeros(3)},
        "facing": {"kernel": facing.reshape(2, 6)},
        # The coarse features are 10: log 3 for class 0, so p = (3/4, 1/4).
        "yaw": {"kernel": jnp.asarray([[np.log(3.0), 0.0]]), "bias": jnp.zeros(2)},
        "error_bar": widths(2, 1),
    }
    coarse = jnp.full((1, 1, 1, 1), 10.0)
    found = jax.jit(functools.partial(head.apply, train=False))(
        {"params": params}, (x, coarse)
    )
    # Three quarters of the heat in the lower row, whose depth is 1, the upper's 0.
    np.testing.assert_allclose(found.xy, [[[0.0, 0.25]]], atol=1e-6)
    np.testing.assert_allclose(found.depths[0, 0], [0.75], rtol=1e-6)
    np.testing.assert_allclose(found.depths[0, 1], [5.0 + 0.25 * 2.0], rtol=1e-6)
    depths = [np.sqrt(0.75 * 0.25), 1e-4]  # the second is the same everywhere
    np.testing.assert_allclose(found.spread[0, :, 0, 2], depths, rtol=1e-3)
    # Half a cell in x beside that within one of the two cells; in y 3/4 to 1/4.
    within = 1 / 12
    across = np.sqrt([0.25 + within, 0.75 * 0.25 + within])
    np.testing.assert_allclose(found.spread[0, :, 0, :2], [across] * 2, rtol=1e-5)
    np.testing.assert_allclose(found.yaw, [[np.log(3.0), 0.0]], rtol=1e-6)
