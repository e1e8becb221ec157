"""Landmarks that are missing or occluded, from the file to the prediction."""

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
from input_pipeline.skeleton import LSP_14
from nrsfm_jax import teacher as teacher_files
from nrsfm_jax import train as teacher_train

COUNT, P = 30, 14


@pytest.fixture(scope="module")
def hidden():
    """(30, 14): four are missing; sample 3 has only two, sample 4 all."""
    # Equally many: the programs of the EM are compiled for each number.
    rng = np.random.default_rng(1)
    gone = np.zeros((COUNT, P), bool)
    gone[:, 2:] = np.argsort(rng.random((COUNT, P - 2)), axis=1) < 4
    gone[3, 2:] = True
    gone[4] = False
    return gone


@pytest.fixture(scope="module")
def data(tmp_path_factory, hidden):
    folder = tmp_path_factory.mktemp("missing")
    files = formats.names(COUNT)
    formats.write_pictures(folder, files)
    xy = formats.points(LSP_14, count=COUNT)
    data = formats.write_coco(folder, LSP_14, xy, hidden, files)
    record = json.loads(Path(data["annotations"]).read_text())
    # Of the labelled ones, some are hidden behind the body: v = 1.
    for annotation in record["annotations"]:
        keypoints = annotation["keypoints"]
        keypoints[5::9] = [min(v, 1) for v in keypoints[5::9]]
    Path(data["annotations"]).write_text(json.dumps(record))
    return data | {"data_dir": str(folder / "prepared"), "num_val": 3}


@pytest.fixture(scope="module")
def run(few_trials, data, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    config = default.get_config()
    for name, value in data.items():
        config.data[name] = value
    config.teacher.dictionary_sizes = (12, 6)
    config.teacher.batch_size, config.teacher.steps = 8, 20
    config.teacher.log_every = 10
    config.teacher.em.num_samples, config.teacher.em.num_yaws = 27, 6
    config.teacher.em.elevations_deg = (0.0, 20.0)
    config.teacher.em.components = 1
    config.teacher.em.views = "upright"
    teacher_train.train_and_evaluate(config, workdir, open_dataset(config.data))
    return config, workdir


def test_occluded_landmarks_are_labelled_and_missing_ones_are_zero(data, hidden):
    landmarks = open_dataset(data | {"num_val": 0}).landmarks("train")
    np.testing.assert_array_equal(landmarks.labelled, ~hidden)
    assert (landmarks.keypoints[hidden] == 0).all()
    assert (landmarks.patch[hidden] == 0).all()
    W, mean = landmarks.centred
    assert (W[hidden] == 0).all()
    np.testing.assert_allclose(W.sum(axis=1), 0, atol=1e-4)  # over labelled ones
    assert np.isfinite(mean).all()


def test_a_batch_knows_which_landmarks_are_there(data):
    landmarks = open_dataset(data).landmarks("train")
    batches = open_dataset(data).pictures(
        "train",
        batch_size=9,
        image_size=8,
        seed=0,
        train=True,
        augment={"flip_prob": 0.5, "rotation_deg": 60.0, "rotation_prob": 1.0},
    )
    permutation = LSP_14.flip_permutation
    for _ in range(3):
        batch = next(batches)
        labelled = landmarks.labelled[batch["row"]]
        wanted = np.where(batch["flip"][:, None], labelled[:, permutation], labelled)
        np.testing.assert_array_equal(batch["labelled"], wanted)
        assert (batch["keypoints"][~batch["labelled"]] == 0).all()


def test_the_teacher_has_depth_and_place_for_every_joint(run):
    config, workdir = run
    saved = np.load(workdir / "teacher" / "predictions_train.npz")
    assert saved["pose"].shape == (27, P, 3)
    assert np.isfinite(saved["pose"]).all()
    landmarks = open_dataset(config.data).landmarks("train")
    split = teacher_files.load_reconstruction(workdir / "teacher", "train")
    np.testing.assert_array_equal(split.labelled, landmarks.labelled)
    # The residual counts labelled joints alone.
    difference = saved["pose"][..., :2] - landmarks.patch
    squared = np.where(landmarks.labelled[..., None], difference**2, 0).sum((1, 2))
    np.testing.assert_allclose(split.residual, np.sqrt(squared), atol=2e-4)
    # Somewhere in the body, not at the origin and not far away.
    gone = saved["pose"][~landmarks.labelled]
    assert np.abs(gone).max() < 10
    assert np.ptp(gone[:, 0]) > 0.05


@pytest.mark.parametrize("mode", ["distill", "weaksup_bs"])
def test_missing_landmarks_have_no_share_in_the_2d_loss(run, mode):
    from pose_jax.integral_head import Prediction
    from pose_jax.loss import PER_SAMPLE
    from pose_jax.targets import of_batch
    from pose_jax.train import prepare

    config, workdir = run
    data = open_dataset(config.data)
    (record,), targets = prepare(config, workdir, data, (mode,))
    landmarks = data.landmarks("train")
    one = make_loss(mode, LSP_14.flip_permutation, record.depth_weight)
    loss = jax.vmap(one, PER_SAMPLE)
    count = len(landmarks)
    batch = {
        "keypoints": landmarks.patch,
        "labelled": landmarks.labelled,
        "flip": np.zeros(count, bool),
        "scale": np.ones(count, np.float32),
        "row": np.arange(count),
    }
    batch, table = jax.tree.map(jnp.asarray, (batch, targets["train"]))
    rng = np.random.default_rng(0)
    pose = jnp.asarray(rng.normal(size=(count, P, 3)), jnp.float32)

    def total(pose):
        spread = jnp.ones_like(pose)[:, None]
        said = Prediction(pose[..., :2], pose[:, None, :, 2], spread, pose[:, None])
        return loss(said, *of_batch(table, batch))[0].sum()

    gradient = np.asarray(jax.grad(total)(pose))
    assert np.isfinite(gradient).all()
    there = landmarks.labelled
    assert (np.abs(gradient[..., :2][~there]) == 0).all()
    assert (np.abs(gradient[..., :2][there]) > 0).all()
    # Depth is judged where there is a landmark, nowhere else.
    assert (np.abs(gradient[..., 2][~there]) < 1e-6).all()
    assert (np.abs(gradient[..., 2]).max(axis=1) > 0).all()
