"""Files that are whole or absent."""

import contextlib
import errno
import json
import math
import os
import sys
from pathlib import Path

import launch
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
    with pytest.raises(ValueError, match=r"bad\.json/x\.json does not exist"):
        files.read_json(tmp_path / "bad.json" / "x.json")  # a file is no folder
    with pytest.raises(ValueError, match=r"none\.x does not exist; train first"):
        files.read_arrays(tmp_path / "none.x", remedy="train first")
    (tmp_path / "bad.x").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"bad\.x is not a safetensors file"):
        files.read_arrays(tmp_path / "bad.x")


def test_arrays_come_back_as_they_were(tmp_path):
    arrays = {"a": np.arange(6.0).reshape(2, 3).T, "b": np.array(3), "c": np.zeros(0)}
    files.write_arrays(tmp_path / "x.safetensors", arrays, {"note": "text"})
    found, metadata = files.read_arrays(tmp_path / "x.safetensors")
    assert metadata == {"note": "text"}
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


# --- folders of results ------------------------------------------------------------


NAMES = ("out*.txt", "drawn")


def write_outputs(folder, texts, **options):
    with files.own_outputs(folder, NAMES, **options) as temporary:
        for name, text in texts.items():
            files.write_text(temporary / name, text)
        files.write_json(temporary / "about.json", {"format": 1})


def contents(folder):
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_text() for path in found}


def test_outputs_replace_those_of_an_earlier_call_and_nothing_else(tmp_path):
    folder = tmp_path / "new" / "results"
    write_outputs(folder, {"out1.txt": "a", "out2.txt": "b", "drawn/x.txt": "c"})
    (folder / "notes.txt").write_text("mine")
    write_outputs(folder, {"out1.txt": "d", "drawn/y.txt": "e"})
    found = contents(folder)
    record = json.loads(found.pop("about.json"))
    expected = {"out1.txt": "d", "drawn/y.txt": "e", "notes.txt": "mine"}
    assert found == expected
    assert record == {
        "format": 1,
        "files": ["about.json", "drawn/y.txt", "out1.txt"],
    }
    assert {p.name for p in folder.iterdir()} == {
        *("about.json", "drawn", "notes.txt", "out1.txt")
    }


@pytest.mark.parametrize(
    "name", ["about.json", "out7.txt", "drawn/picture.jpg", "drawn/a/b"]
)
@pytest.mark.parametrize("ran", [False, True])
def test_what_no_earlier_call_wrote_is_refused_before_any_work(tmp_path, name, ran):
    if ran and name != "about.json":
        write_outputs(tmp_path, {"out1.txt": "a"})
    files.write_text(tmp_path / name, '{"files": ["../a", "out1.txt"]}')
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=rf"{name} was not written by an earlier run"):
        write_outputs(tmp_path, {"out1.txt": "b"})
    assert contents(tmp_path) == before


def test_a_linked_folder_is_never_emptied(tmp_path):
    write_outputs(tmp_path / "out", {"drawn/x.txt": "a"})
    (tmp_path / "out" / "drawn" / "x.txt").rename(tmp_path / "x.txt")
    (tmp_path / "out" / "drawn").rmdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "x.txt").rename(tmp_path / "mine" / "x.txt")
    (tmp_path / "out" / "drawn").symlink_to(tmp_path / "mine")
    with pytest.raises(ValueError, match="drawn was not written by an earlier run"):
        write_outputs(tmp_path / "out", {"drawn/x.txt": "b"})
    assert (tmp_path / "mine" / "x.txt").read_text() == "a"


def test_inputs_may_not_lie_among_the_outputs(tmp_path):
    files.write_text(tmp_path / "pictures" / "a.jpg", "a")
    (tmp_path / "link").symlink_to(tmp_path / "pictures")
    for folder in (tmp_path, tmp_path / "pictures", tmp_path / "link"):
        with pytest.raises(ValueError, match=r"holds the input .*a\.jpg; write to a"):
            write_outputs(folder, {}, inputs=[tmp_path / "pictures" / "a.jpg"])
    below = tmp_path / "pictures" / "out"
    write_outputs(below, {}, inputs=[tmp_path / "pictures" / "a.jpg"])
    with pytest.raises(ValueError, match=r"a\.jpg is not a folder"):
        write_outputs(tmp_path / "pictures" / "a.jpg", {})


@pytest.mark.parametrize("moved", range(8))
def test_a_kill_while_files_are_put_in_place_leaves_nothing_foreign(
    tmp_path, monkeypatch, moved
):
    """Whatever was moved or removed last, the next call may replace all of it."""
    write_outputs(tmp_path, {"out1.txt": "a", "drawn/x.txt": "a"})
    left = [moved]

    def until_killed(function):
        def call(self, *arguments, **named):
            if str(self).startswith(str(tmp_path)):
                left[0] -= 1
                if left[0] < 0:
                    raise KeyboardInterrupt
            return function(self, *arguments, **named)

        return call

    with monkeypatch.context() as killed, contextlib.suppress(KeyboardInterrupt):
        for name in ("replace", "unlink"):
            killed.setattr(Path, name, until_killed(getattr(Path, name)))
        write_outputs(tmp_path, {"out1.txt": "b", "out2.txt": "b"})
    write_outputs(tmp_path, {"out3.txt": "c", "drawn/y.txt": "c"})
    found = contents(tmp_path)
    assert {n for n in found if n != "about.json"} == {"out3.txt", "drawn/y.txt"}


def test_what_a_killed_call_left_goes_and_another_one_is_refused(tmp_path):
    files.write_text(tmp_path / ".writing" / "new" / "out.txt", "half")
    (tmp_path / ".tmp-7-about.json").touch()
    with (
        files.locked(tmp_path / ".writing"),
        pytest.raises(ValueError, match=rf"in use by process {os.getpid()} on"),
    ):
        write_outputs(tmp_path, {"out1.txt": "a"})
    write_outputs(tmp_path, {"out1.txt": "a"})
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(ZeroDivisionError), files.own_outputs(tmp_path / "x", NAMES):
        raise ZeroDivisionError
    assert not (tmp_path / "x").exists()


# --- damage ------------------------------------------------------------------------


def _write_all(folder):
    files.write_arrays(folder / "a.safetensors", {"x": np.arange(9.0)}, {"k": "v"})
    files.write_json(folder / "a.json", {"loss": 0.123456, "s": "é"}, sealed=True)
    files.write_npz(folder / "a.npz", x=np.arange(99.0))


READERS = {
    "a.safetensors": lambda p: repr(files.read_arrays(p)),
    "a.json": lambda p: repr(files.read_json(p)),
    "a.npz": lambda p: repr(files.read_npz(p)),
}


@pytest.mark.parametrize("name", READERS)
def test_no_bit_changes_what_is_read(tmp_path, name):
    """Each bit of a file in turn, and each length: the same, or an error that says."""
    _write_all(tmp_path)
    path, read = tmp_path / name, READERS[name]
    whole, true, noticed = path.read_bytes(), read(path), []
    changes = [(whole[:end], "cut") for end in range(len(whole))]
    for bit in range(len(whole) * 8):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        changes.append((bytes(changed), "flipped"))
    for content, how in changes[:: 1 + len(changes) // 700]:
        path.write_bytes(content)
        try:
            # The digest's own name may change; then it is one more entry.
            assert read(path).startswith(true.rstrip("}")), how
        except files.Damaged as error:
            noticed.append(str(error))
    assert len(noticed) > 300
    assert all(str(path) in text for text in noticed)


def test_what_is_damaged_is_named_and_made_again(tmp_path, capsys):
    _write_all(tmp_path)
    path = tmp_path / "a.json"
    assert files.kept(lambda: files.read_json(path)) == {"loss": 0.123456, "s": "é"}
    path.write_text(path.read_text().replace("0.123456", "0.123457"))
    assert files.kept(lambda: files.read_json(path)) is None
    text = capsys.readouterr().err
    assert f"{path} is not as it was written" in text
    assert "made again" in text


# --- one writer --------------------------------------------------------------------

HOLDS = """
import sys, time
from runtime import files
with files.locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_told_who_holds_the_folder(tmp_path):
    with launch.started([[sys.executable, "-c", HOLDS, str(tmp_path)]]) as (other,):
        assert other.stdout.readline() == "held\n"
        wanted = rf"in use by process {other.pid} on \S+; wait"
        with pytest.raises(ValueError, match=wanted), files.locked(tmp_path):
            pass
        other.kill()
        other.wait()
        assert (tmp_path / ".lock").exists()  # stale
        with files.locked(tmp_path):
            assert str(os.getpid()) in (tmp_path / ".lock").read_text()
        assert not list(tmp_path.iterdir())


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    files.write_json(path, {"a": 1})

    def full(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*/a\.json'"):
        files.write_json(path, {"a": 2})
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert files.read_json(path) == {"a": 1}


@pytest.mark.parametrize(
    ("number", "named"),
    [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EIO, False)],
)
def test_a_full_disk_that_does_not_say_where_is_that_of_the_outputs(
    tmp_path, number, named
):
    with (
        pytest.raises(OSError, match=r".") as error,
        files.own_outputs(tmp_path, NAMES),
    ):
        raise OSError(number, os.strerror(number))  # as file.write() does
    assert error.value.filename == (str(tmp_path) if named else None)
    with pytest.raises(OSError, match=r".") as error, files.locked(tmp_path / "x"):
        raise OSError(number, os.strerror(number))
    assert error.value.filename == (str(tmp_path / "x") if named else None)


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "make room"),
        (errno.EACCES, "give permission"),
        (errno.EROFS, "choose another folder"),
        (errno.ENOENT, "whether the folder is still there"),
        (errno.EPIPE, "see to it"),
    ],
)
def test_errors_of_the_system_have_a_path_and_a_remedy(number, remedy):
    text = files.explained(OSError(number, os.strerror(number), "a/b.json"))
    assert text.startswith(f"a/b.json: {os.strerror(number)}; ")
    assert remedy in text
    assert files.explained(ValueError("as it is")) == "as it is"


def test_a_folder_that_goes_away_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file") as error:
        files.write_json(tmp_path / "file" / "sub" / "a.json", {})
    assert "a file stands where a folder should be" in files.explained(error.value)
