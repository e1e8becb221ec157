"""C3DPO's formulation (Novotny et al., ICCV 2019), our own small implementation.

A factorisation network takes landmarks and visibility to a code and a rotation,

    (W, v) -> alpha (10,), R;   X = basis alpha + mean,   W ~ the first two rows of R X,

and a canonicalisation network must recognise a shape in any position: psi(Q X), from
the same basis, has to be X for a random rotation Q. That makes X unique up to one
rotation. Both errors pass through ``s (sqrt(1 + d^2 / s^2) - 1)`` with s = .01, with
equal weights. The landmarks are turned in the picture by up to 22.5 degrees before
they enter, once for the rotation, which must turn along, and again for the code, which
must not. The pose is the landmarks as given with the depth of R X.

Published settings kept: basis of 10, six residual layers with a bottleneck of a
quarter and batch normalisation, initial values of .01, the losses and angles above.
Changed, to run on a CPU: width 256 instead of 1024, one random rotation for each shape
instead of four, Adam at 1e-3 falling to zero by half a cosine for 5,000 batches of 128
instead of SGD for 90 passes; statistics of the batch normalisation at the end from all
samples at once instead of running averages.

On the data sets of `nrsfm.py` it learns no depth: it ends in a minimum of nearly equal
rotations that is higher than one near the true poses (docs/teacher.md).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.deep_nrsfm import train

BASIS, WIDTH, LAYERS = 10, 256, 6
STEPS, BATCH, RATE = 5_000, 128, 1e-3
HUBER, MAX_ROLL = 0.01, np.pi / 8
Params = dict[str, Any]


def init(key: jax.Array, num_landmarks: int) -> Params:
    """Normal values of standard deviation .01; factors of the normalisation 0 to 1."""
    size, narrow = 3 * num_landmarks, WIDTH // 4
    residual = [(WIDTH, narrow), (narrow, narrow), (narrow, WIDTH)]
    shapes = [(size, WIDTH), *residual * LAYERS]
    keys = iter(jax.random.split(key, 4 * len(shapes) + 8))

    def linear(inputs, outputs):
        return {
            "weight": 0.01 * jax.random.normal(next(keys), (inputs, outputs)),
            "bias": jnp.zeros(outputs),
        }

    def trunk():
        return [
            linear(*shape) | {"factor": jax.random.uniform(next(keys), shape[1:])}
            for shape in shapes
        ]

    return {
        "phi": trunk(),
        "psi": trunk(),
        "phi_code": linear(WIDTH, BASIS),
        "psi_code": linear(WIDTH, BASIS),
        "rotation": linear(WIDTH, 3),
        "basis": linear(BASIS, size),
    }


def _linear(layer: Params, x: jax.Array) -> jax.Array:
    return x @ layer["weight"] + layer["bias"][None]


def _normalised(layer: Params, x: jax.Array) -> jax.Array:
    """A linear layer without its bias, normalised over the batch."""
    x = x @ layer["weight"]
    mean, variance = jnp.mean(x, axis=0), jnp.var(x, axis=0)
    scale = layer["factor"] * jax.lax.rsqrt(variance + 1e-5)
    return (x - mean[None]) * scale[None] + layer["bias"][None]


def trunk(layers: list[Params], x: jax.Array) -> jax.Array:
    """(B, WIDTH) features."""
    first, *rest = layers
    x = jax.nn.relu(_normalised(first, x))
    for i in range(0, len(rest), 3):
        inner = x
        for layer in rest[i : i + 2]:
            inner = jax.nn.relu(_normalised(layer, inner))
        x = jax.nn.relu(x + _normalised(rest[i + 2], inner))
    return x


def rotation(log: jax.Array) -> jax.Array:
    """exp of the skew matrix of a vector (3,), by Rodrigues' formula."""
    square = jnp.sum(log**2)
    near = square < 1e-8
    angle = jnp.sqrt(jnp.where(near, 1.0, square))
    a = jnp.where(near, 1 - square / 6, jnp.sin(angle) / angle)
    b = jnp.where(near, 0.5 - square / 24, (1 - jnp.cos(angle)) / angle**2)
    x, y, z = log
    zero = jnp.zeros_like(x)
    K = jnp.stack([zero, -z, y, z, zero, -x, -y, x, zero]).reshape(3, 3)
    return jnp.eye(3, dtype=log.dtype) + a * K + b * K @ K


def random_rotations(key: jax.Array, count: int) -> jax.Array:
    """(count, 3, 3), uniform: normalised quaternions."""
    q = jax.random.normal(key, (count, 4))
    w, x, y, z = (q / jnp.linalg.norm(q, axis=1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return jnp.moveaxis(jnp.array(rows), -1, 0)


def factorise(
    params: Params, W: jax.Array, turned: jax.Array, labelled: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """X (B, P, 3) from ``turned``, and R (B, 3, 3) from W; camera rows are ``X R``."""

    def features(W):
        given = labelled.astype(W.dtype)
        flat = (W * given[..., None]).reshape(len(W), -1)
        return trunk(params["phi"], jnp.concatenate([flat, given], axis=1))

    code = _linear(params["phi_code"], features(turned))
    log = _linear(params["rotation"], features(W))
    X = _linear(params["basis"], code).reshape(*W.shape[:2], 3)
    return X, jax.vmap(rotation)(log)


def huber(difference: jax.Array) -> jax.Array:
    """``s (sqrt(1 + d^2 / s^2) - 1)`` of the lengths over the last axis."""
    square = jnp.sum(difference**2, axis=-1) / HUBER**2
    return HUBER * (jnp.sqrt(1 + square) - 1)


def loss(
    params: Params, W: jax.Array, labelled: jax.Array, seed: jax.Array
) -> jax.Array:
    """Reprojection and canonicalisation error of a batch.

    ``seed`` (B,) are numbers of the samples that the random turns follow from.
    """
    key = jax.random.key(jnp.sum(seed))
    first, second, third = jax.random.split(key, 3)
    roll = _rolls(first, len(W))
    W = W @ roll
    X, R = factorise(params, W, W @ _rolls(second, len(W)), labelled)
    given = labelled.astype(W.dtype)
    error = jnp.sum(huber((X @ R)[..., :2] - W) * given) / jnp.sum(given)
    Q = random_rotations(third, len(W))
    seen = trunk(params["psi"], (X @ Q).reshape(len(W), -1))
    again = _linear(params["basis"], _linear(params["psi_code"], seen))
    return error + jnp.mean(huber(again.reshape(X.shape) - X))


def _rolls(key: jax.Array, count: int) -> jax.Array:
    angle = jax.random.uniform(key, (count,), minval=-MAX_ROLL, maxval=MAX_ROLL)
    c, s = jnp.cos(angle), jnp.sin(angle)
    return jnp.stack([c, s, -s, c], axis=1).reshape(-1, 2, 2)


def solve(
    W: np.ndarray, labelled: np.ndarray, *, seed: int, steps: int = STEPS
) -> np.ndarray:
    """(N, P, 3): the landmarks with the depth of the network; its sign is open."""
    init_key, batch_key, turn_key = jax.random.split(jax.random.key(seed), 3)
    numbers = jax.random.randint(turn_key, (len(W),), 0, 2**20)
    landmarks, shown = jnp.asarray(W), jnp.asarray(labelled)
    params = train(
        loss,
        init(init_key, W.shape[1]),
        (landmarks, shown, numbers),
        key=batch_key,
        optimizer=optax.adam(optax.cosine_decay_schedule(RATE, steps)),
        steps=steps,
        batch=min(BATCH, len(W)),
    )
    X, R = jax.jit(factorise)(params, landmarks, landmarks, shown)
    pose = np.array(X @ R)
    pose[..., :2] = np.where(labelled[..., None], W, pose[..., :2])
    return pose
