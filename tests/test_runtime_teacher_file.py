"""The teacher's folder: what is written is read, at either sign of depth."""

import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from runtime import teacher_file
from runtime.files import Damaged, read_json, write_arrays, write_json

SKELETON = {"name": "five", "joints": list("abcde"), "edges": [[0, 1]], "root": 0}


def _arrays(count=6, P=5, K=4):
    rng = np.random.default_rng(0)
    return {
        "sample_ids": np.arange(count, dtype=np.int64) + 100,
        "camera": rng.normal(size=(count, 3, 2)).astype(np.float32),
        "code": rng.normal(size=(count, K)).astype(np.float32),
        "residual": rng.normal(size=count).astype(np.float32),
        "W": rng.normal(size=(count, P, 2)).astype(np.float32),
        "labelled": rng.random((count, P)) < 0.5,
        "depth": rng.normal(size=(count, P)).astype(np.float32),
        "covariance": rng.normal(size=(count, P, P)).astype(np.float32),
        "code_of_depth": rng.normal(size=(count, K)).astype(np.float32),
    }


PARAMS = {
    "dictionaries": [np.ones((15, 4), np.float32), np.ones((4, 2), np.float32)],
    "decoder": [],  # as of one layer
    "mix": np.arange(4.0),
}


@pytest.fixture
def folder(tmp_path):
    teacher_file.save(
        tmp_path,
        dictionary=np.random.default_rng(1).normal(size=(15, 4)).astype(np.float32),
        params=PARAMS,
        skeleton=SKELETON,
        config={"seed": 3, "teacher": {}},
        splits={"train": _arrays()},
    )
    return tmp_path


def test_what_is_written_is_read(folder):
    found = teacher_file.read(folder)
    assert (found.skeleton, found.config["seed"]) == (SKELETON, 3)
    assert found.splits == {"train": 6}
    assert found.params["decoder"] == []
    np.testing.assert_array_equal(found.params["mix"], PARAMS["mix"])
    for a, b in zip(found.params["dictionaries"], PARAMS["dictionaries"], strict=True):
        np.testing.assert_array_equal(a, b)
    arrays = _arrays()
    read = found.split("train", arrays["sample_ids"])
    assert tuple(read) == teacher_file.SPLIT_ARRAYS
    for name, values in (read | found.labels("train")).items():
        np.testing.assert_array_equal(values, arrays[name])


def test_the_layout_is_that_of_the_page(folder):
    names = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert names == {"teacher.json", "teacher.safetensors"} | {
        f"train/{name}.npy" for name in _arrays()
    }
    assert load_file(folder / "teacher.safetensors")["dictionary"].shape == (15, 4)


def test_the_sign_of_depth_is_one_field_and_turns_every_depth(folder):
    def poses(found):
        arrays = found.split("train")
        M = arrays["camera"]
        R = np.concatenate([M, np.cross(M[..., 0], M[..., 1])[..., None]], -1)
        return (arrays["code"] @ found.dictionary.T).reshape(6, 5, 3) @ R

    before = teacher_file.read(folder)
    stamps = {p: p.stat().st_mtime_ns for p in folder.rglob("*.npy")}
    teacher_file.set_depth_sign(folder, -1, "cue", before.config)
    after = teacher_file.read(folder)
    np.testing.assert_allclose(
        poses(after), poses(before) * [1, 1, -1], rtol=1e-4, atol=1e-5
    )
    depth = [found.labels("train")["depth"] for found in (before, after)]
    np.testing.assert_array_equal(depth[0], -depth[1])
    assert "depth sign -1 of the teacher" in after.sign_text
    assert stamps == {p: p.stat().st_mtime_ns for p in folder.rglob("*.npy")}


def _edit(folder, **changes):
    path = folder / "teacher.json"
    record = read_json(path) | changes
    record = {k: v for k, v in record.items() if v is not None}
    write_json(path, record, sealed=True)


D = np.zeros((15, 2))
COUNT = {"params/mix/count": np.array(9)}


def _swap(folder, **arrays):
    write_arrays(folder / "teacher.safetensors", arrays)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "teacher.json").unlink(), "does not exist; run --stage=teach"),
        (lambda f: (f / "teacher.json").write_text("{"), "not valid JSON"),
        (lambda f: _edit(f, format=1), "format is 1"),
        (lambda f: _edit(f, splits=None), r"lacks \['splits'\]"),
        (lambda f: _edit(f, splits=3), r"lacks \['splits'\]"),
        (lambda f: _edit(f, skeleton=[]), r"lacks \['skeleton'\]"),
        (lambda f: _edit(f, skeleton={"joints": 5}), r"lacks \['skeleton\.joints'\]"),
        (lambda f: _edit(f, depth_sign=[]), r"depth_sign is \[\]"),
        (lambda f: _edit(f, depth_sign=0), "depth_sign is 0"),
        (lambda f: _edit(f, depth_sign_source="guess"), "depth_sign_source is 'guess'"),
        (lambda f: (f / "teacher.safetensors").write_bytes(b"no"), "not a safetensors"),
        (lambda f: _swap(f, dictionary=np.zeros((6, 2))), r"\(6, 2\).* needs 15 rows"),
        (lambda f: _swap(f, x=np.zeros(1)), r"dictionary has shape \(0, 0\)"),
        (lambda f: _swap(f, dictionary=D, x=np.zeros(1)), "has other arrays than a te"),
        (lambda f: _swap(f, dictionary=D, **COUNT), "has other arrays than a teacher"),
    ],
)
def test_a_wrong_folder_is_refused_with_its_file(folder, damage, message):
    damage(folder)
    with pytest.raises(ValueError, match=message):
        teacher_file.read(folder)


def test_wrong_samples_are_refused(folder):
    found = teacher_file.read(folder)
    with pytest.raises(ValueError, match=r"train holds 6 samples \(100, 101"):
        found.split("train", np.arange(6))
    with pytest.raises(ValueError, match="train the teacher again on this data"):
        found.labels("train", np.arange(5))
    _edit(folder, splits={"train": 4})
    with pytest.raises(ValueError, match=r"says 4 samples.*'residual': 6"):
        teacher_file.read(folder).split("train")
    with pytest.raises(ValueError, match=r"sample_ids\.npy does not exist"):
        found.split("val")
    (folder / "train" / "depth.npy").unlink()
    with pytest.raises(ValueError, match="that the EM guides"):
        found.labels("train")


def _flip(path):
    """One bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [_flip, lambda p: os.truncate(p, 100), Path.unlink])
def test_a_damaged_file_is_named(folder, damage):
    """A NaN among the codes, say, would be taken for a wrong learning rate later."""
    for path in sorted(folder.rglob("*.npy")):
        before = path.read_bytes()
        damage(path)
        with pytest.raises(Damaged, match=rf"{path.name}.*run --stage=teacher again"):
            teacher_file.read(folder).compare()
        path.write_bytes(before)
    teacher_file.read(folder).compare()


def test_one_bit_of_the_weights_or_of_the_record_is_noticed(folder):
    for name in ("teacher.safetensors", "teacher.json"):
        before = (folder / name).read_bytes()
        _flip(folder / name)
        with pytest.raises(Damaged, match=name):
            teacher_file.read(folder)
        (folder / name).write_bytes(before)
