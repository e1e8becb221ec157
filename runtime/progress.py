"""Progress of long work: a bar on a terminal, otherwise single lines."""

from __future__ import annotations

import contextlib
import datetime
import shutil
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from typing import IO, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from runtime.doing import said

BAR = 10  # columns
QUIET = 30.0  # seconds after which work without steps says that it goes on


@contextlib.contextmanager
def working(
    text: str,
    *,
    first: bool = True,
    every: float | None = None,
    stream: IO[str] | None = None,
    shown: bool = True,
) -> Iterator[None]:
    """Says what is being done, and again how long, until it is over.

    Args:
        text: such as ``"reading the data"``.
        first: whether to say so at once, or only if it takes long.
        every: seconds between two lines; ``QUIET`` by default.
        stream: where to write; standard error by default.
        shown: as in :func:`progress`.
    """
    file = sys.stderr if stream is None else stream
    began, over = time.monotonic(), threading.Event()

    def repeat() -> None:
        while not over.wait(QUIET if every is None else every):
            now = f"{text}: {_clock(time.monotonic() - began)}"
            now += f", {said['what']}" * bool(said["what"])
            now += f", step {said['steps']}" * bool(said["steps"])
            print(now, file=file, flush=True)

    said.update(what="", steps=0)
    if not shown:
        yield
        return
    if first:
        print(text, file=file, flush=True)
    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


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
            columns = TextColumn("{task.description}"), BarColumn(BAR)
            bar = stack.enter_context(Progress(*columns, console=console))
            width = console.width - BAR - 2
            task = bar.add_task(tracker.line(width), total=total, completed=start)
            tracker.interval = 0.1
            tracker.show = lambda: bar.update(
                task, completed=tracker.step, description=tracker.line(width)
            )
        elif shown:
            tracker.interval = interval
            tracker.show = lambda: print(
                tracker.line(console.width), file=console.file, flush=True
            )
        # The first step is compiled, which takes minutes for a large network.
        text = f"{stage}: starts, compiles its first step"
        # Standard error is looked up now: rich leads it past the bar.
        quiet = working(text, first=False, stream=stream, shown=shown)
        tracker.begun = stack.enter_context(contextlib.ExitStack())
        tracker.begun.enter_context(quiet)
        try:
            yield tracker
        finally:
            tracker.finish()


class Tracker:
    """Counts steps and seconds; made by :func:`progress`."""

    def __init__(self, stage: str, total: int, start: int) -> None:
        self.stage, self.total, self.start, self.step = stage, total, start, start
        self.metrics: dict[str, Any] = {}
        self.show: Callable[[], None] | None = None
        self.begun = contextlib.ExitStack()  # closed after the first step
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
            self.begun.close()
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

    def line(self, width: int) -> str:
        """How far it is and the time left, then what else fits into ``width``."""
        now = time.monotonic()
        facts = [f"{self.stage} {self.step}/{self.total}"]
        facts[0] += f" {self.step / max(self.total, 1):.0%}"
        seconds, done = now - self._first, self.step - self._first_step
        if done > 0 and seconds > 0:
            facts.append(f"{_clock((self.total - self.step) / done * seconds)} left")
            facts.append(f"{done / seconds:.3g} steps/s")
        facts += [f"{n} {float(v):.4g}" for n, v in self.metrics.items()]
        if self._waited:
            facts.append(f"data wait {self._waited / (now - self._began):.0%}")
        while len(facts) > 2 and len("  ".join(facts)) > width:
            facts.pop()
        return "  ".join(facts)


def wrapped(text: str) -> str:
    """A paragraph in lines of the terminal's width, which would break words itself."""
    width = shutil.get_terminal_size().columns
    return textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))
