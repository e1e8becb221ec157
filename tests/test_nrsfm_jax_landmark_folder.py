"""Streams from a folder: the same loop, the same batches after a restart, shards."""

import contextlib
import threading

import jax
import numpy as np
import pytest

from nrsfm_jax import landmark_folder, model, teacher, train
from nrsfm_jax.objective import Objective

COUNT, LANDMARKS, SIZES = 70, 8, (12, 6)
SHORT = Objective(steps=12, batch_size=16, learning_rate=3e-3)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    visible = rng.random((COUNT, LANDMARKS)) < 0.9
    W = rng.normal(size=(COUNT, LANDMARKS, 2)).astype(np.float32)
    W = np.where(visible[..., None], W, np.float32(0))
    np.save(tmp_path / "W.npy", W)
    np.save(tmp_path / "visible.npy", visible)
    np.save(tmp_path / "sample_ids.npy", np.arange(COUNT, dtype=np.int64) * 3)
    opened = landmark_folder.open_folder(tmp_path)
    return landmark_folder.write_em_pose(opened, _pose, chunk=16)


def _pose(W, visible):
    """Missing landmarks are filled with 7; the depth is u."""
    filled = np.where(visible[..., None], W, np.float32(7))
    return np.concatenate([filled, W[..., :1]], -1)


def _take(folder, count, start=0):
    stream = landmark_folder.batches(folder, batch_size=16, seed=5, start_step=start)
    with contextlib.closing(stream):
        return [next(stream) for _ in range(count)]


def test_rows_fit_together_and_the_pose_is_written_for_all(folder):
    assert isinstance(folder.W, np.memmap)
    np.testing.assert_array_equal(folder.em_pose, _pose(folder.W, folder.visible))
    for batch in _take(folder, 3):
        assert batch["W"].shape == (16, LANDMARKS, 2)
        shown = batch["visible"]
        assert (batch["W"][~shown] == 7).all()
        np.testing.assert_array_equal(
            batch["em_depth"], np.where(shown, batch["W"][..., 0], 0)
        )


def test_without_the_em_rows_are_as_given(folder):
    (folder.path / "em_pose.npy").unlink()
    rows = landmark_folder.open_folder(folder.path).rows(slice(3, 9))
    assert sorted(rows) == ["W", "visible"]
    np.testing.assert_array_equal(rows["W"], folder.W[3:9])


def test_a_restart_sees_the_batches_it_would_have_seen(folder):
    whole, later = _take(folder, 6), _take(folder, 3, start=3)
    for a, b in zip(whole[3:], later, strict=True):
        jax.tree.map(np.testing.assert_array_equal, a, b)
    assert not np.array_equal(whole[0]["W"], whole[1]["W"])


def test_closing_ends_the_thread(folder):
    before = threading.active_count()
    _take(folder, 2)
    assert threading.active_count() == before


def test_an_error_of_reading_reaches_the_loop(folder, monkeypatch):
    def broken(self, index):
        raise OSError("disk gone")

    monkeypatch.setattr(landmark_folder.LandmarkFolder, "rows", broken)
    with pytest.raises(OSError, match="disk gone"):
        _take(folder, 1)


def test_training_from_disk_and_again_from_the_middle(folder):
    def run(state, steps_done):
        stream = landmark_folder.batches(
            folder, batch_size=16, seed=1, start_step=steps_done
        )
        kept = {}
        with contextlib.closing(stream):
            state = train.fit_stream(
                stream,
                state,
                objective=SHORT,
                chunk=6,
                after_chunk=lambda s, _: kept.update(
                    {int(s.step): jax.tree.map(np.array, s)}
                ),
            )
        return state, kept

    start = train.init_state(
        jax.random.key(0),
        num_landmarks=LANDMARKS,
        dictionary_sizes=SIZES,
        population=1,
        objective=SHORT,
    )
    whole, kept = run(start, 0)
    resumed, _ = run(jax.tree.map(jax.numpy.asarray, kept[6]), 6)
    jax.tree.map(np.testing.assert_array_equal, whole.params, resumed.params)


def _teacher():
    params = model.init(
        jax.random.key(2), num_landmarks=LANDMARKS, dictionary_sizes=SIZES
    )
    return teacher.from_params(params, skeleton={"joints": ["a"] * LANDMARKS})


def test_shards_hold_what_one_file_would(folder, tmp_path):
    files = landmark_folder.reconstruct(
        folder, _teacher(), tmp_path / "out", "train", shard_size=32
    )
    assert [f.name for f in files][-1] == "train-00002-of-00003.safetensors"
    read = teacher.load_reconstruction(tmp_path / "out", "train")
    rows = folder.rows(slice(None))
    whole = _teacher().reconstruct(
        rows["W"], rows["visible"], np.array(folder.sample_ids)
    )
    np.testing.assert_array_equal(read.sample_ids, whole.sample_ids)
    for name in ("camera", "code", "residual", "W", "visible"):
        np.testing.assert_allclose(
            getattr(read, name), getattr(whole, name), rtol=1e-4, atol=1e-5
        )
    files[1].unlink()
    with pytest.raises(ValueError, match="train-00001-of-00003"):
        teacher.load_reconstruction(tmp_path / "out", "train")


def test_the_subset_for_the_em_has_no_row_twice(folder):
    subset = landmark_folder.random_rows(folder, 50, seed=0)
    assert len(np.unique(subset["W"], axis=0)) == 50
    assert len(landmark_folder.random_rows(folder, 999, seed=0)["W"]) == COUNT


def test_folders_that_cannot_be_read(folder):
    with pytest.raises(ValueError, match="holds 70 samples, fewer than"):
        landmark_folder.batches(folder, batch_size=71, seed=0)
    np.save(folder.path / "em_pose.npy", np.zeros((COUNT, 3), np.float32))
    with pytest.raises(ValueError, match=r"em_pose\.npy has shape \(70, 3\)"):
        landmark_folder.open_folder(folder.path)
    np.save(folder.path / "W.npy", np.zeros((COUNT, LANDMARKS, 2)))
    with pytest.raises(ValueError, match=r"W\.npy is float64; save it as float32"):
        landmark_folder.open_folder(folder.path)
    (folder.path / "W.npy").unlink()
    with pytest.raises(ValueError, match=r"W\.npy does not exist"):
        landmark_folder.open_folder(folder.path)
