"""Drawing on all cores: order, independence of the workers, failures."""

import functools
import io
import os
import signal
import sys
import time
from pathlib import Path

import launch
import numpy as np
import pytest
from PIL import Image

from input_pipeline.settings import read_settings
from input_pipeline.sources import rendering
from input_pipeline.sources.rendering import map_on_cores, render_jpeg
from input_pipeline.synthetic.sample import render_sample

HERE = os.getpid()


def square(index):
    return index * index


def fail_elsewhere(index, home):
    """Fails in a worker alone, where drawing again in this process would hide it."""
    if index == 20 and os.getpid() != home:
        raise FileNotFoundError("motion.npz: gone")
    return index


def die_elsewhere(index, home):
    if os.getpid() != home:
        os._exit(1)
    return index


def test_results_come_in_order_until_the_drawing_itself_fails(monkeypatch):
    """An OSError of a worker is no failure to start it: it is raised, not swallowed."""
    monkeypatch.setattr(rendering, "CHUNK", 4)
    draw = functools.partial(fail_elsewhere, home=HERE)
    results = map_on_cores(draw, 24, workers=2)
    assert [next(results) for _ in range(20)] == list(range(20))
    with pytest.raises(FileNotFoundError, match=r"motion\.npz: gone"):
        next(results)
    assert list(map_on_cores(draw, 24, workers=1)) == list(range(24))


def test_without_processes_drawing_goes_on_in_this_one(monkeypatch, caplog):
    monkeypatch.setattr(rendering, "CHUNK", 4)
    draw = functools.partial(die_elsewhere, home=HERE)
    assert list(map_on_cores(draw, 12, workers=2)) == list(range(12))
    assert not list(map_on_cores(draw, 0))
    assert "Drawing goes on in one process" in caplog.text

    def no_process(*_, **__):
        raise BlockingIOError("no more processes")

    caplog.clear()
    monkeypatch.setattr(
        rendering.concurrent.futures.ProcessPoolExecutor, "submit", no_process
    )
    assert list(map_on_cores(square, 12, workers=2)) == [i * i for i in range(12)]
    assert "no more processes" in caplog.text


def test_a_jpeg_is_the_picture_of_its_sample():
    arguments = {"split": "val", "seed": 3, "size": 32, "elevation_deg": (0.0, 5.0)}
    settings = read_settings(
        {"seed": 3, "render_size": 32, "elevation_deg": (0.0, 5.0)}
    )
    encoded, bare = render_jpeg(2, settings=settings, split="val")
    sample = render_sample(2, **arguments)
    with Image.open(io.BytesIO(encoded)) as picture:
        difference = np.asarray(picture).astype(int) - sample.image
    assert np.abs(difference).mean() < 3
    assert bare.image.size == 0
    np.testing.assert_array_equal(bare.positions_mm, sample.positions_mm)


def test_a_missing_motion_is_named_by_the_worker():
    settings = read_settings({"mocap_file": "absent.npz"})
    with pytest.raises(ValueError, match="no such motion file"):
        render_jpeg(0, settings=settings, split="val")


PROGRAM = """
import os, time
from input_pipeline.sources.rendering import map_on_cores

def slow(index):
    print(os.getpid(), flush=True)
    time.sleep(60)

if __name__ == "__main__":
    list(map_on_cores(slow, 64, workers=2))
"""


def _runs(pid):
    """Whether a process is there, and no zombie that nobody has waited for."""
    path = Path(f"/proc/{pid}/cmdline")
    return path.exists() and path.read_bytes() != b""


def test_workers_end_with_the_process_that_started_them(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, str(tmp_path / "program.py")]
    with launch.started([command]) as (process,):
        workers = {int(process.stdout.readline()) for _ in range(2)}
        assert len(workers) == 2
        assert all(map(_runs, workers))
        process.send_signal(signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + 20
        while any(map(_runs, workers)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(map(_runs, workers))
