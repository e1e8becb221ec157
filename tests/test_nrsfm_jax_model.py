"""The network of one sample: shapes, equations, gauge and the mirror of depth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from losses.camera_frame import rotation_from_camera, split_dictionary
from nrsfm_jax import model

SIZES = (12, 6, 3)
P = 5
reconstruct = jax.jit(model.reconstruct, static_argnames=("ista_steps", "depth_sign"))


@pytest.fixture(scope="module")
def params():
    params = model.init(jax.random.key(0), num_landmarks=P, dictionary_sizes=SIZES)
    # Away from zero, so that the thresholds take part in what is tested.
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [
        x + 0.05 * jax.random.normal(k, x.shape)
        for x, k in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(tree, noisy)


@pytest.fixture(scope="module")
def W():
    W = jax.random.normal(jax.random.key(2), (P, 2))
    return W - jnp.mean(W, axis=0, keepdims=True)


def test_init_repeats_itself_and_depends_on_the_key():
    same = [
        model.init(jax.random.key(3), num_landmarks=P, dictionary_sizes=SIZES)
        for _ in range(2)
    ]
    other = model.init(jax.random.key(4), num_landmarks=P, dictionary_sizes=SIZES)
    first, again, different = (np.asarray(p["dictionaries"][0]) for p in (*same, other))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - different).max() > 0.1
    assert first.shape == (3 * P, 12)


@pytest.mark.parametrize("sizes", [(), (4, 0)])
def test_init_refuses_impossible_sizes(sizes):
    with pytest.raises(ValueError, match="dictionary_sizes"):
        model.init(jax.random.key(0), num_landmarks=P, dictionary_sizes=sizes)


def test_the_step_length_is_safe_for_every_layer():
    params = model.init(jax.random.key(5), num_landmarks=17, dictionary_sizes=(64, 32))
    for D, step in zip(params["dictionaries"], params["steps"], strict=True):
        assert 0 < step <= 1 / np.linalg.norm(D, 2) ** 2


def test_shape_is_the_dictionary_times_a_nonnegative_code(params, W):
    phi, M, S = reconstruct(params, W)
    assert (phi >= 0).all()
    np.testing.assert_allclose(M.T @ M, np.eye(2), atol=1e-6)
    np.testing.assert_allclose(
        S.ravel(), params["dictionaries"][0] @ phi, rtol=1e-5, atol=1e-6
    )


def test_no_bias_on_the_last_layer_makes_equations_6_to_8_hold(params, W):
    phi, M, S = reconstruct(params, W)
    B_xy, B_z = split_dictionary(params["dictionaries"][0], M)
    np.testing.assert_allclose((B_xy @ phi).reshape(P, 2), S @ M, atol=1e-6)
    depth = S @ rotation_from_camera(M)[:, 2]
    np.testing.assert_allclose(B_z @ phi, depth, atol=1e-6)


@pytest.mark.parametrize("ista_steps", [1, 2, 4])
def test_code_network_on_the_rotated_dictionary(params, W, ista_steps):
    """q_phi written with B_xy formed, one layer at a time."""
    phi, M, _ = reconstruct(params, W, ista_steps=ista_steps)
    B_xy, _ = split_dictionary(params["dictionaries"][0], M)
    layers = [B_xy, *params["dictionaries"][1:]]
    code = W.ravel()
    for D, b, step in zip(layers, params["encoder"], params["steps"], strict=True):
        x, code = code, np.maximum(D.T @ code - b, 0)
        for _ in range(ista_steps - 1):
            code = np.maximum(code + step * (D.T @ (x - D @ code)) - step * b, 0)
    for D, b in zip(layers[:0:-1], params["decoder"][::-1], strict=True):
        code = np.maximum(D @ code - b, 0)
    np.testing.assert_allclose(phi, code, atol=2e-5)


def test_vmap_equals_one_by_one(params):
    W = jax.random.normal(jax.random.key(6), (7, P, 2))
    batched = jax.vmap(lambda W: reconstruct(params, W))(W)
    singles = [reconstruct(params, w) for w in W]
    for i, each in enumerate(batched):
        np.testing.assert_allclose(each, [s[i] for s in singles], atol=1e-5)


def test_shared_dictionaries_become_one_product_per_layer_under_vmap(params):
    """No batched small products with a dictionary: (samples * 6, K) in one piece."""
    program = jax.jit(jax.vmap(lambda W: model.reconstruct(params, W)[0]))
    text = program.lower(jnp.zeros((32, P, 2))).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    batched = [line for line in products if "batching_dims = [0]" in line]
    # Only the landmarks turned by each sample's own camera are a batched product.
    assert len(batched) <= 3
    assert all("32x5x" in line or "32x3x" in line for line in batched)


def test_unit_norm_gauge_keeps_the_shape_and_is_idempotent():
    D = jax.random.normal(jax.random.key(0), (9, 4)) * jnp.array([[0.1, 3.0, 1.0, 0.0]])
    phi = jnp.array([[1.0, 0.5, 0.0, 2.0], [0.0, 2.0, 1.0, 0.0]])
    unit, code = model.unit_norm_gauge(D, phi)
    np.testing.assert_allclose(phi @ D.T, code @ unit.T, atol=1e-5)
    np.testing.assert_allclose(jnp.linalg.norm(unit, axis=0), [1, 1, 1, 0], atol=1e-6)
    again, same = model.unit_norm_gauge(unit, code)
    np.testing.assert_allclose(again, unit, atol=1e-6)
    np.testing.assert_allclose(same, code, rtol=1e-6)


def test_l1_in_the_gauge_does_not_see_the_scale_of_an_atom():
    D = jax.random.normal(jax.random.key(0), (9, 4))
    phi, scale = jnp.array([1.0, 0.5, 0.0, 2.0]), jnp.array([0.1, 7.0, 2.0, 0.5])
    _, code = model.unit_norm_gauge(D, phi)
    _, scaled = model.unit_norm_gauge(D * scale[None, :], phi / scale)
    np.testing.assert_allclose(code, scaled, rtol=1e-5)


def test_column_norm_of_a_zero_atom_has_a_zero_gradient():
    D = jnp.ones((6, 2)) * jnp.array([[1.0, 0.0]])
    gradient = jax.grad(lambda D: jnp.sum(model.column_norms(D)))(D)
    np.testing.assert_allclose(gradient[:, 1], 0)
    np.testing.assert_allclose(gradient[:, 0], 6**-0.5, rtol=1e-6)


def test_mirror_negates_depth_and_keeps_the_projection(params, W):
    phi, M, S = reconstruct(params, W)
    same, M_mirrored, S_mirrored = reconstruct(params, W, depth_sign=-1)
    np.testing.assert_array_equal(phi, same)
    np.testing.assert_allclose(S_mirrored @ M_mirrored, S @ M, atol=1e-6)
    z, z_mirrored = (
        s @ rotation_from_camera(m)[:, 2] for s, m in ((S, M), (S_mirrored, M_mirrored))
    )
    np.testing.assert_allclose(z_mirrored, -z, atol=1e-6)
    D, M_again = model.mirror_depth(params["dictionaries"][0], M)
    np.testing.assert_allclose(M_again, M_mirrored)
    np.testing.assert_allclose((D @ phi).reshape(P, 3), S_mirrored, atol=1e-6)
    B, B_mirrored = (
        split_dictionary(d, m)
        for d, m in ((params["dictionaries"][0], M), (D, M_again))
    )
    np.testing.assert_allclose(B_mirrored[0], B[0], atol=1e-6)
    np.testing.assert_allclose(B_mirrored[1], -B[1], atol=1e-6)


def test_mirror_twice_is_the_identity():
    D = jax.random.normal(jax.random.key(0), (9, 4))
    M = jax.random.normal(jax.random.key(1), (6, 3, 2))
    D_twice, M_twice = model.mirror_depth(*model.mirror_depth(D, M))
    np.testing.assert_array_equal(D_twice, D)
    np.testing.assert_array_equal(M_twice, M)


@pytest.mark.parametrize("ista_steps", [1, 3])
def test_gradients_with_respect_to_parameters_and_landmarks(params, W, ista_steps):
    @jax.jit
    def function(params, W):
        _, M, S = reconstruct(params, W, ista_steps=ista_steps)
        return jnp.sum(S * S) + jnp.sum(M[0])

    check_grads(
        function, (params, W), order=1, modes=["rev"], eps=1e-3, atol=0.05, rtol=0.05
    )


def test_zero_landmarks_are_finite_with_their_gradient(params):
    def total(params):
        phi, M, S = model.reconstruct(params, jnp.zeros((P, 2)))
        return jnp.sum(phi) + jnp.sum(S) + jnp.sum(M)

    value, gradient = jax.jit(jax.value_and_grad(total))(params)
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))
