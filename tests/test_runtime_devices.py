"""One step on one and on several devices: the same numbers."""

import os
import platform
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from runtime import devices
from runtime.devices import DataParallel

BATCH, FEATURES = 16, 5
COUNTS = (1, 2, 4)


def _loss(params, batch, shared, mean):
    """A network with batch statistics over all devices and a per-row target."""
    hidden = jnp.tanh(batch["x"] @ params["w"] + params["b"][None])
    centred = hidden - mean(jnp.mean(hidden, axis=0, keepdims=True))
    variance = mean(jnp.mean(centred**2, axis=0, keepdims=True))
    out = (centred / jnp.sqrt(variance + 0.1)) @ params["v"]
    return jnp.mean(jnp.abs(out - shared["target"][batch["row"]]))


def _step(state, batch, shared):
    def mean(x):
        return jax.lax.pmean(x, axis_name="data")

    loss, grads = jax.value_and_grad(_loss)(state["params"], batch, shared, mean)
    loss, grads = mean(loss), mean(grads)
    params = jax.tree.map(lambda p, g: p - 0.1 * g, state["params"], grads)
    new = {"params": params, "grads": grads}
    return new, {"loss": loss}


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    params = {
        "w": rng.normal(size=(FEATURES, 7)).astype(np.float32),
        "b": rng.normal(size=7).astype(np.float32),
        "v": rng.normal(size=7).astype(np.float32),
    }
    state = {
        "params": params,
        "grads": {k: np.zeros_like(v) for k, v in params.items()},
    }
    batch = {
        "x": rng.normal(size=(BATCH, FEATURES)).astype(np.float32),
        "row": rng.permutation(BATCH).astype(np.int32),
    }
    shared = {"target": rng.normal(size=BATCH).astype(np.float32)}
    return state, batch, shared


@pytest.mark.parametrize("count", COUNTS)
def test_loss_and_gradients_equal_the_whole_batch_on_one_device(problem, count):
    state, batch, shared = problem
    as_jax = jax.tree.map(jnp.asarray, (state["params"], batch, shared))
    loss, grads = jax.value_and_grad(_loss)(*as_jax, lambda x: x)

    step = DataParallel(_step, num_devices=count)
    assert step.num_devices == count
    placed = step.replicate(state)
    new, metrics = step(placed, step.shard(batch), step.replicate(shared))
    new, metrics = step.unreplicate((new, metrics))

    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-6)
    for name, grad in grads.items():
        np.testing.assert_allclose(new["grads"][name], grad, rtol=1e-4, atol=1e-6)
        expected = state["params"][name] - 0.1 * np.asarray(grad)
        np.testing.assert_allclose(new["params"][name], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("count", COUNTS)
def test_a_loop_of_donated_states_learns(problem, count):
    state, batch, shared = problem
    step = DataParallel(_step, num_devices=count)
    placed, shared = step.replicate(state), step.replicate(shared)
    losses = []
    for _ in range(20):
        old = placed
        placed, metrics = step(placed, step.shard(batch), shared)
        losses.append(float(step.unreplicate(metrics)["loss"]))
    assert losses[-1] < 0.8 * losses[0]
    assert old["params"]["w"].is_deleted()
    assert isinstance(state["params"]["w"], np.ndarray)  # the caller's stays alive


@pytest.mark.parametrize("count", COUNTS)
def test_donation_leaves_the_callers_jax_arrays_alive(problem, count):
    state, batch, shared = problem
    mine = jax.tree.map(jnp.asarray, state)
    step = DataParallel(_step, num_devices=count)
    step(step.replicate(mine), step.shard(batch), step.replicate(shared))
    np.testing.assert_array_equal(mine["params"]["w"], state["params"]["w"])


@pytest.mark.parametrize("count", COUNTS)
def test_per_sample_results_keep_the_order_of_the_batch(problem, count):
    state, batch, shared = problem
    step = DataParallel(_step, num_devices=count)

    def predict(state, batch, shared):
        return {"y": batch["x"] @ state["params"]["w"], "row": batch["row"]}

    run = step.per_sample(predict)
    placed = step.replicate(state)
    out = run(placed, step.shard(batch), step.replicate(shared))
    expected = batch["x"] @ state["params"]["w"]
    np.testing.assert_allclose(out["y"], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(out["row"], batch["row"])
    run(placed, step.shard(batch), step.replicate(shared))  # nothing was donated


def test_an_indivisible_batch_is_refused_with_the_numbers():
    step = DataParallel(_step, num_devices=4)
    with pytest.raises(ValueError, match=r"batch\['x'\] has size 6, which 4 devices"):
        step.shard({"x": np.zeros((6, 3), np.float32)})


def test_more_devices_than_there_are_are_refused():
    with pytest.raises(ValueError, match=r"asked for 5 devices, this process has 4"):
        DataParallel(_step, num_devices=5)


def test_zero_means_all_devices():
    assert DataParallel(_step).num_devices == 4


@pytest.mark.parametrize(("batch", "count"), [(16, 4), (9, 3), (2, 2), (5, 1)])
def test_with_a_batch_size_only_as_many_devices_as_share_it(batch, count):
    step = DataParallel(_step, batch_size=batch)
    assert step.num_devices == count
    step.shard({"x": np.zeros((batch, 3), np.float32)})
    assert DataParallel(_step, num_devices=2, batch_size=batch).num_devices == 2


@pytest.mark.parametrize(("size", "count", "used"), [(128, 500, 128), (128, 100, 100)])
def test_a_batch_is_not_larger_than_the_data_set(size, count, used):
    found, note = devices.fitting_batch("config.x.batch_size", size, count)
    assert found == used
    assert (note == "") == (size == used)
    assert note == "" or "config.x.batch_size = 128, but there are 100" in note
    with pytest.raises(ValueError, match="not a positive multiple"):
        devices.fitting_batch("config.x.batch_size", 0, count)


def test_use_cpu_devices_after_the_start_accepts_only_the_same_number():
    assert devices.use_cpu_devices(4) == 4
    with pytest.raises(ValueError, match="already started with 4"):
        devices.use_cpu_devices(3)


def test_banner_names_version_platform_and_count():
    assert f"JAX {jax.__version__} on 4 CPU devices" in devices.device_banner()


_FREED_MEMORY = """
import ctypes, resource, threading
from runtime import devices
assert devices.keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
SIZE = 256 << 20
def fill():
    block = libc.malloc(SIZE)
    ctypes.memset(block, 1, SIZE)
    libc.free(block)
def faults_of_a_thread():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    thread = threading.Thread(target=fill)
    thread.start()
    thread.join()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults_of_a_thread()
print(faults_of_a_thread())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_memory_is_used_again_without_new_pages():
    command = [sys.executable, "-c", _FREED_MEMORY]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    assert int(done.stdout) < 0.01 * (256 << 20) / os.sysconf("SC_PAGE_SIZE")
