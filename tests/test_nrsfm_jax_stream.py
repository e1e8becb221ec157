"""A whole teacher run on landmark shards: the teacher of memory, resumed, evaluated."""

import json

import jax
import numpy as np
import pytest
from tiny_data import write_motion

from configs import default
from input_pipeline import landmark_shards
from input_pipeline.landmarks import read_landmarks
from nrsfm_jax import landmark_folder, train
from nrsfm_jax import teacher as teacher_files
from runtime.metric_writer import read_metrics


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Motion with a validation split, and the same samples in shards."""
    folder = tmp_path_factory.mktemp("data")
    config = default.get_config()
    config.data.name = "mocap"
    config.data.mocap_file = write_motion(folder / "motion.npz", frames=120)
    config.data.num_train, config.data.num_val = 70, 20
    config.data.landmarks = str(folder / "landmarks")
    config.teacher.dictionary_sizes = (16, 6)
    config.teacher.batch_size, config.teacher.steps = 16, 24
    config.teacher.checkpoint_every, config.teacher.log_every = 10, 5
    config.teacher.em.num_samples, config.teacher.em.num_yaws = 60, 6
    config.teacher.em.elevations_deg = (0.0, 20.0)
    config.teacher.em.components = 2
    landmark_shards.write_folder(config.data)
    return config


def _copy(config, **data):
    copied = config.copy_and_resolve_references()
    for name, value in data.items():
        copied.data[name] = value
    return copied


@pytest.fixture(scope="module")
def streamed(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("streamed")
    return workdir, train.train_and_evaluate(config, workdir)


def _lines(workdir):
    made = read_metrics(workdir / "metrics.jsonl")
    return [{n: v for n, v in line.items() if n != "time"} for line in made]


def test_it_is_the_teacher_of_training_in_memory(config, streamed, tmp_path):
    workdir, results = streamed
    in_memory = train.train_and_evaluate(_copy(config, landmarks=""), tmp_path)
    for split in ("train", "val"):
        a = teacher_files.load_reconstruction(workdir / "teacher", split)
        b = teacher_files.load_reconstruction(tmp_path / "teacher", split)
        np.testing.assert_array_equal(a.sample_ids, b.sample_ids)
        for name in ("camera", "code", "residual", "W"):
            np.testing.assert_allclose(
                getattr(a, name), getattr(b, name), rtol=1e-2, atol=1e-3
            )
        for name in ("mpjpe_mm", "depth_error_mm", "reprojection", "active_codes"):
            np.testing.assert_allclose(
                results[split][name], in_memory[split][name], rtol=1e-3
            )
        assert results[split]["count"] == in_memory[split]["count"]
    for ours, theirs in zip(_lines(workdir), _lines(tmp_path), strict=True):
        np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=1e-4)
    poses = [
        np.load(path / "teacher" / "predictions_val.npz")["pose"]
        for path in (workdir, tmp_path)
    ]
    np.testing.assert_allclose(*poses, rtol=1e-2, atol=1e-3)


def test_what_lies_in_the_folder(config, streamed):
    workdir, results = streamed
    names = {path.name for path in (workdir / "teacher").iterdir()}
    assert "train-00000-of-00001.safetensors" in names
    assert "em_pose" not in names
    record = json.loads((workdir / "teacher" / "teacher.json").read_text())
    assert record["splits"] == {"train": 70, "val": 20}
    assert train.train_and_evaluate(config, workdir) == results


def test_interrupted_it_ends_with_the_same_bits(
    config, streamed, tmp_path, monkeypatch
):
    workdir, results = streamed
    real, calls = landmark_folder.Split.rows, []

    def breaks(self, index):
        calls.append(1)
        if len(calls) == 15:
            raise OSError("disk gone")
        return real(self, index)

    monkeypatch.setattr(landmark_folder.Split, "rows", breaks)
    with pytest.raises(OSError, match="disk gone"):
        train.train_and_evaluate(config, tmp_path)
    assert (tmp_path / "teacher" / "em_pose").exists()
    assert not (tmp_path / "teacher" / "teacher.json").exists()
    assert train.train_and_evaluate(config, tmp_path) == results
    a, b = (teacher_files.load(path / "teacher") for path in (workdir, tmp_path))
    jax.tree.map(np.testing.assert_array_equal, a.params, b.params)
    assert _lines(workdir) == _lines(tmp_path)


def test_a_folder_alone_is_a_data_set(config, tmp_path):
    alone = _copy(config, name="landmarks", mocap_file="")
    alone.teacher.em.guide_fraction = 0.0
    alone.teacher.population = 2
    alone.teacher.steps = 5
    results = train.train_and_evaluate(alone, tmp_path)
    assert results["val"]["message"].startswith("no 3D ground truth")
    assert results["train"]["count"] == 70
    assert np.isfinite(results["val"]["reprojection"])
    assert len(read_landmarks(alone.data, "train")) == 70


def test_the_sign_cannot_be_chosen_from_shards(config, tmp_path):
    bad = _copy(config)
    bad.teacher.em.guide_fraction = 0.0
    bad.teacher.steps = 5
    bad.teacher.depth_sign_source = "evaluate"
    with pytest.raises(ValueError, match="'evaluate' needs all samples in memory"):
        train.train_and_evaluate(bad, tmp_path)
