"""Metrics of a run: ``metrics.jsonl`` for programs and TensorBoard for people."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

from runtime.files import write_text


class MetricWriter:
    """Appends metrics to ``workdir/metrics.jsonl`` and ``workdir/tensorboard``.

    A line reads ``{"stage": "teacher", "step": 100, "time": 12.5, "loss": 0.25}``,
    ``time`` in seconds since the writer was made, floats with all their digits,
    NaN and infinities as null. Every line is on disk when ``write`` returns.

    Args:
        workdir: the folder of the run.
        start_step: steps already done when the loop starts: 0, or the step of the
            restored checkpoint. What an interrupted run wrote after it is dropped
            at the first ``write`` of the same stage, so that a resumed run leaves
            the same lines as an uninterrupted one.
        tensorboard: whether to write TensorBoard events as well.
        active: False writes nothing, as on all but one of several processes.
    """

    def __init__(
        self,
        workdir: str | Path,
        start_step: int = 0,
        *,
        tensorboard: bool = True,
        active: bool = True,
    ) -> None:
        self._active = active
        self._workdir = Path(workdir)
        self._workdir.mkdir(parents=True, exist_ok=True)
        self._path = self._workdir / "metrics.jsonl"
        self._start_step = start_step
        self._tensorboard = tensorboard
        self._events: dict[str, SummaryWriter] = {}
        self._seen: set[str] = set()
        self._began = time.monotonic()

    def write(self, stage: str, step: int, metrics: Mapping[str, Any]) -> None:
        """Writes scalar metrics (floats, or arrays of one element) of one step."""
        if not self._active:
            return
        if stage not in self._seen:
            self._seen.add(stage)
            self._drop_stale(stage, step)
        values = {name: float(value) for name, value in metrics.items()}
        seconds = round(time.monotonic() - self._began, 3)
        line = {"stage": stage, "step": int(step), "time": seconds}
        line |= {n: v if math.isfinite(v) else None for n, v in values.items()}
        with self._path.open("ab") as file:
            # One write call: a kill leaves the line whole, or absent.
            file.write(json.dumps(line).encode() + b"\n")
        if self._tensorboard:
            events = self._events_of(stage)
            for name, value in values.items():
                events.add_scalar(name, value, int(step))

    def close(self) -> None:
        """Writes out the TensorBoard events."""
        for events in self._events.values():
            events.close()
        self._events = {}

    def __enter__(self) -> MetricWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _drop_stale(self, stage: str, first_step: int) -> None:
        """Removes what a stopped run wrote of ``stage`` after the restored step."""
        if not self._path.exists():
            return
        kept = [
            line
            for line in read_metrics(self._path)
            if line["stage"] != stage
            or (line["step"] <= self._start_step and line["step"] < first_step)
        ]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        if text.encode() != self._path.read_bytes():
            write_text(self._path, text)

    def _events_of(self, stage: str) -> SummaryWriter:
        if stage not in self._events:
            self._events[stage] = SummaryWriter(
                str(self._workdir / "tensorboard" / stage),
                # TensorBoard hides events from this step on of earlier files.
                purge_step=self._start_step + 1,
                flush_secs=10,
            )
        return self._events[stage]


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl``; an unfinished last line is left out."""
    path, lines = Path(path), []
    for text in path.read_text("utf-8").splitlines() if path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            lines.append(json.loads(text))
    return lines
