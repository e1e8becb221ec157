"""Renders mannequins on all cores. No TensorFlow here: worker processes import this."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import io
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np
from PIL import Image

JPEG_QUALITY = 95
CHUNK = 32  # pictures a worker renders at a time


@dataclasses.dataclass(frozen=True)
class Job:
    """What to render besides the index; see ``mannequin.render_sample``."""

    split: str
    seed: int
    size: int
    elevation_deg: tuple[float, float]
    mocap_file: str


@dataclasses.dataclass(frozen=True)
class Rendered:
    """A picture as JPEG, its landmarks (P,2), v (P,), and the 3D for evaluation."""

    encoded: bytes
    keypoints: np.ndarray
    occlusion: np.ndarray
    positions_mm: np.ndarray
    action: str
    subject: int


def render_all(count: int, job: Job, *, workers: int = 0) -> Iterator[Rendered]:
    """Samples 0..count-1 in order, rendered by ``workers`` processes (0: all cores).

    A sample depends on its index and the job alone, so the number of processes
    changes the time and nothing else.
    """
    chunks = [range(i, min(i + CHUNK, count)) for i in range(0, count, CHUNK)]
    workers = min(workers or available_cores(), len(chunks))
    done = 0
    if workers > 1:
        try:
            for some in _in_processes(chunks, job, workers):
                yield from some
                done += 1
        except (BrokenProcessPool, OSError):
            # A caller without an importable main module, or no processes to be had:
            # the rest is rendered here, more slowly.
            pass
    for chunk in chunks[done:]:
        yield from render_chunk(chunk, job)


def _in_processes(
    chunks: Sequence[range], job: Job, workers: int
) -> Iterator[list[Rendered]]:
    # Not fork: TensorFlow and JAX have threads, which a forked child would lose.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
        # A few chunks ahead of the writer, so that few wait in memory.
        waiting = [pool.submit(render_chunk, c, job) for c in chunks[: 3 * workers]]
        for chunk in chunks[3 * workers :]:
            yield waiting.pop(0).result()
            waiting.append(pool.submit(render_chunk, chunk, job))
        for future in waiting:
            yield future.result()


def render_chunk(indices: Sequence[int], job: Job) -> list[Rendered]:
    """Renders some samples in this process."""
    return [_render(index, job) for index in indices]


def _render(index: int, job: Job) -> Rendered:
    from input_pipeline import synthetic as mannequin

    render_sample: Any = mannequin.render_sample
    sample = render_sample(
        index,
        split=job.split,
        seed=job.seed,
        size=job.size,
        elevation_deg=job.elevation_deg,
        motion=load_motion(job.mocap_file),
    )
    return Rendered(
        encoded=encode_jpeg(sample.image),
        keypoints=sample.keypoints,
        occlusion=sample.occlusion,
        positions_mm=sample.positions_mm,
        action=str(sample.action),
        subject=int(sample.subject),
    )


@functools.lru_cache(maxsize=1)
def load_motion(path: str) -> Any:
    """The motion of a file, read once a process; None for an empty path."""
    if not path:
        return None
    from input_pipeline.sources.motion import read_motion

    return read_motion(os.path.expanduser(path))


def encode_jpeg(image: np.ndarray) -> bytes:
    """(H, W, 3) uint8 as JPEG with full colour resolution."""
    buffer = io.BytesIO()
    picture = Image.fromarray(image)
    picture.save(buffer, format="JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def available_cores() -> int:
    """The cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
