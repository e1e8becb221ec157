"""What long work is at, told by the mathematics, which shows nothing itself."""

from typing import Any

said: dict[str, Any] = {"what": "", "steps": 0}


def doing(what: str) -> None:
    """What the work of :func:`runtime.progress.working` is at, for its next line."""
    said["what"] = what


def done(steps: int) -> None:
    """That it has so many more steps behind it."""
    said["steps"] += steps
