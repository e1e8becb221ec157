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

from nrsfm_jax.em.fit import POOLING, is_finite, run_em
from nrsfm_jax.em.gaussians import HIGHEST, GaussianMixture, one_gaussian
from nrsfm_jax.em.posterior import expected_pose
from nrsfm_jax.em.samples import Samples, choose_samples

# Components that are added, of so unlikely new samples; their share at the start; steps
# of EM, from so much noise.
_ADDED, _UNLIKELY, _SHARE, _STEPS, _FIRST_SIGMA = 10, 0.5, 0.3, 60, 0.04
_SAMPLES = 3000  # of the old and of the new landmarks each


def refit(
    mixture: GaussianMixture,
    old: Samples,
    new: Samples,
    poses: Float[np.ndarray, "n p 3"],
    evidence: Float[np.ndarray, " n"],
    *,
    sigma: float,
) -> GaussianMixture:
    """EM from a mixture, on the landmarks that it was fitted to and on others.

    Args:
        mixture: the kept one.
        old: landmarks of its fit.
        new: the others.
        poses: (N, P, 3) of the new samples, camera frame, patch units.
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
    start = with_components(mixture, apart(poses[order], _ADDED))
    start = start._replace(sigma=jnp.float32(sigma))
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


def apart(poses: Float[np.ndarray, "n p 3"], count: int) -> Float[np.ndarray, "m p 3"]:
    """Some of the poses, each likelier the farther it is from those before it."""
    rng, nearest = np.random.default_rng(0), np.ones(len(poses))
    chosen: list[int] = []
    while len(chosen) < count and nearest.any():
        chosen.append(int(rng.choice(len(poses), p=nearest / nearest.sum())))
        away = np.square(poses - poses[chosen[-1]]).sum((1, 2))
        nearest = away if len(chosen) == 1 else np.minimum(nearest, away)
    return poses[chosen]


def with_components(
    mixture: GaussianMixture, poses: Float[np.ndarray, "m p 3"]
) -> GaussianMixture:
    """A broad component more for each pose of the camera frame."""
    # Of views that are evenly likely any one turns a pose into the body frame.
    R, count = mixture.views[len(mixture.views) // 2], len(poses)
    mu = jnp.matmul(jnp.asarray(poses), R.T, precision=HIGHEST).reshape(count, -1)
    wide = jnp.tile(0.5 * one_gaussian(mixture).Sigma, (count, 1, 1))
    old = mixture.log_weight + float(np.log(1 - _SHARE))
    added = jnp.full(count, np.log(_SHARE / count), jnp.float32)
    return mixture._replace(
        mu=jnp.concatenate([mixture.mu, mu]),
        Sigma=jnp.concatenate([mixture.Sigma, wide]),
        log_weight=jnp.concatenate([old, added]),
    )
