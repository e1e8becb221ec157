"""Files that are whole or absent."""

import json
import math
import os

import numpy as np
import pytest

from runtime import files


def test_what_is_interrupted_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "sub" / "a.txt"
    files.write_text(path, "first")

    def fails():
        with files.replacing(path) as temporary:
            assert temporary.suffix == ".txt"
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fails()
    assert path.read_text() == "first"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_a_folder_is_whole_or_absent_too(tmp_path):
    def fails():
        with files.replacing(tmp_path / "made") as temporary:
            temporary.mkdir()
            (temporary / "x").write_text("")
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fails()
    assert not list(tmp_path.iterdir())
    with files.replacing(tmp_path / "made") as temporary:
        temporary.mkdir()
    assert (tmp_path / "made").is_dir()


def test_json_has_plain_values(tmp_path):
    path = tmp_path / "results.json"
    record = {"a": np.float32(0.5), "b": np.arange(2), "c": math.nan, "d": ("x", 1)}
    files.write_json(path, record)
    assert json.loads(path.read_text()) == {
        "a": 0.5,
        "b": [0, 1],
        "c": None,
        "d": ["x", 1],
    }


def test_a_broken_or_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.json does not exist; run the stage"):
        files.read_json(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match=r"bad\.json is not valid JSON \(.*line 1"):
        files.read_json(tmp_path / "bad.json")
    with pytest.raises(ValueError, match=r"none\.x does not exist; train first"):
        files.read_arrays(tmp_path / "none.x", remedy="train first")
    (tmp_path / "bad.x").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"bad\.x is not a safetensors file"):
        files.read_arrays(tmp_path / "bad.x")


def test_arrays_come_back_as_they_were(tmp_path):
    arrays = {"a": np.arange(6.0).reshape(2, 3).T, "b": np.array(3), "c": np.zeros(0)}
    files.write_arrays(tmp_path / "x.safetensors", arrays, {"note": "text"})
    found = files.read_arrays(tmp_path / "x.safetensors")
    for name, values in arrays.items():
        np.testing.assert_array_equal(found[name], values)
    files.write_npz(tmp_path / "x.npz", **arrays)
    np.testing.assert_array_equal(np.load(tmp_path / "x.npz")["a"], arrays["a"])


@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_files_have_the_mode_that_the_umask_leaves(tmp_path, umask):
    before = os.umask(umask)
    try:
        files.write_arrays(tmp_path / "w.safetensors", {"a": np.zeros(2)})
        files.write_json(tmp_path / "w.json", {})
        files.write_npz(tmp_path / "w.npz", a=np.zeros(2))
    finally:
        os.umask(before)
    modes = {p.name: p.stat().st_mode & 0o777 for p in tmp_path.iterdir()}
    assert set(modes.values()) == {0o666 & ~umask}
