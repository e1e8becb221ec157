"""The tables that teach a student: labels, weights, extra sources, refusals."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_student as tiny

import losses
from pose_jax.integral_head import Prediction
from pose_jax.loss import MODES
from pose_jax.targets import (
    label_depth,
    matched_depth_weight,
    supervised_targets,
    teacher_targets,
)
from runtime import teacher_file

COUNT, EXTRA = 23, 6


@pytest.fixture(scope="module")
def landmarks():
    """Some joints of the main source are missing, and of every second extra sample."""
    labelled = np.random.default_rng(1).random((COUNT, tiny.P)) < 0.8
    labelled[:, :3] = True
    extra = np.ones((EXTRA, tiny.P), bool)
    extra[::2, 4] = False
    return {
        "train": tiny.marks(labelled),
        "val": tiny.marks(labelled[:7]),
        "extra": tiny.marks(extra),
    }


@pytest.fixture(scope="module")
def teacher(landmarks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "teacher"
    rng = np.random.default_rng(2)
    splits = {
        name: (m.sample_ids, rng.normal(size=(*m.labelled.shape, 2)), m.labelled)
        for name, m in landmarks.items()
    }
    tiny.write_teacher(folder, tiny.SKELETON, splits)
    return teacher_file.read(folder)


@pytest.fixture(scope="module")
def tables(teacher, landmarks):
    """The training targets of every mode that learns from the teacher."""
    landmarks = landmarks | {"extra": tiny.marks(np.ones((0, tiny.P), bool))}
    return {
        mode: teacher_targets(mode, teacher, landmarks, softening=0.1, labels="best")[
            "train"
        ]
        for mode in MODES
        if MODES[mode].label != "truth"
    }


def test_labels_and_weights_of_every_mode(tables, teacher, landmarks):
    said, known = teacher.split("train"), teacher.labels("train")
    D = jnp.asarray(teacher.dictionary)
    _, B_z = jax.vmap(losses.split_dictionary, (None, 0))(
        D, jnp.asarray(said["camera"])
    )
    of_code = np.einsum("npk,nk->np", B_z, known["code_of_depth"])
    for mode, targets in tables.items():
        table, by_code = targets.samples, MODES[mode].loss in ("eq14", "eq10")
        label = of_code if by_code else known["depth"]
        np.testing.assert_allclose(table.depth, label, atol=1e-5)
        np.testing.assert_array_equal(table.labelled, landmarks["train"].labelled)
        np.testing.assert_allclose(table.expected, known["depth"], rtol=1e-6)
        assert (table.variance > 0).all()
        assert table.weight.mean() == pytest.approx(1.0, rel=1e-5)
    trust = 1 / (said["residual"] + 0.1)
    weight = tables["weaksup_residual"].samples.weight
    np.testing.assert_allclose(weight, trust / trust.mean(), rtol=1e-5)
    deviation = np.sqrt(known["covariance"][:, 2, 2])
    certainty = tables["weaksup_certainty"].samples.joint_weight[:, 2]
    np.testing.assert_allclose(certainty, 1 / (deviation + 0.05), rtol=1e-5)


def test_the_label_is_the_depth_of_the_network_where_that_is_asked_for(
    teacher, landmarks
):
    """As it is of a teacher without better ones, for one whom no EM guided."""
    said = teacher.split("train")
    own = {
        mode: teacher_targets(mode, teacher, landmarks, softening=0.1)["train"].samples
        for mode in ("weaksup_bs", "distill", "posterior")
    }
    np.testing.assert_allclose(own["weaksup_bs"].depth, own["distill"].depth)
    np.testing.assert_array_equal(own["distill"].phi[:COUNT], said["code"])
    best = teacher.labels("train")["depth"]
    np.testing.assert_allclose(own["posterior"].depth[:COUNT], best, rtol=1e-6)
    assert np.abs(own["weaksup_bs"].depth[:COUNT] - best).max() > 0.1
    with pytest.raises(ValueError, match="labels = 'em' is not one of"):
        teacher_targets("distill", teacher, landmarks, softening=0.1, labels="em")
    (bare,), _ = tiny.made_up_targets()
    assert bare.samples.expected is None


def test_the_distance_is_that_of_the_labelled_joints(tables, teacher):
    mode = "posterior"
    table, covariance = tables[mode].samples, teacher.labels("train")["covariance"]
    z = np.random.default_rng(3).normal(size=tiny.P).astype(np.float32)
    target = jax.tree.map(jnp.asarray, tables[mode].rows(4))
    pose = jnp.zeros((tiny.P, 3)).at[:, 2].set(z)
    spread = jnp.ones_like(pose)[None]
    said = Prediction(pose[:, :2], pose[None, :, 2], spread, pose[None])
    _, terms = tiny.make_loss(mode)(
        *(said, pose[:, :2], target.labelled, jnp.asarray(False), jnp.ones(())),
        *((target,), (None,)),
    )
    found = terms["depth"]
    rows = np.flatnonzero(table.labelled[4])
    delta = (z - table.depth[4])[rows]
    delta = delta - delta.mean()
    centring = np.eye(len(rows)) - 1 / len(rows)
    C = centring @ covariance[4][np.ix_(rows, rows)] @ centring
    C = C + losses.POSTERIOR_NOISE**2 * np.eye(len(rows))
    expected = np.sqrt(delta @ np.linalg.solve(C, delta))
    np.testing.assert_allclose(float(found), expected, rtol=1e-3)


def test_only_l1_losses_of_mean_weight_need_no_matching(tables):
    how = {"count": COUNT, "code_l1_weight": 0.15, "seed": 0}
    for mode, targets in tables.items():
        if mode in ("weaksup_bs", "weaksup_residual"):
            assert matched_depth_weight(mode, targets, **how) == 1.0
    for mode in ("distill", "weaksup_certainty"):
        weight = matched_depth_weight(mode, tables[mode], **how)
        assert weight > 0
        assert weight != 1.0


def test_complete_extra_samples_have_the_depth_loss_and_others_none(teacher, landmarks):
    for mode in ("distill", "weaksup_residual"):
        targets = teacher_targets(mode, teacher, landmarks, softening=0.1)
        table = targets["train"].samples
        assert len(targets["val"].samples.weight) == 7
        assert (table.weight[:COUNT] > 0).all()
        np.testing.assert_array_equal(table.weight[COUNT:] > 0, [False, True] * 3)
        # Residual weights are told by the mean of the main source alone.
        assert table.weight[:COUNT].mean() == pytest.approx(1.0, rel=1e-5)


def test_true_depths_in_patch_units_and_none_to_validate_by(landmarks):
    rng = np.random.default_rng(0)
    truth = 300 * rng.normal(size=(COUNT, tiny.P, 3))
    scale, half_side = rng.uniform(0.1, 0.2, COUNT), rng.uniform(80, 120, COUNT)
    keypoints = truth[..., :2] * scale[:, None, None] + 50
    labelled = landmarks["train"].labelled
    keypoints[~labelled] = 1e6
    depth = label_depth(truth, keypoints, half_side, labelled)
    wanted = truth[..., 2] * (scale / half_side)[:, None]
    np.testing.assert_allclose(depth, wanted, rtol=1e-4)
    marks = dataclasses.replace(
        landmarks["train"], keypoints=keypoints, half_side=half_side
    )
    targets = supervised_targets(truth, landmarks | {"train": marks})
    table = targets["train"].samples
    np.testing.assert_allclose(table.depth[:COUNT], wanted, rtol=1e-4)
    assert table.weight.tolist() == [1.0] * COUNT + [0.0] * EXTRA
    val = targets["val"].samples
    assert not val.weight.any()
    np.testing.assert_array_equal(val.labelled, landmarks["val"].labelled)


def test_a_teacher_of_other_joints_or_samples_is_refused(teacher, landmarks):
    other = tiny.SKELETON.__class__(
        "other", ("a", "b", "c", "d", "e"), ((0, 1),), left_right=()
    )
    changed = landmarks | {"train": tiny.marks(landmarks["train"].labelled, other)}
    with pytest.raises(ValueError, match="train the teacher on this data set"):
        teacher_targets("distill", teacher, changed, softening=0.1)
    changed = landmarks | {"val": tiny.marks(landmarks["val"].labelled[:5])}
    with pytest.raises(ValueError, match="train the teacher again"):
        teacher_targets("distill", teacher, changed, softening=0.1)
    with pytest.raises(ValueError, match=r"residual_offset = 0\.0 must"):
        teacher_targets("weaksup_residual", teacher, landmarks, softening=0.0)
