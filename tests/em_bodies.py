"""A small body for the tests of the EM, and its formulas in float64, as written."""

from collections.abc import Iterator
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy.special import logsumexp, softmax
from scipy.stats import multivariate_normal

from nrsfm_jax.em import coherent
from nrsfm_jax.em.gaussians import SHIFT_VARIANCE, GaussianMixture
from nrsfm_jax.em.samples import Samples
from nrsfm_jax.em.views import upright_views

P = 6
CENTRING = np.eye(P) - 1 / P
VIEWS = upright_views((-10.0, 20.0, 35.0), 8)


def mixture_of(mu, Sigma, weight, sigma, views) -> GaussianMixture:
    even = np.full(len(views), -np.log(len(views)))
    fields = mu, Sigma, np.log(weight), sigma, views, even, 0.0
    return GaussianMixture(*(jnp.asarray(x, jnp.float32) for x in fields))


def two_poses(sigma=0.04, spread=0.04) -> GaussianMixture:
    """Two poses of a body of six joints; the first is twice as frequent."""
    rng = np.random.default_rng(0)
    S = rng.normal(size=(2, P, 3)) * (0.3, 0.5, 0.25)
    S[1] = S[0] + 0.4 * S[1]
    mu = (S - S.mean(1, keepdims=True)).reshape(2, -1)
    root = spread * np.kron(CENTRING, np.eye(3)) @ rng.normal(size=(2, 3 * P, 3 * P))
    return mixture_of(mu, root @ root.swapaxes(1, 2), [2 / 3, 1 / 3], sigma, VIEWS)


def component(mixture, k) -> GaussianMixture:
    """The single Gaussian k, as a mixture of one."""
    return mixture._replace(
        mu=mixture.mu[k : k + 1],
        Sigma=mixture.Sigma[k : k + 1],
        log_weight=jnp.zeros(1),
    )


def sample(mixture, count, seed=1):
    """Landmarks centred over the joints, and true depth centred likewise."""
    rng = np.random.default_rng(seed)
    mu, Sigma, log_weight, sigma, views, *_ = (np.asarray(x, float) for x in mixture)
    k = rng.choice(len(mu), size=count, p=softmax(log_weight))
    values, vectors = np.linalg.eigh(Sigma)  # singular: the shapes are centred
    root = vectors * np.sqrt(np.maximum(values, 0))[:, None]
    s = mu[k] + np.einsum("nab,nb->na", root[k], rng.normal(size=(count, mu.shape[1])))
    S_cam = s.reshape(count, -1, 3) @ views[rng.integers(len(views), size=count)]
    S_cam[..., :2] += sigma * rng.normal(size=S_cam[..., :2].shape)
    S_cam -= S_cam.mean(1, keepdims=True)
    return S_cam[..., :2].astype(np.float32), S_cam[..., 2]


def complete(W) -> Samples:
    return Samples(W, np.ones(W.shape[:2], bool))


def with_gaps(W, labelled):
    """Centred over the labelled joints, 0 at the others."""
    count = np.maximum(labelled.sum(1), 1)[:, None, None]
    W = W - np.where(labelled[..., None], W, 0).sum(1, keepdims=True) / count
    return np.where(labelled[..., None], W, 0).astype(np.float32)


def incomplete(mixture, count, *, gaps=(1, 2), seed=1) -> Samples:
    """Samples that miss so many landmarks, in turns; programs are compiled for each."""
    rng = np.random.default_rng(seed)
    W, _ = sample(mixture, count, seed)
    order = np.argsort(rng.random((count, P)), axis=1)
    labelled = order >= np.resize(gaps, count)[:, None]
    return Samples(with_gaps(W, labelled), labelled)


class Pair(NamedTuple):
    """Component and view: prior, moments of the picture, the shape's to the picture."""

    log_prior: float
    mean: np.ndarray
    C: np.ndarray
    A: np.ndarray
    mu: np.ndarray
    Sigma: np.ndarray
    R: np.ndarray


def pairs(mixture) -> Iterator[Pair]:
    """In the order of `gaussians.pair_terms`."""
    mu, Sigma, log_weight, sigma, views, log_view, _ = (
        np.asarray(x, float) for x in mixture
    )
    joints = mu.shape[1] // 3
    for k in range(len(mu)):
        for R, log_g in zip(views, log_view, strict=True):
            A = np.kron(np.eye(joints), R[:, :2].T)
            C = A @ Sigma[k] @ A.T + sigma**2 * np.eye(2 * joints)
            C = C + SHIFT_VARIANCE * np.tile(np.eye(2), (joints, joints))
            prior = log_weight[k] + log_g
            yield Pair(prior, A @ mu[k], C, A, mu[k], Sigma[k], R)


def log_joint(mixture, W, labelled) -> np.ndarray:
    """log p(w_i, c) of the labelled landmarks, (N, C)."""
    out = []
    for w, mask in zip(np.asarray(W, float), labelled, strict=True):
        rows = np.repeat(mask, 2)
        out.append(
            [
                pair.log_prior
                + multivariate_normal.logpdf(
                    w.ravel()[rows], pair.mean[rows], pair.C[np.ix_(rows, rows)]
                )
                for pair in pairs(mixture)
            ]
        )
    return np.array(out)


def log_evidence(mixture, W) -> np.ndarray:
    """log p(w_i) of complete samples."""
    w = np.asarray(W, float).reshape(len(W), -1)
    joint = [
        p.log_prior + multivariate_normal(p.mean, p.C).logpdf(w) for p in pairs(mixture)
    ]
    return logsumexp(joint, axis=0)


def make_trials_few(setter):
    """Short trials of the views, for tests that do not ask which are likeliest."""
    for name, value in {
        "_TRIAL_SAMPLES": 60,
        "_TRIAL_ROTATIONS": 20,
        "_LEVEL_STEPS": 5,
        "_GRID_STEPS": 3,
    }.items():
        setter(coherent, name, value)
