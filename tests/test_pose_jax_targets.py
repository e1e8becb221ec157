"""Tables of targets: from shards, and prepared by the step where they are large."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_student as tiny
from safetensors.numpy import load_file, save_file

from pose_jax.targets import (
    TeacherFiles,
    TeacherTable,
    matched_depth_weight,
    read_teacher,
    target_rows,
    teacher_targets,
)

COUNT = 23


@pytest.fixture
def folder(tmp_path):
    arrays = tiny.teacher_arrays(
        tiny.unit_dictionary(np.random.default_rng(0)), COUNT, 0, np.arange(COUNT) * 5
    )
    visible = np.random.default_rng(1).random((COUNT, tiny.P)) < 0.8
    visible[:, :3] = True
    splits = {"train": (arrays["sample_ids"], arrays["W"], visible)}
    tiny.write_teacher(tmp_path / "teacher", tiny.SKELETON, splits)
    return tmp_path / "teacher"


def _in_shards(folder):
    whole = load_file(folder / "train.safetensors")
    for i, rows in enumerate((slice(0, 10), slice(10, 20), slice(20, COUNT))):
        part = {
            name: np.ascontiguousarray(values[rows]) for name, values in whole.items()
        }
        save_file(part, folder / f"train-{i:05d}-of-00003.safetensors")
    (folder / "train.safetensors").unlink()
    return whole


def test_shards_are_read_as_one_file(folder):
    whole = _in_shards(folder)
    teacher = read_teacher(folder)
    found = teacher.split("train", np.arange(COUNT) * 5)
    assert set(found) == set(whole)
    for name, values in whole.items():
        np.testing.assert_array_equal(found[name], values)
    (folder / "train-00001-of-00003.safetensors").unlink()
    with pytest.raises(ValueError, match="holds 2 of 3 shards of 'train'"):
        teacher.split("train", np.arange(COUNT) * 5)


def test_what_the_step_prepares_is_what_the_table_holds(folder):
    teacher = read_teacher(folder)
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
    teacher = read_teacher(folder)
    arrays = teacher.split("train", np.arange(COUNT) * 5)
    distill = teacher_targets(teacher, arrays, mode="distill")
    for mode in ("weaksup_bs", "weaksup_residual"):
        table = teacher_targets(teacher, arrays, mode=mode, max_bytes=1)
        assert table.prepared is None
        np.testing.assert_allclose(table.depth, distill.depth, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(table.visible, arrays["visible"])
    assert isinstance(teacher, TeacherFiles)
