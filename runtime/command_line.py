"""The command line: absl's, with names of configs, 1e4 and a list of all fields."""

from __future__ import annotations

import difflib
import inspect
import re
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from runtime.workdir import flatten

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
_FIELD = re.compile(r"^ +(\w+)((?:\.\w+)+) = (?:.*?)(?:  # (.*))?$")
_POWER = re.compile(r"(--config\.[\w.]+=)(\d+(?:\.\d+)?[eE]\+?\d+)")
_ERRORS = (flags.Error, OSError, ValueError, KeyError, AttributeError, TypeError)


def parse(arguments: list[str], *, config: Any, default: Any) -> list[str]:
    """Reads the flags; a mistake, and ``--help``, end the program.

    Args:
        arguments: the program and what follows it.
        config: the flag of the config.
        default: the module of the defaults, for ``--help``.
    """
    if {"-h", "-help", "--help"} & set(arguments):
        own = flags.FLAGS.find_module_defining_flag("config")
        print(flags.FLAGS.module_help(own), fields(default), sep="\n")
        sys.exit()
    try:
        # ml_collections looks there for the fields that are set.
        sys.argv[1:] = completed(arguments[1:])
        rest = flags.FLAGS([arguments[0], *sys.argv[1:]])
        if rest[1:]:
            raise flags.Error(f"unexpected argument {rest[1]}")
        _ = config.value.seed  # raises what the file of the config raised
        return rest
    except _ERRORS as error:
        text = " ".join(_words(error).split())
        if "other than None" in text:
            text = "--config=NAME and --workdir=FOLDER are needed; --help lists all"
        if text.startswith("'"):
            text = f"there is no field {text}; --help lists all"
        sys.exit(f"error: in the flags: {text}")


def _words(error: BaseException) -> str:
    """What an error says; ml_collections raises errors that hold others."""
    first = error.args[0] if error.args else ""
    if isinstance(first, BaseException):
        return _words(first)
    return str(first if isinstance(error, KeyError) else error)


def completed(arguments: Sequence[str]) -> list[str]:
    """The same, the config first, with its path for its name, and 10000 for 1e4.

    Raises:
        ValueError: a config that is neither a file nor one of the names.
    """
    arguments = sorted(arguments, key=lambda a: not a.startswith("--config="))
    for i, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in ("--config", "-config"):
            if equals:
                arguments[i] = f"{name}={_path(value)}"
            elif i + 1 < len(arguments):
                arguments[i + 1] = _path(arguments[i + 1])
        elif (power := _POWER.fullmatch(argument)) and float(power[2]).is_integer():
            arguments[i] = f"{power[1]}{int(float(power[2]))}"
    return arguments


def _path(value: str) -> str:
    file, _, choice = value.partition(":")
    if Path(file).is_file() or not file:
        return value
    own = {path.stem: path for path in CONFIGS.glob("[!_]*.py")}
    stem = Path(file).name.removesuffix(".py")
    if stem in own:
        return f"{own[stem]}:{choice}".rstrip(":")
    (near,) = difflib.get_close_matches(stem, own, n=1, cutoff=0.0)
    raise ValueError(
        f"--config={file}: no such file, and none of {', '.join(sorted(own))}; the "
        f"nearest is {near}"
    )


def fields(default: Any) -> str:
    """Every field with its value and its comment, which is beside it or above it."""
    values = flatten(default.get_config().to_dict())
    above: list[str] = []
    lines = ["", f"Fields, with the values of {Path(default.__file__).name}:"]
    for line in inspect.getsource(default).splitlines():
        field = _FIELD.match(line)
        if line.strip().startswith("#"):
            above.append(line.strip("# "))
            continue
        name = "".join(field.groups("")[:2]).removeprefix("config.") if field else ""
        if field and name in values:
            text = " ".join([*above, field[3] or ""]).strip()
            lines.append(f"  --config.{name}={values[name]!r}")
            lines += textwrap.wrap(
                text, 72, initial_indent=" " * 8, subsequent_indent=" " * 8
            )
        above = []
    return "\n".join(lines)
