"""NaN, infinity, extreme scale, few and many joints, in every public function.

One compiled program for each size holds all functions of a package and their
gradients, so that the many inputs cost little.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import losses
import nrsfm_jax
from nrsfm_jax import sparse_coding
from nrsfm_jax.em import gaussians
from nrsfm_jax.loss import em_difference

SIZES = [(1, 1), (2, 3), (200, 4)]  # joints, atoms: also K < P
C = {"code_l1_weight": 0.1}
Calls = dict[str, Callable[[], Any]]
# Those that need a factor of a matrix refuse what is coarser than float32.
NEED_A_FACTOR = {"project_code", "right_inverse", "distillation_loss", "prepared"}
NEED_A_FACTOR |= {"gram", "min_code_cost", "posterior_depth_loss"}


def _losses(x, labelled) -> Calls:
    """Each public function of ``losses``, of one sample."""
    phi, D, M, w, z = x["phi"], x["D"], x["M"], x["w"], x["z"]
    S, W, seen = x["S"], w.reshape(-1, 2), {"labelled": labelled}
    B_xy, B_z = losses.split_dictionary(D, M)
    gram, eye = losses.dictionary_gram(D), jnp.eye(3, dtype=D.dtype)
    return {
        "rotation_from_camera": lambda: losses.rotation_from_camera(M),
        "rotate_dictionary": lambda: losses.rotate_dictionary(D, eye),
        "split_dictionary": lambda: B_z,
        "project_code": lambda: losses.project_code(phi, B_z, z, **seen),
        "right_inverse": lambda: losses.right_inverse(B_z, **seen),
        "match_depth_mean": lambda: losses.match_depth_mean(z, S[:, 2], labelled),
        "code_cost": lambda: losses.code_cost(phi, B_xy, w, **C, **seen),
        "distillation_loss": lambda: losses.distillation_loss(
            z, phi, B_xy, B_z, w, **C, **seen
        ),
        "prepared": lambda: losses.prepared_distillation_loss(
            z, losses.prepare(phi, B_xy, B_z, w, labelled), **C
        ),
        "gram": lambda: losses.gram_distillation_loss(
            z, phi, M, w, D, gram, **C, **seen
        ),
        "min_code_cost": lambda: losses.min_code_cost(
            z, phi, B_xy, B_z, w, max_steps=50, **C, **seen
        )[0],
        "posterior_depth_loss": lambda: losses.posterior_depth_loss(
            z, losses.prepare_posterior(S[:, 2], x["C"], labelled)
        ),
        "reprojection_loss": lambda: losses.reprojection_loss(
            S, M, W, phi, sparsity_weight=0.1, **seen
        ),
        "keypoint_l1_loss": lambda: losses.keypoint_l1_loss(S[:, :2], W, **seen),
        "depth_l1_loss": lambda: losses.depth_l1_loss(z, S[:, 2], **seen),
        "depth_gradient_norm": lambda: losses.depth_gradient_norm(
            lambda depth: losses.depth_l1_loss(depth, z, **seen),
            S[:, 2],
            jax.random.key(0),
            sigma=0.1,
            num_edits=2,
        ),
    }


# What each of them depends on, and so must not hide a NaN of.
USES = {
    "rotation_from_camera": "M",
    "rotate_dictionary": "D",
    "split_dictionary": "D M",
    "project_code": "phi D M z",
    "right_inverse": "D M",
    "match_depth_mean": "z S",
    "code_cost": "phi D M w",
    "distillation_loss": "z phi D M w",
    "prepared": "z phi D M w",
    "gram": "z phi D M w",
    "min_code_cost": "z phi D M w",
    "posterior_depth_loss": "z S C",
    "reprojection_loss": "S M w phi",
    "keypoint_l1_loss": "S w",
    "depth_l1_loss": "z S",
    "depth_gradient_norm": "",  # of an L1 loss: the signs only
    # nrsfm_jax
    "shrink": "w",
    "ista_step": "phi",
    "encode": "phi",
    "decode": "phi",
    "orthonormal_projection": "M",
    "estimate_camera": "w D",
    "estimate_code": "w D M",
    "unit_norm_gauge": "D phi",
    "mirror_depth": "D M",
    "reconstruct": "w D",
    "em_difference": "S M z",
}


def _teacher(x, labelled) -> Calls:
    """Each public function of ``nrsfm_jax`` that is pure mathematics."""
    phi, D, M, w, z = x["phi"], x["D"], x["M"], x["w"], x["z"]
    W, K, dtype = w.reshape(-1, 2), len(phi), D.dtype
    E = jnp.eye(K, dtype=dtype) + 0.1
    none, steps = jnp.full(K, -0.1, dtype), [jnp.array(0.5, dtype)] * 2
    params = {
        "dictionaries": [D, E],
        "mix": jnp.ones(K, dtype),
        "camera": [none, none],
        "encoder": [none, none],
        "decoder": [none],
        "steps": steps,
    }
    deep = [E], [none]
    return {
        "shrink": lambda: sparse_coding.shrink(w, jnp.zeros_like(w)),
        "ista_step": lambda: nrsfm_jax.ista_step(phi, phi, none, step=steps[0]),
        "encode": lambda: nrsfm_jax.encode(phi, *deep, steps[:1], ista_steps=2),
        "decode": lambda: nrsfm_jax.decode(phi, *deep),
        "orthonormal_projection": lambda: nrsfm_jax.orthonormal_projection(M),
        "estimate_camera": lambda: nrsfm_jax.estimate_camera(
            W, [D, E], params["camera"], params["mix"]
        ),
        "estimate_code": lambda: nrsfm_jax.estimate_code(params, W, M),
        "unit_norm_gauge": lambda: nrsfm_jax.unit_norm_gauge(D, phi),
        "mirror_depth": lambda: nrsfm_jax.mirror_depth(D, M),
        "reconstruct": lambda: nrsfm_jax.reconstruct(params, W),
        "em_difference": lambda: em_difference(x["S"], M, z),
    }


@functools.cache
def _program(functions, joints, atoms):
    """The sum of each result, and the gradient of all of them by each argument."""

    def total(tree):
        return functools.reduce(jnp.add, map(jnp.sum, jax.tree.leaves(tree)))

    def run(x, labelled):
        values = {n: total(call()) for n, call in functions(x, labelled).items()}
        return total(values), values

    return jax.jit(jax.grad(run, has_aux=True))


def _sample(joints: int, atoms: int) -> dict[str, Any]:
    rng = np.random.default_rng(joints)
    D = rng.normal(size=(3 * joints, atoms))
    D /= np.linalg.norm(D, axis=0)
    A = rng.normal(size=(joints, joints)) / joints
    sample = {
        "phi": np.abs(rng.normal(size=atoms)),
        "D": D,
        "M": np.linalg.qr(rng.normal(size=(3, 3)))[0][:, :2],
        "w": rng.normal(size=2 * joints),
        "z": rng.normal(size=joints),
        "S": rng.normal(size=(joints, 3)),
        "C": A @ A.T,
    }
    return {key: np.asarray(value, np.float32) for key, value in sample.items()}


def _run(functions, size, sample, labelled=None):
    labelled = np.ones(size[0], bool) if labelled is None else labelled
    slopes, values = _program(functions, *size)(sample, labelled)
    return jax.tree.map(float, values), jax.tree.map(np.asarray, slopes)


CASES = [(f, size) for f in (_losses, _teacher) for size in SIZES]
IDS = [f"{f.__name__[1:]} {size}" for f, size in CASES]
FEW = [i for i, (_, size) in enumerate(CASES) if size != SIZES[-1]]


@pytest.mark.parametrize(("functions", "size"), CASES, ids=IDS)
def test_values_and_gradients_are_finite(functions, size):
    """At any scale from 1e-12 to 1e9, at zero, and with nothing labelled."""
    sample = _sample(*size)
    lengths = ("phi", "w", "z", "S")
    inputs = [
        *(
            sample | {key: sample[key] * np.float32(scale) for key in lengths}
            for scale in (1, 0, 1e-12, 1e9)
        ),
        sample | {"D": 0 * sample["D"], "C": 0 * sample["C"]},
        sample | {"D": sample["D"] * np.float32(1e-3)},
        {key: 0 * value for key, value in sample.items()},
    ]
    for x in inputs:
        for labelled in (np.ones(size[0], bool), np.zeros(size[0], bool)):
            values, slopes = _run(functions, size, x, labelled)
            bad = {
                n for n, v in {**values, **slopes}.items() if not np.isfinite(v).all()
            }
            assert not bad


@pytest.mark.parametrize(
    ("functions", "size"), [CASES[i] for i in FEW], ids=[IDS[i] for i in FEW]
)
def test_what_is_not_finite_is_not_hidden(functions, size):
    sample = _sample(*size)
    for key in sample:
        # The teacher's network shrinks what is below 0, and -inf, to 0.
        for value in (np.nan, np.inf) if functions is _losses else (np.nan,):
            spoiled = sample[key].copy()
            spoiled[0] = value
            values, _ = _run(functions, size, sample | {key: spoiled})
            hidden = {
                n for n in values if key in USES[n].split() and np.isfinite(values[n])
            }
            assert not hidden, (key, value, hidden)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("functions", [_losses, _teacher])
def test_coarse_floats_are_good_or_refused_by_name(functions, dtype):
    sample, labelled = jax.tree.map(jnp.asarray, (_sample(3, 5), np.ones(3, bool)))
    coarse = {key: value.astype(dtype) for key, value in sample.items()}

    def refusal(name):
        try:
            jax.eval_shape(lambda x: functions(x, labelled)[name](), coarse)
        except ValueError as error:
            return str(error)
        return ""

    said = {name: refusal(name) for name in functions(sample, labelled)}
    refused = {name for name, text in said.items() if text}
    assert refused == NEED_A_FACTOR & set(said)
    assert all(f"{np.dtype(dtype)} is too coarse" in said[name] for name in refused)

    @jax.jit
    def run(x):
        return {n: f() for n, f in functions(x, labelled).items() if n not in refused}

    for got, want in zip(
        *map(jax.tree.leaves, map(run, (coarse, sample))), strict=True
    ):
        assert got.dtype == dtype
        want = np.asarray(want)
        close = {"rtol": 0, "atol": 0.03 * np.abs(want).max()}
        np.testing.assert_allclose(np.asarray(got, np.float32), want, **close)


@pytest.mark.parametrize("size", SIZES[1:2])
def test_what_an_unlabelled_joint_holds_counts_nowhere(size):
    """Landmarks and depths; a teacher's network sees what stands there."""
    sample, labelled = _sample(*size), np.arange(size[0]) > 0
    want = _run(_losses, size, sample, labelled)
    spoiled = {key: sample[key].copy() for key in ("w", "z")}
    spoiled["w"][:2] = spoiled["z"][0] = np.nan
    (got, slopes), (want, _) = _run(_losses, size, sample | spoiled, labelled), want
    assert all(np.isfinite(slope).all() for slope in slopes.values())
    # These give back every joint.
    for name in set(want) - {"match_depth_mean", "depth_gradient_norm"}:
        np.testing.assert_allclose(got[name], want[name], 1e-4, 1e-4)


METRICS = {
    name: functools.partial(getattr(losses, name), **how)
    for names, how in (
        (("mpjpe", "n_mpjpe", "pck3d", "auc"), {"root": 0}),
        (("pa_mpjpe", "pa_mpjpe_rigid", "pa_mpjpe_reflection"), {}),
        (("depth_error", "flipped"), {}),
    )
    for name in names
}


@pytest.mark.parametrize("joints", [1, 2, 200])
@pytest.mark.parametrize("name", METRICS)
def test_metrics(name, joints):
    """Finite at any scale and where nothing moves; what is no number stays none."""
    rng = np.random.default_rng(0)
    pred, truth = rng.normal(size=(2, 3, joints, 3))
    for scale in (1, 0, 1e-100, 1e100):
        assert np.isfinite(METRICS[name](scale * pred, scale * truth)).all()
    assert np.isfinite(METRICS[name](pred, pred)).all()
    pred[1, 0, 2] = np.nan
    if name in ("flipped", "pck3d", "auc"):  # shares, of which it is no part
        assert not METRICS[name](pred, truth)[1] > 1
        return
    values = METRICS[name](pred, truth)
    assert np.isnan(values).tolist() == [False, True, False]


@pytest.mark.parametrize("spoil", [np.nan, np.inf])
def test_a_score_of_what_is_no_number_is_refused(spoil):
    pred, truth = np.random.default_rng(0).normal(size=(2, 3, 4, 3))
    pred[1, 2, 0] = spoil
    how = {"edges": [(0, 1)], "root": 0}
    with pytest.raises(ValueError, match="prediction of sample 1, joint 2 is"):
        losses.evaluate_poses(pred, truth, **how)
    with pytest.raises(ValueError, match="truth of sample 1, joint 2 is"):
        losses.per_action_table(truth, pred, ["a"] * 3, **how)


@pytest.mark.parametrize("joints", [1, 2, 5, 200])
def test_handedness(joints):
    poses = np.random.default_rng(0).normal(size=(40, joints, 3))
    for scale in (1, 0, 1e-30, 1e30):
        signs, report = nrsfm_jax.synchronise_signs(scale * poses)
        assert set(signs) <= {-1, 1}
        assert np.isfinite([report.fit, report.gain, report.bimodality]).all()
    poses[7] = np.nan
    if joints >= 5:
        with pytest.raises(ValueError, match=r"poses\[7\] is not finite"):
            nrsfm_jax.synchronise_signs(poses)


@pytest.mark.parametrize("joints", [1, 2])
def test_posterior(joints):
    """At any size of the landmarks; those that are no numbers are refused."""
    rng = np.random.default_rng(0)
    A = rng.normal(size=(3 * joints, 3 * joints)) / 10
    H = np.asarray(gaussians.centring(joints))
    views = np.linalg.qr(rng.normal(size=(2, 3, 3)))[0]
    mixture = gaussians.single_gaussian(
        np.zeros(3 * joints), H @ A @ A.T @ H, 0.05, views.astype(np.float32)
    )
    W = rng.normal(size=(2, joints, 2)).astype(np.float32)
    for scale in (1, 0, 1e-20, 1e6):
        found = nrsfm_jax.posterior_of(mixture, W * np.float32(scale))
        assert all(np.isfinite(array).all() for array in found)
    labelled = np.ones((2, joints), bool)
    labelled[0, 0] = False
    W[0, 0] = np.nan
    found = nrsfm_jax.posterior_of(mixture, W, labelled)
    assert all(np.isfinite(array).all() for array in found)
    with pytest.raises(ValueError, match=r"W\[0\] has a landmark that is not finite"):
        nrsfm_jax.expected_pose(mixture, W)
    with pytest.raises(ValueError, match="not finite"):
        nrsfm_jax.fit_shapes(W, key=jax.random.key(0))


def test_every_public_function_is_here():
    """Of both packages: those of arrays; metrics and EM have their own tests below."""
    named = set(USES) | {"prepare", "prepare_posterior", "dictionary_gram"}
    named |= {"gram_distillation_loss", "prepared_distillation_loss", *METRICS}
    named |= {"evaluate_poses", "per_action_table", "procrustes_align"}
    named |= {"scale_by_bone_length", "synchronise_signs"}
    named |= {"posterior_of", "expected_pose", "fit_shapes"}
    public = {
        name
        for package in (losses, nrsfm_jax)
        for name, value in vars(package).items()
        if callable(value) and not isinstance(value, type)
    }
    files = {"load", "load_reconstruction", "save", "init"}
    assert public - files <= named
