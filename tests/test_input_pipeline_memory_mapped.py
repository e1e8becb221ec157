"""A folder of NumPy files: what is written is read, by parts, and checked."""

import json

import numpy as np
import pytest

from input_pipeline.dataset import open_dataset
from input_pipeline.skeleton import Skeleton
from input_pipeline.sources import memory_mapped
from input_pipeline.sources.memory_mapped import parts, read_folder

TOY = Skeleton("toy", ("a", "b", "c"), ((0, 1), (1, 2)))


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for split, count in (("train", 21), ("val", 4)):
        keypoints = rng.uniform(0, 100, (count, 3, 2)).astype(np.float32)
        labelled = rng.random((count, 3)) < 0.8
        labelled[:, :2] = True
        keypoints[~labelled] = np.nan  # whatever stands there
        (tmp_path / split).mkdir()
        np.save(tmp_path / split / "keypoints.npy", keypoints)
        np.save(tmp_path / split / "labelled.npy", labelled)
        np.save(tmp_path / split / "sample_ids.npy", np.arange(count) * 7)
    (tmp_path / "skeleton.json").write_text(json.dumps(TOY.to_dict()))
    return tmp_path


def test_parts_are_the_samples_of_the_whole(folder, monkeypatch):
    monkeypatch.setattr(memory_mapped, "ROWS", 8)
    marks = read_folder(folder, "train", padding=1.25)
    assert memory_mapped.is_mapped(marks)
    assert not any(memory_mapped.is_mapped(part) for _, part in parts(marks))
    found = list(parts(marks))
    assert [len(part) for _, part in found] == [8, 8, 5]
    patch = np.concatenate([part.patch for _, part in found])
    np.testing.assert_array_equal(patch, marks.patch)
    assert not patch[~marks.labelled].any()
    assert np.abs(patch).max() == pytest.approx(1 / 1.25, rel=1e-6)
    assert found[1][1].name(0) == f"sample {8 * 7}"


def test_it_is_a_data_set_told_by_its_contents(folder, tmp_path_factory):
    def identity(path):
        return open_dataset({"name": "landmarks", "landmarks": str(path)}).identity

    moved = tmp_path_factory.mktemp("moved") / "elsewhere"
    before = identity(folder)
    folder.rename(moved)
    assert identity(moved) == before
    keypoints = np.load(moved / "val" / "keypoints.npy")
    keypoints[0, 0, 0] += 1
    np.save(moved / "val" / "keypoints.npy", keypoints)
    assert identity(moved) != before


def test_without_masks_and_ids_all_is_labelled_and_counted(folder):
    rng = np.random.default_rng(1)
    for name in ("labelled", "sample_ids"):
        (folder / "val" / f"{name}.npy").unlink()
    np.save(folder / "val" / "keypoints.npy", np.float32(rng.uniform(size=(4, 3, 2))))
    marks = read_folder(folder, "val", padding=1.25)
    assert marks.labelled.all()
    np.testing.assert_array_equal(marks.sample_ids, np.arange(4))


def _save(folder, name, change):
    path = folder / "train" / f"{name}.npy"
    np.save(path, change(np.load(path)))


def _spoil(keypoints):
    keypoints[3, 0] = np.nan
    return keypoints


def _flatten(keypoints):
    keypoints[2] = 5
    return keypoints


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("keypoints", lambda x: x[:, :2], r"keypoints\.npy: float32 \(21, 2, 2\)"),
        ("keypoints", lambda x: x.astype(float), r"float64.*need float32"),
        ("labelled", lambda x: x[:-1], r"labelled\.npy: bool \(20, 3\)"),
        ("sample_ids", lambda x: x.astype(np.float32), "need int64"),
        ("keypoints", _spoil, "sample 21: a landmark is not finite"),
        ("keypoints", _flatten, "sample 14: its landmarks span no area"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(folder, name, change, message):
    _save(folder, name, change)
    with pytest.raises(ValueError, match=message):
        read_folder(folder, "train", padding=1.25)


def test_missing_and_damaged_files_are_named(folder):
    path = folder / "train" / "keypoints.npy"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"keypoints\.npy: not a whole \.npy file"):
        read_folder(folder, "train", padding=1.25)
    path.unlink()
    with pytest.raises(ValueError, match=r"keypoints\.npy: missing file"):
        read_folder(folder, "train", padding=1.25)
    (folder / "skeleton.json").unlink()
    with pytest.raises(ValueError, match=r"skeleton\.json does not exist"):
        read_folder(folder, "val", padding=1.25)
