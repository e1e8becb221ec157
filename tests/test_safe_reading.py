"""No file of a user runs code."""

import ast
import io
import json
import os
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.io import savemat

from benchmarks import house
from input_pipeline.checks.problems import raise_problem
from input_pipeline.formats.annotations import Source
from input_pipeline.formats.hdf5 import read_frame
from input_pipeline.formats.mat_file import read_mat
from input_pipeline.skeleton import MOST_JOINTS, read_skeleton
from runtime import files, reading

ROOT = Path(__file__).parents[1]
TREES = {
    module: ast.parse(text)
    for module, text in house.sources(ROOT).items()
    if module.partition(".")[0] not in ("tests", "benchmarks")
}
# What runs, or builds objects of, what a file says.
MODULES = {"pickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
MODULES |= {"pandas", "tables"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
NAMES = {"read_hdf", "read_pickle", "unsafe_load", "full_load", "Unpickler"}


def _unsafe(tree: ast.AST) -> list[str]:
    """What a source does that reads a file as a program."""
    found = [m for m in house.names(tree).values() if m.partition(".")[0] in MODULES]
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in BUILTINS:
            found.append(node.id)
        elif isinstance(node, ast.Attribute) and node.attr in NAMES:
            found.append(node.attr)
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {k.arg: ast.unparse(k.value) for k in node.keywords}
            restricted = given.get("weights_only") == "True"
            if name == "yaml.load" or (name == "torch.load" and not restricted):
                found.append(name)
            if given.get("allow_pickle", "False") != "False":
                found.append("allow_pickle")
    return found


def test_no_source_runs_a_file():
    found = {module: _unsafe(tree) for module, tree in TREES.items()}
    assert not {module: names for module, names in found.items() if names}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "import pandas as pd",
        "reader.Unpickler(file)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=flag)",
        "yaml.load(text)",
        "eval(text)",
        "exec(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
    ],
)
def test_what_the_search_finds(line):
    assert _unsafe(ast.parse(line))


def _write(path: Path) -> pd.DataFrame:
    columns = pd.MultiIndex.from_product([["me"], ["nose", "tail"], ["x", "y"]])
    columns.names = ["scorer", "bodyparts", "coords"]
    rows = pd.MultiIndex.from_tuples(
        [("labeled-data", "v", "1.png"), ("labeled-data", "v", "ä.png")]
    )
    frame = pd.DataFrame(np.arange(8.0).reshape(2, 4), index=rows, columns=columns)
    frame.iloc[0, 1] = np.nan
    frame[("me", "ear", "x")] = [1, 2]  # a block of its own, of whole numbers
    frame.to_hdf(path, key="df_with_missing", mode="w")
    return frame


def test_a_table_is_read_as_pandas_reads_it(tmp_path):
    written = _write(tmp_path / "x.h5")
    frame = read_frame(tmp_path / "x.h5")
    assert frame.columns == [*written.columns]
    assert frame.levels == written.columns.names
    assert frame.index == [*written.index]
    np.testing.assert_array_equal(frame.values, written.to_numpy(float))


def _outside(group: h5py.Group) -> None:
    del group["block0_values"]
    group["block0_values"] = h5py.ExternalLink("other.h5", "/values")


def _raw(group: h5py.Group) -> None:
    del group["block0_values"]
    file = [("/etc/passwd", 0, 64)]
    group.create_dataset("block0_values", (2, 4), np.float64, external=file)


def _virtual(group: h5py.Group) -> None:
    del group["block0_values"]
    layout = h5py.VirtualLayout((2, 4), np.float64)
    layout[:] = h5py.VirtualSource("other.h5", "values", (2, 4))
    group.create_virtual_dataset("block0_values", layout)


def _huge(group: h5py.Group) -> None:
    del group["block0_values"]
    shape = (2**30, 2**10)  # 8 TB that no byte of the file backs
    group.create_dataset("block0_values", shape, np.float64, chunks=(1024, 1024))


def _code(group: h5py.Group) -> None:
    group["axis0_label1"][0] = 7


def _objects(group: h5py.Group) -> None:
    del group["block0_values"]
    kind = h5py.vlen_dtype(np.uint8)
    group.create_dataset("block0_values", (1,), kind)[0] = np.frombuffer(b"cos", "u1")


def _fewer(group: h5py.Group) -> None:
    del group["block0_values"]
    group["block0_values"] = np.zeros((1, 4))


def _unknown(group: h5py.Group) -> None:
    group["axis0_level1"][0] = b"\xff"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_outside, "block0_values leads to another file"),
        (_raw, "block0_values leads to another file"),
        (_virtual, "block0_values leads to another file"),
        (_huge, "would take more than 67108864 bytes"),
        (_code, "outside of its level"),
        (_objects, "no number or text"),
        (_fewer, "for 2 x 4"),
        (_unknown, "decode"),
    ],
)
def test_what_a_table_may_not_be(tmp_path, damage, message):
    _write(tmp_path / "x.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["values"] = np.zeros((2, 4))
    with h5py.File(tmp_path / "x.h5", "a") as file:
        damage(file["df_with_missing"])
    with pytest.raises(ValueError, match=message):
        read_frame(tmp_path / "x.h5")


# --- what is no file, and what would become too large -------------------------------


def test_pipes_devices_and_folders_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(OSError, match="no regular file"):
            reading.read_bytes(path)
    with pytest.raises(OSError, match="symbolic links"):
        reading.read_bytes(tmp_path / "loop")
    (tmp_path / "x").write_bytes(b"12345")
    assert reading.read_bytes(tmp_path / "x", most=5) == b"12345"
    with pytest.raises(OSError, match=r"more than 4 bytes.*x"):
        reading.read_bytes(tmp_path / "x", most=4)


def test_a_pickle_in_place_of_an_npz_is_refused_without_advice(tmp_path):
    path = tmp_path / "x.npz"
    path.write_bytes(b"\x80\x04}.")
    with pytest.raises(ValueError, match=r"x\.npz: .*no zip archive") as error:
        files.read_npz(path)
    assert "unsafe" not in str(error.value)  # as NumPy's message says how to


def test_only_the_named_arrays_of_an_npz_are_read(tmp_path):
    """4 GB of zeros in 4 MB: refused where they are wanted, else not looked at."""
    path = tmp_path / "x.npz"
    head = io.BytesIO()
    shape = {"descr": "<f8", "fortran_order": False, "shape": (2**29,)}
    np.lib.format.write_array_header_1_0(head, shape)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        with file.open("zeros.npy", "w", force_zip64=True) as member:
            member.write(head.getvalue() + bytes(2**27))
        with file.open("a.npy", "w") as member:
            np.lib.format.write_array(member, np.arange(3))
    found = files.read_npz(path, ("a", "b"))
    assert {name: array.tolist() for name, array in found.items()} == {"a": [0, 1, 2]}
    with pytest.raises(ValueError, match=r"x\.npz.*would take \d+ bytes"):
        files.read_npz(path)


@pytest.mark.parametrize("text", ["/dev/zero", "pipe"])
def test_a_skeleton_is_read_from_a_regular_file(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    with pytest.raises(ValueError, match="no regular file"):
        read_skeleton(text)


def test_a_skeleton_has_a_limit_and_is_checked_quickly():
    names = [f"joint {i}" for i in range(MOST_JOINTS)]
    assert read_skeleton(json.dumps({"joints": names})).num_joints == MOST_JOINTS
    with pytest.raises(ValueError, match="at most 1000 joints, not 1001"):
        read_skeleton(json.dumps({"joints": [*names, "one more"]}))
    with pytest.raises(ValueError, match=r"repeats the joints \['joint 3'\]"):
        read_skeleton(json.dumps({"joints": [*names[:9], "joint 3"]}))


def test_what_a_matlab_file_may_become(tmp_path):
    """Zeros that a compressed file of 200 kB stands for are not read."""
    path = tmp_path / "x.mat"
    savemat(path, {"joints": np.zeros((3, 14, 600_000))}, do_compression=True)
    source = Source(path, tmp_path, "train", "landmarks", 1, raise_problem)
    with pytest.raises(ValueError, match=r"not a \.mat file: (\w|\.)*MemoryError"):
        read_mat(source, "joints")
