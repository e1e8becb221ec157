"""Draws samples on all cores. No TensorFlow here: worker processes import this."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import io
import logging
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from input_pipeline.settings import DataSettings
from input_pipeline.sources.motion import load_motion
from input_pipeline.synthetic.sample import Sample, render_sample

JPEG_QUALITY = 95
CHUNK = 32  # samples a worker draws at a time
T = TypeVar("T")


def map_on_cores(
    draw: Callable[[int], T], count: int, *, workers: int = 0
) -> Iterator[T]:
    """``draw(0)`` .. ``draw(count - 1)`` in order, by ``workers`` processes.

    Args:
        draw: picklable; its result depends on the index alone, so that the number of
            processes changes the time and nothing else.
        count: how many.
        workers: processes; 0 takes all cores, 1 draws in this process.

    Raises:
        Exception: whatever ``draw`` raises. Where processes cannot be had (a caller
            without an importable main module, no memory), the rest is drawn here,
            more slowly, and a warning is logged.
    """
    chunks = [range(i, min(i + CHUNK, count)) for i in range(0, count, CHUNK)]
    workers = min(workers or available_cores(), len(chunks))
    done = 0
    if workers > 1:
        try:
            for results in _in_processes(draw, chunks, workers):
                yield from results
                done += 1
        except BrokenProcessPool as error:
            logging.warning("Drawing goes on in one process: %s", error)
    for chunk in chunks[done:]:
        yield from _draw_chunk(draw, chunk)


def _in_processes(
    draw: Callable[[int], T], chunks: list[range], workers: int
) -> Iterator[list[T]]:
    # Not fork: TensorFlow and JAX have threads, which a forked child would lose.
    context = multiprocessing.get_context("spawn")
    how: dict[str, Any] = {"mp_context": context, "initializer": end_with_parent}
    with concurrent.futures.ProcessPoolExecutor(workers, **how) as pool:
        # A few chunks ahead of the reader, so that few wait in memory.
        first, rest = chunks[: 3 * workers], deque(chunks[3 * workers :])
        try:
            waiting = deque(pool.submit(_draw_chunk, draw, chunk) for chunk in first)
        except OSError as error:  # from the start of a process, not from `draw`
            raise BrokenProcessPool(f"no worker process: {error}") from error
        while waiting:
            yield waiting.popleft().result()
            if rest:
                waiting.append(pool.submit(_draw_chunk, draw, rest.popleft()))


def end_with_parent() -> None:
    """Makes a worker end when the process that started it dies, and only then.

    Otherwise it would wait for work for ever; and Ctrl-C, which reaches all processes
    of a terminal, would make each of them print its own traceback.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None, "called in a worker"

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _draw_chunk(draw: Callable[[int], T], chunk: range) -> list[T]:
    return [draw(index) for index in chunk]


def render_jpeg(
    index: int, *, settings: DataSettings, split: str
) -> tuple[bytes, Sample]:
    """A mannequin of ``config.data`` as JPEG, and its sample without the picture.

    A file of motion is read once in each process.
    """
    sample = render_sample(
        index,
        split=split,
        seed=settings.seed,
        size=settings.render_size,
        elevation_deg=settings.elevation_deg,
        motion=load_motion(settings.mocap_file) if settings.mocap_file else None,
    )
    buffer = io.BytesIO()
    # Full colour resolution: thin coloured limbs are what is to be learned from.
    picture = Image.fromarray(sample.image)
    picture.save(buffer, format="JPEG", quality=JPEG_QUALITY, subsampling=0)
    bare = dataclasses.replace(sample, image=np.zeros((0, 0, 3), np.uint8))
    return buffer.getvalue(), bare


def available_cores() -> int:
    """The cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
