"""The student's objective: the plain frame, the modes, the matched depth weight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import losses
from input_pipeline.skeleton import H36M_17
from pose_jax import loss as objective
from pose_jax.loss import DepthTarget, matching_weight, plain_depth, student_loss

P, K = 17, 40
PERM = jnp.asarray(H36M_17.flip_permutation)


def orthonormal_camera(rng):
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return np.asarray(q[:, :2], np.float32)


def sample(seed, labelled=None):
    """Dictionary, camera, code and landmarks that nearly agree, and a depth."""
    rng = np.random.default_rng(seed)
    D = rng.normal(size=(3 * P, K)).astype(np.float32)
    D /= np.linalg.norm(D, axis=0)
    phi = np.maximum(rng.normal(size=K), 0).astype(np.float32)
    M = orthonormal_camera(rng)
    S = (D @ phi).reshape(P, 3)
    W = (S @ M + 0.05 * rng.normal(size=(P, 2))).astype(np.float32)
    z = (0.3 * rng.normal(size=P)).astype(np.float32)
    return D, M, phi, W, z


def prepared_record(D, M, phi, W, labelled=None):
    B_xy, B_z = losses.split_dictionary(jnp.asarray(D), jnp.asarray(M))
    return losses.prepare(
        phi=jnp.asarray(phi),
        B_xy=B_xy,
        B_z=B_z,
        w=jnp.asarray(W).ravel(),
        labelled=labelled,
    )


def target_of(record, *, distill=True):
    return DepthTarget(
        depth=record.depth,
        labelled=record.labelled,
        weight=jnp.ones(()),
        prepared=record if distill else None,
    )


def loss_at(
    pose, keypoints, target, *, flip=False, scale=1.0, labelled=None, **weights
):
    if labelled is None:
        labelled = jnp.ones(P, bool)
    value, terms = student_loss(
        jnp.asarray(pose),
        jnp.asarray(keypoints),
        labelled,
        jnp.asarray(flip),
        jnp.asarray(scale, jnp.float32),
        target,
        permutation=PERM,
        **weights,
    )
    return value, terms


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("angle", [0.0, 0.7])
@pytest.mark.parametrize("scale", [1.0, 0.8])
def test_the_plain_frame_equals_turning_and_mirroring_the_camera(flip, angle, scale):
    D, M, phi, W, z = sample(0)
    perm = np.asarray(PERM)
    # The augmented picture: patch' = scale * R F patch, depth' = scale * depth.
    turn = np.array(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], np.float32
    )
    F = np.diag([-1.0, 1.0]).astype(np.float32) if flip else np.eye(2, dtype=np.float32)
    A = turn @ F
    W_aug = scale * W @ A.T
    if flip:
        W_aug = W_aug[perm]
    # The camera of the augmented picture, for a dictionary that is itself mirrored
    # (in its own x) and has its joints swapped where the picture is mirrored.
    H = np.diag([-1.0, 1.0, 1.0]).astype(np.float32) if flip else np.eye(3)
    D_aug = np.einsum("pck,cd->pdk", D.reshape(P, 3, K), H)
    D_aug = (D_aug[perm] if flip else D_aug).reshape(3 * P, K).astype(np.float32)
    M_aug = (H @ M @ A.T).astype(np.float32)
    turned = prepared_record(D_aug, M_aug, scale * phi, W_aug)
    z_aug = scale * z
    recomputed = losses.prepared_distillation_loss(
        jnp.asarray(z_aug), turned, code_l1_weight=0.15
    )

    z_plain = plain_depth(
        jnp.asarray(z_aug),
        flip=jnp.asarray(flip),
        scale=jnp.asarray(scale, jnp.float32),
        permutation=PERM,
    )
    plain = losses.prepared_distillation_loss(
        z_plain, prepared_record(D, M, phi, W), code_l1_weight=0.15
    )
    np.testing.assert_allclose(recomputed, scale * plain, rtol=2e-5)

    # The same through the objective, whose teacher is never augmented.
    pose = np.concatenate([W_aug, z_aug[:, None]], axis=1)
    target = target_of(prepared_record(D, M, phi, W))
    _, terms = loss_at(pose, W_aug, target, flip=flip, scale=scale)
    np.testing.assert_allclose(terms["depth"], plain, rtol=1e-6)
    np.testing.assert_allclose(terms["xy"], 0.0, atol=1e-6)


def test_the_teachers_own_depth_of_a_mirrored_picture_costs_nothing_in_l1():
    D, M, phi, W, _ = sample(1)
    record = prepared_record(D, M, phi, W)
    pose = np.zeros((P, 3), np.float32)
    pose[:, 2] = 0.8 * np.asarray(record.depth)[np.asarray(PERM)] + 0.3
    _, terms = loss_at(pose, W, target_of(record, distill=False), flip=True, scale=0.8)
    np.testing.assert_allclose(terms["depth"], 0.0, atol=1e-5)


def test_terms_and_weights_by_hand():
    target = DepthTarget(
        depth=jnp.zeros(P), labelled=jnp.ones(P, bool), weight=jnp.asarray(2.0)
    )
    pose = np.zeros((P, 3), np.float32)
    pose[0] = [0.5, -0.25, 1.7]
    value, terms = loss_at(
        pose, np.zeros((P, 2), np.float32), target, xy_weight=3.0, depth_weight=0.5
    )
    # Depth 1.7 at one joint of 17 has mean 0.1: |1.6| + 16 * 0.1 = 3.2, times 2.
    np.testing.assert_allclose(terms["xy"], 0.75, rtol=1e-6)
    np.testing.assert_allclose(terms["depth"], 6.4, rtol=1e-5)
    np.testing.assert_allclose(value, 3 * 0.75 + 0.5 * 6.4, rtol=1e-5)


def test_eq_15_is_pose_loss_where_nothing_is_augmented():
    D, M, phi, W, z = sample(2)
    record = prepared_record(D, M, phi, W)
    rng = np.random.default_rng(5)
    pose = np.concatenate([rng.normal(size=(P, 2)), z[:, None]], 1).astype(np.float32)
    value, _ = loss_at(pose, W, target_of(record), code_l1_weight=0.3)
    wanted = losses.pose_loss(
        jnp.asarray(pose[:, :2]),
        jnp.asarray(z),
        jnp.asarray(W),
        record,
        code_l1_weight=0.3,
    )
    np.testing.assert_allclose(value, wanted, rtol=1e-6)


def test_missing_joints_have_no_gradient():
    D, M, phi, W, z = sample(3)
    labelled = jnp.ones(P, bool).at[jnp.array([2, 5])].set(False)
    W[[2, 5]] = 0
    for distill in (True, False):
        target = target_of(prepared_record(D, M, phi, W, labelled), distill=distill)
        pose = np.concatenate([W + 0.1, z[:, None]], 1).astype(np.float32)

        def value(pose, target=target):
            return loss_at(pose, W, target, labelled=labelled)[0]

        gradient = np.asarray(jax.grad(value)(jnp.asarray(pose)))
        assert np.isfinite(gradient).all()
        assert (gradient[[2, 5]] == 0).all()
        assert (np.abs(gradient[[0, 1, 3]]) > 0).all()


def test_gradients_agree_with_differences():
    D, M, phi, W, z = sample(4)
    target = target_of(prepared_record(D, M, phi, W))

    def value(z):
        pose = jnp.concatenate([jnp.asarray(W) + 0.1, z[:, None]], axis=1)
        return loss_at(pose, W, target, flip=True, scale=1.2)[0]

    check_grads(
        value, (jnp.asarray(z),), 1, modes=("rev",), atol=2e-2, rtol=2e-2, eps=1e-3
    )


def test_the_matching_weight_makes_the_gradients_equal():
    records = [prepared_record(*sample(10 + i)[:4]) for i in range(16)]
    prepared = jax.tree.map(lambda *x: jnp.stack(x), *records)
    key = jax.random.key(0)
    targets = DepthTarget(
        prepared.depth, prepared.labelled, jnp.full(16, 3.0), prepared
    )
    weight = matching_weight(targets, key, code_l1_weight=0.15)

    # Measured anew: both gradients at other random depths of the same spread.
    depth = np.asarray(prepared.depth)
    centred = depth - depth.mean(1, keepdims=True)
    sigma = 0.5 * np.sqrt((centred**2).mean())
    noise = sigma * np.random.default_rng(1).normal(size=(64, *depth.shape))

    def norms(loss):
        per_sample = jax.vmap(jax.grad(loss))
        gradients = [
            per_sample(jnp.asarray(depth + n, jnp.float32)[:], prepared)
            for n in noise.astype(np.float32)
        ]
        return np.linalg.norm(np.stack(gradients), axis=-1).mean()

    def l1(z, r):
        return losses.depth_l1_loss(z, r.depth, labelled=r.labelled)

    def distill(z, r):
        return losses.prepared_distillation_loss(z, r, code_l1_weight=0.15)

    np.testing.assert_allclose(float(weight), norms(l1) / norms(distill), rtol=0.05)


def test_modes_are_those_of_the_configs():
    assert set(objective.MODES) == {
        "supervised",
        "weaksup_bs",
        "weaksup_residual",
        "weaksup_em",
        "weaksup_em_weighted",
        "distill",
        "distill_exact",
        "posterior",
        "posterior_teacher",
    }
