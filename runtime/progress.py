"""Progress of long work: a bar on a terminal, otherwise single lines."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import IO, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)


@contextlib.contextmanager
def progress(
    stage: str,
    total: int,
    start: int = 0,
    *,
    interval: float = 10.0,
    stream: IO[str] | None = None,
    shown: bool = True,
) -> Iterator[Tracker]:
    """Shows how far a loop of ``total`` steps is, its rate and the time left.

    ::

        with progress("teacher", total=6000, start=restored_step) as bar:
            for step in range(restored_step, 6000):
                with bar.waiting():
                    batch = next(batches)
                ...
                bar.update(step + 1, loss=loss)

    Args:
        stage: what is being done, e.g. ``"teacher"``.
        total: steps of the whole work.
        start: steps done before (a resumed run).
        interval: seconds between two lines where the output is not a terminal; the
            first and the last step always get one.
        stream: where to write; standard error by default, so that what a program
            prints stays clean.
        shown: False shows nothing, as on all but one of several processes.
    """
    console = Console(file=sys.stderr if stream is None else stream)
    tracker = Tracker(stage, total, start)
    with contextlib.ExitStack() as stack:
        if shown and console.is_terminal:
            bar = stack.enter_context(_bar(console))
            task = bar.add_task(stage, total=total, completed=start, facts="")
            tracker.interval = 0.1
            tracker.show = lambda: bar.update(
                task, completed=tracker.step, facts="  ".join(tracker.facts())
            )
        elif shown:
            tracker.interval = interval
            tracker.show = lambda: print(tracker, file=console.file, flush=True)
        try:
            yield tracker
        finally:
            tracker.finish()


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[facts]}"),
        console=console,
    )


class Tracker:
    """Counts steps and seconds; made by :func:`progress`."""

    def __init__(self, stage: str, total: int, start: int) -> None:
        self.stage, self.total, self.start, self.step = stage, total, start, start
        self.metrics: dict[str, Any] = {}
        self.show: Callable[[], None] | None = None
        self.interval = 0.0
        self._shown_at: float | None = None
        self._pending = False
        self._began = self._first = time.monotonic()
        self._first_step = start
        self._waited: float | None = None

    def update(self, step: int, **metrics: Any) -> None:
        """``step`` steps are done. Metrics stay shown until given anew.

        A metric may be a JAX array: it is read only when it is shown, so that the
        loop does not wait for the device in every step.
        """
        now = time.monotonic()
        if self.step == self.start:
            # The rate counts from the end of the first step, which compiles.
            self._first, self._first_step = now, step
        self.step, self._pending = step, True
        self.metrics.update(metrics)
        due = self._shown_at is None or now - self._shown_at >= self.interval
        if due or step >= self.total:
            self.finish()

    def finish(self) -> None:
        """Shows the last step where it was not due yet."""
        if self._pending and self.show is not None:
            self.show()
            self._shown_at, self._pending = time.monotonic(), False

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the seconds inside as waiting for data, shown as a percentage."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._waited = (self._waited or 0.0) + time.monotonic() - began

    @property
    def rate(self) -> float:
        """Steps per second; 0 before it is known."""
        seconds = time.monotonic() - self._first
        done = self.step - self._first_step
        return done / seconds if done > 0 and seconds > 0 else 0.0

    @property
    def data_wait(self) -> float:
        """Share of the time spent waiting for data, 0 to 1."""
        return (self._waited or 0.0) / max(time.monotonic() - self._began, 1e-9)

    def facts(self) -> list[str]:
        """Rate, time left, metrics and data wait as short texts."""
        facts = []
        if self.rate:
            facts.append(f"{self.rate:.3g} steps/s")
            left = (self.total - self.step) / self.rate
            facts.append(f"{clock(left)} left")
        facts += [f"{n} {float(v):.4g}" for n, v in self.metrics.items()]
        if self._waited is not None:
            facts.append(f"data wait {self.data_wait:.0%}")
        return facts

    def __str__(self) -> str:
        line = [f"{self.stage} {self.step}/{self.total}", *self.facts()]
        return "  ".join(line)


def clock(seconds: float) -> str:
    """Seconds as ``m:ss`` or ``h:mm:ss``.

    Examples:
        >>> clock(75), clock(3700)
        ('1:15', '1:01:40')
    """
    minutes, second = divmod(int(round(seconds)), 60)
    hours, minute = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minute:02d}:{second:02d}"
    return f"{minute}:{second:02d}"
