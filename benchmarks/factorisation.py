"""Methods without networks: rigid and low-rank factorisation, our implementations.

Rigid: Tomasi and Kanade (IJCV 1992). Low rank: a mean and K directions with Gaussian
weights, by expectation maximisation, after Torresani et al. (PAMI 2008), without their
model of time; cameras by a projected gradient step. Both need complete landmarks and do
not determine the sign of depth.
"""

from __future__ import annotations

import numpy as np


def rigid(W: np.ndarray, *, iterations: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """One shape for all samples and a camera for each.

    Args:
        W: (N, P, 2) centred landmarks.
        iterations: of cameras given the shape, shape given the cameras; from the
            factorisation and from an upright body that turns, the better is kept.

    Returns:
        S (P, 3) and M (N, 3, 2) with orthonormal columns, ``W = S M``.
    """
    W = np.asarray(W, np.float64)
    fits = [_alternate(*start(W), W, iterations) for start in (_factorised, _upright)]
    return min(fits, key=lambda fit: float(np.sum((fit[0] @ fit[1] - W) ** 2)))


def _factorised(W: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rank three of all rows, made metric."""
    N, P, _ = W.shape
    stacked = W.transpose(0, 2, 1).reshape(2 * N, P)
    U, s, Vt = np.linalg.svd(stacked, full_matrices=False)
    rows = (U[:, :3] * np.sqrt(N)).reshape(N, 2, 3)
    G = _metric_upgrade(rows)
    S = np.linalg.solve(G, (s[:3, None] / np.sqrt(N)) * Vt[:3]).T
    return S, polar((rows @ G).transpose(0, 2, 1))


def _upright(W: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Height: the mean of y. Side and depth: the two main profiles of x, turned."""
    N = len(W)
    U, s, Vt = np.linalg.svd(W[..., 0], full_matrices=False)
    side, depth = np.sqrt(2 / N) * s[:2, None] * Vt[:2]
    S = np.stack([side, W[..., 1].mean(0), depth], axis=1)
    yaw = np.arctan2(s[1] * U[:, 1], s[0] * U[:, 0])
    M = np.zeros((N, 3, 2))
    M[:, 0, 0], M[:, 2, 0], M[:, 1, 1] = np.cos(yaw), np.sin(yaw), 1
    return S, M


def _alternate(
    S: np.ndarray, M: np.ndarray, W: np.ndarray, iterations: int
) -> tuple[np.ndarray, np.ndarray]:
    for _ in range(iterations):
        M = _turned(np.broadcast_to(S, (len(W), *S.shape)), M, W)
        left, right = (
            np.tensordot(M, M, ((0, 2), (0, 2))),
            np.einsum("nai,npi->ap", M, W),
        )
        S = np.linalg.solve(left, right).T
    return S, M


def low_rank(
    W: np.ndarray, *, rank: int = 8, iterations: int = 60
) -> tuple[np.ndarray, np.ndarray]:
    """A mean shape and ``rank`` directions: S_i = mu + V z_i, z_i ~ N(0, I).

    Returns:
        S (N, P, 3), the posterior mean shapes, and M (N, 3, 2).
    """
    W = np.asarray(W, np.float64)
    N, P, _ = W.shape
    mean, M = rigid(W)
    rng = np.random.default_rng(0)
    # X: per joint, the directions and the mean; (P, 3, rank + 1).
    X = np.concatenate([0.05 * rng.normal(size=(P, 3, rank)), mean[..., None]], axis=2)
    variance = np.mean((np.einsum("pa,nai->npi", mean, M) - W) ** 2)
    S = np.broadcast_to(mean, (N, P, 3))
    for _ in range(iterations):
        z, zz = _weights(X, M, W, variance)
        X = _basis(M, W, z, zz)
        S = np.einsum("pak,nk->npa", X, z)
        M = _turned(S, M, W)
        picture = np.einsum("pak,nai->npik", X, M)
        spread = np.einsum("npik,npil,nkl->", picture, picture, zz)
        cross = np.einsum("npik,nk,npi->", picture, z, W)
        variance = max((spread - 2 * cross + np.sum(W**2)) / W.size, 1e-8)
    return S, M


def camera_frame(S: np.ndarray, M: np.ndarray) -> np.ndarray:
    """(N, P, 3): S R with R = [m1, m2, m1 x m2]."""
    R = np.concatenate([M, np.cross(M[..., 0], M[..., 1])[..., None]], axis=2)
    return (S @ R).astype(np.float32)


def polar(A: np.ndarray) -> np.ndarray:
    """The nearest matrix with orthonormal columns."""
    U, _, Vt = np.linalg.svd(A, full_matrices=False)
    return U @ Vt


def _metric_upgrade(rows: np.ndarray) -> np.ndarray:
    """G with G G' = Q, where m1' Q m1 = m2' Q m2 = 1 and m1' Q m2 = 0 at best."""
    a, b = rows[:, 0], rows[:, 1]
    i, j = np.triu_indices(3)
    twice = np.where(i == j, 1.0, 2.0)

    def products(x, y):
        return 0.5 * (x[:, i] * y[:, j] + x[:, j] * y[:, i]) * twice

    system = np.concatenate([products(a, a), products(b, b), products(a, b)])
    right = np.repeat([1.0, 1.0, 0.0], len(rows))
    Q = np.zeros((3, 3))
    Q[i, j] = Q[j, i] = np.linalg.lstsq(system, right, rcond=None)[0]
    values, vectors = np.linalg.eigh(Q)
    return vectors * np.sqrt(np.maximum(values, 1e-3 * values.max()))


def _turned(S: np.ndarray, M: np.ndarray, W: np.ndarray, steps: int = 5) -> np.ndarray:
    """Cameras with a smaller ||S M - W||: gradient steps, each made orthonormal."""
    gram, target = S.transpose(0, 2, 1) @ S, S.transpose(0, 2, 1) @ W
    step = 1 / np.linalg.norm(gram, ord=2, axis=(1, 2))[:, None, None]
    for _ in range(steps):
        M = polar(M - step * (gram @ M - target))
    return M


def _weights(
    X: np.ndarray, M: np.ndarray, W: np.ndarray, variance: float
) -> tuple[np.ndarray, np.ndarray]:
    """E[z] with a 1 for the mean, and E[z z'], both of the posterior."""
    N, P, _ = W.shape
    rank = X.shape[2] - 1
    picture = np.einsum("pak,nai->npik", X, M).reshape(N, 2 * P, rank + 1)
    A, error = picture[..., :rank], W.reshape(N, -1) - picture[..., rank]
    covariance = np.linalg.inv(np.eye(rank) + A.transpose(0, 2, 1) @ A / variance)
    z = (covariance @ (A.transpose(0, 2, 1) @ error[..., None]))[..., 0] / variance
    z = np.concatenate([z, np.ones((N, 1))], axis=1)
    zz = z[:, :, None] * z[:, None, :]
    zz[:, :rank, :rank] += covariance
    return z, zz


def _basis(M: np.ndarray, W: np.ndarray, z: np.ndarray, zz: np.ndarray) -> np.ndarray:
    """Least squares for all joints: sum M M' X E[zz'] = sum M w E[z]'."""
    size = 3 * z.shape[1]
    MM = M @ M.transpose(0, 2, 1)
    left = np.tensordot(MM, zz, axes=(0, 0)).transpose(0, 2, 1, 3).reshape(size, size)
    right = np.einsum("nai,npi,nk->akp", M, W, z, optimize=True).reshape(size, -1)
    ridge = 1e-6 * np.trace(left) / size
    X = np.linalg.solve(left + ridge * np.eye(size), right)
    return X.reshape(3, -1, W.shape[1]).transpose(2, 0, 1)
