"""Tables of targets: prepared once, and prepared by the step where they are large."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_student as tiny

import losses
from pose_jax.loss import depth_loss
from pose_jax.targets import (
    TeacherTable,
    matched_depth_weight,
    target_rows,
    teacher_targets,
)
from runtime import teacher_file

COUNT = 23


@pytest.fixture
def folder(tmp_path):
    arrays = tiny.teacher_arrays(
        tiny.unit_dictionary(np.random.default_rng(0)), COUNT, 0, np.arange(COUNT) * 5
    )
    labelled = np.random.default_rng(1).random((COUNT, tiny.P)) < 0.8
    labelled[:, :3] = True
    splits = {"train": (arrays["sample_ids"], arrays["W"], labelled)}
    tiny.write_teacher(tmp_path / "teacher", tiny.SKELETON, splits)
    return tmp_path / "teacher"


def test_what_the_step_prepares_is_what_the_table_holds(folder):
    teacher = teacher_file.read(folder)
    arrays = teacher.split("train", np.arange(COUNT) * 5)
    table = teacher_targets(teacher, arrays, mode="distill")
    compact = teacher_targets(teacher, arrays, mode="distill", max_bytes=1000)
    assert isinstance(compact, TeacherTable)
    assert sum(x.nbytes for x in jax.tree.leaves(compact)) < 0.5 * sum(
        x.nbytes for x in jax.tree.leaves(table)
    )
    rows = np.array([4, 22, 0, 4])
    whole = target_rows(jax.tree.map(jnp.asarray, table), rows)
    gathered = jax.jit(target_rows)(jax.tree.map(jnp.asarray, compact), rows)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5),
        whole,
        gathered,
    )
    weights = [matched_depth_weight(t, code_l1_weight=0.15) for t in (table, compact)]
    np.testing.assert_allclose(*weights, rtol=1e-4)


def test_other_modes_keep_the_depth_alone(folder):
    teacher = teacher_file.read(folder)
    arrays = teacher.split("train", np.arange(COUNT) * 5)
    distill = teacher_targets(teacher, arrays, mode="distill")
    for mode in ("weaksup_bs", "weaksup_residual"):
        table = teacher_targets(teacher, arrays, mode=mode, max_bytes=1)
        assert table.prepared is None
        np.testing.assert_allclose(table.depth, distill.depth, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(table.labelled, arrays["labelled"])


def test_the_posterior_is_judged_about_its_own_mean_or_the_teachers(folder):
    teacher = teacher_file.read(folder)
    ids = np.arange(COUNT) * 5
    arrays, posterior = teacher.split("train", ids), teacher.posterior("train", ids)
    tables = {
        mode: teacher_targets(teacher, arrays, mode=mode, posterior=posterior)
        for mode in ("posterior", "posterior_teacher", "weaksup_bs", "weaksup_em")
    }
    for mode in ("posterior", "weaksup_em"):
        np.testing.assert_array_equal(tables[mode].depth, posterior["depth"])
    assert tables["weaksup_em"].prepared is None
    with pytest.raises(ValueError, match="needs the teacher's posterior"):
        teacher_targets(teacher, arrays, mode="posterior")
    np.testing.assert_array_equal(
        tables["posterior_teacher"].depth, tables["weaksup_bs"].depth
    )
    z = np.random.default_rng(3).normal(size=tiny.P).astype(np.float32)
    shown = arrays["labelled"][4]
    rows = np.flatnonzero(shown)
    for mode in ("posterior", "posterior_teacher"):
        target = target_rows(jax.tree.map(jnp.asarray, tables[mode]), 4)
        found = depth_loss(jnp.asarray(z), target, code_l1_weight=0.15)
        delta = (z - tables[mode].depth[4])[rows]
        delta = delta - delta.mean()
        centring = np.eye(len(rows)) - 1 / len(rows)
        C = centring @ posterior["covariance"][4][np.ix_(rows, rows)] @ centring
        C = C + losses.POSTERIOR_NOISE**2 * np.eye(len(rows))
        expected = np.sqrt(delta @ np.linalg.solve(C, delta))
        np.testing.assert_allclose(float(found), expected, rtol=1e-3)


def test_the_posterior_turns_with_the_sign_of_the_teacher(tmp_path):
    ids = np.arange(6)
    splits = {
        "train": (ids, np.zeros((6, tiny.P, 2), np.float32), np.ones((6, 5), bool))
    }
    depth = []
    for sign in (1, -1):
        folder = tmp_path / f"teacher{sign}"
        tiny.write_teacher(folder, tiny.SKELETON, splits, sign=sign)
        depth.append(teacher_file.read(folder).posterior("train", ids)["depth"])
    np.testing.assert_array_equal(depth[0], -depth[1])
    (folder / "train" / "depth.npy").unlink()
    with pytest.raises(ValueError, match="that the EM guides"):
        teacher_file.read(folder).posterior("train", ids)


def test_eq10_is_solved_for_the_rows_of_a_batch(folder):
    teacher = teacher_file.read(folder)
    arrays = teacher.split("train", np.arange(COUNT) * 5)
    table = teacher_targets(teacher, arrays, mode="distill_exact")
    bound = teacher_targets(teacher, arrays, mode="distill")
    rows = np.array([3, 17, 8])
    targets = target_rows(jax.tree.map(jnp.asarray, table), rows)
    z = 0.3 * np.random.default_rng(0).normal(size=(3, tiny.P)).astype(np.float32)
    loss = jax.jit(
        jax.vmap(lambda z, t: depth_loss(z, t, code_l1_weight=0.15), in_axes=(0, 0))
    )
    found = loss(jnp.asarray(z), targets)
    for i, row in enumerate(rows):
        B_xy, B_z = losses.split_dictionary(
            jnp.asarray(teacher.dictionary), jnp.asarray(arrays["camera"][row])
        )
        phi, labelled = jnp.asarray(arrays["code"][row]), arrays["labelled"][row]
        hypothesis = losses.match_depth_mean(
            jnp.asarray(z[i]), B_z @ phi, jnp.asarray(labelled)
        )
        exact, gap = losses.min_code_cost(
            hypothesis,
            phi,
            B_xy,
            B_z,
            jnp.asarray(arrays["W"][row]).ravel(),
            code_l1_weight=0.15,
            labelled=jnp.asarray(labelled),
        )
        np.testing.assert_allclose(found[i], exact, rtol=0.03)
        assert float(gap) < 1e-3 * float(exact)
    above = loss(jnp.asarray(z), target_rows(jax.tree.map(jnp.asarray, bound), rows))
    assert (np.asarray(above) > 0.999 * np.asarray(found)).all()
    assert matched_depth_weight(table, code_l1_weight=0.15) > 0
