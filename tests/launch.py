"""Several processes of one run, at an address that nobody else can take."""

import contextlib
import os
import socket
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
SECONDS = 1500  # after which a process is taken to hang
# As a user starts them, not with the virtual devices of the tests.
ENVIRONMENT = os.environ | {
    "JAX_PLATFORMS": "cpu",
    # Compiling is most of what tiny runs do.
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
}
ENVIRONMENT.pop("JAX_NUM_CPU_DEVICES", None)


@contextlib.contextmanager
def reserved_address():
    """``localhost:PORT`` for a first process.

    The port is held by a socket that shares it and never listens: nobody else is given
    it, and every connection reaches the first process.
    """
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    with socket.socket(family) as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(("", 0))
        yield f"localhost:{held.getsockname()[1]}"


@contextlib.contextmanager
def started(commands):
    """A process for every command; those that are left at the end are killed."""
    found = []
    try:
        for command in commands:
            found.append(
                subprocess.Popen(
                    command,
                    cwd=ROOT,
                    env=ENVIRONMENT,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
        yield found
    finally:
        for process in found:
            process.kill()
            process.communicate()


def finish(commands):
    """Runs all commands side by side to a good end."""
    with started(commands) as processes:
        for process in processes:
            output, _ = process.communicate(timeout=SECONDS)
            assert process.returncode == 0, output[-3000:]
