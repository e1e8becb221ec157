"""Devices: one data-parallel step under ``jax.pmap``.

A step is written for one device and averages over the others by
``jax.lax.pmean(..., axis_name="data")``. Every array of its state has a leading axis,
one entry per device. One device gives the numbers of several, up to rounding::

    train_step = DataParallel(step)
    state, shared = train_step.replicate(state), train_step.replicate(shared)
    for batch in batches:  # batches of this process, numpy
        state, metrics = train_step(state, train_step.shard(batch), shared)
    state, metrics = train_step.unreplicate((state, metrics))
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

AXIS = "data"
PyTree = Any
Step = Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]]


def fitting_batch(field: str, batch_size: int, count: int) -> tuple[int, str]:
    """The batch size that training uses, and a line where it is not the one given.

    Args:
        field: of the config, for the messages.
        batch_size: what the config says, over all processes.
        count: training samples. A batch is not larger than they are.

    Raises:
        ValueError: a batch that the processes of this run cannot share equally.

    Examples:
        >>> fitting_batch("config.teacher.batch_size", 128, 100)[0]
        100
    """
    processes = jax.process_count()
    if batch_size < 1 or batch_size % processes:
        raise ValueError(
            f"{field} = {batch_size} is not a positive multiple of the {processes} "
            "process(es) of this run"
        )
    size = min(batch_size, count - count % processes)
    if size < 1:
        raise ValueError(f"{count} training samples for {processes} process(es)")
    note = f"{field} = {batch_size}, but there are {count} samples: batches of {size}"
    return size, "" if size == batch_size else note


class DataParallel:
    """A per-device step placed on several devices: call it.

    The state given to a call is donated: keep only the one returned.

    Args:
        step: ``step(state, batch, shared) -> (state, metrics)``. ``state`` and
            ``shared`` are whole on every device, ``batch`` is this device's part.
            State and metrics returned must be equal on all devices: average
            gradients, metrics and batch statistics by ``pmean`` over ``"data"``.
        num_devices: how many devices of this process to use; 0 means all of them.
        batch_size: of this process. If given, and ``num_devices`` is 0, no more
            devices are used than share such a batch equally: 8 of 12 for 32.

    Raises:
        ValueError: more devices asked for than there are.
    """

    def __init__(
        self, step: Step, *, num_devices: int = 0, batch_size: int = 0
    ) -> None:
        local = jax.local_devices()
        if not 0 <= num_devices <= len(local):
            raise ValueError(
                f"asked for {num_devices} devices, this process has {len(local)}: set "
                f"num_devices to 0 (all) or to 1..{len(local)}; on a CPU start with "
                f"JAX_NUM_CPU_DEVICES={max(num_devices, 1)} to split it in as many"
            )
        counts = range(1, len(local) + 1)
        sharing = max(n for n in counts if batch_size % n == 0)
        self.num_local = num_devices or sharing
        self._here = local[: self.num_local]
        self.devices = [
            device
            for process in range(jax.process_count())
            for device in jax.local_devices(process)[: self.num_local]
        ]
        mesh = jax.make_mesh(
            (self.num_local,),
            (AXIS,),
            axis_types=(AxisType.Auto,),
            devices=self._here,
        )
        # How pmap lays out the leading axis over the devices of this process.
        self._local = NamedSharding(mesh, PartitionSpec(AXIS))
        self._step = jax.pmap(step, AXIS, devices=self.devices, donate_argnums=(0,))

    def __call__(
        self, state: PyTree, batch: PyTree, shared: PyTree = None
    ) -> tuple[PyTree, PyTree]:
        """One step; arguments placed by ``replicate`` and ``shard``."""
        result = self._step(state, batch, shared)
        if self.num_devices > 1 and self.devices[0].platform == "cpu":
            # Virtual CPU devices wait for each other on the threads that a second
            # step in flight would fill: they can starve one another for good.
            jax.block_until_ready(result)
        return result

    @property
    def num_devices(self) -> int:
        """Devices over all processes: the size of the axis ``data``."""
        return len(self.devices)

    def replicate(self, tree: PyTree) -> PyTree:
        """Puts a copy of the arrays of ``tree`` on every device."""

        def stack(x: Any) -> jax.Array:
            # A new array: steps donate it, the caller's stays.
            one = jnp.array(x)[None]
            copies = [jax.device_put(one, d) for d in self._here]
            shape = (self.num_local, *one.shape[1:])
            return jax.make_array_from_single_device_arrays(shape, self._local, copies)

        return jax.tree.map(stack, tree)

    def unreplicate(self, tree: PyTree) -> PyTree:
        """One copy of what ``replicate`` or a step gave: state or metrics."""
        return jax.tree.map(lambda x: x.addressable_data(0)[0], tree)

    def shard(self, batch: PyTree) -> PyTree:
        """Splits this process's batch over its devices, by the leading axis.

        Raises:
            ValueError: a leading axis that the number of devices does not divide.
        """
        for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
            if len(leaf) % self.num_local:
                raise ValueError(
                    f"batch{jax.tree_util.keystr(path)} has size {len(leaf)}, which "
                    f"{self.num_local} devices cannot share equally: choose a multiple "
                    f"of {self.num_local}, or set num_devices to a divisor of it"
                )
        split = jax.tree.map(
            lambda x: np.asarray(x).reshape(self.num_local, -1, *np.shape(x)[1:]), batch
        )
        return jax.device_put(split, self._local)

    def per_sample(
        self, function: Callable[[PyTree, PyTree, PyTree], PyTree]
    ) -> Callable[[PyTree, PyTree, PyTree], PyTree]:
        """Compiles ``function(state, batch, shared)`` with one result per sample.

        For evaluation: the same placement as the step, nothing donated. The
        result is numpy, in the order of this process's batch.
        """
        compiled = jax.pmap(function, AXIS, devices=self.devices)

        def run(state: PyTree, batch: PyTree, shared: PyTree = None) -> PyTree:
            return jax.tree.map(
                lambda x: np.asarray(x).reshape(-1, *x.shape[2:]),
                compiled(state, batch, shared),
            )

        return run


def use_cpu_devices(count: int = 0, *, keep_memory: bool = False) -> int:
    """Splits the CPU in ``count`` virtual devices; 0 means one per usable core.

    Small networks run faster on several single-core devices than on one device
    with many cores. Call it before the first array is made. Without effect on
    GPU and TPU, whose devices stay as they are. Returns ``count``.

    Args:
        count: number of devices.
        keep_memory: see :func:`keep_freed_memory`.

    Raises:
        ValueError: JAX has already started its devices with another number.
    """
    if keep_memory:
        keep_freed_memory()
    count = count or usable_cores()
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError as error:
        if jax.local_device_count("cpu") == count:
            return count
        raise ValueError(
            f"cannot split the CPU in {count} devices: JAX has already started with "
            f"{jax.local_device_count('cpu')}; call use_cpu_devices first, or set "
            f"JAX_NUM_CPU_DEVICES={count} in the environment"
        ) from error
    return count


# Of glibc's malloc.h: M_ARENA_MAX, M_MMAP_MAX and M_TRIM_THRESHOLD, and their values.
_MALLOC_LIMITS = ((-8, 1), (-4, 0), (-1, -1))


def keep_freed_memory() -> bool:
    """Lets the process reuse large blocks instead of handing them back.

    On a CPU every step of a large network allocates its activations anew. By default
    glibc maps such blocks and unmaps them when they are freed, and the kernel clears
    all their pages in every step. Here they stay with the process: one arena, no mapped
    blocks, no trimming, so that memory stays at its peak until the process ends. Call
    it before there is a second thread, such as those of TensorFlow and of JAX's
    devices: one that has an arena of its own shares it with later ones, and what it
    cannot hold is mapped.
    Without effect on the results, and on systems without glibc.

    Returns:
        Whether all limits were set.
    """
    library = ctypes.CDLL(None) if os.name == "posix" else None
    if not hasattr(library, "mallopt"):
        return False
    done = [library.mallopt(*limit) for limit in _MALLOC_LIMITS]
    return all(done)


def usable_cores() -> int:
    """Cores that this process may use (its affinity, where the system has one)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def device_facts() -> dict[str, Any]:
    """Platform, kind and number of devices, ready for JSON."""
    devices = jax.devices()
    return {
        "platform": devices[0].platform,
        "kind": devices[0].device_kind,
        "devices": len(devices),
        "processes": jax.process_count(),
        "cores": usable_cores(),
    }


def device_banner() -> str:
    """One line that says what this run computes on."""
    facts = device_facts()
    count = facts["devices"]
    text = f"JAX {jax.__version__} on {count} {facts['platform'].upper()} device"
    text += "s" if count > 1 else ""
    if facts["kind"].lower() != facts["platform"]:
        text += f" ({facts['kind']})"
    if facts["processes"] > 1:
        text += f", process {jax.process_index() + 1} of {facts['processes']}"
    cores = facts["cores"]
    return f"{text}, {cores} CPU core{'s' if cores > 1 else ''}"
