"""Ctrl-C and SIGTERM: one line at once, the step that just ended is saved, the end."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator

import jax

from runtime.progress import wrapped

SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
END = bytes(1)
PATIENCE = 10.0  # seconds for what does not hear, as a compilation does not
_asked: int = 0  # the signal that came
_loop = _deferred = False


class Stopped(SystemExit):
    """The end that a signal asks for; its code is that of shells, 130 or 143."""

    def __init__(self, saved: str = "what is finished is kept") -> None:
        super().__init__(128 + (_asked or signal.SIGINT))
        self.text = f"stopped: {saved}; the same command goes on from there"


@contextlib.contextmanager
def on_signals() -> Iterator[None]:
    """Raises :class:`Stopped` in the body at a signal, and says so in two lines.

    A second signal ends the process at once, whatever it is doing, and so does what
    goes on for ``PATIENCE`` seconds after the first without hearing of it.
    """
    global _asked, _deferred
    try:
        with _heard():
            yield
    except Stopped as stopped:
        _say(wrapped(stopped.text))
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

    In its first step, which compiles, they raise: there is nothing yet to save. Of
    several processes, which save together, each hears its signal at another step:
    there they raise at once.
    """
    global _loop, _deferred
    _loop = jax.process_count() == 1
    try:
        yield
    finally:
        # Not before the thread has said that the step is saved.
        _loop, _deferred = False, _deferred and bool(_asked)
    if _asked:
        raise Stopped


def asked() -> bool:
    """Whether a signal came."""
    global _deferred
    _deferred = _loop
    return bool(_asked)


def _note(number: int, _: object) -> None:
    global _asked
    _asked = number
    if not _deferred:
        raise Stopped


def _announce(reader: int) -> None:
    """Says what was heard, in a thread: one byte comes with every signal."""
    heard, patience = 0, None
    while True:
        ready, _, _ = select.select([reader], [], [], patience)
        byte = os.read(reader, 1) if ready else bytes([heard])
        if byte == END:
            return
        if byte[0] not in SIGNALS:
            continue
        if heard:
            # A progress bar has hidden it.
            _say("\x1b[?25h" * sys.stderr.isatty() + wrapped(Stopped().text))
            os._exit(128 + byte[0])
        heard, patience = byte[0], None if _deferred else PATIENCE
        end = "after this step, which is saved" if _deferred else "now"
        _say(f"\n{SIGNALS[signal.Signals(heard)]}: ends {end}; once more: at once")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
