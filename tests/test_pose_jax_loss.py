"""The student's objective: the plain frame, the modes, the matched depth weight."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import losses
from configs import default
from input_pipeline.skeleton import H36M_17
from pose_jax.hints import facing_pairs
from pose_jax.integral_head import Prediction
from pose_jax.loss import (
    MODES,
    DepthTarget,
    Dictionary,
    depth_loss,
    matching_weight,
    student_loss,
)

P, K, COUNT = 17, 40, 6
PERM = np.asarray(H36M_17.flip_permutation)
C = 0.15


def sample(seed):
    """Dictionary, camera, code and landmarks that nearly agree, and a depth."""
    rng = np.random.default_rng(seed)
    D = rng.normal(size=(3 * P, K)).astype(np.float32)
    D /= np.linalg.norm(D, axis=0)
    phi = np.maximum(rng.normal(size=K), 0).astype(np.float32)
    M = np.asarray(np.linalg.qr(rng.normal(size=(3, 3)))[0][:, :2], np.float32)
    S = (D @ phi).reshape(P, 3)
    W = (S @ M + 0.05 * rng.normal(size=(P, 2))).astype(np.float32)
    return D, M, phi, W, (0.3 * rng.normal(size=P)).astype(np.float32)


@jax.jit
def prepared_record(D, M, phi, W, labelled):
    """The peer: Eq. 14 as it is prepared per sample."""
    return losses.prepare(phi, *losses.split_dictionary(D, M), W.ravel(), labelled)


@jax.jit
def prepared_loss(z, record):
    return losses.prepared_distillation_loss(z, record, code_l1_weight=C)


ALL = jnp.ones(P, bool)


def target_of(D, M, phi, W, labelled=ALL):
    """The target of a sample, with all that any mode needs, and the dictionary."""
    record = prepared_record(D, M, phi, W, labelled)
    whitener = losses.prepare_posterior(record.depth, jnp.eye(P) * 0.1, labelled)
    target = DepthTarget(
        depth=record.depth,
        labelled=labelled,
        weight=jnp.ones(()),
        M=jnp.asarray(M),
        phi=jnp.asarray(phi),
        W=jnp.asarray(W),
        whitener=whitener.whitener,
    )
    D = jnp.asarray(D)
    return target, Dictionary(D, losses.dictionary_gram(D))


def said(xy, depths):
    """What a network says, with an even heat map."""
    return Prediction(xy, depths, jnp.ones((*depths.shape, 3)), jnp.zeros((2, 2, P)))


def pose_loss(pose, keypoints, labelled, flip, scale, target, dictionary, **how):
    """`student_loss` of one mode, given a pose."""
    mode, weight = how.pop("mode"), how.pop("depth_weight")
    of_depth = functools.partial(depth_loss, code_l1_weight=how.pop("code_l1_weight"))
    return student_loss(
        said(pose[:, :2], pose[None, :, 2]),
        *(keypoints, labelled, flip, scale, (target,), (dictionary,)),
        depth_weights={mode: weight},
        depth_loss=of_depth,
        permutation=PERM,
        pairs=facing_pairs(H36M_17),
        heat_weight=0.0,
        **how,
    )


# One program for each of the four losses, for all tests.
FIXED = ("mode",)
MODE = {"l1": "weaksup_bs", "eq14": "distill", "eq10": "distill_exact"}
MODE |= {"mahalanobis": "posterior"}
objective = jax.jit(jax.value_and_grad(pose_loss, has_aux=True), static_argnames=FIXED)


def loss_at(
    pose,
    keypoints,
    target,
    dictionary=None,
    *,
    loss="l1",
    flip=False,
    scale=1.0,
    labelled=ALL,
    **weights,
):
    """Value, terms and the gradient in the pose."""
    weights = {"xy_weight": 1.0, "depth_weight": 1.0, "code_l1_weight": C} | weights
    (value, terms), gradient = objective(
        jnp.asarray(pose),
        jnp.asarray(keypoints),
        labelled,
        jnp.asarray(flip),
        jnp.asarray(scale, jnp.float32),
        target,
        dictionary,
        mode=MODE[loss],
        **{name: jnp.float32(value) for name, value in weights.items()},
    )
    return value, terms, gradient


def test_the_plain_frame_equals_turning_and_mirroring_the_camera():
    D, M, phi, W, z = sample(0)
    perm = PERM
    target, dictionary = target_of(D, M, phi, W)
    for flip, angle, scale in itertools.product((False, True), (0.0, 0.7), (1.0, 0.8)):
        # The augmented picture: patch' = scale * R F patch, depth' = scale * depth.
        c, s = np.cos(angle), np.sin(angle)
        A = np.array([[c, -s], [s, c]]) @ np.diag([-1.0 if flip else 1.0, 1.0])
        W_aug = np.float32(scale * W @ A.T)
        if flip:
            W_aug = W_aug[perm]
        # The camera of the augmented picture, for a dictionary that is itself mirrored
        # (in its own x) and has its joints swapped where the picture is mirrored.
        H = np.diag([-1.0 if flip else 1.0, 1.0, 1.0])
        D_aug = np.einsum("pck,cd->pdk", D.reshape(P, 3, K), H)
        D_aug = np.float32(D_aug[perm] if flip else D_aug).reshape(3 * P, K)
        turned = prepared_record(
            D_aug, np.float32(H @ M @ A.T), np.float32(scale * phi), W_aug, ALL
        )
        z_aug = jnp.asarray(np.float32(scale * z))
        recomputed = prepared_loss(z_aug, turned)
        z_plain = (z_aug[perm] if flip else z_aug) / jnp.float32(scale)
        moved = prepared_loss(z_plain, prepared_record(D, M, phi, W, ALL))
        np.testing.assert_allclose(recomputed, scale * moved, rtol=2e-5)
        # The same through the objective, whose teacher is never augmented.
        pose = np.concatenate([W_aug, z_aug[:, None]], axis=1)
        how = {"loss": "eq14", "flip": flip, "scale": scale}
        _, terms, _ = loss_at(pose, W_aug, target, dictionary, **how)
        np.testing.assert_allclose(terms["depth"], moved, rtol=2e-5)
        np.testing.assert_allclose(terms["xy"], 0.0, atol=1e-6)


def test_eq14_of_a_batch_is_its_prepared_form():
    """Value and gradient, with joints missing, against records made per sample."""
    D = sample(9)[0]
    samples = [sample(seed)[1:] for seed in range(COUNT)]
    labelled = np.random.default_rng(0).random((COUNT, P)) < 0.8
    M, phi, W, z = (jnp.asarray(np.stack(x)) for x in zip(*samples, strict=True))
    records = jax.vmap(prepared_record, (None, 0, 0, 0, 0))(D, M, phi, W, labelled)
    targets = DepthTarget(
        records.depth, jnp.asarray(labelled), jnp.ones(COUNT), M=M, phi=phi, W=W
    )
    dictionary = target_of(D, *samples[0][:3])[1]

    def by_gram(z, target, labelled):
        pose = jnp.zeros((P, 3)).at[:, 2].set(z)
        how = {"loss": "eq14", "labelled": labelled}
        return loss_at(pose, pose[:, :2], target, dictionary, **how)[0]

    wanted = jax.vmap(jax.value_and_grad(prepared_loss))(z, records)
    found = jax.jit(jax.vmap(jax.value_and_grad(by_gram)))(z, targets, labelled)
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-5)
    np.testing.assert_allclose(found[1], wanted[1], atol=2e-5)
    assert not np.any(np.asarray(found[1])[~labelled])


def test_eq10_lies_below_eq14_and_above_its_certificate():
    D, M, phi, W, z = sample(5)
    target, dictionary = target_of(D, M, phi, W)
    pose = np.concatenate([W, z[:, None]], axis=1)
    least, bound = (
        loss_at(pose, W, target, dictionary, loss=loss)[1]["depth"]
        for loss in ("eq10", "eq14")
    )
    hypothesis = losses.match_depth_mean(jnp.asarray(z), target.depth)
    parts = losses.split_dictionary(dictionary.D, target.M)
    solve = jax.jit(losses.min_code_cost)
    exact, gap = solve(
        hypothesis, target.phi, *parts, target.W.ravel(), code_l1_weight=C
    )
    np.testing.assert_allclose(least, exact, rtol=0.03)
    assert float(exact - gap) <= float(least) <= 1.001 * float(bound)


def test_the_teachers_own_depth_of_a_mirrored_picture_costs_nothing_in_l1():
    D, M, phi, W, _ = sample(1)
    target, dictionary = target_of(D, M, phi, W)
    pose = np.zeros((P, 3), np.float32)
    pose[:, 2] = 0.8 * np.asarray(target.depth)[PERM] + 0.3
    for loss in ("l1", "mahalanobis"):
        how = {"loss": loss, "flip": True, "scale": 0.8}
        _, terms, _ = loss_at(pose, W, target, dictionary, **how)
        np.testing.assert_allclose(terms["depth"], 0.0, atol=1e-5)


def test_terms_and_weights_by_hand():
    target = DepthTarget(jnp.zeros(P), ALL, jnp.asarray(2.0))
    pose = np.zeros((P, 3), np.float32)
    pose[0] = [0.5, -0.25, 1.7]
    weights = {"xy_weight": 3.0, "depth_weight": 0.5}
    value, terms, _ = loss_at(pose, np.zeros((P, 2), np.float32), target, **weights)
    # Depth 1.7 at one joint of 17 has mean 0.1: |1.6| + 16 * 0.1 = 3.2, times 2.
    np.testing.assert_allclose(terms["xy"], 0.75, rtol=1e-6)
    np.testing.assert_allclose(terms["depth"], 6.4, rtol=1e-5)
    np.testing.assert_allclose(value, 3 * 0.75 + 0.5 * 6.4, rtol=1e-5)
    target = target._replace(joint_weight=jnp.where(jnp.arange(P) == 0, 1.0, 0.0))
    _, terms, _ = loss_at(pose, np.zeros((P, 2), np.float32), target, **weights)
    np.testing.assert_allclose(terms["depth"], 2 * 1.6, rtol=1e-5)


def test_eq15_is_the_sum_of_its_terms_where_nothing_is_augmented():
    D, M, phi, W, z = sample(2)
    pred_xy = np.random.default_rng(5).normal(size=(P, 2))
    pose = np.concatenate([pred_xy, z[:, None]], 1).astype(np.float32)
    value, _, _ = loss_at(pose, W, *target_of(D, M, phi, W), loss="eq14")
    depth = prepared_loss(jnp.asarray(z), prepared_record(D, M, phi, W, ALL))
    wanted = np.abs(pred_xy - W).sum() + depth
    np.testing.assert_allclose(value, wanted, rtol=1e-5)


@pytest.mark.parametrize("loss", ["l1", "eq14", "eq10", "mahalanobis"])
def test_missing_joints_have_no_gradient(loss):
    D, M, phi, W, z = sample(3)
    labelled = ALL.at[jnp.array([2, 5])].set(False)
    W[[2, 5]] = 0
    target, dictionary = target_of(D, M, phi, W, labelled)
    pose = np.concatenate([W + 0.1, z[:, None]], 1).astype(np.float32)
    how = {"loss": loss, "labelled": labelled}
    gradient = np.asarray(loss_at(pose, W, target, dictionary, **how)[2])
    assert np.isfinite(gradient).all()
    assert (gradient[[2, 5]] == 0).all()
    assert (np.abs(gradient[[0, 1, 3]]) > 0).all()


@pytest.mark.parametrize("flip", [False, True])
def test_a_landmark_that_the_teacher_does_not_believe_is_not_taught(flip):
    """Neither its depth nor its x and y, though it is labelled in the picture."""
    D, M, phi, W, z = sample(3)
    wrong = 1  # a hip, which has a mirror image
    target, dictionary = target_of(D, M, phi, W, ALL.at[wrong].set(False))
    pose = np.concatenate([W + 0.1, z[:, None]], 1).astype(np.float32)
    gradient = np.asarray(loss_at(pose, W, target, dictionary, flip=flip)[2])
    untaught = np.arange(P) == (PERM[wrong] if flip else wrong)
    assert (gradient[untaught] == 0).all()
    assert (np.abs(gradient[~untaught]) > 0).all()


def test_gradients_agree_with_differences():
    D, M, phi, W, z = sample(4)
    target, dictionary = target_of(D, M, phi, W)

    def value(z):
        pose = jnp.concatenate([jnp.asarray(W) + 0.1, jnp.asarray(z)[:, None]], axis=1)
        how = {"loss": "eq14", "flip": True, "scale": 1.2}
        return loss_at(pose, W, target, dictionary, **how)[0]

    check_grads(
        value, (jnp.asarray(z),), 1, modes=("rev",), atol=2e-2, rtol=2e-2, eps=1e-3
    )


def test_the_matching_weight_makes_the_gradients_equal():
    D = sample(9)[0]
    samples = [sample(10 + i)[1:4] for i in range(16)]
    M, phi, W = (jnp.asarray(np.stack(x)) for x in zip(*samples, strict=True))
    labelled = jnp.ones((16, P), bool)
    records = jax.vmap(prepared_record, (None, 0, 0, 0, 0))(D, M, phi, W, labelled)
    targets = DepthTarget(records.depth, labelled, jnp.full(16, 3.0), M=M, phi=phi, W=W)
    dictionary = target_of(D, *samples[0])[1]
    measure = jax.jit(matching_weight, static_argnames=FIXED)
    key = jax.random.key(0)
    weight = measure(targets, dictionary, key, mode="distill", code_l1_weight=C)

    # Measured anew: both gradients at other random depths of the same spread.
    depth = np.asarray(records.depth)
    centred = depth - depth.mean(1, keepdims=True)
    sigma = 0.5 * np.sqrt((centred**2).mean())
    noise = sigma * np.random.default_rng(1).normal(size=(64, *depth.shape))

    def norms(loss):
        every = jax.jit(jax.vmap(jax.vmap(jax.grad(loss)), (0, None)))
        gradients = every(jnp.asarray(depth + noise, jnp.float32), records)
        return np.linalg.norm(gradients, axis=-1).mean()

    ratio = norms(lambda z, r: losses.depth_l1_loss(z, r.depth)) / norms(prepared_loss)
    np.testing.assert_allclose(float(weight), ratio, rtol=0.05)


def test_the_error_bar_follows_the_picture():
    """A mirrored one errs as much, one twice as large twice as much."""
    D, M, phi, W, z = sample(7)
    target, dictionary = target_of(D, M, phi, W)
    rng = np.random.default_rng(8)
    variance = jnp.asarray(rng.uniform(0.01, 0.1, P), jnp.float32)
    target = target._replace(expected=target.depth[::-1], variance=variance)
    pose = np.concatenate([W + 0.1 * rng.normal(size=W.shape), z[:, None]], 1)

    def bar(pose, W, **how):
        _, terms, _ = loss_at(np.float32(pose), W, target, dictionary, **how)
        # Less log b of deviations of 1.
        return float(terms["error_bar"]) + 3 * P * np.log(2) / 2

    plain = bar(pose, W)
    mirror = np.array([-1, 1, 1], np.float32)
    mirrored = bar(pose[PERM] * mirror, W[PERM] * mirror[:2], flip=True)
    np.testing.assert_allclose(mirrored, plain, rtol=1e-5)
    enlarged = bar(2 * pose, 2 * W, scale=2.0)
    np.testing.assert_allclose(enlarged, 2 * plain, rtol=1e-5)
    assert plain > bar(np.concatenate([W, z[:, None]], 1), W)


def test_modes_that_share_a_network_add_their_depths():
    D, M, phi, W, z = sample(6)
    target, dictionary = target_of(D, M, phi, W)
    first, second = (np.concatenate([W, x[:, None]], 1) for x in (z, z[::-1]))
    how = {"xy_weight": 1.0, "heat_weight": 0.0, "permutation": PERM}
    both, terms = student_loss(
        said(jnp.asarray(W), jnp.asarray([z, z[::-1]])),
        *(jnp.asarray(W), ALL, jnp.asarray(False), jnp.ones(())),
        *((target, target), (None, dictionary)),
        depth_weights={"weaksup_bs": 0.5, "distill": 0.25},
        depth_loss=functools.partial(depth_loss, code_l1_weight=C),
        pairs=facing_pairs(H36M_17),
        **how,
    )
    l1 = loss_at(first, W, target)[0]
    eq14 = loss_at(second, W, target, dictionary, loss="eq14")[0]
    np.testing.assert_allclose(both, 0.5 * l1 + 0.25 * eq14, rtol=1e-5)
    assert set(terms) == {"xy", "depth_weaksup_bs", "depth_distill", "error_bar"}


def test_a_mode_is_a_label_a_loss_and_a_weighting():
    assert set(default.get_config().student.modes) <= set(MODES)
    # One reads 3D, for the upper reference.
    assert [n for n, mode in MODES.items() if mode.label == "truth"] == ["supervised"]
    assert (MODES["weaksup_bs"].loss, MODES["distill"].loss) == ("l1", "eq14")
    assert MODES["distill_exact"].loss == "eq10"
    needing = {name for name, mode in MODES.items() if mode.needs_covariance}
    assert needing == {"weaksup_certainty", "posterior"}
