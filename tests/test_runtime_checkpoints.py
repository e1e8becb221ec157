"""Checkpoints come back to the last bit, survive kill -9, and refuse strangers."""

import dataclasses
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from runtime.checkpoints import Checkpoints


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _State:
    params: dict
    opt_state: optax.OptState
    step: jax.Array
    key: jax.Array


def _state(seed: int = 0, width: int = 4) -> _State:
    rng = np.random.default_rng(seed)
    params = {
        "kernel": jnp.asarray(rng.normal(size=(3, width)).astype(np.float32)),
        "half": jnp.asarray(rng.normal(size=5), jnp.bfloat16),
        "none": jnp.zeros((0, 3), jnp.float32),
        "mask": jnp.asarray([True, False]),
    }
    return _State(
        params=params,
        opt_state=optax.adam(1e-3).init(params),
        step=jnp.int32(7),
        key=jax.random.key(seed),
    )


def _bits(tree) -> list:
    leaves = []
    for leaf in jax.tree.leaves(tree):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        leaves.append((str(leaf.dtype), leaf.shape, np.asarray(leaf).tobytes()))
    return leaves


def test_roundtrip_is_exact_in_every_dtype(tmp_path):
    state = _state()
    with Checkpoints(tmp_path / "ck") as checkpoints:
        checkpoints.save(7, state, {"best": 0.1, "seconds": 1 / 3})
    with Checkpoints(tmp_path / "ck") as checkpoints:
        restored = checkpoints.restore_latest(_state(seed=1))
        assert checkpoints.extra() == {"best": 0.1, "seconds": 1 / 3}
    assert restored is not None
    step, again = restored
    assert step == 7
    assert jax.tree.structure(again) == jax.tree.structure(state)
    assert _bits(again) == _bits(state)
    assert jax.random.key_impl(again.key) == jax.random.key_impl(state.key)


def test_numpy_and_plain_numbers_come_back_as_they_were(tmp_path):
    state = {"n": np.arange(3, dtype=np.int64), "k": 3, "x": 0.1, "on": True}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
        restored = checkpoints.restore_latest(state)
    assert restored is not None
    again = restored[1]
    assert isinstance(again["n"], np.ndarray)
    assert again["n"].dtype == np.int64
    assert (again["k"], again["x"], again["on"]) == (3, 0.1, True)
    assert type(again["k"]) is int


def test_an_empty_folder_restores_nothing(tmp_path):
    with Checkpoints(tmp_path / "new") as checkpoints:
        assert checkpoints.restore_latest(_state()) is None
        assert checkpoints.latest_step() is None
        assert checkpoints.extra() is None


def test_only_the_newest_are_kept(tmp_path):
    with Checkpoints(tmp_path, max_to_keep=2) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, {"a": np.float32(step)})
        checkpoints.save(3, {"a": np.float32(9)})  # already there: left alone
        restored = checkpoints.restore_latest({"a": np.float32(0)})
    assert restored is not None
    assert (restored[0], float(restored[1]["a"])) == (3, 3.0)
    kept = sorted(p.name for p in tmp_path.iterdir() if p.name.isdigit())
    assert kept == ["2", "3"]


def test_another_structure_is_refused_with_names_and_shapes(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(5, _state(width=4))
        with pytest.raises(ValueError, match="another network") as error:
            checkpoints.restore_latest(_state(width=6))
    text = str(error.value)
    assert "params.kernel: saved float32[3,4], expected float32[3,6]" in text
    assert str(tmp_path) in text
    assert "delete this folder" in text


def test_saving_and_restoring_are_silent(tmp_path, capfd):
    state = _state()
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state)
        checkpoints.restore_latest(state)
    out, err = capfd.readouterr()
    assert out + err == ""


_WRITER = """
import sys, numpy as np
from runtime.checkpoints import Checkpoints
checkpoints = Checkpoints(sys.argv[1], max_to_keep=2)
for step in range(1, 10_000):
    state = {f"a{i}": np.full((100, 100), step, np.float32) for i in range(40)}
    print(step, flush=True)
    checkpoints.save(step, state, {"step": step})
"""


@pytest.mark.parametrize("delay", [0.0, 0.03])
def test_kill_while_saving_leaves_a_whole_latest(tmp_path, delay):
    process = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(tmp_path / "ck")],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) == 4:
            break
    time.sleep(delay)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    like = {f"a{i}": np.zeros((100, 100), np.float32) for i in range(40)}
    with Checkpoints(tmp_path / "ck") as checkpoints:
        restored = checkpoints.restore_latest(like)
        assert restored is not None
        step, state = restored
        assert step >= 2
        assert all((leaf == step).all() for leaf in state.values())
        assert checkpoints.extra() == {"step": step}
        checkpoints.save(step + 1, state)  # the run goes on in the same folder
        assert checkpoints.latest_step() == step + 1


def _damaged(path, how):
    content = path.read_bytes()
    if how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "flipped":
        changed = bytearray(content)
        changed[len(content) // 2] ^= 1
        path.write_bytes(bytes(changed))


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_steps")
    with Checkpoints(folder) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, _state(seed=step), {"losses": [0.5, step / 3]})
    return folder


@pytest.mark.parametrize("how", ["flipped", "cut"])
def test_a_damaged_file_of_the_latest_makes_the_one_before_the_latest(
    two_steps, tmp_path, how, capsys
):
    names = [p.relative_to(two_steps) for p in sorted((two_steps / "2").rglob("*"))]
    for i, name in enumerate(n for n in names if (two_steps / n).is_file()):
        folder = tmp_path / str(i)
        shutil.copytree(two_steps, folder)
        _damaged(folder / name, how)
        with Checkpoints(folder) as checkpoints:
            restored = checkpoints.restore_latest(_state())
            assert restored is not None
            step, state = restored
            assert step == 1, name
            assert _bits(state) == _bits(_state(seed=1))
            assert checkpoints.extra() == {"losses": [0.5, 1 / 3]}
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert f"{folder / name} is not" in said
        assert "taken instead: step 1" in said


@pytest.mark.parametrize("left", [(), ("state",), ("extra",)])
def test_an_empty_or_half_folder_is_passed_over_and_written_anew(
    two_steps, tmp_path, left, capsys
):
    folder = tmp_path / "ck"
    shutil.copytree(two_steps, folder)
    for path in (folder / "2").iterdir():
        if path.name not in left:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.latest_step() == 1
        assert "taken instead: step 1" in capsys.readouterr().err
        checkpoints.save(2, _state(seed=9))
        assert checkpoints.latest_step() == 2
        assert capsys.readouterr().err == ""
        checkpoints.save(3, _state())
    shutil.rmtree(folder / "3")
    with Checkpoints(folder) as checkpoints:  # what was written anew was kept
        restored = checkpoints.restore_latest(_state())
    assert restored is not None
    assert restored[0] == 2
    assert _bits(restored[1]) == _bits(_state(seed=9))


def test_a_checkpoint_that_cannot_be_written_is_one_line(tmp_path):
    with Checkpoints(tmp_path / "ck") as checkpoints:
        checkpoints.save(1, _state())
        shutil.rmtree(tmp_path / "ck")
        (tmp_path / "ck").touch()  # the folder went away
        with pytest.raises(ValueError, match="step 2 cannot be written") as error:
            checkpoints.save(2, _state())
        (tmp_path / "ck").unlink()
        (tmp_path / "ck").mkdir()
    assert "\n" not in str(error.value)
    assert "the same command goes on" in str(error.value)


def test_a_full_disk_prints_nothing_beside_that_line(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    state = {f"a{i}": np.random.default_rng(i).random((100, 100)) for i in range(60)}
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Checkpoints(tmp_path) as checkpoints:
        resource.setrlimit(resource.RLIMIT_FSIZE, (9000, unlimited[1]))
        try:
            with pytest.raises(ValueError, match="step 1 cannot be written"):
                checkpoints.save(1, state)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    time.sleep(0.2)  # for the writes that were under way
    assert capfd.readouterr().err == ""
