"""The whole fit: views chosen by evidence, one sign of depth for all samples.

1. Which views? A single Gaussian is tried under every prior of the views and judged by
   the likelihood of samples that it has not seen. Beside them stands a single view,
   under which nothing turns: where it wins, the landmarks hold no depth.
2. The single Gaussian under the likeliest prior, its signs of depth synchronised
   (`handedness`), and where they change, fitted again from the corrected poses in both
   global signs.
3. The mixture, and its handedness once more.

Paper: no such step; here: ours, because the likelihood of the landmarks alone leaves
each family of poses its own sign and each object its own views.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from nrsfm_jax.em.fit import (
    few_of,
    fit_gaussian,
    fit_mixture,
    is_finite,
    likeliest,
    run_em,
)
from nrsfm_jax.em.gaussians import (
    GaussianMixture,
    centring,
    mirrored,
    single_gaussian,
)
from nrsfm_jax.em.posterior import expected_pose, log_evidence
from nrsfm_jax.em.samples import Samples, check_landmarks, choose_samples
from nrsfm_jax.em.views import ABOVE, FREE, LEVEL, RAISED, ViewPrior, upright_views
from nrsfm_jax.handedness import Handedness, synchronise_signs
from runtime.doing import doing
from runtime.files import kept, read_arrays, read_json, write_arrays, write_json

# The name of the trial in which nothing turns.
ONE_VIEW = "one view"
# By so many nats a sample another prior must be likelier than the level one, which
# determines the one sign of all depths: sizes, in any rotation, are worth one or two.
MARGIN = 2.0
# Of the trials: samples to fit and to judge by, joints, rotations of a free one, steps.
_TRIAL_SAMPLES, _TRIAL_JOINTS, _TRIAL_ROTATIONS = 1000, 17, 200
_LEVEL_STEPS, _GRID_STEPS = 40, 15
# Of the poses whose signs are synchronised inside the fit.
_TIED_SAMPLES = 5000
# Noise at which the refit begins, and what is added to the corrected poses' covariance.
_REFIT_SIGMA, _REFIT_STEPS, _SPREAD = 0.02, 40, 0.002
# Below it, rounding in float32 is seen in the likelihood (`gaussians.log_joints`).
_LEAST_SIGMA = 0.001


@dataclasses.dataclass(frozen=True)
class FitReport:
    """What a fit says of its own reliability; no 3D is needed for any of it.

    Attributes:
        views: name of the prior of the views that was used.
        views_nats: mean log-likelihood of a sample left out of the trial fit, nats,
            under each prior; and under ``ONE_VIEW``, where nothing turns.
        sign_nats: how much likelier, a sample, the single Gaussian is than its mirror
            image: the evidence for the one sign of all depths. 0 under any rotation.
        before: handedness of the single Gaussian's poses.
        refitted: whether the single Gaussian was fitted again with corrected signs.
        after: handedness of the mixture's poses.
    """

    views: str
    views_nats: Mapping[str, float]
    sign_nats: float
    before: Handedness
    refitted: bool
    after: Handedness

    @property
    def likeliest_views(self) -> str:
        """Of the priors that were tried, without the single view."""
        tried = {k: v for k, v in self.views_nats.items() if k != ONE_VIEW}
        return max(tried, key=lambda name: tried[name], default=self.views)

    @property
    def turning_nats(self) -> float:
        """How much likelier, a sample, the likeliest views are than a single one."""
        best = self.views_nats.get(self.likeliest_views, -np.inf)
        return best - self.views_nats[ONE_VIEW]

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> FitReport:
        """From ``dataclasses.asdict`` by way of JSON."""
        both = {name: Handedness(**record[name]) for name in ("before", "after")}
        return cls(**{**record, **both})


def fit_shapes(
    W: Float[Array | np.ndarray, "n p 2"],
    labelled: Bool[Array | np.ndarray, "n p"] | None = None,
    *,
    key: Key[Array, ""],
    prior: ViewPrior | None = None,
    components: int = 10,
    num_samples: int = 4000,
    last_sigma: float = 0.005,
    mirror: Int[np.ndarray, " p"] | None = None,
    edges: Sequence[tuple[int, int]] | None = None,
) -> tuple[GaussianMixture, FitReport]:
    """Fits Gaussian shapes to 2D landmarks alone, coherent in depth.

    Args:
        W: (N, P, 2) landmarks centred over the labelled joints, patch units, y down.
        labelled: True where a landmark is known.
        key: for all that is random.
        prior: the views; by default level ones, or raised, above or any rotation
            where these are clearly likelier. Beside a given one these are tried all
            the same, so that the report can say whether another is likelier.
        components: K.
        num_samples: size of the random subsets that are used.
        last_sigma: noise of the landmarks, patch units.
        mirror: see `fit_mixture`.
        edges: bones of the skeleton, as pairs of joints; by default of a tree.

    Returns:
        The mixture, and what it says of itself.

    Raises:
        ValueError: landmarks that cannot be used, a fit that is not finite.
    """
    _warn_of_rounding(last_sigma)
    W, labelled = check_landmarks(W, labelled)
    first, second = jax.random.split(key)
    nats, likely = trials(
        W, labelled, key=jax.random.fold_in(key, 2), given=prior, last_sigma=last_sigma
    )
    prior = prior or likely
    doing("one Gaussian")
    options = {"key": first, "num_samples": num_samples, "last_sigma": last_sigma}
    single = fit_gaussian(W, labelled, prior=prior, **options)
    _check_finite(single, W)
    options = {"key": jax.random.split(first)[0], "num_samples": num_samples}
    samples = choose_samples(W, labelled, **options)  # those of that fit
    rows = np.asarray(jax.random.permutation(jax.random.fold_in(key, 3), len(W)))
    some = W[rows[:_TIED_SAMPLES]], labelled[rows[:_TIED_SAMPLES]]
    single, before, refitted = tied(single, samples, some, prior, edges)
    doing("mixture")
    options = {"key": second, "components": components, "num_samples": num_samples}
    mixture = fit_mixture(single, W, labelled, mirror=mirror, **options)
    if mirror is not None and not is_finite(mixture):
        # The single Gaussian cannot explain the mirror images at all.
        mixture = fit_mixture(single, W, labelled, **options)
    _check_finite(mixture, W)
    _, after = synchronise_signs(expected_pose(mixture, *some)[0], edges)
    sign_nats = _sign_nats(single, samples, prior)
    return mixture, FitReport(prior.name, nats, sign_nats, before, refitted, after)


def _warn_of_rounding(sigma: float) -> None:
    if sigma < _LEAST_SIGMA:
        warnings.warn(
            f"noise {sigma} of the landmarks: below {_LEAST_SIGMA} rounding in float32 "
            "is seen in the likelihood of the EM",
            stacklevel=3,
        )


def _check_finite(fitted: GaussianMixture, W: Float[np.ndarray, "n p 2"]) -> None:
    if is_finite(fitted):
        return
    (n, P, _), largest = W.shape, float(np.abs(W).max())
    why = (
        "too few samples, or too few views (config.teacher.em.num_yaws, elevations_deg)"
        " for landmarks that are missing; give more, or train without it "
        "(config.teacher.em.guide_fraction=0)"
    )
    if not 0.01 < largest < 100:
        why = (
            f"the largest landmark is {largest:.3g}, but patch units go from -1 to 1; "
            "divide the landmarks by half the side of their box"
        )
    raise ValueError(
        f"the EM on {n} samples of {P} landmarks ended in numbers that are not finite: "
        f"{why}"
    )


# --- which views ------------------------------------------------------------------


def trials(
    W: Float[np.ndarray, "n p 2"],
    labelled: Bool[np.ndarray, "n p"],
    *,
    key: Key[Array, ""],
    given: ViewPrior | None = None,
    last_sigma: float = 0.005,
) -> tuple[dict[str, float], ViewPrior]:
    """Short fits of a single Gaussian, judged by samples that they have not seen.

    Args:
        W: as in :func:`fit_shapes`.
        labelled: likewise.
        key: chooses the samples; one half is fitted, the other judges.
        given: a prior to be tried beside level, raised, above and any rotation.
        last_sigma: noise of the landmarks, patch units.

    Returns:
        Mean log-likelihood by name, also of ``ONE_VIEW``; and the likeliest prior, or
        the level one where that is within ``MARGIN``.
    """
    seen, unseen = _halves(W, labelled, key)
    short = dataclasses.replace(FREE, count=_TRIAL_ROTATIONS)
    tried = {prior.name: prior for prior in (LEVEL, RAISED, ABOVE, short)}
    if given is not None and given.elevations_deg is not None:
        tried[given.name] = given
    fit = functools.partial(
        fit_gaussian,
        *seen,
        key=key,
        num_samples=len(seen.W),
        level_steps=_LEVEL_STEPS,
        grid_steps=_GRID_STEPS,
        last_sigma=last_sigma,
    )
    nats = {}
    for name, prior in tried.items():
        doing(f"views: {name}")
        nats[name] = _evidence(fit(prior=prior), unseen)
    # A fit under views that cannot explain the samples may end in no numbers.
    nats = {name: value for name, value in nats.items() if np.isfinite(value)}
    best = max(nats, key=lambda name: nats[name], default=LEVEL.name)
    if nats.get(LEVEL.name, -np.inf) >= nats.get(best, -np.inf) - MARGIN:
        best = LEVEL.name
    nats[ONE_VIEW] = _evidence(_one_view(seen, last_sigma), unseen)
    return nats, FREE if best == FREE.name else tried[best]


def _halves(
    W: Float[np.ndarray, "n p 2"],
    labelled: Bool[np.ndarray, "n p"],
    key: Key[Array, ""],
) -> tuple[Samples, Samples]:
    """Samples to fit and to judge by, of few joints."""
    some = choose_samples(W, labelled, key=key, num_samples=2 * _TRIAL_SAMPLES)
    joints = far_joints(*map(np.asarray, some))
    order = np.asarray(jax.random.permutation(jax.random.fold_in(key, 1), len(some.W)))
    # Few samples are repeated, so that data sets share the compiled programs.
    size = _TRIAL_SAMPLES
    while size >= max(len(order), 1):
        size //= 2
    seen, unseen = (
        recentred(*(np.asarray(x)[np.resize(half, size)][:, joints] for x in some))
        for half in np.array_split(order, 2)
    )
    return seen, unseen


def _evidence(fitted: GaussianMixture, unseen: Samples) -> float:
    return float(np.mean(log_evidence(fitted, *unseen)))


def _one_view(seen: Samples, last_sigma: float) -> GaussianMixture:
    """A Gaussian of the landmarks themselves."""
    W, labelled = map(np.asarray, seen)
    mean = W.sum(0) / np.maximum(labelled.sum(0), 1)[:, None]
    # Repeated, so that the programs of the other trials serve; still one view.
    front = np.tile(upright_views((0.0,), 1), (len(LEVEL.grid()), 1, 1))
    S = np.stack([mean[:, 0], -mean[:, 1], 0 * mean[:, 0]], axis=1)
    mu = (S - S.mean(0)).reshape(-1)
    start = single_gaussian(mu, 0.05 * centring(len(S)), last_sigma, front)
    return run_em(start, seen, steps=_GRID_STEPS)


def far_joints(
    W: Float[np.ndarray, "n p 2"], labelled: Bool[np.ndarray, "n p"]
) -> Int[np.ndarray, " m"]:
    """At most 17 joints, each chosen far in the image from those before; ascending."""
    P = W.shape[1]
    if P <= _TRIAL_JOINTS:
        return np.arange(P)
    squared = np.zeros((P, P))
    for q in range(P):  # one joint at a time bounds the memory
        both = labelled & labelled[:, q : q + 1]
        apart = ((W - W[:, q : q + 1]) ** 2).sum(-1)
        squared[q] = np.where(both, apart, 0).sum(0) / np.maximum(both.sum(0), 1)
    chosen = [int(squared.sum(1).argmax())]
    while len(chosen) < _TRIAL_JOINTS:
        chosen.append(int(squared[:, chosen].min(axis=1).argmax()))
    return np.sort(chosen)


def recentred(
    W: Float[np.ndarray, "n p 2"], labelled: Bool[np.ndarray, "n p"]
) -> Samples:
    """Landmarks less their mean over the labelled joints, 0 where missing."""
    W = np.where(labelled[..., None], W, 0)
    mean = W.sum(1) / np.maximum(labelled.sum(1), 1)[:, None]
    centred = np.where(labelled[..., None], W - mean[:, None], 0)
    return Samples(centred.astype(np.float32), labelled)


# --- one sign for all -------------------------------------------------------------


def tied(
    single: GaussianMixture,
    samples: Samples,
    some: tuple[Float[np.ndarray, "m p 2"], Bool[np.ndarray, "m p"]],
    prior: ViewPrior,
    edges: Sequence[tuple[int, int]] | None,
) -> tuple[GaussianMixture, Handedness, bool]:
    """Synchronises the poses of ``some``; fits again from them where signs change.

    Returns:
        The likelier of the two fits, the handedness of the given one, and whether it
        is the new one.
    """
    poses = expected_pose(single, *some)[0]
    signs, report = synchronise_signs(poses, edges)
    if not report.applied:
        return single, report, False
    poses = np.concatenate([poses[..., :2], poses[..., 2:] * signs[:, None, None]], -1)
    few = few_of(samples, len(single.views))
    again = likeliest(
        _from_poses(single, few, poses * np.array([1, 1, sign]), prior)
        for sign in (1.0, -1.0)
    )
    if len(few.W) < len(samples.W):
        again = run_em(again, samples, steps=_REFIT_STEPS // 4)
    better = likeliest([single, again]) is again
    return (again if better else single), report, better


def _from_poses(
    single: GaussianMixture,
    samples: Samples,
    poses: Float[np.ndarray, "m p 3"],
    prior: ViewPrior,
) -> GaussianMixture:
    """EM from the mean and the covariance of poses."""
    body = in_body_frame(poses, prior).reshape(len(poses), -1)
    Sigma = np.cov(body.T) + _SPREAD * np.asarray(centring(poses.shape[1]))
    start = single_gaussian(body.mean(axis=0), Sigma, float(single.sigma), single.views)
    return run_em(start, samples, steps=_REFIT_STEPS, first_sigma=_REFIT_SIGMA)


def in_body_frame(
    poses: Float[np.ndarray, "n p 3"], prior: ViewPrior, *, rounds: int = 30
) -> Float[np.ndarray, "n p 3"]:
    """Camera-frame poses turned onto their mean, y up, by turns of turn and mean.

    Those of upright objects turn about the vertical, as a camera at the mean elevation
    sees it; the others turn freely, without reflection.
    """
    body = np.asarray(poses - poses.mean(axis=1, keepdims=True), np.float64)
    turned, axes = body, [0, 1, 2]
    if prior.elevations_deg is not None:
        body = body @ upright_views((float(np.mean(prior.elevations_deg)),), 1)[0].T
        axes = [0, 2]
    mean = body[np.argmax((body**2).sum((1, 2)))]
    for _ in range(rounds):
        U, _, Vt = np.linalg.svd(np.swapaxes(body[..., axes], 1, 2) @ mean[:, axes])
        U[:, :, -1] *= np.linalg.det(U @ Vt)[:, None]
        turned = body.copy()
        turned[..., axes] = body[..., axes] @ (U @ Vt)
        mean = turned.mean(axis=0)
    return turned


def _sign_nats(single: GaussianMixture, samples: Samples, prior: ViewPrior) -> float:
    """The likelihood of the single Gaussian less that of its mirror image."""
    if prior.elevations_deg is None:
        return 0.0
    image = run_em(mirrored(single), samples, steps=_REFIT_STEPS)
    # Of too few samples it may come to no finite end, which tells nothing of the sign.
    if not is_finite(image):
        return 0.0
    return float(single.log_likelihood) - float(image.log_likelihood)


# --- kept on disk -----------------------------------------------------------------


def read_fit(path: Path) -> tuple[GaussianMixture, FitReport] | None:
    """What :func:`read_or_fit` kept, or None; ``Damaged`` if not as it was written."""
    beside = path.with_suffix(".json")
    if not (path.exists() and beside.exists()):
        return None
    shapes = {name: jnp.asarray(x) for name, x in read_arrays(path)[0].items()}
    return GaussianMixture(**shapes), FitReport.from_dict(read_json(beside))


def read_or_fit(
    path: Path, fit: Callable[[], tuple[GaussianMixture, FitReport]]
) -> tuple[GaussianMixture, FitReport]:
    """What ``fit`` gives, kept on disk so that a resumed run need not fit again.

    The report lies in a JSON file beside ``path``, of the same stem.
    """
    if (found := kept(lambda: read_fit(path))) is not None:
        return found
    mixture, report = fit()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_arrays(path, mixture._asdict())
    write_json(path.with_suffix(".json"), dataclasses.asdict(report), sealed=True)
    return mixture, report


def em_options(settings: Any) -> dict[str, Any]:
    """What :func:`fit_shapes` takes, from ``config.teacher.em``.

    Raises:
        ValueError: views of an unknown kind.
    """
    upright = ViewPrior("given", tuple(settings.elevations_deg), settings.num_yaws)
    priors = {"auto": None, "upright": upright, "free": FREE}
    if settings.views not in priors:
        raise ValueError(
            f"config.teacher.em.views = {settings.views!r}; it must be 'auto' (the "
            "likeliest), 'upright' (elevations_deg with num_yaws each) or 'free'"
        )
    return {
        "prior": priors[settings.views],
        "components": settings.components,
        "num_samples": settings.num_samples,
        "last_sigma": settings.noise,
    }
