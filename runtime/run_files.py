"""The small files of a run: config.json, finished stages, versions, overrides."""

from __future__ import annotations

import ast
import difflib
import fnmatch
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from runtime import devices, processes

# Fields that may change between two runs in one workdir: they say where things are
# kept, how often something is written, which students to train and what to predict,
# none of which changes a number of a stage.
FREE_FIELDS = (
    "data.data_dir",
    "teacher.depth_sign*",  # turned after the training, without another
    "predict.*",
    "*.log_every",
    "*.checkpoint_every",
    "student.modes",
    "student.mode",
)
_PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"),
    *("tensorflow", "tensorflow-datasets"),
)


def write_json_atomic(path: str | Path, record: Any) -> None:
    """Writes JSON so that a reader, or a kill, sees the old file or the new one.

    Numpy numbers and arrays become plain ones; NaN and infinities become null.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    text = json.dumps(_plain(record), indent=2, ensure_ascii=False, allow_nan=False)
    temporary.write_text(text + "\n", encoding="utf-8")
    os.replace(temporary, path)


def write_npz_atomic(path: str | Path, **arrays: Any) -> None:
    """Writes an ``.npz`` so that a reader, or a kill, sees the old file or the new."""
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    np.savez(temporary, **arrays)
    os.replace(temporary, path)


def read_json(path: str | Path) -> Any:
    """Reads a JSON file.

    Raises:
        ValueError: the file is missing or is not JSON.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path} does not exist; run the stage before it") from error
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is not valid JSON (line {error.lineno}: {error.msg}); "
            "delete it and run its stage again"
        ) from error


def _plain(value: Any) -> Any:
    """``value`` in terms that JSON knows."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if hasattr(value, "tolist"):  # numpy and JAX arrays and scalars
        return _plain(np.asarray(value).tolist())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, (str, int, bool)) or value is None:
        return value
    return str(value)


# --- the configuration of a workdir ------------------------------------------------


def claim_workdir(
    workdir: str | Path,
    config: Mapping[str, Any],
    *,
    free_fields: Sequence[str] = FREE_FIELDS,
) -> None:
    """Writes ``workdir/config.json``, or checks it against the one that is there.

    Args:
        workdir: the folder of the run; made if absent.
        config: a ``ConfigDict`` or a nested dictionary.
        free_fields: dotted names (``*`` matches anything) that may differ.

    Raises:
        ValueError: the workdir belongs to another configuration; names the fields.
    """
    path = Path(workdir) / "config.json"
    record = _plain(_to_dict(config))
    if path.exists():
        old, new = flatten(read_json(path)), flatten(record)
        differing = [
            f"{name}: {old.get(name)!r} there, {new.get(name)!r} now"
            for name in sorted({*old, *new})
            if (name in old, old.get(name)) != (name in new, new.get(name))
            and not any(fnmatch.fnmatch(name, free) for free in free_fields)
        ]
        if differing:
            raise ValueError(
                f"{workdir} belongs to a run of another config ({'; '.join(differing)})"
                "; choose another --workdir, or give the same config"
            )
    # No process writes before all have compared with what was there.
    processes.barrier("claim")
    if processes.is_first():
        write_json_atomic(path, record)


def _to_dict(config: Any) -> dict[str, Any]:
    return config.to_dict() if hasattr(config, "to_dict") else dict(config)


def flatten(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with dotted names.

    Examples:
        >>> flatten({"a": {"b": 1}, "c": 2})
        {'a.b': 1, 'c': 2}
    """
    flat: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


# --- finished stages ---------------------------------------------------------------


def mark_finished(workdir: str | Path, stage: str, **facts: Any) -> None:
    """Notes that ``stage`` is done, with facts such as ``seconds``."""
    write_json_atomic(_marker(workdir, stage), {"stage": stage, **facts})


def finished(workdir: str | Path, stage: str) -> dict[str, Any] | None:
    """What :func:`mark_finished` noted of ``stage``, or None if it is not done."""
    path = _marker(workdir, stage)
    return read_json(path) if path.exists() else None


def _marker(workdir: str | Path, stage: str) -> Path:
    return Path(workdir) / "finished" / f"{stage}.json"


def merge_results(workdir: str | Path) -> dict[str, Any]:
    """Gathers the results of all stages into ``workdir/results.json``.

    Reads ``teacher/results.json`` and ``student_<mode>/results.json``, where they
    are, and the seconds that :func:`mark_finished` noted of the stages.

    Returns:
        ``{"teacher": ..., "<mode>": ..., "seconds": {stage: s}, "environment": ...}``.
    """
    workdir = Path(workdir)
    folders = [workdir / "teacher", *sorted(workdir.glob("student_*"))]
    results = {
        folder.name.removeprefix("student_"): read_json(folder / "results.json")
        for folder in folders
        if (folder / "results.json").exists()
    }
    facts = [read_json(path) for path in sorted(_marker(workdir, "x").parent.glob("*"))]
    results["seconds"] = {
        fact["stage"]: fact["seconds"] for fact in facts if "seconds" in fact
    }
    results["environment"] = environment()
    write_json_atomic(workdir / "results.json", results)
    return results


# --- versions ----------------------------------------------------------------------


def environment() -> dict[str, Any]:
    """Versions, devices, git revision: what a result depends on besides the code."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {name: _version(name) for name in _PACKAGES},
        "device": devices.device_facts(),
        "git": _git_revision(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    """The commit of this source tree, with ``+changes`` if it was edited."""
    here = Path(__file__).resolve().parent
    try:
        revision = _git("rev-parse", "HEAD", cwd=here)
        changes = _git("status", "--porcelain", "--untracked-files=no", cwd=here)
    except (OSError, subprocess.SubprocessError):
        return None
    return revision + ("+changes" if changes else "")


def _git(*arguments: str, cwd: Path) -> str:
    command = ["git", *arguments]
    done = subprocess.run(
        command, cwd=cwd, check=True, capture_output=True, text=True, timeout=10
    )
    return done.stdout.strip()


# --- command-line overrides --------------------------------------------------------


def parse_flags(argv: Sequence[str], config: Any) -> list[str]:
    """Reads the flags; ``--config.x.y=z`` changes a field of the config.

    A mistake ends the program with one line.

    Args:
        argv: the command line, program first.
        config: the flag of ``config_flags.DEFINE_config_file``.
    """
    overrides = [a for a in argv if a.lstrip("-").startswith("config.")]
    try:
        rest = flags.FLAGS([a for a in argv if a not in overrides])
        values = check_overrides(config.value, overrides)
        config.value.update_from_flattened_dict(values)
        if rest[1:]:
            raise ValueError(f"unexpected argument {rest[1]!r}")
    except (flags.Error, ImportError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    return rest


def check_overrides(
    config: Mapping[str, Any], arguments: Sequence[str], *, flag: str = "config"
) -> dict[str, Any]:
    """Reads every ``--config.x.y=value`` of a command line.

    Args:
        config: the ``ConfigDict`` (or nested dictionary) with all valid fields.
        arguments: the command line; other arguments are passed over.
        flag: the name before the first dot.

    Returns:
        Dotted field name -> value in the type that the config has there.

    Raises:
        ValueError: an unknown field (naming the nearest valid one) or a value of
            the wrong type; one line.
    """
    fields = flatten(_to_dict(config))
    values: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        name = argument.lstrip("-")
        if not argument.startswith("-") or not name.startswith(f"{flag}."):
            continue
        name, equals, text = name[len(flag) + 1 :].partition("=")
        if name not in fields:
            raise ValueError(_unknown_field(name, fields, flag))
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise ValueError(f"--{flag}.{name} needs a value: --{flag}.{name}=...")
            text = rest.pop(0)
        values[name] = _convert(f"{flag}.{name}", text, fields[name])
    return values


def _unknown_field(name: str, fields: Mapping[str, Any], flag: str) -> str:
    inside = sorted(n for n in fields if n.startswith(f"{name}."))
    if inside:
        return f"{flag}.{name} is a group of fields; set one of them: " + ", ".join(
            f"{flag}.{n}" for n in inside
        )
    nearest = difflib.get_close_matches(name, fields, n=1, cutoff=0.5)
    if not nearest:  # perhaps the right name in the wrong group
        last = name.rpartition(".")[2]
        nearest = [n for n in fields if n.rpartition(".")[2] == last][:1]
    hint = f"did you mean {flag}.{nearest[0]}?" if nearest else "see config.json"
    return f"the config has no field {flag}.{name}; {hint}"


def _convert(name: str, text: str, like: Any) -> Any:
    """``text`` in the type of ``like``, the value the config has now."""
    problem = ValueError(
        f"{name}={text} is of the wrong type: expected {_kind(like)}, such as {like!r}"
    )
    if isinstance(like, bool):
        known = {"true": True, "1": True, "false": False, "0": False}
        if text.lower() not in known:
            raise problem
        return known[text.lower()]
    try:
        if isinstance(like, (int, float)):
            return type(like)(text)
        if isinstance(like, (list, tuple)):
            return _convert_sequence(text, like)
        if like is None:
            return _literal_or_text(text)
    except (ValueError, SyntaxError):
        raise problem from None
    return text


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (list, tuple)):
        return "a comma-separated list"
    return {int: "a whole number", float: "a number"}.get(type(value), "text")


def _convert_sequence(text: str, like: Sequence[Any]) -> Any:
    value = _literal_or_text(text)
    if isinstance(value, str):
        value = [part.strip() for part in value.strip("()[]").split(",") if part]
    elif not isinstance(value, (list, tuple)):
        value = [value]
    kind = type(like[0]) if like else None
    if kind is float:
        value = [float(v) for v in value]
    elif kind is not None and not all(isinstance(v, kind) for v in value):
        raise ValueError(text)
    return tuple(value) if isinstance(like, tuple) else list(value)


def _literal_or_text(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
