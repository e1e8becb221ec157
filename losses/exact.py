"""Wang et al. 2019, Eqs. 10, 11: the minimum cost of all codes with a given depth.

Training uses the bound of Eq. 14. This is the quantity that it bounds, for research and
for measuring how tight the bound is: a convex problem per sample, solved by ADMM to a
certificate of optimality.

    primal   min_phi ||B_xy phi - w||_2 + c ||phi||_1    where  B_z phi = z'
    dual     max_(u, nu)  z' . nu - w . u
             where  ||u||_2 <= 1,  ||B_xy^T u - B_z^T nu||_inf <= c

With F = [B_xy; B_z], ADMM splits the primal into a pair (phi, F phi) and copies of the
two: s, on which the L1 norm acts, and t, whose image part has the cost ||t_xy - w||_2
and whose depth part is z'. The multipliers of these copies are, up to scale, the dual
point v = (u, -nu).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from losses.distillation import code_cost
from losses.masked import Weight, keep_labelled, keep_labelled_pairs, norm, product
from losses.shapes import of_one_sample
from losses.subspace import project_code, right_inverse

_RELAXATION = 1.7
_CHECK_EVERY = 25
# The penalty follows the residuals only at first: ADMM converges when it is fixed.
_ADAPT_UNTIL = 400
_TINY = 1e-30


class _Problem(NamedTuple):
    """The primal with columns of F of norm about 1 and (w, z') of norm 1."""

    F: Float[Array, " p3 k"]
    target: Float[Array, " p3"]
    c: Float[Array, ""]
    spread: Float[Array, " k p3"]
    inverse: Float[Array, " k p"]

    @property
    def pairs(self) -> int:
        """2P, where the image rows end and the depth rows begin."""
        return self.F.shape[0] - self.inverse.shape[1]


class _Iterate(NamedTuple):
    """The copies, their scaled multipliers, and the best feasible points so far."""

    s: Float[Array, " k"]
    t: Float[Array, " p3"]
    s_dual: Float[Array, " k"]
    t_dual: Float[Array, " p3"]
    penalty: Float[Array, ""]
    step: Int[Array, ""]
    phi: Float[Array, " k"]
    v: Float[Array, " p3"]
    upper: Float[Array, ""]
    lower: Float[Array, ""]


@of_one_sample
def min_code_cost(
    z_hyp: Float[Array, " p"],
    phi: Float[Array, " k"],
    B_xy: Float[Array, " p2 k"],
    B_z: Float[Array, " p k"],
    w: Float[Array, " p2"],
    *,
    code_l1_weight: Weight,
    labelled: Bool[Array, " p"] | None = None,
    tolerance: float = 1e-4,
    max_steps: int = 10_000,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Least cost of a code with the depth z' (Wang et al. 2019, Eqs. 10, 11).

        L(z') = min C(phi) over {phi : B_z phi = z'},   C of Eq. 9

    Differentiable in z_hyp, w, B_xy and B_z by the envelope theorem: dL/dz' is the
    multiplier nu of the constraint, and nothing is differentiated through the
    iterations.

    Under ``jax.vmap`` every sample waits for the slowest of its batch. For many
    samples on a CPU, ``jax.lax.map(..., batch_size=4)`` is several times faster.

    Args:
        z_hyp: (P,) depth hypothesis z', in the unit of w.
        phi: (K,) a code to start from, the teacher's; no influence on the minimum.
        B_xy: (2P, K) image part of the dictionary.
        B_z: (P, K) depth part of the dictionary.
        w: (2P,) centred landmarks, ``W.ravel()``.
        code_l1_weight: weight c > 0 of the regulariser.
        labelled: (P,) joints that have a landmark.
        tolerance: stop when the gap is at most this share of the cost.
        max_steps: stop after so many steps of ADMM, whatever the gap.

    Returns:
        The cost of a code that has the depth z' (or, where no code has it, the
        nearest depth that one has, as in :func:`losses.project_code`), and the gap
        to a lower bound from the dual: the minimum lies in [cost - gap, cost].
    """
    B_xy, w = keep_labelled_pairs(B_xy, labelled), keep_labelled_pairs(w, labelled)
    B_z, z_hyp = keep_labelled(B_z, labelled), keep_labelled(z_hyp, labelled)
    phi_min, v, cost, gap = jax.lax.stop_gradient(
        _solve(
            *jax.lax.stop_gradient((z_hyp, phi, B_xy, B_z, w, code_l1_weight)),
            tolerance=tolerance,
            max_steps=max_steps,
        )
    )
    # The Lagrangian at the solution has the gradient of the minimum; only its
    # gradient is taken, the value is that of the feasible code.
    u, nu = v[: w.shape[0]], -v[w.shape[0] :]
    lagrangian = (
        jnp.dot(u, product(B_xy, phi_min) - w)
        + jnp.dot(nu, z_hyp - product(B_z, phi_min))
        + code_l1_weight * jnp.sum(jnp.abs(phi_min))
    )
    return cost + (lagrangian - jax.lax.stop_gradient(lagrangian)), gap


def _solve(
    z_hyp: Float[Array, " p"],
    phi: Float[Array, " k"],
    B_xy: Float[Array, " p2 k"],
    B_z: Float[Array, " p k"],
    w: Float[Array, " p2"],
    c: Weight,
    *,
    tolerance: float,
    max_steps: int,
) -> tuple[Array, Array, Array, Array]:
    """The least code, the dual point, the cost and the gap, in the caller's units."""
    start = project_code(phi, B_z, z_hyp)
    F, target = (
        jnp.concatenate([B_xy, B_z]),
        jnp.concatenate([w, product(B_z, start)]),
    )
    size = _positive(norm(target))
    column = _positive(norm(F) / F.shape[1] ** 0.5)
    problem = _pose(F / column, target / size, c / column, w.shape[0])

    def unfinished(it: _Iterate) -> Array:
        gap = it.upper - it.lower
        return (it.step < max_steps) & (gap > tolerance * it.upper)

    first = _first(problem, start * (column / size))
    last = jax.lax.while_loop(unfinished, lambda it: _stretch(problem, it), first)
    gap = jnp.maximum(last.upper - last.lower, 0.0)
    return last.phi * (size / column), last.v, last.upper * size, gap * size


def _pose(F: Array, target: Array, c: Array, pairs: int) -> _Problem:
    """Adds what every step needs again: F^T (F F^T + I)^-1 and F_z^+."""
    gram = product(F, F.T) + jnp.eye(F.shape[0], dtype=F.dtype)
    factor = jnp.linalg.cholesky(gram, symmetrize_input=False)
    spread = jax.scipy.linalg.cho_solve((factor, True), F).T
    return _Problem(F, target, c, spread, right_inverse(F[pairs:]))


def _first(problem: _Problem, s: Float[Array, " k"]) -> _Iterate:
    zero = jnp.zeros_like(problem.target)
    start = _Iterate(
        s=s,
        t=product(problem.F, s),
        s_dual=jnp.zeros_like(s),
        t_dual=zero,
        penalty=1.0 / jnp.maximum(problem.c, _TINY),
        step=jnp.zeros((), jnp.int32),
        phi=s,
        v=zero,
        upper=jnp.full((), jnp.inf, s.dtype),
        lower=jnp.zeros((), s.dtype),
    )
    return _certify(problem, start)


def _stretch(problem: _Problem, it: _Iterate) -> _Iterate:
    """Some steps, one look at the certificate, and the penalty's adaptation."""
    before = jax.lax.fori_loop(0, _CHECK_EVERY - 1, lambda _, i: _step(problem, i), it)
    return _adapt(problem, before, _certify(problem, _step(problem, before)))


def _step(problem: _Problem, it: _Iterate) -> _Iterate:
    """One step of over-relaxed ADMM: nearest (phi, F phi), then the two copies."""
    pairs = problem.pairs
    a, b = it.s - it.s_dual, it.t - it.t_dual
    phi = a + product(problem.spread, b - product(problem.F, a))
    y = product(problem.F, phi)
    phi = _RELAXATION * phi + (1.0 - _RELAXATION) * it.s + it.s_dual
    y = _RELAXATION * y + (1.0 - _RELAXATION) * it.t + it.t_dual

    threshold = problem.c / it.penalty
    s = jnp.sign(phi) * jnp.maximum(jnp.abs(phi) - threshold, 0.0)
    error = y[:pairs] - problem.target[:pairs]
    # The proximal map of a norm shortens a vector by 1 / penalty, at most to 0.
    kept = jnp.maximum(1.0 - 1.0 / (it.penalty * _positive(norm(error))), 0.0)
    t = problem.target.at[:pairs].add(kept * error)
    return it._replace(s=s, t=t, s_dual=phi - s, t_dual=y - t, step=it.step + 1)


def _certify(problem: _Problem, it: _Iterate) -> _Iterate:
    """Moves both points into their feasible sets and keeps the better bounds."""
    pairs, F, target = problem.pairs, problem.F, problem.target
    rest = target[pairs:] - product(F[pairs:], it.s)
    phi = it.s + product(problem.inverse, rest)
    upper = code_cost(phi, F[:pairs], target[:pairs], code_l1_weight=problem.c)

    v = it.penalty * it.t_dual
    slope = jnp.max(jnp.abs(product(F.T, v))) / jnp.maximum(problem.c, _TINY)
    v = v / jnp.maximum(jnp.maximum(slope, norm(v[:pairs])), 1.0)
    lower = -jnp.dot(v, target)
    return it._replace(
        phi=jnp.where(upper < it.upper, phi, it.phi),
        v=jnp.where(lower > it.lower, v, it.v),
        upper=jnp.minimum(upper, it.upper),
        lower=jnp.maximum(lower, it.lower),
    )


def _adapt(problem: _Problem, before: _Iterate, it: _Iterate) -> _Iterate:
    """Balances the relative primal and dual residuals by the penalty."""
    image = product(problem.F, it.s)
    apart = norm(image - it.t) / _positive(jnp.maximum(norm(image), norm(it.t)))
    moved = norm(it.s - before.s + product(problem.F.T, it.t - before.t))
    force = jnp.maximum(norm(it.s_dual), norm(product(problem.F.T, it.t_dual)))
    ratio = jnp.sqrt(apart / _positive(moved / _positive(force)))
    far = ((ratio > 2.0) | (ratio < 0.5)) & (it.step < _ADAPT_UNTIL)
    ratio = jnp.where(far, jnp.clip(ratio, 0.1, 10.0), 1.0)
    return it._replace(
        penalty=it.penalty * ratio,
        s_dual=it.s_dual / ratio,
        t_dual=it.t_dual / ratio,
    )


def _positive(x: Float[Array, ""]) -> Float[Array, ""]:
    """x, or 1 where a division by x would fail."""
    return jnp.where(x > _TINY, x, 1.0)
