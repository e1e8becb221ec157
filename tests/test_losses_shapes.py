"""Arrays that are not those of one sample are refused, not broadcast."""

import re

import jax
import jax.numpy as jnp
import pytest
from losses_samples import random_camera, random_sample, unit_dictionary
from numpy.random import default_rng

import losses

P, K = 4, 24
z, phi, B_xy, B_z, w = random_sample(joints=P, atoms=K)
D, M = unit_dictionary(default_rng(0), P, K), random_camera(default_rng(0))
c = {"code_l1_weight": 0.15}


def batch(x):
    return jnp.stack([x] * 3)


CASES = {
    "a batch": (losses.distillation_loss, (batch(z), phi, B_xy, B_z, w), c, "z_hyp"),
    "a number": (losses.distillation_loss, (z[0], phi, B_xy, B_z, w), c, "z_hyp"),
    "a column": (losses.code_cost, (phi, B_xy, w[:, None]), c, "w"),
    "a table": (losses.prepare, (phi, B_xy, B_z, w.reshape(P, 2)), {}, "w"),
    "an exchange": (losses.min_code_cost, (z, phi, B_z, B_xy, w), c, "B_xy"),
    "a short code": (losses.project_code, (phi[1:], B_z, z), {}, "B_z"),
    "a rotation": (losses.split_dictionary, (D, jnp.eye(3)), {}, "M"),
    "two batches": (losses.depth_l1_loss, (batch(z), batch(z)), {}, "pred_z"),
    "a short depth": (
        losses.prepared_distillation_loss,
        (z[:1], losses.prepare(phi, B_xy, B_z, w)),
        c,
        "prepared.right_inverse",
    ),
    "weights": (
        losses.code_cost,
        (phi, B_xy, w),
        {"code_l1_weight": jnp.ones(3)},
        "code_l1_weight",
    ),
    "a mask of 2P": (
        losses.keypoint_l1_loss,
        (w.reshape(P, 2), w.reshape(P, 2)),
        {"labelled": jnp.ones(2 * P, bool)},
        "labelled",
    ),
    "a table again": (
        losses.gram_distillation_loss,
        (z, phi, M, w.reshape(P, 2), D, losses.dictionary_gram(D)),
        c,
        "w",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_shape_names_the_argument_and_the_remedy(case):
    function, arguments, more, name = CASES[case]
    start = re.escape(f"{function.__name__}: {name} has shape (")
    rest = r".*one sample has \(.*jax\.vmap.*u1 v1 u2 v2 \.\.\. \(W\.ravel\(\)\)"
    with pytest.raises(ValueError, match=start + rest):
        function(*arguments, **more)


def test_the_message_counts():
    with pytest.raises(ValueError, match=r"has \(2P,\) with P = 4, K = 24\."):
        losses.distillation_loss(z, phi, B_xy, B_z, w[:-2], **c)


def test_a_mapped_batch_and_both_kinds_of_weight_are_taken():
    one = losses.distillation_loss(z, phi, B_xy, B_z, w, **c)
    views = map(batch, (z, phi, B_xy, B_z, w))
    many = jax.vmap(lambda *x: losses.distillation_loss(*x, **c))(*views)
    assert many == pytest.approx(float(one), rel=1e-6)
    for weight in (1.0, jnp.ones(()), jnp.ones(P)):
        assert losses.depth_l1_loss(z, z, weight=weight) == 0
