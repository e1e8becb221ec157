"""The network's pose is a measurement; the teacher's shapes say which poses there are.

A network predicts the joints one by one, each at the middle of what it holds possible.
Given its pose y and the standard deviations of its errors,

    y = S_cam + t + N(0, diag(spread / 2)^2),   S_cam = S R_g,
    vec S ~ sum_k pi_k N(mu_k, Sigma_k)

with the shapes and views of the EM, the posterior mean of S_cam + t is a pose whose
joints fit each other. Half of the spread: most errors are smaller than a normal
distribution of that deviation has them, and a few are much larger.
"""

# Paper: the network's pose as it is; here: also this one, because its joints agree.

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

FILE = "em.safetensors"  # in the teacher's folder
HIGHEST = jax.lax.Precision.HIGHEST
# Of the shift t, and the least deviation of a joint; patch units.
_SHIFT, _LEAST = 0.3, 0.005
# The likeliest pairs of shape and view, found with one deviation for all joints.
_PAIRS, _ROUGH = 16, 0.05


class Shapes(NamedTuple):
    """K Gaussians and G views, as the teacher's EM wrote them: before the sign.

    Attributes:
        mu: (K, 3P) means x1 y1 z1 x2 ..., patch units, in the body's frame.
        Sigma: (K, 3P, 3P) covariances.
        log_weight: (K,) log pi_k.
        views: (G, 3, 3) rotations R_g, S_cam = S @ R_g.
        log_view_weight: (G,)
    """

    mu: Float[Array | np.ndarray, "k d"]
    Sigma: Float[Array | np.ndarray, "k d d"]
    log_weight: Float[Array | np.ndarray, " k"]
    views: Float[Array | np.ndarray, "g 3 3"]
    log_view_weight: Float[Array | np.ndarray, " g"]


def check_shapes(path: str | Path, arrays: Mapping[str, Any]) -> Shapes:
    """The arrays of a file.

    Raises:
        ValueError: one is missing or of another shape.
    """
    found = {name: arrays[name] for name in Shapes._fields if name in arrays}
    sizes = {name: array.shape for name, array in found.items()}
    K, D = (*sizes.get("mu", ()), 0, 0)[:2]
    G = (*sizes.get("views", ()), 0)[0]
    wanted = ((K, D), (K, D, D), (K,), (G, 3, 3), (G,))
    if tuple(sizes.values()) != wanted or D % 3 or 0 in (K, D, G):
        raise ValueError(f"{path}: arrays of sizes {sizes} are no shapes of an EM")
    if not all(np.isfinite(array).all() for array in found.values()):
        raise ValueError(f"{path}: the shapes of its EM are not finite")
    return Shapes(**found)


def likeliest(
    shapes: Shapes, pose: Float[Array, "p 3"], spread: Float[Array, "p 3"]
) -> Float[Array, "p 3"]:
    """The posterior mean of a pose, given the network's.

    Args:
        shapes: of the same joints.
        pose: camera frame, patch units.
        spread: standard deviations of its errors.

    Returns:
        In the same frame and unit; where the shapes cannot be told apart, their mean.
    """
    P, G = len(pose), len(shapes.views)
    middle = jnp.mean(pose, axis=0, keepdims=True)
    body = jnp.einsum("pj,gij->gpi", pose - middle, shapes.views, precision=HIGHEST)
    body = body.reshape(G, 3 * P)
    variance = jnp.square(jnp.maximum(spread / 2, _LEAST))
    shift = _SHIFT**2 * jnp.kron(jnp.ones((P, P)), jnp.eye(3))

    def roughly(mu, Sigma, log_weight):
        C = Sigma + shift + _ROUGH**2 * jnp.eye(3 * P)
        Q, half = _inverse(C, jnp.eye(3 * P))
        e = body - mu[None]
        return log_weight - half - jnp.sum(e * jnp.matmul(e, Q), axis=1) / 2

    log_p = jax.vmap(roughly)(shapes.mu, shapes.Sigma, shapes.log_weight)
    log_p = (log_p + shapes.log_view_weight[None]).ravel()
    pairs = jax.lax.top_k(log_p, min(_PAIRS, len(log_p)))[1]

    def given(pair):
        k, g = pair // G, pair % G
        R, error = shapes.views[g], body[g] - shapes.mu[k]
        noise = jnp.einsum("ij,pj,kj->pik", R, variance, R, precision=HIGHEST)
        noise = jnp.einsum("pik,pq->piqk", noise, jnp.eye(P)).reshape(3 * P, 3 * P)
        solved, half = _inverse(shapes.Sigma[k] + shift + noise, error[:, None])
        log_p = shapes.log_weight[k] + shapes.log_view_weight[g] - half
        log_p -= jnp.dot(error, solved[:, 0], precision=HIGHEST) / 2
        # What the noise explains of the error is taken off.
        explained = jnp.dot(noise, solved[:, 0], precision=HIGHEST)
        mean = (body[g] - explained).reshape(P, 3)
        return log_p, jnp.matmul(mean, R, precision=HIGHEST)

    log_p, means = jax.vmap(given)(pairs)
    weight = jax.nn.softmax(log_p)
    return middle + jnp.einsum("c,cpi->pi", weight, means, precision=HIGHEST)


def _inverse(
    C: Float[Array | np.ndarray, "d d"], right: Float[Array, "d e"]
) -> tuple[Float[Array, "d e"], Float[Array, ""]]:
    """C^-1 times ``right``, and half of log det C, by Gauss and Jordan.

    Not by LAPACK: its calls for a batch wait for threads of the pool that runs them,
    and with several devices on few cores they wait for each other for ever.
    """
    size = len(C)

    def step(i, state):
        A, half = state
        row = A[i] / A[i, i]
        cleared = A - A[:, i][:, None] * row[None]
        return cleared.at[i].set(row), half + jnp.log(A[i, i]) / 2

    start = jnp.concatenate([C, right], axis=1), jnp.zeros((), right.dtype)
    A, half = jax.lax.fori_loop(0, size, step, start)
    return A[:, size:], half


def under_shapes(apply: Callable[..., Any], depth_sign: int) -> Callable[..., Any]:
    """``apply(variables, patches) -> (pose, spread)``, its poses as likely as can be.

    ``variables["shapes"]`` are the :class:`Shapes`, and ``depth_sign`` is that of the
    student. The spread stays: it was learned from the network's errors, and these
    poses have about the same.
    """
    sign = np.array([[[1, 1, depth_sign]]], np.float32)

    def apply_likely(variables: Any, patches: Any) -> tuple[Any, Any]:
        network = {k: v for k, v in variables.items() if k != "shapes"}
        pose, spread = apply(network, patches)
        shapes = variables["shapes"]
        # One after the other: its matrices stay in the cache.
        poses = jax.lax.map(lambda s: likeliest(shapes, *s), (sign * pose, spread))
        return sign * poses, spread

    return apply_likely
