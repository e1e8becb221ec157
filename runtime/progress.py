"""Progress of long work: a bar on a terminal, otherwise single lines."""

from __future__ import annotations

import contextlib
import datetime
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
        self._waited = 0.0

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
            self._waited += time.monotonic() - began

    def facts(self) -> list[str]:
        """Rate, time left, metrics and the share of waiting for data as short texts."""
        now, facts = time.monotonic(), []
        seconds, done = now - self._first, self.step - self._first_step
        if done > 0 and seconds > 0:
            left = datetime.timedelta(
                seconds=round((self.total - self.step) / done * seconds)
            )
            facts += [f"{done / seconds:.3g} steps/s", f"{left} left"]
        facts += [f"{n} {float(v):.4g}" for n, v in self.metrics.items()]
        if self._waited:
            facts.append(f"data wait {self._waited / (now - self._began):.0%}")
        return facts

    def __str__(self) -> str:
        return "  ".join([f"{self.stage} {self.step}/{self.total}", *self.facts()])
