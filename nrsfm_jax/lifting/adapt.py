"""Shapes fitted again, to landmarks of other bodies and motions as well.

Off the motions that it has seen a teacher lacks data, and landmarks are data: no 3D is
needed to learn. EM goes on from the kept mixture, so that its body frame, and with it
the sign of depth, stays; components are added where the new landmarks are unlikely.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from nrsfm_jax.em.fit import POOLING, is_finite, posterior_shapes, run_em
from nrsfm_jax.em.gaussians import GaussianMixture, one_gaussian
from nrsfm_jax.em.posterior import expected_pose
from nrsfm_jax.em.samples import Samples, choose_samples

# Components that are added, of so unlikely new samples; their share at the start; steps
# of EM, from so much noise.
_ADDED, _UNLIKELY, _SHARE, _STEPS, _FIRST_SIGMA = 6, 0.5, 0.3, 60, 0.04
_SAMPLES = 3000  # of the old and of the new landmarks each


def refit(
    mixture: GaussianMixture,
    old: Samples,
    new: Samples,
    evidence: Float[np.ndarray, " n"],
    *,
    sigma: float,
) -> GaussianMixture:
    """EM from a mixture, on the landmarks that it was fitted to and on others.

    Args:
        mixture: the kept one.
        old: landmarks of its fit.
        new: the others.
        evidence: (N,) how likely each new sample is.
        sigma: noise of the landmarks, patch units.

    Raises:
        ValueError: fewer than 2 samples with a landmark, or numbers that are not
            finite at the end.
    """
    key = jax.random.key(0)
    parts = [
        choose_samples(*map(np.asarray, some), key=key, num_samples=_SAMPLES)
        for some in (old, new)
    ]
    samples = Samples(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    order = np.argsort(evidence)[: max(_ADDED, int(_UNLIKELY * len(evidence)))]
    rows = order[np.asarray(jax.random.permutation(key, len(order)))[:_ADDED]]
    unlikely = Samples(np.asarray(new.W)[rows], np.asarray(new.labelled)[rows])
    start = with_components(mixture, unlikely)._replace(sigma=jnp.float32(sigma))
    filled = np.asarray(expected_pose(mixture, *samples)[0][..., :2])
    fitted = run_em(
        start,
        samples,
        steps=_STEPS,
        first_sigma=max(_FIRST_SIGMA, sigma),
        pooling=POOLING,
        filled=filled.reshape(len(filled), -1),
    )
    if not is_finite(fitted):
        raise ValueError(
            f"the EM on {len(parts[1].W)} new and {len(parts[0].W)} old samples ended "
            "in numbers that are not finite: give more landmarks, or do not adapt"
        )
    return fitted


def with_components(mixture: GaussianMixture, samples: Samples) -> GaussianMixture:
    """A component more for each sample: its shape under one broad Gaussian."""
    single, count = one_gaussian(mixture), len(samples.W)
    w = jnp.asarray(expected_pose(single, *samples)[0][..., :2].reshape(count, -1))
    wide = jnp.tile(0.5 * single.Sigma, (count, 1, 1))
    old = mixture.log_weight + float(np.log(1 - _SHARE))
    added = jnp.full(count, np.log(_SHARE / count), jnp.float32)
    return mixture._replace(
        mu=jnp.concatenate([mixture.mu, posterior_shapes(single, w)]),
        Sigma=jnp.concatenate([mixture.Sigma, wide]),
        log_weight=jnp.concatenate([old, added]),
    )
