"""Progress of long work: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
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
    if not shown:
        yield Tracker(stage, total, start, _NoView())
        return
    stream = sys.stderr if stream is None else stream
    console = Console(file=stream)
    if console.is_terminal:
        with _bar(console) as bar:
            yield Tracker(stage, total, start, _BarView(bar, stage, total, start))
        return
    tracker = Tracker(stage, total, start, _LineView(console.file, interval))
    try:
        yield tracker
    finally:
        tracker.view.finish()


class Tracker:
    """Counts steps and seconds; made by :func:`progress`."""

    def __init__(self, stage: str, total: int, start: int, view: Any) -> None:
        self.stage, self.total, self.start, self.step = stage, total, start, start
        self.view = view
        self.metrics: dict[str, Any] = {}
        self._began = self._first = time.monotonic()
        self._first_step = start
        self._waited = 0.0
        self._has_waited = False

    def update(self, step: int, **metrics: Any) -> None:
        """``step`` steps are done. Metrics stay shown until given anew.

        A metric may be a JAX array: it is read only when it is shown, so that the
        loop does not wait for the device in every step.
        """
        if self.step == self.start:
            # The rate counts from the end of the first step, which compiles.
            self._first, self._first_step = time.monotonic(), step
        self.step = step
        self.metrics.update(metrics)
        self.view.show(self)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the seconds inside as waiting for data, shown as a percentage."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._waited += time.monotonic() - began
            self._has_waited = True

    @property
    def rate(self) -> float:
        """Steps per second; 0 before it is known."""
        seconds = time.monotonic() - self._first
        done = self.step - self._first_step
        return done / seconds if done > 0 and seconds > 0 else 0.0

    @property
    def data_wait(self) -> float:
        """Share of the time spent waiting for data, 0 to 1."""
        return self._waited / max(time.monotonic() - self._began, 1e-9)

    def facts(self) -> list[str]:
        """Rate, time left, metrics and data wait as short texts."""
        facts = []
        if self.rate:
            facts.append(f"{self.rate:.3g} steps/s")
            left = (self.total - self.step) / self.rate
            facts.append(f"{clock(left)} left")
        facts += [f"{n} {float(v):.4g}" for n, v in self.metrics.items()]
        if self._has_waited:
            facts.append(f"data wait {self.data_wait:.0%}")
        return facts


class _BarView:
    """Draws a tracker as a rich bar, at most ten times a second."""

    def __init__(self, bar: Progress, stage: str, total: int, start: int) -> None:
        self._bar = bar
        self._task = bar.add_task(stage, total=total, completed=start, facts="")
        self._shown = 0.0

    def show(self, tracker: Tracker) -> None:
        now = time.monotonic()
        if now - self._shown < 0.1 and tracker.step < tracker.total:
            return
        self._shown = now
        facts = "  ".join(tracker.facts())
        self._bar.update(self._task, completed=tracker.step, facts=facts)


class _NoView:
    """Shows nothing."""

    def show(self, tracker: Tracker) -> None:
        del tracker


class _LineView:
    """Prints a tracker as a line: the first step, every ``interval`` s, the last."""

    def __init__(self, stream: IO[str], interval: float) -> None:
        self._stream, self._interval = stream, interval
        self._printed_at: float | None = None
        self._pending: Tracker | None = None

    def show(self, tracker: Tracker) -> None:
        now = time.monotonic()
        due = self._printed_at is None or now - self._printed_at >= self._interval
        self._pending = tracker
        if due or tracker.step >= tracker.total:
            self._print(tracker, now)

    def finish(self) -> None:
        if self._pending is not None:
            self._print(self._pending, time.monotonic())

    def _print(self, tracker: Tracker, now: float) -> None:
        share = f"{tracker.step}/{tracker.total}"
        line = "  ".join([f"{tracker.stage} {share}", *tracker.facts()])
        print(line, file=self._stream, flush=True)
        self._printed_at, self._pending = now, None


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[facts]}"),
        console=console,
    )


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
