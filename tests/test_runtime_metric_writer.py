"""metrics.jsonl: full precision, and after a resume the lines of one whole run."""

import json
import math

import jax.numpy as jnp
import numpy as np

from runtime.metric_writer import MetricWriter, read_metrics


def _steps(path, stage):
    return [line["step"] for line in read_metrics(path) if line["stage"] == stage]


def test_lines_hold_every_digit(tmp_path):
    third = np.float32(1) / np.float32(3)
    with MetricWriter(tmp_path) as writer:
        metrics = {"loss": third, "x": jnp.float32(0.1), "y": 1e-300, "z": math.nan}
        writer.write("teacher", 10, metrics)
    (line,) = read_metrics(tmp_path / "metrics.jsonl")
    assert np.float32(line["loss"]) == third
    assert np.float32(line["x"]) == np.float32(0.1)
    assert line["y"] == 1e-300
    assert line["z"] is None
    assert (line["stage"], line["step"]) == ("teacher", 10)
    json.loads((tmp_path / "metrics.jsonl").read_text())  # strict JSON, no NaN


def test_every_line_is_on_disk_when_write_returns(tmp_path):
    writer = MetricWriter(tmp_path, tensorboard=False)
    for step in range(3):
        writer.write("teacher", step, {"loss": step})
        assert len(read_metrics(tmp_path / "metrics.jsonl")) == step + 1


def test_a_resumed_run_leaves_no_duplicates(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricWriter(tmp_path) as writer:
        for step in (100, 200, 300):
            writer.write("teacher", step, {"loss": step})
        for step in (100, 200, 300):
            writer.write("student", step, {"loss": step})
    # Killed while writing, then restored at step 200 of the student.
    with path.open("a") as file:
        file.write('{"stage": "student", "st')
    with MetricWriter(tmp_path, start_step=200) as writer:
        writer.write("student", 300, {"loss": -1})
        writer.write("student", 400, {"loss": -1})
    assert _steps(path, "teacher") == [100, 200, 300]
    assert _steps(path, "student") == [100, 200, 300, 400]
    assert [line["loss"] for line in read_metrics(path)][-2:] == [-1, -1]


def test_a_run_from_the_start_replaces_its_own_lines_only(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricWriter(tmp_path) as writer:
        writer.write("teacher", 0, {"loss": 1})
        writer.write("student", 0, {"loss": 1})
        writer.write("student", 50, {"loss": 1})
    with MetricWriter(tmp_path) as writer:
        writer.write("student", 0, {"loss": 2})
    assert _steps(path, "teacher") == [0]
    assert _steps(path, "student") == [0]


def test_two_lines_of_one_step_stay(tmp_path):
    with MetricWriter(tmp_path, start_step=5, tensorboard=False) as writer:
        writer.write("student", 6, {"loss": 1})
        writer.write("student", 6, {"val_loss": 2})
    assert _steps(tmp_path / "metrics.jsonl", "student") == [6, 6]


def test_tensorboard_events_hold_the_scalars(tmp_path):
    with MetricWriter(tmp_path) as writer:
        writer.write("teacher", 3, {"loss": 0.5})
    (events,) = (tmp_path / "tensorboard" / "teacher").iterdir()
    assert b"loss" in events.read_bytes()
