"""The modified Deep-NRSfM network (Wang et al. 2019, Section 3).

``W -> (phi_1, M, S)``: q_M estimates the camera, q_phi codes the landmarks in the
dictionary turned by that camera, the tied decoder brings the deepest code back to
phi_1, and ``s = D_1 phi_1``. The last layer has no bias, so that Eqs. 6-14 hold with
the dictionary alone. Everything is for one sample; ``jax.vmap`` at the call site.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from losses import camera_frame
from nrsfm_jax import camera, sparse_coding
from nrsfm_jax.sparse_coding import PRECISION

Params = dict[str, Any]


def init(
    key: PRNGKeyArray, *, num_landmarks: int, dictionary_sizes: Sequence[int]
) -> Params:
    """Random parameters.

    Args:
        key: a typed JAX key; the same key gives the same network.
        num_landmarks: P.
        dictionary_sizes: (K_1, ..., K_n), the paper's (256, 128, 64, 32, 16, 8).

    Returns:
        ``dictionaries`` D_1 (3P, K_1), D_i (K_{i-1}, K_i); ``mix`` (K_n,), the
        weights of the camera's blocks; ``camera``, ``encoder`` and ``decoder``, the
        thresholds of each layer; ``steps``, the ISTA step of each layer.

    Raises:
        ValueError: fewer than 2 landmarks, no dictionary or an empty one.
    """
    sizes = (3 * num_landmarks, *(int(size) for size in dictionary_sizes))
    if num_landmarks < 2:
        raise ValueError(f"{num_landmarks} landmarks have no shape; at least 2 needed")
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(
            f"dictionary_sizes is {tuple(dictionary_sizes)}; give one positive size "
            "for each layer, for example (256, 128, 64, 32, 16, 8)"
        )
    shapes = [*itertools.pairwise(sizes), sizes[-1:]]
    # One draw for all: every call of the generator costs half a second to compile.
    ends = list(itertools.accumulate(math.prod(shape) for shape in shapes))
    numbers = jnp.split(jax.random.normal(key, (ends[-1],)), ends[:-1])
    *dictionaries, mix = (
        x.reshape(shape) * (2 / sum(shape)) ** 0.5
        for x, shape in zip(numbers, shapes, strict=True)
    )
    return {
        "dictionaries": dictionaries,
        "mix": mix,
        "camera": [jnp.zeros(size) for size in sizes[1:]],
        "encoder": [jnp.zeros(size) for size in sizes[1:]],
        "decoder": [jnp.zeros(size) for size in sizes[1:-1]],
        "steps": [_safe_step(D) for D in dictionaries],
    }


def reconstruct(
    params: Params,
    W: Float[Array, "p 2"],
    *,
    ista_steps: int = 1,
    depth_sign: int = 1,
) -> tuple[Float[Array, " k"], Float[Array, "3 2"], Float[Array, "p 3"]]:
    """Code, camera and shape of one sample.

    Args:
        params: from :func:`init` or training.
        W: landmarks in patch units, their mean removed, missing ones 0.
        ista_steps: ISTA steps of every coding layer.
        depth_sign: -1 mirrors the shape and the camera, see :func:`mirror_depth`.

    Returns:
        phi_1 (K,) >= 0 in the gauge of ``params`` (see :func:`unit_norm_gauge`);
        M (3, 2); S (P, 3) canonical, so that ``S @ M`` is close to W.
    """
    dictionaries = params["dictionaries"]
    M = camera.estimate_camera(W, dictionaries, params["camera"], params["mix"])
    phi = estimate_code(params, W, M, ista_steps=ista_steps)
    D = dictionaries[0]
    if depth_sign == -1:
        D, M = mirror_depth(D, M)
    S = jnp.dot(D, phi, precision=PRECISION).reshape(-1, 3)
    return phi, M, S


def estimate_code(
    params: Params,
    W: Float[Array, "p 2"],
    M: Float[Array, "3 2"],
    *,
    ista_steps: int = 1,
) -> Float[Array, " k"]:
    """q_phi: the first layer's code on the dictionary turned by the camera.

    ``B_xy' w = D_1' vec(W M')``, so the rotated dictionary is never formed: the
    camera turns the landmarks of the sample into the frame of D_1 instead.

    Args:
        params: from :func:`init` or training.
        W: landmarks in patch units, their mean removed, missing ones 0.
        M: the camera.
        ista_steps: ISTA steps of every coding layer.

    Returns:
        phi_1 (K,) >= 0.
    """
    first, *deeper = params["dictionaries"]
    x = jnp.dot(W, M.T, precision=PRECISION).ravel()
    if ista_steps > 1:
        # The residual of a further step is one of the image: B_xy is formed after all.
        x, first = W.ravel(), camera_frame.split_dictionary(first, M)[0]
    phi = sparse_coding.encode(
        x, [first, *deeper], params["encoder"], params["steps"], ista_steps=ista_steps
    )
    return sparse_coding.decode(phi, deeper, params["decoder"])


def unit_norm_gauge(
    D: Float[Array, "d k"], phi: Float[Array, "*batch k"]
) -> tuple[Float[Array, "d k"], Float[Array, "*batch k"]]:
    """The same shape with unit-norm atoms: ``D / ||d_k||`` and ``phi_k ||d_k||``.

    Only the product D phi is seen in the image, so an L1 norm of the code means
    nothing before the norms of the atoms are fixed. An atom of norm 0 stays 0 and
    its code becomes 0.

    Examples:
        >>> D, phi = unit_norm_gauge(jnp.array([[3.0], [4.0]]), jnp.array([2.0]))
        >>> D.ravel().tolist(), phi.tolist()
        ([0.6000000238418579, 0.800000011920929], [10.0])
    """
    norms = column_norms(D)
    scale = norms.reshape((1,) * (phi.ndim - 1) + norms.shape)
    return D / jnp.where(norms > 0, norms, 1)[None, :], phi * scale


def column_norms(D: Float[Array, "d k"]) -> Float[Array, " k"]:
    """(K,) Euclidean norms of the atoms, with a zero gradient at a zero atom."""
    squares = jnp.sum(D**2, axis=0)
    zero = squares == 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, squares)))


def mirror_depth(
    D: Float[Array, "d k"], M: Float[Array, "*batch 3 2"]
) -> tuple[Float[Array, "d k"], Float[Array, "*batch 3 2"]]:
    """The other of the two teachers that explain the same 2D data.

    With ``F = diag(1, 1, -1)``: ``D' = F D`` on every landmark and ``M' = F M``. Then
    ``S' M' = S M``, and since F reverses orientation ``m1' x m2' = -F (m1 x m2)``,
    which negates the depth of every landmark in every camera.
    """
    F = jnp.array([1, 1, -1], D.dtype)
    turned = M * F.reshape((1,) * (M.ndim - 2) + (3, 1))
    return D * jnp.tile(F, len(D) // 3)[:, None], turned


def _safe_step(D: Float[Array, "d k"]) -> Float[Array, ""]:
    """1/L with the cheap bound ``||D||_2^2 <= ||D||_1 ||D||_inf``."""
    magnitude = jnp.abs(D)
    rows, columns = jnp.sum(magnitude, axis=1), jnp.sum(magnitude, axis=0)
    return 1 / (jnp.max(rows) * jnp.max(columns))
