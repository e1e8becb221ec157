"""Several processes of one run: how they join, wait for each other and stop together.

JAX joins the processes and its collectives tie their devices together. What it leaves
open is what happens to the others when one process dies: its own heartbeats end them
too, after their timeout and with a dump of the stack. Here every process also holds
a connection to the first one, whose end tells at once, and all stop with a line that
says why. The heartbeats remain for what closes no connection, such as a lost machine.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax._src import distributed
from jax.experimental import multihost_utils

HEARTBEAT_TIMEOUT = 60  # seconds
LONGEST_WAIT = 24 * 3600  # seconds, at a barrier; who dies meanwhile ends it
_PORT = "nrsfm_distill/port"
_names = itertools.count()


def is_first() -> bool:
    """Whether this process writes what a run writes once."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits until all processes are here; all must come in the same order.

    Not by a collective of the devices, some of which give up after a while.
    """
    if jax.process_count() > 1:
        unique = f"{name}/{next(_names)}"
        _client().wait_at_barrier(unique, timeout_in_ms=1000 * LONGEST_WAIT)


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
    """A run of one or several processes; the others stop when one of them fails.

    Args:
        where: ``"HOST:PORT,INDEX,COUNT"``: address of the first process, the number
            of this one and of all; ``"auto"``: what JAX finds out on TPU pods, under
            SLURM, Open MPI and Kubernetes; ``""``: the variables
            ``JAX_COORDINATOR_ADDRESS``, ``JAX_PROCESS_INDEX`` and
            ``JAX_PROCESS_COUNT`` where set, else a process of its own.

    Raises:
        ValueError: an address without numbers, or the other way round.
    """
    if not join(where):
        yield
        return
    watch = _Watch()
    try:
        yield
        barrier("end")
    except BaseException as error:
        _leave(error, watch)
    watch.close()


def join(where: str = "") -> bool:
    """Joins the other processes; whether there are any. See :func:`joined`."""
    if where == "auto":
        try:
            jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT)
        except (ValueError, RuntimeError) as error:
            raise ValueError(
                f"--processes=auto: JAX finds no cluster here ({error}); give "
                "--processes=HOST:PORT,INDEX,COUNT to each process"
            ) from error
        return _state().num_processes > 1
    address, index, count = _numbers(where)
    if not address:
        return False
    jax.distributed.initialize(
        address,
        num_processes=count,
        process_id=index,
        heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT,
    )
    return count > 1


def _numbers(where: str) -> tuple[str, int, int]:
    if where:
        parts = where.split(",")
        source = f"--processes={where}"
    else:
        names = ("COORDINATOR_ADDRESS", "PROCESS_INDEX", "PROCESS_COUNT")
        parts = [os.environ.get(f"JAX_{name}", "") for name in names]
        source = ", ".join(f"JAX_{n}={v!r}" for n, v in zip(names, parts, strict=True))
        if not parts[0]:
            return "", 0, 1
    numbers = parts[1:]
    if (
        len(parts) != 3
        or not all(n.isdecimal() for n in numbers)
        or ":" not in parts[0]
    ):
        raise ValueError(
            f"{source}: expected host:port of the first process, the number of this "
            "process and how many there are, such as node0:1234,0,2, or 'auto'"
        )
    index, count = map(int, numbers)
    if index >= count:
        raise ValueError(f"{source}: process {index} of {count}; they count from 0")
    return parts[0], index, count


def _state() -> Any:
    # Not exported by JAX, and what its own checkpointing library builds on. Unlike
    # jax.process_index() it does not start the devices, whose number may yet be set.
    return distributed.global_state


def _client() -> Any:
    return _state().client


# --- stopping together --------------------------------------------------------------


class _Watch:
    """The connections between the first process and the others.

    A line is sent over them: ``bye`` at a good end, else ``stop`` and the reason. An
    end without a line is a process that died.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._closed = False
        self._others: list[socket.socket] = []
        self.me, self.count = _state().process_id, _state().num_processes
        if self.me == 0:
            server = socket.create_server(("", 0), backlog=self.count)
            _client().key_value_set(_PORT, str(server.getsockname()[1]))
            self._start(self._accept, server)
            return
        port = _client().blocking_key_value_get(_PORT, 60_000)
        host = str(_state().coordinator_address).rsplit(":", 1)[0]
        first = socket.create_connection((host.strip("[]"), int(port)), timeout=60)
        first.settimeout(None)
        first.sendall(f"{self.me}\n".encode())
        self._others.append(first)
        self._start(self._listen, first.makefile("r", encoding="utf-8"), 0)

    def send(self, line: str) -> None:
        """A line to every process that this one is connected to."""
        for other in self._others:
            with contextlib.suppress(OSError):
                other.sendall((line.replace("\n", " ") + "\n").encode())

    def close(self) -> None:
        """After the last barrier: from now on the others may go."""
        with self._lock:
            self._closed = True
        self.send("bye")

    def _start(self, work: Callable[..., None], *arguments: Any) -> None:
        threading.Thread(target=work, args=arguments, daemon=True).start()

    def _accept(self, server: socket.socket) -> None:
        for _ in range(self.count - 1):
            other, _ = server.accept()
            other.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self._others.append(other)
            lines = other.makefile("r", encoding="utf-8")
            index = lines.readline().strip()
            self._start(self._listen, lines, int(index) if index.isdecimal() else -1)

    def _listen(self, lines: Any, index: int) -> None:
        try:
            line = lines.readline().strip()
        except OSError:
            line = ""
        with self._lock:
            if line == "bye" or self._closed:
                return
            reason = line.removeprefix("stop ") if line else _died(index, self.count)
            if self.me == 0:
                self.send(f"stop {reason}")
            _exit(f"{reason}; {_stops_too(self.me, self.count)}")


def _died(index: int, count: int) -> str:
    return (
        f"process {index + 1} of {count} has died (killed, out of memory, or its "
        "machine is gone)"
    )


def _stops_too(index: int, count: int) -> str:
    return (
        f"process {index + 1} of {count} stops too. Start all of them again with the "
        "same command: the run goes on from its last checkpoint"
    )


def _leave(error: BaseException, watch: _Watch) -> None:
    """Ends this process, and by it the others, without waiting for anyone."""
    if isinstance(error, SystemExit) and not error.code:
        watch.close()
        raise error
    if isinstance(error, jax.errors.JaxRuntimeError):
        # Most likely another one has gone, and the watch is about to say which.
        time.sleep(5)
    elif not isinstance(error, (ValueError, SystemExit, KeyboardInterrupt)):
        sys.excepthook(type(error), error, error.__traceback__)
    text = str(error).removeprefix("error: ") or type(error).__name__
    watch.send(f"stop process {watch.me + 1} of {watch.count} stopped: {text}")
    _exit(text)


def _exit(message: str) -> None:
    """At once: what waits for the devices, or for the others, would wait for ever."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(1)
