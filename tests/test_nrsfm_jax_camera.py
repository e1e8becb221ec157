"""The camera network and the polar factor, against the SVD in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from nrsfm_jax import camera

project = jax.jit(camera.orthonormal_projection)
project_all = jax.jit(jax.vmap(camera.orthonormal_projection))
jacobian_of = jax.jit(jax.jacrev(camera.orthonormal_projection))


def _polar(A):
    """Polar factor in float64."""
    U, _, Vt = np.linalg.svd(np.asarray(A, np.float64), full_matrices=False)
    return U @ Vt


def _polar_jacobian(A):
    """d Q[i, j] / d A[k, l] by central differences in float64."""
    A = np.asarray(A, np.float64)
    h = 1e-6 * np.abs(A).max()
    jacobian = np.zeros((3, 2, 3, 2))
    for k in range(3):
        for l in range(2):  # noqa: E741
            E = np.zeros((3, 2))
            E[k, l] = h
            jacobian[:, :, k, l] = (_polar(A + E) - _polar(A - E)) / (2 * h)
    return jacobian


def _random(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 3, 2)).astype(np.float32)


def _defect(Q):
    return np.abs(np.swapaxes(Q, -1, -2) @ Q - np.eye(2)).max()


@pytest.mark.parametrize("scale", [1e-8, 1e-3, 1.0, 1e4])
def test_equals_the_polar_factor_at_every_scale(scale):
    A = _random(200) * np.float32(scale)
    Q = np.asarray(project_all(A), np.float64)
    expected = np.stack([_polar(a) for a in A])
    # Nearly parallel columns amplify the rounding of the input: weigh by condition.
    values = np.linalg.svd(A.astype(np.float64), compute_uv=False)
    condition = values[:, 0] / values[:, 1]
    error = np.abs(Q - expected).max((1, 2))
    assert np.max(error / condition) < 1e-6
    assert _defect(Q) < 4e-7


@pytest.mark.parametrize("condition", [1e1, 1e3, 1e5])
def test_stays_orthonormal_when_the_columns_are_nearly_parallel(condition):
    rng = np.random.default_rng(1)
    U, _, Vt = np.linalg.svd(rng.normal(size=(200, 3, 2)), full_matrices=False)
    A = (U * np.array([1, 1 / condition])) @ Vt
    Q = np.asarray(project_all(A.astype(np.float32)))
    assert _defect(Q.astype(np.float64)) < 4e-7


def test_is_idempotent_and_equivariant():
    Q = project_all(_random(200))
    again = project_all(Q)
    np.testing.assert_allclose(again, Q, atol=1e-6)
    A = _random(1, seed=5)[0]
    turn = _polar_square(_random(1, seed=6)[0])
    turned = _project(turn @ A)
    np.testing.assert_allclose(turned, turn @ np.asarray(_project(A)), atol=2e-6)


def _project(A):
    return project(jnp.asarray(A, jnp.float32))


def _polar_square(A):
    """A rotation (3, 3) from any (3, 2)."""
    Q = _polar(A)
    return np.concatenate([Q, np.cross(Q[:, 0], Q[:, 1])[:, None]], axis=1)


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e4])
@pytest.mark.parametrize("equal", [True, False])
def test_jacobian_is_right_also_for_equal_singular_values(scale, equal):
    A = _polar(_random(1, seed=2)[0]) if equal else _random(1, seed=3)[0]
    A = np.asarray(A * scale, np.float32)
    jacobian = jacobian_of(A)
    np.testing.assert_allclose(
        np.asarray(jacobian) * scale, _polar_jacobian(A) * scale, atol=2e-5
    )


def test_check_grads():
    A = jnp.asarray(_random(1, seed=4)[0])
    check_grads(
        lambda A: project(jnp.asarray(A)),
        (A,),
        order=1,
        eps=1e-2,
        atol=1e-2,
        rtol=1e-2,
    )


@pytest.mark.parametrize(
    "A",
    [
        np.zeros((3, 2)),
        np.array([[1, 2], [2, 4], [-1, -2]]),
        np.array([[0, 1], [0, 0], [0, 0]]),
        np.array([[3, 0], [0, 0], [0, 0]]),
    ],
    ids=["zero", "parallel", "first zero", "second zero"],
)
def test_degenerate_blocks_give_an_orthonormal_camera_and_finite_gradients(A):
    A = jnp.asarray(A, jnp.float32)
    Q = project(A)
    assert _defect(np.asarray(Q, np.float64)) < 4e-7
    # Nearest: the inner product with A is the nuclear norm.
    nuclear = np.linalg.svd(np.asarray(A), compute_uv=False).sum()
    np.testing.assert_allclose(jnp.sum(Q * A), nuclear, rtol=1e-6)
    gradient = jacobian_of(A)[0, 0]
    assert np.isfinite(gradient).all()


def test_blocks_are_what_the_formula_says():
    """The GEMM layout against Psi_i written with one 3x2 block per atom."""
    rng = np.random.default_rng(0)
    P, sizes = 5, (7, 4)
    D_1 = rng.normal(size=(3 * P, 7)).astype(np.float32)
    D_2 = rng.normal(size=sizes).astype(np.float32)
    b_1, b_2 = (rng.normal(size=k).astype(np.float32) * 0.1 for k in sizes)
    mix = rng.normal(size=4).astype(np.float32)
    W = rng.normal(size=(P, 2)).astype(np.float32)
    Psi_1 = np.stack(
        [np.maximum(D_1[:, k].reshape(P, 3).T @ W - b_1[k], 0) for k in range(7)]
    )
    Psi_2 = np.maximum(np.einsum("kab,kj->jab", Psi_1, D_2) - b_2[:, None, None], 0)
    expected = _polar(np.einsum("k,kab->ab", mix, Psi_2))
    W, D_1, D_2, b_1, b_2, mix = map(jnp.asarray, (W, D_1, D_2, b_1, b_2, mix))
    M = camera.estimate_camera(W, [D_1, D_2], [b_1, b_2], mix)
    np.testing.assert_allclose(M, expected, atol=1e-5)
