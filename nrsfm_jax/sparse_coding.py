"""Multi-layer non-negative sparse coding (Wang et al. 2019, Eq. 3).

The layers share their dictionaries between encoding and decoding::

    s = D_1 phi_1,  phi_1 = D_2 phi_2,  ...,  phi_{n-1} = D_n phi_n,   phi_i >= 0

One step of ISTA that starts from zero is a feed-forward layer with a ReLU; more
steps are unrolled with a learned step length. All functions take one sample.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

PRECISION = jax.lax.Precision.HIGHEST


def shrink(
    x: Float[Array, "*cells k"], threshold: Float[Array, " k"]
) -> Float[Array, "*cells k"]:
    """Non-negative shrinkage: the proximal map of ``threshold' phi`` on phi >= 0.

    ``shrink(x, b) = argmin_{phi >= 0} 1/2 ||phi - x||^2 + b' phi = max(x - b, 0)``

    Args:
        x: any number of leading axes, one value per atom on the last.
        threshold: (K,) one threshold per atom, of either sign.

    Returns:
        The shape of ``x``, nowhere negative.

    Examples:
        >>> shrink(jnp.array([1.0, -1.0, 0.2]), jnp.full(3, 0.5)).tolist()
        [0.5, 0.0, 0.0]
    """
    bias = threshold.reshape((1,) * (x.ndim - 1) + threshold.shape)
    return jax.nn.relu(x - bias)


def ista_step(
    phi: Float[Array, " k"],
    correlation: Float[Array, " k"],
    threshold: Float[Array, " k"],
    *,
    step: Float[Array, ""],
) -> Float[Array, " k"]:
    """One step of ISTA on ``1/2 ||x - D phi||^2 + (threshold / step)' phi``.

    ``phi <- shrink(phi + step D'(x - D phi), threshold)``

    Args:
        phi: (K,) the present code.
        correlation: (K,) ``D'(x - D phi)``; the caller computes it, because the
            first layer's dictionary is turned by the camera and never formed.
        threshold: (K,) see :func:`shrink`.
        step: step length; the cost cannot rise where it is at most 1/||D||_2^2.

    Returns:
        (K,) the next code.
    """
    return shrink(phi + step * correlation, threshold)


def encode(
    phi: Float[Array, " k"],
    dictionaries: Sequence[Float[Array, "_ _"]],
    thresholds: Sequence[Float[Array, " _"]],
    steps: Sequence[Float[Array, ""]],
    *,
    ista_steps: int = 1,
) -> Float[Array, " deepest"]:
    """Codes of the deeper layers: ``phi_i`` from ``phi_{i-1}``, to the deepest.

    Args:
        phi: (K_1,) code of the first layer.
        dictionaries: D_2 ... D_n, each (K_{i-1}, K_i).
        thresholds: one (K_i,) for each.
        steps: one learned step length for each; unused with one ISTA step.
        ista_steps: 1 is the feed-forward layer ``shrink(D' x, b)``.

    Returns:
        (K_n,) the deepest code.
    """
    for D, threshold, step in zip(dictionaries, thresholds, steps, strict=True):
        x = phi
        phi = shrink(jnp.dot(x, D, precision=PRECISION), threshold)
        for _ in range(ista_steps - 1):
            residual = x - jnp.dot(phi, D.T, precision=PRECISION)
            correlation = jnp.dot(residual, D, precision=PRECISION)
            phi = ista_step(phi, correlation, threshold * step, step=step)
    return phi


def decode(
    phi: Float[Array, " deepest"],
    dictionaries: Sequence[Float[Array, "_ _"]],
    thresholds: Sequence[Float[Array, " _"]],
) -> Float[Array, " k"]:
    """Back up through the same dictionaries: ``phi_{i-1} = shrink(D_i phi_i, b'_i)``.

    Args:
        phi: (K_n,) the deepest code.
        dictionaries: D_2 ... D_n, each (K_{i-1}, K_i), as given to :func:`encode`.
        thresholds: one (K_{i-1},) for each.

    Returns:
        (K_1,) the code of the first layer.
    """
    for D, threshold in zip(dictionaries[::-1], thresholds[::-1], strict=True):
        phi = shrink(jnp.dot(phi, D.T, precision=PRECISION), threshold)
    return phi
