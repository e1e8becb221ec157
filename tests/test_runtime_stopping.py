"""Ctrl-C and SIGTERM: a line at once, what is done is kept, the code of a shell."""

import signal
import subprocess
import sys
import time

import launch
import pytest

PROGRAM = """
import hashlib, sys, time
from runtime import stopping
kind = sys.argv[1]
stopping.PATIENCE = 0.5
with stopping.on_signals():
    if kind in ("loop", "first"):
        with stopping.deferred():
            for step in range(1000):
                print(step, flush=True)
                time.sleep(60 if kind == "first" else 0.05)
                if stopping.asked():
                    raise stopping.Stopped(f"step {step} of 1000")
    try:
        print(0, flush=True)
        if kind == "busy":
            hashlib.pbkdf2_hmac("sha256", b"a", b"b", 10**9)
        time.sleep(60)
    finally:
        print("cleaned", flush=True)
"""


def _signalled(kind, number, times=1):
    """Output, errors and code of a program that gets signals while it works."""
    command = [sys.executable, "-c", PROGRAM, kind]
    with subprocess.Popen(
        command,
        cwd=launch.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        time.sleep(0.3)  # until it is in its long call
        lines = []
        for _ in range(times):
            process.send_signal(number)
            while not any(": ends " in line for line in lines):
                lines.append(process.stderr.readline())
                assert lines[-1]
        # Not communicate(), which would not see what is buffered after a line.
        out, err = process.stdout.read(), process.stderr.read()
        return out, "".join([*lines, err]), process.wait(timeout=60)


@pytest.mark.parametrize(
    ("number", "name", "code"),
    [(signal.SIGINT, "Ctrl-C", 130), (signal.SIGTERM, "SIGTERM", 143)],
)
def test_a_loop_ends_after_its_step(number, name, code):
    _, err, found = _signalled("loop", number)
    heard, stopped = err.split("\n")[1:-1]
    assert heard.startswith(f"{name}: ends after this step, which is saved")
    assert stopped.startswith("stopped: step ")
    assert stopped.endswith(" of 1000; the same command goes on from there")
    assert found == code


@pytest.mark.parametrize("kind", ["sleep", "first"])
def test_elsewhere_it_ends_at_once_and_cleans_up(kind):
    """Also in the first step of a loop, which compiles."""
    out, err, code = _signalled(kind, signal.SIGTERM)
    assert ("cleaned" in out) == (kind == "sleep")
    assert "Traceback" not in err
    assert "stopped: what is finished is kept" in err
    assert code == 143


@pytest.mark.parametrize("times", [1, 2])
def test_a_long_call_ends_after_a_while_or_at_a_second_signal(times):
    """As a compilation, which gives Python no turn."""
    _, err, code = _signalled("busy", signal.SIGINT, times)
    heard, stopped = err.split("\n")[1:-1]
    assert heard == "Ctrl-C: ends now; once more: at once"
    assert stopped.startswith("stopped: what is finished is kept")
    assert code == 130
