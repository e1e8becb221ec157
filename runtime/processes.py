"""Several processes of one run: how they join, wait for each other and stop together.

JAX joins the processes; its collectives tie their devices together and its heartbeats
end the others when one dies. This module adds that every process ends at once, with one
line that says why, and does not wait for the others.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax._src import distributed
from jax.experimental import multihost_utils

from runtime.files import explained
from runtime.stopping import Stopped

HEARTBEAT_TIMEOUT = 60  # seconds
LONGEST_WAIT = 24 * 3600  # seconds, at a barrier; a process that dies ends it
VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_PROCESS_ID", "JAX_NUM_PROCESSES")
AGAIN = (
    "Start all of them again with the same command: the run goes on from its last "
    "checkpoint"
)
_names = itertools.count()


def is_first() -> bool:
    """Whether this process writes what a run writes once."""
    return jax.process_index() == 0


def say(text: str) -> None:
    """Prints a line, once for all processes."""
    if is_first():
        print(text, flush=True)


def barrier(name: str) -> None:
    """Waits until all processes are here; all must come in the same order.

    Not by a collective of the devices, some of which give up after a while.
    """
    if jax.process_count() > 1:
        client = distributed.global_state.client
        assert client is not None, "several processes have joined"
        unique = f"{name}/{next(_names)}"
        client.wait_at_barrier(unique, timeout_in_ms=1000 * LONGEST_WAIT)


def on_first(work: Callable[[], Any], name: str) -> None:
    """Does ``work`` on the first process; the others wait for it."""
    if is_first():
        work()
    barrier(name)


def gather(array: Any) -> np.ndarray:
    """(processes, ...): the array of every process, bit by bit, on all of them.

    Of the same shape and dtype everywhere.
    """
    array = np.ascontiguousarray(array)
    if jax.process_count() == 1:
        return array[None]
    # As bytes: a collective would round float64 to float32.
    raw = multihost_utils.process_allgather(array.reshape(-1).view(np.uint8))
    return np.asarray(raw).reshape(-1).view(array.dtype).reshape(-1, *array.shape)


@contextlib.contextmanager
def joined(where: str = "") -> Iterator[None]:
    """A run of one or several processes; all stop when one of them fails.

    Args:
        where: ``"HOST:PORT,INDEX,COUNT"``: address of the first process, the number
            of this one and of all; ``"auto"``: what JAX finds out on TPU pods, under
            SLURM, Open MPI and Kubernetes; ``""``: the variables
            ``JAX_COORDINATOR_ADDRESS``, ``JAX_PROCESS_ID`` and ``JAX_NUM_PROCESSES``
            where set, else a process of its own.

    Raises:
        ValueError: an address without numbers, or the other way round.
    """
    if not join(where):
        yield
        return
    try:
        yield
        barrier("end")
    except BaseException as error:
        if isinstance(error, SystemExit) and not error.code:
            raise
        _leave(error)


def join(where: str = "") -> bool:
    """Joins the other processes; whether there are any. See :func:`joined`."""
    options: dict[str, Any] = {"heartbeat_timeout_seconds": HEARTBEAT_TIMEOUT}
    if where != "auto":
        address, index, count = _numbers(where)
        if not address:
            return False
        options |= {"coordinator_address": address, "process_id": index}
        options["num_processes"] = count
    try:
        jax.distributed.initialize(**options)
    except (ValueError, RuntimeError) as error:
        if where != "auto":
            raise
        raise ValueError(
            f"--processes=auto: JAX finds no cluster here ({error}); give "
            "--processes=HOST:PORT,INDEX,COUNT to each process"
        ) from error
    # Unlike jax.process_count() this starts no devices, whose number may yet be set.
    return distributed.global_state.num_processes > 1


def _numbers(where: str) -> tuple[str, int, int]:
    parts, source = where.split(","), f"--processes={where}"
    if not where:
        parts = [os.environ.get(name, "") for name in VARIABLES]
        pairs = zip(VARIABLES, parts, strict=True)
        source = ", ".join(f"{name}={value!r}" for name, value in pairs)
        if not parts[0]:
            return "", 0, 1
    numbers = parts[1:]
    whole = len(numbers) == 2 and all(n.isdecimal() for n in numbers)
    if not whole or ":" not in parts[0]:
        raise ValueError(
            f"{source}: expected host:port of the first process, the number of this "
            "process and how many there are, such as node0:1234,0,2, or 'auto'"
        )
    index, count = map(int, numbers)
    if index >= count:
        raise ValueError(f"{source}: process {index} of {count}; they count from 0")
    return parts[0], index, count


def _leave(error: BaseException) -> None:
    """Ends this process at once, and with it the others.

    Whatever waits for the devices, or for the others at the exit, would wait for ever.
    """
    state = distributed.global_state
    me = f"process {state.process_id + 1} of {state.num_processes}"
    text = explained(error).removeprefix("error: ") or type(error).__name__
    if isinstance(error, jax.errors.JaxRuntimeError):
        # A collective or a barrier: most likely the process at its other end is gone.
        text = f"{me} stops: another one has died or stopped ({text.splitlines()[0]})"
        text = f"{text}. {AGAIN}"
    elif isinstance(error, Stopped):
        text = f"{me} stops at a signal. {AGAIN}"
    elif not isinstance(error, (ValueError, OSError, SystemExit)):
        sys.excepthook(type(error), error, error.__traceback__)
    print(f"error: {text}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(error.code if isinstance(error, Stopped) else 1)  # type: ignore
