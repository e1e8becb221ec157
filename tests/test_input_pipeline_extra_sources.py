"""Extra sources of pictures: what the teacher says of them, which loss they get."""

import copy
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_formats as formats
from tiny_student import make_loss

from configs import default
from input_pipeline.dataset import open_dataset
from input_pipeline.skeleton import H36M_17
from nrsfm_jax import teacher as teacher_files
from nrsfm_jax import train as teacher_train

MAIN = {"name": "mannequin", "num_train": 24, "num_val": 4, "render_size": 32}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Mannequins, beside them MPII labels and complete ones in COCO form."""
    folder = tmp_path_factory.mktemp("extra")
    prepared = {"data_dir": str(folder / "prepared"), "weight": 1.0}
    return MAIN | prepared | {"extra_sources": formats.write_extra_sources(folder)}


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A tiny teacher of the mixture, its config and its folder."""
    workdir = tmp_path_factory.mktemp("run")
    config = default.get_config()
    for name, value in data.items():
        text = name in ("extra_sources", "joint_names")
        config.data[name] = json.dumps(value) if text else value
    config.teacher.dictionary_sizes = (12, 6)
    config.teacher.batch_size, config.teacher.steps = 8, 20
    config.teacher.log_every = 10
    config.teacher.em.guide_fraction = 0.0
    teacher_train.train_and_evaluate(config, workdir, open_dataset(config.data))
    return config, workdir


def test_the_teacher_judges_the_other_sources_but_is_scored_on_the_main_one(run):
    _, workdir = run
    extra = teacher_files.load_reconstruction(workdir / "teacher", "extra")
    assert len(extra) == 24
    assert np.isfinite(extra.code).all()
    results = json.loads((workdir / "teacher" / "results.json").read_text())
    assert set(results) >= {"train", "val", "teacher"}
    assert results["train"]["count"] == 24


@pytest.mark.parametrize(
    "mode", ["distill", "weaksup_bs", "weaksup_residual", "supervised"]
)
def test_incomplete_skeletons_get_the_2d_loss_alone(run, mode):
    """Gradients with respect to depth: of main and of complete samples only."""
    from pose_jax.integral_head import Prediction
    from pose_jax.loss import PER_SAMPLE
    from pose_jax.targets import of_batch
    from pose_jax.train import prepare

    config, workdir = run
    data = open_dataset(config.data)
    extra = data.landmarks("extra")
    (record,), targets = prepare(config, workdir, data, (mode,))
    one = make_loss(mode, H36M_17.flip_permutation, record.depth_weight)
    loss = jax.vmap(one, PER_SAMPLE)
    rows = np.arange(48)
    batch = {
        "keypoints": np.concatenate([data.landmarks("train").patch, extra.patch]),
        "labelled": np.concatenate([data.landmarks("train").labelled, extra.labelled]),
        "flip": np.zeros(48, bool),
        "scale": np.ones(48, np.float32),
        "row": rows,
    }
    batch, table = jax.tree.map(jnp.asarray, (batch, targets["train"]))
    pose = jnp.asarray(np.random.default_rng(0).normal(size=(48, 17, 3)), jnp.float32)

    def total(pose):
        spread = jnp.ones_like(pose)[:, None]
        said = Prediction(pose[..., :2], pose[:, None, :, 2], spread, pose[:, None])
        return loss(said, *of_batch(table, batch))[0].sum()

    gradient = jax.grad(total)(pose)
    assert np.isfinite(gradient).all()
    depth = np.abs(np.asarray(gradient)[..., 2]).max(axis=1) > 0
    counted = np.ones(24, bool), extra.labelled.all(axis=1) & (mode != "supervised")
    np.testing.assert_array_equal(depth, np.concatenate(counted))
    flat = np.abs(np.asarray(gradient)[..., :2]).max(axis=(1, 2)) > 0
    assert flat.all()


def test_the_sign_is_turned_for_all_sources(run):
    config, workdir = run
    before = teacher_files.load_reconstruction(workdir / "teacher", "extra")
    D = teacher_files.load(workdir / "teacher").dictionary
    z = before.poses(D)[..., 2]
    config.teacher.depth_sign = -1
    teacher_train.train_and_evaluate(config, workdir, open_dataset(config.data))
    after = teacher_files.load_reconstruction(workdir / "teacher", "extra")
    turned = after.poses(teacher_files.load(workdir / "teacher").dictionary)[..., 2]
    np.testing.assert_allclose(turned, -z, atol=1e-5)
    config.teacher.depth_sign = 1
    teacher_train.train_and_evaluate(config, workdir, open_dataset(config.data))


def test_another_choice_of_sources_is_another_teacher(run):
    config, workdir = run
    config = copy.deepcopy(config)
    sources = json.loads(config.data.extra_sources)
    sources["mpii"]["weight"] = 5.0
    config.data.extra_sources = json.dumps(sources)
    with pytest.raises(ValueError, match=r"another config .*extra_sources changed"):
        teacher_train.train_and_evaluate(config, workdir, open_dataset(config.data))
    assert Path(workdir, "teacher", "teacher.json").exists()


def test_the_same_sources_written_otherwise_are_the_same_teacher(run, tmp_path):
    config, workdir = run
    before = (Path(workdir) / "teacher" / "teacher.json").read_bytes()
    config = copy.deepcopy(config)
    file = tmp_path / "sources.json"
    file.write_text(json.dumps(json.loads(config.data.extra_sources), indent=4))
    config.data.extra_sources = str(file)
    teacher_train.train_and_evaluate(config, workdir, open_dataset(config.data))
    assert (Path(workdir) / "teacher" / "teacher.json").read_bytes() == before
