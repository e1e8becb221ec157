"""Ctrl-C and SIGTERM: one line at once, the step that just ended is saved, the end."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sys
import threading
from collections.abc import Iterator

import jax

from runtime.progress import wrapped

SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
END = bytes(1)
_asked: int = 0  # the signal that came
_deferred = False


class Stopped(SystemExit):
    """The end that a signal asks for; its code is that of shells, 130 or 143."""

    def __init__(self, saved: str = "what is finished is kept") -> None:
        super().__init__(128 + (_asked or signal.SIGINT))
        self.saved = saved


@contextlib.contextmanager
def on_signals() -> Iterator[None]:
    """Raises :class:`Stopped` in the body at a signal, and says so in two lines.

    A second signal ends the process at once, whatever it is doing.
    """
    global _asked, _deferred
    try:
        with _heard():
            yield
    except Stopped as stopped:
        text = f"stopped: {stopped.saved}; the same command goes on from there"
        print(wrapped(text), file=sys.stderr, flush=True)
        raise
    finally:
        _asked, _deferred = 0, False


@contextlib.contextmanager
def _heard() -> Iterator[None]:
    """Handles the signals, and a thread says at once that they were heard."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = {number: signal.signal(number, _note) for number in SIGNALS}
    # While the main thread compiles, only another one can say that it has heard.
    woken = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    thread = threading.Thread(target=_announce, args=(reader,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(woken)
        for number, handler in before.items():
            signal.signal(number, handler)
        # A closed end is not seen while a forked worker holds it too.
        os.write(writer, END)
        thread.join()
        os.close(writer)
        os.close(reader)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """A loop that asks :func:`asked` after each step; signals raise nothing in it.

    Of several processes, which save together, each hears its signal at another step:
    there they raise at once.
    """
    global _deferred
    _deferred = jax.process_count() == 1
    try:
        yield
    finally:
        # Not before the thread has said that the step is saved.
        _deferred = _deferred and bool(_asked)
    if _asked:
        raise Stopped


def asked() -> bool:
    """Whether a signal came."""
    return bool(_asked)


def _note(number: int, _: object) -> None:
    global _asked
    _asked = number
    if not _deferred:
        raise Stopped


def _announce(reader: int) -> None:
    """Says what was heard, in a thread: one byte comes with every signal."""
    heard = itertools.count()
    while (byte := os.read(reader, 1)) != END:
        name = SIGNALS.get(signal.Signals(byte[0]))
        if name and next(heard):
            os._exit(128 + byte[0])
        if name:
            end = "after this step, which is saved" if _deferred else "now"
            text = f"\n{name}: ends {end}; once more: at once"
            print(text, file=sys.stderr, flush=True)
