"""The original Deep-NRSfM (Kong and Lucey, ICCV 2019), our own implementation.

Block sparse coding: with D_1 seen as one shape (P, 3) per atom, each sample has a 3x2
block per atom, and a layer treats the six cells of a block in the same way,

    Psi_1[k] = relu(D_1[k]' W + b_1[k]),   Psi_i = relu(D_i' Psi_{i-1} + b_i).

A linear map of all cells of the deepest blocks gives the bottleneck code, and a
weighted sum of these blocks, made orthonormal, gives the camera. The code is decoded by
the same dictionaries, ``phi_{i-1} = relu(D_i phi_i + b'_i)``, ``s = D_1 phi_1 + b'_1``.
Loss: ``||S M - W||_F / ||W||_F``, no sparsity term, no guide.

Published settings kept: 12 dictionaries, 125 to 10 atoms in even steps, Adam at 1e-3,
batches of 32, Glorot's initial values. Changed: 20,000 steps with a rate that falls to
zero by half a cosine instead of 200,000 with .95 per 10,000; the camera's polar factor
in closed form (the same matrix as from the SVD, with a gradient that stays finite).
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from losses.camera_frame import rotation_from_camera
from losses.masked import norm
from nrsfm_jax.camera import orthonormal_projection

SIZES = tuple(int(k) for k in np.linspace(125, 10, 12))
STEPS, BATCH, RATE = 20_000, 32, 1e-3
Params = dict[str, Any]


def init(key: jax.Array, num_landmarks: int) -> Params:
    """Glorot's uniform values; biases 0."""
    layers = list(zip((num_landmarks * 3, *SIZES), SIZES, strict=False))
    deepest = SIZES[-1]
    shapes = [*layers, (6 * deepest, deepest), (deepest, 1)]
    keys = jax.random.split(key, len(shapes))
    values = [
        jax.random.uniform(k, s, minval=-1, maxval=1) * (6 / sum(s)) ** 0.5
        for k, s in zip(keys, shapes, strict=True)
    ]
    return {
        "dictionaries": values[: len(SIZES)],
        "code": values[-2],
        "mix": values[-1][:, 0],
        "encoder": [jnp.zeros(k) for k in SIZES],
        "decoder": [jnp.zeros(k) for k in (3 * num_landmarks, *SIZES[:-1])],
    }


def reconstruct(params: Params, W: jax.Array) -> tuple[jax.Array, jax.Array]:
    """S (P, 3) and M (3, 2) of one sample; missing landmarks are 0."""
    first, *deeper = params["dictionaries"]
    # Six cells down, atoms across: a layer is one matrix product.
    cells = (W.T @ first.reshape(len(W), -1)).reshape(6, -1)
    cells = jax.nn.relu(cells + params["encoder"][0][None])
    for D, bias in zip(deeper, params["encoder"][1:], strict=True):
        cells = jax.nn.relu(cells @ D + bias[None])
    M = orthonormal_projection((cells @ params["mix"]).reshape(2, 3).T)
    phi = cells.reshape(-1) @ params["code"]
    pairs = list(zip(deeper, params["decoder"][1:], strict=True))
    for D, bias in reversed(pairs):
        phi = jax.nn.relu(D @ phi + bias)
    return (first @ phi + params["decoder"][0]).reshape(-1, 3), M


def loss(params: Params, W: jax.Array, labelled: jax.Array) -> jax.Array:
    """Relative reprojection error, the mean over a batch."""

    def one(W, labelled):
        S, M = reconstruct(params, W)
        error = jnp.where(labelled[:, None], S @ M - W, 0)
        return norm(error) / jnp.maximum(norm(W), 1e-6)

    return jnp.mean(jax.vmap(one)(W, labelled))


def solve(
    W: np.ndarray, labelled: np.ndarray, *, seed: int, steps: int = STEPS
) -> np.ndarray:
    """(N, P, 3): the network's own poses in the camera frame; their sign is open."""
    init_key, batch_key = jax.random.split(jax.random.key(seed))
    schedule = optax.cosine_decay_schedule(RATE, steps)
    params = train(
        loss,
        init(init_key, W.shape[1]),
        (jnp.asarray(W), jnp.asarray(labelled)),
        key=batch_key,
        optimizer=optax.adam(schedule),
        steps=steps,
        batch=BATCH,
    )
    return np.asarray(_poses(params, jnp.asarray(W)))


@jax.jit
def _poses(params: Params, W: jax.Array) -> jax.Array:
    def one(W):
        S, M = reconstruct(params, W)
        return S @ rotation_from_camera(M)

    return jax.lax.map(one, W, batch_size=1024)


@functools.partial(jax.jit, static_argnames=("loss", "optimizer", "steps", "batch"))
def train(
    loss: Any,
    params: Params,
    data: tuple[jax.Array, ...],
    *,
    key: jax.Array,
    optimizer: optax.GradientTransformation,
    steps: int,
    batch: int,
) -> Params:
    """Adam on random batches; all steps in one program."""

    def step(i, state):
        params, opt_state = state
        rows = jax.random.randint(jax.random.fold_in(key, i), (batch,), 0, len(data[0]))
        gradient = jax.grad(loss)(params, *(x[rows] for x in data))
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = optimizer.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    start = params, optimizer.init(params)
    return jax.lax.fori_loop(0, steps, step, start)[0]
