"""Kills, full disks and damaged files: what a run is worth when the machine fails.

python benchmarks/chaos.py --kills=100

Tiny runs of teacher and student are killed, process group and all, at random moments
and at random file operations, and started again until they end. All files must then be
those of a run that nothing disturbed, to the last bit, and nothing may be left over.
``--full=N`` lets the disk be full from a random file operation on, ``--damage`` flips a
bit of every file of a finished run and cuts it short.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import hashlib
import itertools
import json
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from runtime.files import read_arrays, read_json
from runtime.metric_writer import read_metrics

ROOT = Path(__file__).resolve().parents[1]
TINY = {
    "data.num_train": "48",
    "data.num_val": "8",
    "data.render_size": "32",
    "teacher.dictionary_sizes": "16,8",
    "teacher.steps": "40",
    "teacher.batch_size": "16",
    "teacher.em.num_samples": "48",
    "teacher.em.views": "upright",
    "teacher.em.num_yaws": "8",
    "teacher.em.elevations_deg": "0.0,20.0",
    "teacher.checkpoint_every": "10",
    "teacher.log_every": "5",
    "student.image_size": "32",
    "student.width": "0.125",
    "student.heatmap_size": "4",
    "student.depth_bins": "4",
    "student.deconv_channels": "8",
    "student.batch_size": "8",
    "student.steps": "12",
    "student.eval_every": "4",
    "student.checkpoint_every": "4",
    "student.log_every": "3",
    "student.modes": "distill",
}
# Differ between two runs: times, and what people read.
VOLATILE = {"seconds", "environment", "time", "digest"}
UNCOMPARED = ("tensorboard", "checkpoints/", "report.html", "predictions/")
LEFTOVERS = (".tmp-", ".lock", "orbax-checkpoint-tmp", "incomplete", ".writing.")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}


def command(folder: Path, *more: str) -> list[str]:
    """Of a tiny run whose workdir and prepared data are in ``folder``."""
    places = [
        f"--workdir={folder / 'run'}",
        f"--config.data.data_dir={folder / 'data'}",
    ]
    fields = [f"--config.{name}={value}" for name, value in TINY.items()]
    return ["--config=quickstart", *places, *fields, *more]


# --- in the disturbed process --------------------------------------------------------


def disturbed(how: str, number: int, place: str, arguments: list[str]) -> None:
    """Runs main.py until the n-th change of a file below ``place``."""
    changes = itertools.count(1)

    def watch(event: str, about: tuple[Any, ...]) -> None:
        changing = event in CHANGES
        if event == "open":
            _, mode, flags = about
            changing = set("wax+") & set(mode) if mode else (flags or 0) & WRITES
        if not changing or not str(about[0]).startswith(place):
            return
        if next(changes) < number:
            return
        if how == "kill":
            os.killpg(0, signal.SIGKILL)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(about[0]))

    sys.argv = ["main.py", *arguments]
    sys.addaudithook(watch)
    runpy.run_path(str(ROOT / "main.py"), run_name="__main__")


# --- outside -------------------------------------------------------------------------


def start(
    arguments: list[str], how: str = "", number: int = 0, place: Path = ROOT
) -> subprocess.Popen:
    """Starts main.py in a group of its own."""
    program = ["main.py"]
    if how:
        program = [__file__, "--inside", how, str(number), str(place)]
    return subprocess.Popen(
        [sys.executable, *program, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(arguments: list[str]) -> str:
    """To a good end; what it printed."""
    process = start(arguments)
    output, _ = process.communicate(timeout=600)
    if process.returncode:
        raise RuntimeError(f"a run that nothing disturbed failed:\n{output[-3000:]}")
    return output


def kill_once(folder: Path, chance: random.Random, seconds: float) -> str:
    """Starts a run and kills it somewhere; where, or "" if it came to its end."""
    at_file = chance.random() < 0.5
    if at_file:
        number = chance.randint(1, 120)
        process = start(command(folder), "kill", number, folder)
        output, _ = process.communicate(timeout=600)
        where = f"change {number} of a file"
    else:
        process = start(command(folder))
        moment = chance.uniform(0.5, seconds)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=moment)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        where = f"{moment:.1f} s"
    if process.returncode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"after a kill the next start failed:\n{output[-3000:]}")
    return where if process.returncode else ""


def snapshot(folder: Path) -> dict[str, str]:
    """Relative name -> digest of what it says, without times and the folder's name."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not any(part in name for part in UNCOMPARED):
            said = _said(path).replace(str(folder), "")
            found[name] = hashlib.sha256(said.encode()).hexdigest()
    for path in folder.rglob("checkpoints/*"):
        found[path.relative_to(folder).as_posix()] = "there"
    return found


def _said(path: Path) -> str:
    if path.suffix == ".json":
        return json.dumps(_steady(read_json(path)), sort_keys=True)
    if path.suffix == ".jsonl":
        return json.dumps(_steady(read_metrics(path)), sort_keys=True)
    if ".array_record" in path.name:  # its bytes hold more than the records
        reader = ArrayRecordReader(str(path))
        records = reader.read_all()
        reader.close()
        return repr(records)
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return repr({name: arrays[name].tobytes() for name in arrays.files})
    if path.suffix == ".safetensors":
        arrays, metadata = read_arrays(path)
        record = json.dumps(_steady({**metadata, "results": ""}), sort_keys=True)
        return record + repr({name: x.tobytes() for name, x in arrays.items()})
    return path.read_bytes().hex()


def _steady(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _steady(v) for k, v in value.items() if k not in VOLATILE}
    return [_steady(v) for v in value] if isinstance(value, list) else value


def differences(folder: Path, whole: dict[str, str]) -> list[str]:
    """What differs from the undisturbed run, and what is left over."""
    found = snapshot(folder)
    names = [n for n in sorted({*whole, *found}) if whole.get(n) != found.get(n)]
    everything = [p.relative_to(folder).as_posix() for p in folder.rglob("*")]
    left = [n for n in everything if any(part in n for part in LEFTOVERS)]
    return [*(f"differs: {n}" for n in names), *(f"left over: {n}" for n in left)]


def kills(folder: Path, whole: dict[str, str], count: int, **how: Any) -> list[str]:
    """One run that is killed ``count`` times; its differences at the end."""
    done = 0
    while done < count:
        if where := kill_once(folder, **how):
            done += 1
            print(f"  killed at {where}", flush=True)
        else:  # it ended too early: from the start
            shutil.rmtree(folder)
    finish(command(folder))
    return differences(folder, whole)


def full_disk(folder: Path, whole: dict[str, str], number: int) -> list[str]:
    """The disk is full from a file operation on; then there is room again."""
    process = start(command(folder), "full", number, folder)
    output, _ = process.communicate(timeout=600)
    faults = []
    lines = [line for line in output.splitlines() if line.startswith("error: ")]
    if process.returncode != 1 or len(lines) != 1 or "Traceback" in output:
        faults.append(f"full at change {number}: code {process.returncode}\n{output}")
    elif "No space left" not in lines[0] or str(folder) not in lines[0]:
        faults.append(f"full at change {number}: {lines[0]}")
    finish(command(folder))
    return faults + differences(folder, whole)


def damaged(path: Path, how: str) -> None:
    """Flips the bit in the middle of a file, or cuts it there."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    if how == "cut":
        content = content[:middle]
    elif content:
        content[middle] ^= 1
    path.write_bytes(bytes(content))


def damage(folder: Path, whole: dict[str, str], names: list[str]) -> Iterator[str]:
    """Each file damaged in a copy of a finished run: what became of it."""
    for name, how in itertools.product(names, ("flipped", "cut")):
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            copy = Path(temporary) / "copy"
            shutil.copytree(folder, copy)
            damaged(copy / name, how)
            process = start(command(copy))
            output, _ = process.communicate(timeout=600)
            named = str(copy / name) in output or Path(name).name in output
            text = "named" if named else "not named"
            if process.returncode:
                text += f", stops: {output.splitlines()[-1][:200]}"
                text += ", TRACEBACK" if "Traceback" in output else ""
            elif wrong := differences(copy, whole):
                text += f", WRONG: {wrong[:3]}"
            else:
                text += ", ends as undisturbed"
            yield f"{name} {how}: {text}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument(
        "--per-run", type=int, default=5, help="kills before it may end"
    )
    parser.add_argument("--full", type=int, default=0, help="runs with a full disk")
    parser.add_argument("--damage", default="", help="pattern of files, such as '**/*'")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> int:
    """Runs what the arguments ask for; the number of faults is the code."""
    if sys.argv[1:2] == ["--inside"]:
        how, number, place, *arguments = sys.argv[2:]
        disturbed(how, int(number), place, arguments)
        return 0
    args = _arguments()
    chance, faults = random.Random(args.seed), []
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        calm = Path(temporary) / "calm"
        began = time.monotonic()
        finish(command(calm))
        seconds = time.monotonic() - began
        whole = snapshot(calm)
        print(f"undisturbed: {len(whole)} files compared, {seconds:.0f} s", flush=True)
        runs = [args.per_run] * (args.kills // args.per_run)
        runs += [args.kills % args.per_run] if args.kills % args.per_run else []
        for i, count in enumerate(runs):
            folder = Path(temporary) / f"killed_{i}"
            found = kills(folder, whole, count, chance=chance, seconds=seconds)
            print(f"run {i + 1}: {count} kills, {found or 'bit-equal'}", flush=True)
            faults += found
        for i in range(args.full):
            folder = Path(temporary) / f"full_{i}"
            number = chance.randint(1, 120)
            found = full_disk(folder, whole, number)
            print(
                f"full at change {number}: {found or 'one line, bit-equal'}", flush=True
            )
            faults += found
        if args.damage:
            files = [p for p in calm.glob(args.damage) if p.is_file()]
            names = sorted(p.relative_to(calm).as_posix() for p in files)
            for text in damage(calm, whole, names):
                print(text, flush=True)
                faults += [text] if text.isupper() or "WRONG" in text else []
    print(
        f"{sum(runs)} kills in {len(runs)} runs, {args.full} full disks: "
        f"{len(faults)} faults"
    )
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
