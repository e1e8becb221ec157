"""Progress: plain lines elsewhere than on a terminal, a bar on one."""

import io
import re
import sys
import threading
from types import SimpleNamespace

import jax.numpy as jnp
import pytest

import runtime.progress
from runtime.doing import doing, done
from runtime.progress import progress, working, wrapped


@pytest.fixture(autouse=True)
def sleep(monkeypatch):
    """A clock that moves only where a test lets time pass, on a busy machine too."""
    now = [0.0]

    def pass_by(seconds):
        now[0] += seconds

    time = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr(runtime.progress, "time", time)
    return pass_by


def test_plain_lines_first_and_last_step_only_when_quick(sleep):
    out = io.StringIO()
    with progress("teacher", total=50, stream=out) as bar:
        for step in range(50):
            sleep(0.1)
            bar.update(step + 1, loss=jnp.float32(1 / (step + 1)))
    lines = out.getvalue().splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["teacher", "1/50"],
        ["teacher", "50/50"],
    ]
    assert "loss 0.02" in lines[-1]
    assert "10 steps/s" in lines[-1]
    assert "0:00:00 left" in lines[-1]


def test_a_line_every_interval(sleep):
    out = io.StringIO()
    with progress("student", total=4, stream=out, interval=0.02) as bar:
        for step in range(4):
            sleep(0.015)
            bar.update(step + 1)
    shown = [line.split()[1] for line in out.getvalue().splitlines()]
    assert shown == ["1/4", "3/4", "4/4"]


def test_a_resumed_stage_counts_its_own_rate(sleep):
    out = io.StringIO()
    with progress("student", total=1000, start=990, stream=out) as bar:
        for step in range(990, 1000):
            sleep(0.01)
            bar.update(step + 1)
    assert "100 steps/s" in out.getvalue().splitlines()[-1]


def test_a_stopped_loop_still_says_how_far_it_came():
    out = io.StringIO()
    with progress("teacher", total=50, stream=out) as bar:
        for step in range(7):
            bar.update(step + 1)
    assert "teacher 7/50" in out.getvalue().splitlines()[-1]


def test_waiting_for_data_is_shown(sleep):
    out = io.StringIO()
    with progress("student", total=3, stream=out) as bar:
        for step in range(3):
            with bar.waiting():
                sleep(0.03)
            sleep(0.01)
            bar.update(step + 1)
    shown = re.search(r"data wait (\d+)%", out.getvalue().splitlines()[-1])
    assert shown is not None
    assert int(shown[1]) == 75


@pytest.mark.parametrize("terminal", [False, True])
def test_in_80_columns_the_count_and_the_time_left_come_first(
    sleep, monkeypatch, terminal
):
    monkeypatch.setenv("COLUMNS", "80")
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    out = io.StringIO()
    with progress("student_weaksup_residual", 150_000, 100_000, stream=out) as bar:
        for step in range(100_001, 100_004):
            sleep(0.5)
            bar.update(step, loss=0.123456, xy_loss=0.1, depth_loss=0.2, val_loss=0.3)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    lines = [text for line in plain.splitlines() for text in line.split("\r") if text]
    assert max(map(len, lines)) <= 80
    start = "student_weaksup_residual 100003/150000 67%  6:56:38 left"
    last = next(line for line in lines if line.startswith(start))
    assert ("loss 0.1235" in last) == (not terminal)  # the bar takes its place
    assert "val_loss" not in last


def test_long_work_says_that_it_goes_on():
    out = io.StringIO()
    with working("reading the data", every=0.01, stream=out):
        threading.Event().wait(0.1)
    lines = out.getvalue().splitlines()
    assert lines[0] == "reading the data"
    assert len(lines) > 2
    assert set(lines[1:]) == {"reading the data: 0:00:00"}
    with working("quick", first=False, stream=out), working("none", shown=False):
        pass
    assert len(out.getvalue().splitlines()) == len(lines)


def test_a_bar_and_the_line_of_a_long_compilation_keep_apart(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(runtime.progress, "QUIET", 0.01)
    monkeypatch.setattr(sys, "stderr", out := io.StringIO())
    with progress("student", total=10) as bar:
        threading.Event().wait(0.2)
        bar.update(1)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    lines = [text for line in plain.splitlines() for text in line.split("\r") if text]
    assert "student: starts, compiles its first step: 0:00:00" in lines


def test_it_says_what_it_is_at():
    out = io.StringIO()
    with working("EM", every=0.01, stream=out):
        doing("mixture")
        for _ in range(2):
            done(20)
        threading.Event().wait(0.1)
    assert out.getvalue().splitlines()[-1] == "EM: 0:00:00, mixture, step 40"
    with working("next", every=0.01, stream=out):
        threading.Event().wait(0.1)
    assert out.getvalue().splitlines()[-1] == "next: 0:00:00"


def test_paragraphs_are_broken_between_words(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    text = "the camera's --config.teacher.depth_sign=-1 says"
    lines = ["the camera's", "--config.teacher.depth_sign=-1", "says"]
    assert wrapped(text).splitlines() == lines


def test_a_terminal_gets_a_bar(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    out = io.StringIO()
    with progress("teacher", total=10, stream=out) as bar:
        for step in range(10):
            bar.update(step + 1, loss=0.5)
    assert "━" in out.getvalue()
    assert "10/10" in out.getvalue()
    assert "loss 0.5" in out.getvalue()
