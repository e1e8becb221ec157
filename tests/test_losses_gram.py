"""Eq. 14 from D D^T: equal to the plain form, and no memory that grows with K."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses_samples import random_camera, random_mask, unit_dictionary

import losses

EVERY = (0, 0, 0, 0, None, None, 0)


def _views(seed, *, count=6, joints=17, atoms=256):
    """Samples (z, phi, M, w) with a leading axis, and their dictionary."""
    rng = np.random.default_rng(seed)
    D = unit_dictionary(rng, joints, atoms)
    M = jnp.stack([random_camera(rng) for _ in range(count)])
    code = rng.uniform(0.2, 1.0, (count, atoms)) * (rng.random((count, atoms)) < 0.05)
    phi = jnp.asarray(code, jnp.float32)
    B_xy, B_z = jax.vmap(losses.split_dictionary, (None, 0))(D, M)
    noise = jnp.asarray(rng.normal(size=(count, 3 * joints)), jnp.float32)
    w = jnp.einsum("nrk,nk->nr", B_xy, phi) + 0.05 * noise[:, joints:]
    z = jnp.einsum("npk,nk->np", B_z, phi) + 0.2 * noise[:, :joints]
    return (z, phi, M, w), D


def _plain(z, phi, M, w, D, gram, labelled):
    del gram
    return losses.distillation_loss(
        z,
        phi,
        *losses.split_dictionary(D, M),
        w,
        code_l1_weight=0.3,
        labelled=labelled,
    )


def _by_gram(z, phi, M, w, D, gram, labelled):
    return losses.gram_distillation_loss(
        z, phi, M, w, D, gram, code_l1_weight=0.3, labelled=labelled
    )


PROGRAMS = {
    loss: jax.jit(jax.vmap(jax.value_and_grad(loss), EVERY))
    for loss in (_plain, _by_gram)
}


def _both(samples, D, masks):
    """Values and gradients of the two forms, batched."""
    gram = losses.dictionary_gram(D)
    return [PROGRAMS[loss](*samples, D, gram, masks) for loss in (_plain, _by_gram)]


def _assert_equal(expected, actual):
    np.testing.assert_allclose(actual[0], expected[0], rtol=1e-5)
    for one, two in zip(
        jax.tree.leaves(expected[1]), jax.tree.leaves(actual[1]), strict=True
    ):
        np.testing.assert_allclose(two, one, atol=1e-5)


@pytest.mark.parametrize("missing", [0, 3, 16, 17])
@pytest.mark.parametrize("atoms", [256, 40])
def test_the_gram_form_is_the_plain_form(atoms, missing):
    samples, D = _views(atoms + missing, atoms=atoms)
    masks = jnp.stack([jnp.asarray(random_mask(s, 17, missing)) for s in range(6)])
    _assert_equal(*_both(samples, D, masks))


def test_nonsense_at_missing_joints_has_no_influence():
    (z, phi, M, w), D = _views(1)
    masks = np.stack([random_mask(s, 17, 4) for s in range(6)])
    expected = _both((z, phi, M, w), D, jnp.asarray(masks))[0]
    z = jnp.where(masks, z, jnp.nan)
    w = jnp.where(np.repeat(masks, 2, axis=1), w, jnp.nan)
    value, gradient = _both((z, phi, M, w), D, jnp.asarray(masks))[1]
    _assert_equal(expected, (value, gradient))
    assert not np.any(np.asarray(gradient)[~masks])


def test_gradients_in_everything_else():
    """The code, the camera, the landmarks and the dictionary, some atoms at a time."""
    (z, phi, M, w), D = _views(2, count=2, joints=5, atoms=70)
    masks = jnp.ones((2, 5), bool)
    phi = phi + 0.01  # away from the kinks of |phi|

    def of_dictionary(loss):
        def total(z, phi, M, w, D):
            gram = losses.dictionary_gram(D)
            return loss(z, phi, M, w, D, gram, masks[0])

        every = jax.value_and_grad(total, argnums=(0, 1, 2, 3, 4))
        return jax.jit(every)(z[0], phi[0], M[0], w[0], D)

    _assert_equal(of_dictionary(_plain), of_dictionary(_by_gram))


@pytest.mark.parametrize(
    "name", ["equal joints", "zero row", "zero dictionary", "zero code", "perfect fit"]
)
def test_degenerate_samples_give_finite_values_and_gradients(name):
    (z, phi, M, w), D = _views(3)
    if name == "equal joints":
        D = D.at[15:18].set(D[12:15])
    elif name == "zero row":
        D = D.at[6:9].set(0.0)
    elif name == "zero dictionary":
        D = 0.0 * D
    elif name == "zero code":
        phi = 0.0 * phi
    else:
        B_xy, B_z = jax.vmap(losses.split_dictionary, (None, 0))(D, M)
        w = jnp.einsum("nrk,nk->nr", B_xy, phi)
        z = jnp.einsum("npk,nk->np", B_z, phi)
    masks = jnp.ones((6, 17), bool)
    for x in jax.tree.leaves(_both((z, phi, M, w), D, masks)[1]):
        assert jnp.isfinite(x).all()


def _temporary_bytes(loss, batch, atoms):
    shapes = [(batch, 17), (batch, atoms), (batch, 3, 2), (batch, 34)]
    shapes += [(51, atoms), (51, 51)]
    f32 = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    labelled = jax.ShapeDtypeStruct((batch, 17), jnp.bool_)
    mapped = jax.jit(jax.vmap(jax.value_and_grad(loss), EVERY))
    analysis: Any = mapped.lower(*f32, labelled).compile().memory_analysis()
    return analysis.temp_size_in_bytes


def test_memory_does_not_grow_with_the_atoms():
    """Per sample; the plain form holds dictionaries of every sample."""
    few, many = (
        _temporary_bytes(_by_gram, 128, atoms) - _temporary_bytes(_by_gram, 64, atoms)
        for atoms in (256, 1024)
    )
    assert many <= 1.01 * few
    plain = _temporary_bytes(_plain, 128, 1024) - _temporary_bytes(_plain, 64, 1024)
    assert few < 0.05 * plain


def test_a_dictionary_of_another_order_is_refused():
    with pytest.raises(ValueError, match=r"D has shape \(16, 4\); one sample"):
        losses.dictionary_gram(jnp.zeros((16, 4)))
