"""One individual in a track: its bones keep their lengths, and its depth moves evenly.

    minimise  1/2 sum_t (z_t - m_t)^T (C_t + e I)^-1 (z_t - m_t)
            + 1/2 sum_t,b ((l_tb - L_b) / tau)^2
            + 1/2 sum_t rate_t |z_t - 2 z_t+1 + z_t+2|^2

over the depth of all frames and the lengths L_b, which are about in the proportions of
the training poses. How evenly the depth moves the image tells.
"""

# Paper: no such step; here: the shapes know the length of a bone on average only.

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import linalg, ndimage

from nrsfm_jax.lifting.bones import LOOSER, Edges, differences

# Patch units: by how much the bones of one body change, beside the noise of x and y.
TAU = 0.012
# By how much the motion of the depth changes from frame to frame, times that of the
# image: the rms around a frame, and to a small share of the whole track.
_MOTION, _AROUND, _WHOLE = 3.0, 3.0, 0.03
# By which share of itself a bone differs from the proportions, said by every frame.
_OWN = 0.4
_ITERATIONS, _DAMPING = 30, (1e-6, 1e6)


class Track(NamedTuple):
    """Frames of one individual in one unit, and what holds for all of them.

    Attributes:
        xy: of the joints.
        m: mean of the depth.
        C: its covariance.
        rate: precision of z_t - 2 z_t+1 + z_t+2, for each joint; the last two are 0.
        tau: standard deviation of a bone about its length.
    """

    xy: Float[np.ndarray, "f p 2"]
    m: Float[np.ndarray, "f p"]
    C: Float[np.ndarray, "f p p"]
    rate: Float[np.ndarray, " f"]
    tau: float


def motion_rate(xy: Float[np.ndarray, "f p 2"]) -> Float[np.ndarray, " f"]:
    """The rate of following frames: the depth moves as unevenly as the image does."""
    rate = np.zeros(len(xy))
    if len(xy) > 2:
        moved = np.mean(np.square(np.diff(xy, 2, axis=0)), axis=(1, 2))
        around = ndimage.gaussian_filter1d(moved, _AROUND, mode="nearest")
        rate[:-2] = 1 / (_MOTION**2 * (around + _WHOLE * np.mean(moved) + 1e-9))
    return rate


class Lengths(NamedTuple):
    """Of the bones of one body, or the proportions that they are likely to have."""

    ell: Float[np.ndarray, " b"]
    known: bool = False


def fit_track(
    track: Track,
    lengths: Lengths,
    *,
    edges: Edges,
    groups: Int[np.ndarray, " b"],
) -> tuple[Float[np.ndarray, "f p"], Float[np.ndarray, " b"]]:
    """The depth of a track, 0 on average in each frame, and the lengths L_b.

    Damped Gauss-Newton of both together; ``groups`` has the same number for bones of
    the same length.
    """
    problem = _problem(track, lengths, edges, groups)
    z = np.asarray(track.m, np.float64)
    L = problem.ell
    if not lengths.known:
        L = problem.mean_of(problem.bones(z)[1].mean(axis=0))
    cost, (damping, most) = problem.cost(z, L), _DAMPING
    for _ in range(_ITERATIONS):
        change, found = (z, L), np.inf
        while damping < most and not found <= cost:
            change = problem.step(z, L, damping)
            found = problem.cost(z + change[0], L + change[1])
            damping = damping / 5 if found <= cost else max(10 * damping, 1e-3)
        if not found <= cost:
            break
        z, L, gain, cost = z + change[0], L + change[1], cost - found, found
        if gain < 1e-6 * cost:
            break
    return z - z.mean(1, keepdims=True), L[groups]


class _Problem(NamedTuple):
    """A track with its matrices; L_g, ell_g and n_g of each group of bones."""

    track: Track
    D: Float[np.ndarray, "b p"]  # the ends of each bone
    flat: Float[np.ndarray, "f b"]  # square of its length in the picture
    Q: Float[np.ndarray, "f p p"]  # precision of the depth
    member: Float[np.ndarray, "b g"]
    ell: Float[np.ndarray, " g"]
    known: bool

    def mean_of(self, each: Float[np.ndarray, " b"]) -> Float[np.ndarray, " g"]:
        """Over the bones of each group."""
        return each @ self.member / self.member.sum(0)

    def bones(self, z: Float[np.ndarray, "f p"]) -> tuple[np.ndarray, np.ndarray]:
        """Their depths and lengths."""
        dz = z @ self.D.T
        return dz, np.sqrt(self.flat + dz**2 + 1e-4)

    def odd(self, L: Float[np.ndarray, " g"]) -> tuple[np.ndarray, np.ndarray]:
        """By how much the lengths differ from the proportions, and the derivative."""
        n = self.member.sum(0)
        scale = np.sum(n * L * self.ell) / np.sum(n * self.ell**2)
        weight = 0.0 if self.known else np.sqrt(len(self.flat)) / _OWN
        slope = weight / (scale * self.ell)
        return slope * L - weight, slope

    def cost(self, z: Float[np.ndarray, "f p"], L: Float[np.ndarray, " g"]) -> float:
        """Twice the negative log posterior, but for a constant."""
        e, track = z - self.track.m, self.track
        r = (self.bones(z)[1] - self.member @ L) / track.tau
        turn = track.rate[: max(len(z) - 2, 0), None] * np.diff(z, 2, axis=0) ** 2
        own = np.sum(e * np.einsum("fpq,fq->fp", self.Q, e))
        return float(own + np.sum(r**2) + np.sum(turn) + np.sum(self.odd(L)[0] ** 2))

    def step(
        self, z: Float[np.ndarray, "f p"], L: Float[np.ndarray, " g"], damping: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Of z and L."""
        (F, P), tau = z.shape, self.track.tau
        dz, length = self.bones(z)
        J = (dz / length / tau)[..., None] * self.D
        r = (length - self.member @ L) / tau
        g = np.einsum("fpq,fq->fp", self.Q, z - self.track.m)
        g = g + np.einsum("fbp,fb->fp", J, r) + _pull(self.track.rate, z)
        band, (a, b) = _band(self.track.rate, P), np.tril_indices(P)
        H = self.Q + J.mT @ J
        band[a - b, :, b] += H[:, a, b].T
        band[0] *= 1 + damping
        # The lengths are the border of a matrix that is banded but for them.
        K = -np.einsum("fbp,bg->fpg", J, self.member).reshape(F * P, -1) / tau
        right = np.column_stack([-g.ravel(), K])
        x = linalg.solveh_banded(band.reshape(-1, F * P), right, lower=True)
        if self.known:
            return x[:, 0].reshape(F, P), np.zeros_like(L)
        odd, slope = self.odd(L)
        g_L = odd * slope - r.sum(0) @ self.member / tau
        H_L = np.diag(F / tau**2 * self.member.sum(0) + slope**2)
        dL = np.linalg.solve(H_L - K.T @ x[:, 1:], -g_L - K.T @ x[:, 0])
        return (x[:, 0] - x[:, 1:] @ dL).reshape(F, P), dL


def _problem(
    track: Track, lengths: Lengths, edges: Edges, groups: Int[np.ndarray, " b"]
) -> _Problem:
    P, member = track.m.shape[1], np.eye(int(groups.max()) + 1)[groups]
    D = differences(np.array(edges), P)
    flat = np.sum(np.square(np.einsum("bp,fpa->fba", D, track.xy)), axis=-1)
    noise = 1e-4 * np.trace(track.C, axis1=1, axis2=2).mean() / P + 0.01 * track.tau**2
    # Rounding may leave a covariance without an inverse.
    variance, axes = np.linalg.eigh(LOOSER**2 * np.asarray(track.C, np.float64))
    Q = axes / (np.maximum(variance, 0) + noise)[:, None] @ axes.mT
    ell = lengths.ell @ member / member.sum(0)
    return _Problem(track, D, flat, Q, member, ell, lengths.known)


def _pull(
    rate: Float[np.ndarray, " f"], z: Float[np.ndarray, "f p"]
) -> Float[np.ndarray, "f p"]:
    """The gradient of 1/2 sum_t rate_t |z_t - 2 z_t+1 + z_t+2|^2."""
    turn = np.zeros((len(z) + 2, z.shape[1]))
    turn[2 : len(z)] = np.diff(z, 2, axis=0) * rate[: max(len(z) - 2, 0), None]
    return np.diff(turn, 2, axis=0)


def _band(rate: Float[np.ndarray, " f"], joints: int) -> Float[np.ndarray, "e f p"]:
    """Its second derivative, the lower diagonals."""
    before = np.pad(rate, (2, 0))
    now, last, other = before[2:], before[1:-1], before[:-2]
    band = np.zeros((2 * joints + 1, len(rate), joints))
    band[0] = (now + 4 * last + other)[:, None]
    band[joints] = -2 * (now + last)[:, None]
    band[2 * joints] = now[:, None]
    return band
