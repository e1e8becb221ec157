"""Streams from disk: the steps of training in memory, restarts, bounded reading."""

import contextlib
import threading

import jax
import numpy as np
import pytest

from input_pipeline.landmark_shards import LandmarkWriter, open_split, write_array
from input_pipeline.landmark_shards import ShardedArray as Sharded
from input_pipeline.skeleton import Skeleton
from nrsfm_jax import landmark_folder, model, stream, teacher, train
from nrsfm_jax.landmark_folder import Split
from nrsfm_jax.loss import Objective

COUNT, JOINTS, SIZES, KEY = 70, 8, (12, 6), jax.random.key(5)
SHORT = Objective(steps=12, batch_size=16, learning_rate=3e-3)
NAMES = tuple("abcdefgh")


def _pose(W, labelled):
    """Missing landmarks are filled with 7; the depth is u."""
    filled = np.where(labelled[..., None], W, np.float32(7))
    return np.concatenate([filled, W[..., :1]], -1)


@pytest.fixture
def split(tmp_path):
    rng = np.random.default_rng(0)
    labelled = rng.random((COUNT, JOINTS)) < 0.9
    keypoints = rng.uniform(0, 50, (COUNT, JOINTS, 2))
    skeleton = Skeleton("toy", NAMES, tuple((i, i + 1) for i in range(7)))
    with LandmarkWriter(tmp_path, skeleton, shard_size=32) as writer:
        writer.add("train", keypoints, labelled, np.arange(COUNT) * 3)
    records = open_split(tmp_path, "train").records
    path = tmp_path / "pose.npy"
    parts = landmark_folder.pose_parts(records, slice(0, COUNT), _pose)
    write_array(path, parts, (COUNT, JOINTS, 3), np.float32)
    return Split(records, Sharded([path]))


def _take(split, count, **options):
    made = landmark_folder.batches(split, batch_size=16, key=KEY, **options)
    return [next(made) for _ in range(count)]


def _start():
    return train.init_state(
        jax.random.key(0),
        num_landmarks=JOINTS,
        dictionary_sizes=SIZES,
        population=1,
        objective=SHORT,
    )


def _run(split, state, **options):
    """Trains from ``state``; also the states after every chunk, and the metrics."""
    kept, metrics = {}, []

    def after_chunk(state, values):
        kept[int(state.step)] = jax.tree.map(np.array, state)
        metrics.append(values)

    made = landmark_folder.batches(
        split, batch_size=16, key=KEY, start_step=int(state.step)
    )
    state = stream.fit_stream(
        made, state, objective=SHORT, chunk=6, after_chunk=after_chunk, **options
    )
    return state, kept, metrics


def test_rows_fit_together(split):
    whole = split.records.rows(slice(None))
    for batch in _take(split, 3):
        assert batch["W"].shape == (16, JOINTS, 2)
        shown = batch["labelled"]
        assert (batch["W"][~shown] == 7).all()
        np.testing.assert_array_equal(
            batch["em_depth"], np.where(shown, batch["W"][..., 0], 0)
        )
    np.testing.assert_array_equal(
        split.pose.rows(slice(None))[..., 2], whole["W"][..., 0]
    )


def test_without_the_em_rows_are_as_given(split):
    rows = Split(split.records).rows(slice(30, 39))
    assert sorted(rows) == ["W", "labelled"]
    np.testing.assert_array_equal(rows["W"], split.records.rows(slice(30, 39))["W"])


def test_a_restart_sees_the_batches_it_would_have_seen(split):
    whole, later = _take(split, 6), _take(split, 3, start_step=3)
    for a, b in zip(whole[3:], later, strict=True):
        jax.tree.map(np.testing.assert_array_equal, a, b)
    assert not np.array_equal(whole[0]["W"], whole[1]["W"])


def test_two_processes_read_what_one_would(split):
    whole = _take(split, 2)
    parts = [_take(split, 2, part=slice(8 * i, 8 * i + 8)) for i in range(2)]
    for step, batch in enumerate(whole):
        both = np.concatenate([part[step]["W"] for part in parts])
        np.testing.assert_array_equal(both, batch["W"])


def test_the_same_teacher_as_in_memory(split):
    rows = split.rows(slice(None))
    in_memory = []
    fitted = train.fit(
        rows["W"],
        rows["labelled"],
        key=jax.random.key(9),
        dictionary_sizes=SIZES,
        em_depth=rows["em_depth"],
        objective=SHORT,
        chunk=6,
        state=_start(),
        after_chunk=lambda _, values: in_memory.append(values),
    )
    # The order of the samples is that of the second half of the key.
    order = jax.random.split(jax.random.key(9))[1]
    made = landmark_folder.batches(split, batch_size=16, key=order)
    metrics = []
    state = stream.fit_stream(
        made,
        _start(),
        objective=SHORT,
        chunk=6,
        steps_per_call=4,
        after_chunk=lambda _, values: metrics.append(values),
    )
    for a, b in zip(metrics, in_memory, strict=True):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), a, b)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6),
        state.params,
        fitted.state.params,
    )


@pytest.mark.parametrize("steps_per_call", [1, 4, 16])
def test_training_again_from_the_middle_gives_the_same_bits(split, steps_per_call):
    options = {"steps_per_call": steps_per_call}
    whole, kept, _ = _run(split, _start(), **options)
    middle = jax.tree.map(jax.numpy.asarray, kept[6])
    resumed, _, _ = _run(split, middle, **options)
    jax.tree.map(np.testing.assert_array_equal, whole.params, resumed.params)


@pytest.mark.parametrize("way", [("pmap", 4), ("shard_map", 2)])
def test_a_stream_shared_by_devices(split, way):
    alone, _, _ = _run(split, _start())
    mode, count = way
    shared, _, _ = _run(split, _start(), parallel=mode, num_devices=count)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-3, atol=2e-4),
        alone.params,
        shared.params,
    )


def test_calls_never_cross_the_end_of_a_chunk():
    sizes = list(landmark_folder.call_sizes(7, 100, chunk=25, most=16))
    assert sizes[:4] == [16, 2, 16, 9]
    assert sum(sizes) == 93


def test_reading_ahead_ends_with_its_generator():
    made, readers = [], set()

    def numbers():
        readers.add(threading.current_thread())
        for i in range(1000):
            made.append(i)
            yield i

    with contextlib.closing(landmark_folder.read_ahead(numbers(), ahead=3)) as ready:
        assert [next(ready) for _ in range(5)] == [0, 1, 2, 3, 4]
    (reader,) = readers
    reader.join(timeout=60)
    assert not reader.is_alive()
    assert len(made) <= 10
    assert list(landmark_folder.read_ahead(iter("abc"))) == ["a", "b", "c"]


def test_an_error_of_reading_reaches_the_loop(split, monkeypatch):
    def broken(self, index):
        raise OSError("disk gone")

    monkeypatch.setattr(Split, "rows", broken)
    with pytest.raises(OSError, match="disk gone"):
        _run(split, _start())


def test_fewer_samples_than_a_batch_are_refused(split):
    with pytest.raises(ValueError, match="70 samples are fewer than batch_size=71"):
        landmark_folder.batches(split, batch_size=71, key=KEY)


def test_the_subset_for_the_em_is_evenly_spaced(split):
    assert len(split.some(1000)["W"]) == COUNT
    some = split.some(20)["labelled"]
    np.testing.assert_array_equal(some, split.rows(slice(None))["labelled"][::4])


def _teacher():
    params = model.init(jax.random.key(2), num_landmarks=JOINTS, dictionary_sizes=SIZES)
    return teacher.from_params(params, skeleton={"joints": list(NAMES)})


def test_shards_hold_what_one_file_would(split, tmp_path):
    out = tmp_path / "out"
    for process in range(2):
        files = landmark_folder.reconstruct(
            split,
            _teacher(),
            out,
            "train",
            shard_size=32,
            process=process,
            processes=2,
        )
    assert [f.name for f in files][-1] == "train-00002-of-00003.safetensors"
    read = teacher.load_reconstruction(out, "train")
    rows = split.rows(slice(None))
    ids = split.records.rows(slice(None))["sample_id"]
    whole = _teacher().reconstruct(rows["W"], rows["labelled"], np.array(ids))
    np.testing.assert_array_equal(read.sample_ids, whole.sample_ids)
    for name in ("camera", "code", "residual", "W", "labelled"):
        np.testing.assert_allclose(
            getattr(read, name), getattr(whole, name), rtol=1e-4, atol=1e-5
        )
    assert [len(p) for p in teacher.reconstruction_parts(out, "train")] == [32, 32, 6]
    files[1].unlink()
    with pytest.raises(ValueError, match="train-00001-of-00003"):
        teacher.load_reconstruction(out, "train")
