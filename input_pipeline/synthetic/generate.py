"""Many samples at once, on several processes where asked for."""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor

from input_pipeline.sources.motion import Motion
from input_pipeline.synthetic.sample import MannequinSample, render_sample

_CHUNK = 16
_motion: Motion | None = None


def render_samples(
    indices: Iterable[int],
    *,
    split: str,
    seed: int,
    size: int,
    elevation_deg: tuple[float, float] = (-10.0, 30.0),
    motion: Motion | None = None,
    workers: int = 0,
) -> Iterator[MannequinSample]:
    """Draws samples in the order of ``indices``; see :func:`render_sample`.

    Args:
        indices: numbers of the samples.
        split: as for one sample, and so are the next four.
        seed: of the whole data set.
        size: side of the pictures in pixels.
        elevation_deg: range of the camera's elevation.
        motion: motion capture from which to take the poses.
        workers: number of further processes; 0 draws in this one. The samples are
            the same. Processes are spawned, so the calling script must be
            importable (``if __name__ == "__main__":``).

    Raises:
        ValueError: ``workers`` is negative, or an argument of a sample is wrong.
    """
    if workers < 0:
        raise ValueError(f"workers={workers} must not be negative")
    draw = functools.partial(
        render_sample, split=split, seed=seed, size=size, elevation_deg=elevation_deg
    )
    if workers == 0:
        for index in indices:
            yield draw(index, motion=motion)
        return
    with ProcessPoolExecutor(
        workers,
        # A fork would copy the locks of TensorFlow's or JAX's running threads.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_remember,
        initargs=(motion,),
    ) as pool:
        work = functools.partial(_draw_with_motion, draw)
        yield from pool.map(work, indices, chunksize=_CHUNK)


def _remember(motion: Motion | None) -> None:
    """Keeps the motion in a worker, so that it travels once and not per sample."""
    global _motion
    _motion = motion


def _draw_with_motion(
    draw: Callable[..., MannequinSample], index: int
) -> MannequinSample:
    return draw(index, motion=_motion)
