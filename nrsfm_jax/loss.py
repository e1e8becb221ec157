"""What the teacher minimises: Eq. 4 and the guide by the EM depth; which restart wins.

All of it sees landmarks alone.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from losses.camera_frame import rotation_from_camera
from losses.masked import keep_labelled, labelled_mean, norm
from losses.reprojection import reprojection_loss
from nrsfm_jax import fast as columns
from nrsfm_jax import model
from nrsfm_jax.model import Params

Batch = Mapping[str, Any]
# On a CPU a batch is taken in pieces whose activations stay in a core's cache: these
# sizes. In one piece, 1024 samples take 1.2 times as long.
PIECE_SIZES = range(128, 31, -1)


@dataclasses.dataclass(frozen=True)
class Objective:
    """Hyper-parameters of the loss and of Adam; one record for the whole loop.

    Attributes:
        sparsity_weight: lambda of Eq. 4 in the gauge of unit-norm columns.
        guide_fraction: share of the steps over which the weight of the EM depth falls
            from 1 to ``guide_floor``; 0: the EM depth is not used at all.
        guide_floor: the weight that stays to the end.
        learning_rate: the highest; a cosine decay to zero follows a linear warm-up.
        warmup_fraction: share of the steps of the warm-up. Without it the first
            steps of Adam silence atoms of the deep layers that never return.
        steps: of the whole training.
        batch_size: samples per step over all devices.
        ista_steps: ISTA steps of every coding layer.
    """

    sparsity_weight: float = 0.005
    guide_fraction: float = 0.4
    guide_floor: float = 0.5
    learning_rate: float = 1e-2
    warmup_fraction: float = 0.05
    steps: int = 6000
    batch_size: int = 128
    ista_steps: int = 1

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """Adam with warm-up and cosine decay, on all parameters as one vector."""
        return optax.flatten(optax.adam(self.learning_rate_at))

    def guide_at(self, step: ArrayLike) -> Float[Array, ""]:
        """Weight of the EM depth: linear from 1 to the floor, then constant."""
        if self.guide_fraction <= 0:
            return jnp.float32(0)
        done = jnp.asarray(step, jnp.float32) / self.steps
        return jnp.maximum(self.guide_floor, 1 - done / self.guide_fraction)

    def learning_rate_at(self, step: ArrayLike) -> Float[Array, ""]:
        """Linear from 0 over the warm-up, times half a cosine over all steps."""
        done = jnp.asarray(step, jnp.float32) / self.steps
        warmup = self.warmup_fraction
        rise = jnp.minimum(1.0, done / warmup) if warmup > 0 else jnp.float32(1)
        return self.learning_rate * rise * 0.5 * (1 + jnp.cos(jnp.pi * done))


def check_data(
    W: Float[np.ndarray, "n p 2"],
    labelled: Bool[np.ndarray, "n p"],
    em_depth: Float[np.ndarray, "n p"] | None,
    objective: Objective,
) -> tuple[dict[str, Any], Objective]:
    """Arrays in the dtypes of the loop; without an EM depth there is no guide.

    Raises:
        ValueError: shapes that do not fit together, a landmark that is not finite,
            fewer samples than a batch, a joint that no sample shows.
    """
    W, labelled = np.asarray(W, np.float32), np.asarray(labelled, bool)
    if W.ndim != 3 or W.shape[2] != 2 or labelled.shape != W.shape[:2]:
        raise ValueError(
            f"W has shape {W.shape} and labelled {labelled.shape}; expected (N, P, 2) "
            "and (N, P)"
        )
    bad = np.flatnonzero(~np.isfinite(W).all((1, 2)))
    if bad.size:
        raise ValueError(f"W[{bad[0]}] is not finite; missing landmarks must be 0")
    if len(W) < objective.batch_size:
        raise ValueError(
            f"{len(W)} samples are fewer than batch_size={objective.batch_size}; lower "
            "config.teacher.batch_size"
        )
    check_seen(labelled, range(labelled.shape[1]))
    if em_depth is None:
        em_depth = np.zeros(labelled.shape, np.float32)
        objective = dataclasses.replace(objective, guide_fraction=0.0)
    if em_depth.shape != labelled.shape:
        raise ValueError(f"em_depth has shape {em_depth.shape}, not {labelled.shape}")
    data = {"W": W, "labelled": labelled, "em_depth": np.asarray(em_depth, np.float32)}
    return data, objective


def check_seen(labelled: Bool[np.ndarray, "n p"], names: Sequence[object]) -> None:
    """Raises a ValueError with the names of the joints that no sample shows."""
    unseen = [str(names[int(joint)]) for joint in np.flatnonzero(~labelled.any(0))]
    if unseen:
        raise ValueError(
            f"joint {', '.join(unseen)}: labelled in none of the {len(labelled)} "
            "training samples, so its depth cannot be learned; label it in some of "
            "them or leave it out of the skeleton"
        )


def complete_batch(batch: Batch, objective: Objective) -> dict[str, np.ndarray]:
    """The three arrays of a step; a stream that nothing guides needs no EM depth.

    Raises:
        ValueError: no EM depth where the objective has a weight for it.
    """
    W = np.asarray(batch["W"], np.float32)
    labelled = np.asarray(batch["labelled"], bool)
    em_depth = batch.get("em_depth")
    if em_depth is None:
        if objective.guide_fraction > 0:
            raise ValueError(
                f"a batch without 'em_depth', but guide_fraction is "
                f"{objective.guide_fraction}; add the depth or set the fraction to 0"
            )
        em_depth = np.zeros(labelled.shape)
    em_depth = np.asarray(em_depth, np.float32)
    return {"W": W, "labelled": labelled, "em_depth": em_depth}


def sample_loss(
    params: Params,
    W: Float[Array, "p 2"],
    labelled: Bool[Array, " p"],
    em_depth: Float[Array, " p"],
    *,
    sparsity_weight: float,
    ista_steps: int,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Eq. 4 of one sample, and how far its depth is from that of the EM.

    Args:
        params: of one member.
        W: (P, 2) centred landmarks; missing ones are 0 or filled by the EM, which
            the network sees and the reprojection error does not.
        labelled: (P,) joints that have a landmark.
        em_depth: (P,) z away from the camera.
        sparsity_weight: on the L1 norm in the gauge of unit-norm columns.
        ista_steps: ISTA steps of every coding layer.

    Returns:
        ``||S M - W||_F + sparsity_weight ||phi_1||_1`` over the labelled joints, and
        ``||z - z_EM||_2`` over all, depths centred: the EM gives each joint one.
    """
    phi, M, S = model.reconstruct(params, W, ista_steps=ista_steps)
    norms = model.column_norms(params["dictionaries"][0])
    loss = reprojection_loss(
        S, M, W, phi * norms, sparsity_weight=sparsity_weight, labelled=labelled
    )
    z_axis = rotation_from_camera(M)[:, 2]
    z = jnp.dot(S, z_axis, precision=jax.lax.Precision.HIGHEST) - em_depth
    return loss, norm(z - jnp.mean(z))


def batch_loss(
    params: Params, batch: Batch, guide: Float[Array, ""], *, objective: Objective
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Mean of :func:`sample_loss` over a batch: Eq. 4 + guide * depth difference.

    On a CPU in the layout that it multiplies fastest, see `columns`.
    """
    weight, steps = objective.sparsity_weight, objective.ista_steps
    if on_cpu() and steps == 1:
        of_samples = functools.partial(columns.sample_losses, sparsity_weight=weight)
    else:
        one = functools.partial(sample_loss, sparsity_weight=weight, ista_steps=steps)
        of_samples = jax.vmap(one, in_axes=(None, 0, 0, 0))
    arrays = batch["W"], batch["labelled"], batch["em_depth"]
    losses, differences = of_samples(params, *arrays)
    loss, difference = jnp.mean(losses), jnp.mean(differences)
    metrics = {"loss": loss, "em_difference": difference}
    return loss + guide * difference, metrics


def batch_gradient(
    params: Params, batch: Batch, guide: Float[Array, ""], *, objective: Objective
) -> tuple[Params, dict[str, Float[Array, ""]]]:
    """Gradient of :func:`batch_loss`, and its metrics."""
    gradient_of = jax.grad(batch_loss, has_aux=True)
    size = len(batch["W"])
    piece = size
    if on_cpu() and size > PIECE_SIZES[0]:
        piece = next((n for n in PIECE_SIZES if size % n == 0), size)
    if piece == size:
        return gradient_of(params, batch, guide, objective=objective)
    pieces = {k: v.reshape(-1, piece, *v.shape[1:]) for k, v in batch.items()}
    parts = jax.lax.map(
        lambda part: gradient_of(params, part, guide, objective=objective), pieces
    )
    return jax.tree.map(lambda x: jnp.mean(x, axis=0), parts)


def over_members(function: Callable[[Params], Any], params: Params) -> Any:
    """``function`` of every member of a population, stacked on the first axis.

    One after the other on a CPU: stacked, 16 members take 1.5 times as long there.
    """
    if on_cpu():
        return jax.lax.map(function, params)
    return jax.vmap(function)(params)


def on_cpu() -> bool:
    """Whether the program that is being traced will run on the CPU."""
    return jax.default_backend() == "cpu"


def choose_member(
    params: Params,
    data: Batch,
    *,
    objective: Objective,
    max_samples: int = 4096,
) -> tuple[int, np.ndarray]:
    """Keeps the member with the best score that needs no 3D.

    With an EM depth the score is how far the member's depth is from it, the mean of
    ``||z - z_EM||_2``: a mirrored sample counts, and so does a poor one, which the
    share of mirrored samples and Eq. 4 do not tell (ranks in docs/teacher.md).
    Without an EM depth it is Eq. 4.

    Args:
        params: of all members, stacked on the first axis.
        data: arrays ``W``, ``labelled`` and ``em_depth``; up to ``max_samples`` evenly
            spaced samples are used.
        objective: hyper-parameters of the loss.

    Returns:
        The index of the member, and the score of each; a lone member has score 0.
    """
    members = jax.tree.leaves(params)[0].shape[0]
    scores = np.zeros(1, np.float32)
    if members > 1:
        terms = member_terms(params, data, objective=objective, max_samples=max_samples)
        scores = terms["em_difference" if np.any(data["em_depth"]) else "eq_4"]
    return int(np.argmin(np.where(np.isfinite(scores), scores, np.inf))), scores


def member_terms(
    params: Params, data: Batch, *, objective: Objective, max_samples: int = 4096
) -> dict[str, np.ndarray]:
    """What landmarks alone tell of every member, each (members,).

    Returns:
        ``eq_4``, the loss; ``em_opposite``, the share of samples whose depth has the
        other sign than the EM's; ``em_difference``, mean ``||z - z_EM||_2``. Where
        the EM depth is 0, so is the share, and the difference means nothing.
    """
    every = -(-len(data["W"]) // max_samples)
    some = {name: jnp.asarray(values[::every]) for name, values in data.items()}
    terms = jax.jit(functools.partial(_member_terms, objective=objective))
    of_members = jax.lax.map(lambda p: terms(p, some), params)
    return {name: np.asarray(values) for name, values in of_members.items()}


def _member_terms(
    params: Params, data: Batch, *, objective: Objective
) -> dict[str, Float[Array, ""]]:
    def one(W, labelled, em_depth):
        phi, M, S = model.reconstruct(params, W, ista_steps=objective.ista_steps)
        phi = phi * model.column_norms(params["dictionaries"][0])
        weight = objective.sparsity_weight
        loss = reprojection_loss(
            S, M, W, phi, sparsity_weight=weight, labelled=labelled
        )
        z = jnp.dot(S, rotation_from_camera(M)[:, 2])
        shown = keep_labelled(z - labelled_mean(z, labelled), labelled)
        difference = z - em_depth
        return (
            loss,
            (jnp.dot(shown, em_depth) < 0).astype(loss.dtype),
            norm(difference - jnp.mean(difference)),
        )

    terms = jax.vmap(one)(data["W"], data["labelled"], data["em_depth"])
    names = ("eq_4", "em_opposite", "em_difference")
    return {name: jnp.mean(x) for name, x in zip(names, terms, strict=True)}
