"""The losses of a batch with the samples as columns: those of one sample, faster.

``model.reconstruct``, Eq. 4 and ``loss.em_difference`` are the definition. Here an
activation is (atoms, samples) and a layer carries its own gradient:

    Y = relu(D' X - b),   G = dY where Y > 0,   dX = D G,   dD = X G',   db = -sum G

Only for one ISTA step. ``tests/test_nrsfm_jax_fast.py`` compares loss and gradient with
those of the definition.
"""

# Mapped over a batch and differentiated by JAX, the gradient of every dictionary
# becomes a product of two transposed matrices, which XLA multiplies on a CPU at less
# than half of its speed, after copies. In this layout nothing large is transposed.

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from losses.masked import keep_labelled, norm
from nrsfm_jax.camera import Vector, columns, cross, polar_factor
from nrsfm_jax.model import Params, column_norms
from nrsfm_jax.sparse_coding import PRECISION


def sample_losses(
    params: Params,
    W: Float[Array, "n p 2"],
    labelled: Bool[Array, "n p"],
    em_depth: Float[Array, "n p"],
    *,
    sparsity_weight: float,
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Eq. 4 and the guide's term of N samples, with one ISTA step.

    Args:
        params: of the network.
        W: (N, P, 2) centred landmarks; missing ones are 0 or filled by the EM, which
            the network sees and the reprojection error does not.
        labelled: (N, P) joints that have a landmark.
        em_depth: (N, P) z away from the camera.
        sparsity_weight: on the L1 norm in the gauge of unit-norm columns.

    Returns:
        Eq. 4 of every sample, and how far its depth is from that of the EM.
    """
    u, v = (W[..., axis].T for axis in (0, 1))
    m_1, m_2 = _cameras(params, u, v)
    axes = [jnp.stack(axis)[None] for axis in (m_1, m_2, cross(m_1, m_2))]
    # The landmarks in the frame of D_1: W M', rows x1 y1 z1 x2 ... Sums by coordinate,
    # which XLA fuses: no product of small matrices.
    turned = u[:, None] * axes[0] + v[:, None] * axes[1]
    phi = _codes(params, turned.reshape(-1, len(W)))
    S = _linear(params["dictionaries"][0], phi).reshape(turned.shape)
    x, y, z = (jnp.sum(S * axis, axis=1) for axis in axes)
    error = jnp.stack([x - u, y - v], axis=1)
    z = z - em_depth.T
    size = jax.vmap(norm, in_axes=-1)
    sparsity = _product(column_norms(params["dictionaries"][0])[None], phi)[0]
    loss = size(jax.vmap(keep_labelled, -1, -1)(error, labelled.T))
    return loss + sparsity_weight * sparsity, size(
        z - jnp.mean(z, axis=0, keepdims=True)
    )


def _cameras(params: Params, u: Array, v: Array) -> tuple[Vector, Vector]:
    """The columns of every camera, as triples of (n,): `camera.estimate_camera`."""
    first, *deeper = params["dictionaries"]
    first_threshold, *thresholds = params["camera"]
    cells = _blocks(jnp.concatenate([u, v], axis=1), first, first_threshold)
    for D, threshold in zip(deeper, thresholds, strict=True):
        cells = _up(cells, D, threshold)
    A = _product(params["mix"][None], cells).reshape(3, 2, -1)
    return polar_factor(*columns(A))


def _codes(params: Params, turned: Float[Array, "d n"]) -> Float[Array, "k n"]:
    """phi_1 of every sample: `model.estimate_code`."""
    first, *deeper = params["dictionaries"]
    phi = _up(turned, first, params["encoder"][0])
    for D, threshold in zip(deeper, params["encoder"][1:], strict=True):
        phi = _up(phi, D, threshold)
    for D, threshold in zip(deeper[::-1], params["decoder"][::-1], strict=True):
        phi = _down(phi, D, threshold)
    return phi


# --- layers: value, what is kept for the gradient, gradient -------------------------


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=PRECISION)


@jax.custom_vjp
def _up(x, D, threshold):
    """A layer towards the deep codes, ``relu(D' x - b)``."""
    # The barrier keeps the small transposed copy: without it the product is slower.
    transposed = jax.lax.optimization_barrier(D.T)
    return jax.nn.relu(_product(transposed, x) - threshold[:, None])


def _up_forward(x, D, threshold):
    # The output tells where the layer is active; its input before the ReLU is dropped.
    y = _up(x, D, threshold)
    return y, (x, y, D)


def _up_backward(kept, gradient):
    x, y, D = kept
    g = jnp.where(y > 0, gradient, 0)
    # Both products read their large operand as it lies in memory.
    return _product(D, g), _product(x, g.T), -jnp.sum(g, axis=1)


_up.defvjp(_up_forward, _up_backward)


@jax.custom_vjp
def _down(x, D, threshold):
    """A layer of the decoder, ``relu(D x - b)``."""
    return jax.nn.relu(_product(D, x) - threshold[:, None])


def _down_forward(x, D, threshold):
    y = _down(x, D, threshold)
    return y, (x, y, D)


def _down_backward(kept, gradient):
    x, y, D = kept
    g = jnp.where(y > 0, gradient, 0)
    return _product(D.T, g), _product(g, x.T), -jnp.sum(g, axis=1)


_down.defvjp(_down_forward, _down_backward)


@jax.custom_vjp
def _linear(D, x):
    """The last layer, ``D x``."""
    return _product(D, x)


def _linear_forward(D, x):
    return _linear(D, x), (D, x)


def _linear_backward(kept, gradient):
    D, x = kept
    return _product(gradient, x.T), _product(D.T, gradient)


_linear.defvjp(_linear_forward, _linear_backward)


@jax.custom_vjp
def _blocks(W, first, threshold):
    """The camera's first layer, ``relu(D_1[k]' W - b_k)`` for the block of an atom.

    W is (P, 2n), all u before all v; the cells are (K, 6n), the axis of D_1 before
    that of the image before the sample.
    """
    atoms, landmarks = first.shape[1], W.shape[0]
    by_cell = first.reshape(landmarks, 3, atoms).transpose(2, 1, 0)
    cells = _product(by_cell.reshape(-1, landmarks), W).reshape(atoms, -1)
    return jax.nn.relu(cells - threshold[:, None])


def _blocks_forward(W, first, threshold):
    y = _blocks(W, first, threshold)
    return y, (W, y)


def _blocks_backward(kept, gradient):
    W, y = kept
    g = jnp.where(y > 0, gradient, 0)
    by_cell = _product(g.reshape(-1, W.shape[1]), W.T).reshape(len(y), 3, -1)
    first = by_cell.transpose(2, 1, 0).reshape(-1, len(y))
    # The landmarks are data, no parameters: the product for their gradient is saved.
    return jnp.zeros_like(W), first, -jnp.sum(g, axis=1)


_blocks.defvjp(_blocks_forward, _blocks_backward)
