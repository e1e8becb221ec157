"""YAML of users, read as plain values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runtime.reading import read_bytes

MOST_BYTES = 2**18  # a thousand videos of a project take 100,000
_DEEPEST = 50


def read_yaml(path: Path) -> dict[str, Any]:
    """The record that a file holds; empty where it holds something else.

    Raises:
        OSError: the file is missing, unreadable or large.
        ValueError: it is no YAML, or has aliases.
    """
    import yaml

    text = read_bytes(path, most=MOST_BYTES)
    try:
        # Not the parser in C, which deep brackets make crash.
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                # A few lines of aliases of aliases stand for more than any memory.
                raise ValueError("it has aliases (*name); write their values out")
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:  # each level costs as many steps as there are levels
                raise ValueError(f"it has more than {_DEEPEST} lists in each other")
        record = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from error
    return record if isinstance(record, dict) else {}
