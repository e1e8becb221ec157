"""The folder of a run: its config, its finished stages and their results."""

from __future__ import annotations

import contextlib
import fnmatch
import importlib.metadata
import platform
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from runtime import devices, processes
from runtime.files import TEMPORARY, kept, locked, plain, read_json, write_json

# Fields that change no number of a trained stage: where files lie and how a source is
# written out (the data are told by their contents), what evaluation opens, the devices,
# how often something is written, which students to train, what to predict.
FREE_FIELDS = (
    *("data.*data_dir", "data.*annotations*", "data.*images*", "data.*skeleton"),
    *("data.*mocap_file", "data.*landmarks", "data.*ground_truth*"),
    *("data.joint_names", "data.extra_sources"),
    *("cpu_devices", "keep_freed_memory", "student.num_devices"),
    "teacher.depth_sign*",  # turned after the training, without another
    *(
        "*.log_every",
        "*.checkpoint_every",
        "student.modes",
        "predict.*",
        "lift.*",
    ),
)
_PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"),
    *("tensorflow", "tensorflow-datasets"),
)


# --- the run that a workdir belongs to ---------------------------------------------

# Where a process that is killed may leave what it was writing.
_PLACES = ("", "finished/", "teacher/", "teacher/*/", "student_*/", "*/checkpoints/*/")
UNFINISHED = (
    *(f"{place}{TEMPORARY}" for place in _PLACES),
    *(f"{s}/checkpoints/*.orbax-checkpoint-tmp*" for s in ("teacher", "student_*")),
)


@contextlib.contextmanager
def hold_workdir(workdir: str | Path) -> Iterator[None]:
    """Keeps other runs out of it; of several processes of one run the first does.

    Raises:
        ValueError: another process holds it.
    """
    with contextlib.ExitStack() as stack:
        if processes.is_first():
            stack.enter_context(locked(workdir, unfinished=UNFINISHED))
        yield


def claim_workdir(
    workdir: str | Path, config: Mapping[str, Any] | Any, data_identity: str = ""
) -> None:
    """Writes ``workdir/config.json``, or checks it against the one that is there.

    A workdir in which nothing has been trained yet belongs to nobody. Call it when the
    data have been read and accepted.

    Args:
        workdir: the folder of the run; made if absent.
        config: a ``ConfigDict`` or a nested dictionary.
        data_identity: a digest of the contents of the data set.

    Raises:
        ValueError: the workdir belongs to another run; names the fields.
    """
    workdir = Path(workdir)
    path = workdir / "config.json"
    record = plain(config) | {"data_identity": data_identity}
    trained = (workdir / "teacher").exists() or any(workdir.glob("student_*"))
    if path.exists() and trained:
        check_same_run(workdir, read_json(path), record)
    # No process writes before all have compared with what was there.
    processes.barrier("claim")
    if processes.is_first():
        write_json(path, record, sealed=True)


def check_same_run(
    folder: str | Path, old: Mapping[str, Any], new: Mapping[str, Any]
) -> None:
    """Raises a ValueError where two configs would not train to the same numbers.

    Args:
        folder: what the message names.
        old: the config that was used.
        new: the config now.
    """
    before, now = flatten(old), flatten(new)
    names = [n for n in sorted({*before, *now}) if before.get(n) != now.get(n)]
    if _longer(before, now):
        names.remove("student.steps")
    differing = [
        f"{name}: {before.get(name)!r} there, {now.get(name)!r} now"
        for name in names
        if not any(fnmatch.fnmatch(name, free) for free in FREE_FIELDS)
    ]
    if not differing:
        return
    why = ""
    if "data_identity" in names:
        fields = [name for name in names if name.startswith("data.")]
        why = "; the data are told by their contents, and these are others"
        why += f" ({', '.join(fields)} changed)" if fields else ""
    if {"teacher.steps", "student.steps"} & set(names):
        why += (
            "; a learning rate that follows a cosine over all steps makes a longer "
            "training another one, only a student of schedule 'plateau' goes on"
        )
    raise ValueError(
        f"{folder} belongs to a run of another config ({'; '.join(differing)}){why}; "
        "choose another --workdir, or give the same config"
    )


def _longer(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether only more steps of a student are asked for that its schedule allows."""
    plateau = now.get("student.schedule") == "plateau"
    return plateau and before.get("student.steps", 0) < now.get("student.steps", 0)


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
    """Notes that ``stage`` is done, with facts such as ``seconds``.

    Without facts a note that is there stays as it is: a stage that was found finished
    may have been killed before it was noted.
    """
    path = _marker(workdir, stage)
    if facts or not (path.exists() and kept(lambda: read_json(path))):
        write_json(path, {"stage": stage, **facts}, sealed=True)


def _marker(workdir: str | Path, stage: str) -> Path:
    return Path(workdir) / "finished" / f"{stage}.json"


def merge_results(workdir: str | Path) -> dict[str, Any]:
    """Gathers the results of all stages, for ``workdir/results.json``.

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
    # Not what the system or a killed process left there.
    markers = sorted(_marker(workdir, "x").parent.glob("[!.]*.json"))
    facts = [kept(lambda p=path: read_json(p)) or {} for path in markers]
    results["seconds"] = {
        fact["stage"]: fact["seconds"] for fact in facts if "seconds" in fact
    }
    results["environment"] = environment()
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
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)


def _git_revision() -> str | None:
    """The commit of this source tree, with ``+changes`` if it was edited."""
    commands = ("rev-parse HEAD", "status --porcelain --untracked-files=no")
    here, found = Path(__file__).resolve().parent, []
    try:
        for command in commands:
            done = subprocess.run(
                ["git", *command.split()],
                cwd=here,
                check=True,
                capture_output=True,
                text=True,
                timeout=10,
            )
            found.append(done.stdout.strip())
    except (OSError, subprocess.SubprocessError):
        return None
    return found[0] + ("+changes" if found[1] else "")
