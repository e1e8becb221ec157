"""Kills, full disks and damaged files: what a run is worth when the machine fails.

python benchmarks/chaos.py --kills=100 --full=10 --damage='*'

Tiny runs of teacher, student, lifting and prediction are killed, process group and all,
at random moments and at random changes of files, and started again until they end. All
files must then be those of a run that nothing disturbed, to the last bit, and nothing
may be left over. ``--full=N`` leaves too little room on the disk N times, ``--damage``
flips a bit of each array of each file of a finished run, and cuts each file short.

Moments are parts of the time that the undisturbed run took, and a run of ten minutes is
given up: on a busy machine the late moments are seldom met.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import hashlib
import importlib
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from array_record.python.array_record_module import ArrayRecordReader
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from runtime.files import Damaged, read_arrays, read_json
from runtime.metric_writer import read_metrics

ROOT = Path(__file__).resolve().parents[1]
TINY = {
    "data.num_train": "48",
    "data.num_val": "8",
    "data.render_size": "32",
    "data.padding": "1.25",  # what is told of its rounding does not move with a config
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
# Stage -> how often it is killed before it may end, if it does not end before.
STAGES = {"all": 6, "lift": 2, "predict": 2}
# In this part of what it takes: what comes later, comes after the next start.
SOON = 0.6
# Differ between two runs: times, and what people read.
VOLATILE = {"seconds", "environment", "time", "digest"}
UNCOMPARED = ("tensorboard", "checkpoints/", "report.html")
LEFTOVERS = (".tmp-", ".lock", "orbax-checkpoint-tmp", "incomplete", ".writing")
# Read by people only.
UNREAD = ("tensorboard/", "report.html", "metrics.jsonl", "MODEL_CARD.md", "lifted/")
UNREAD += ("run/predictions/",)
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}
# Imported once and forked: most of the time of a tiny run.
PRELOADED = ["benchmarks.chaos", "main", "tensorflow_datasets", "cv2", "av"]
LONGEST = 600  # seconds


def command(folder: Path, stage: str = "all") -> list[str]:
    """Of a tiny run whose workdir and prepared data are in ``folder``."""
    places = {
        "data.data_dir": folder / "data",
        "predict.images": folder.parent / "pictures",
    }
    fields = [f"--config.{name}={value}" for name, value in (TINY | places).items()]
    run = [f"--workdir={folder / 'run'}", f"--stage={stage}"]
    return ["--config=quickstart", *run, *fields]


# --- in the disturbed process --------------------------------------------------------


def disturbed(
    arguments: list[str], said: str, how: str, number: int, place: str
) -> None:
    """Runs main.py until the n-th change of a file below ``place``, or to its end."""
    os.setsid()
    output = os.open(said, os.O_WRONLY)
    os.dup2(output, 1)
    os.dup2(output, 2)
    changes = itertools.count(1)

    def watch(event: str, about: tuple[Any, ...]) -> None:
        changing, grows = event in CHANGES, event == "os.mkdir"
        if event == "open":
            _, mode, flags = about
            grows = bool(set("wax+") & set(mode) if mode else (flags or 0) & WRITES)
        if not (changing or grows) or not str(about[0]).startswith(place):
            return
        now = next(changes)
        if how == "kill" and now == number:
            os.killpg(0, signal.SIGKILL)
        if how == "full" and now >= number and grows:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(about[0]))

    main = importlib.import_module("main")  # its flags are those of one process

    # Compiling is most of what tiny runs do.
    jax.config.update("jax_disable_most_optimizations", True)
    sys.argv = ["main.py", *arguments]
    sys.addaudithook(watch)
    try:
        main.start()
    finally:
        print(f"changes: {next(changes) - 1}", flush=True)


# --- outside -------------------------------------------------------------------------


class Started(NamedTuple):
    """A run of main.py, in a process group of its own."""

    process: Any
    said: Path

    def end(self, seconds: float = LONGEST) -> tuple[int, str]:
        """Its code and what it said; its group is killed if it takes longer."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            with contextlib.suppress(ProcessLookupError):
                while os.getpgid(self.process.pid) != self.process.pid:
                    time.sleep(0.001)
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.join()
        text = self.said.read_text(errors="replace")
        self.said.unlink()
        return int(self.process.exitcode), text


def start(
    arguments: list[str], how: str = "", number: int = 0, place: Path = ROOT
) -> Started:
    """Starts main.py, forked from a process that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    descriptor, said = tempfile.mkstemp(prefix="chaos-")
    os.close(descriptor)
    about = (arguments, said, how, number, str(place))
    process = context.Process(target=disturbed, args=about)
    process.start()
    return Started(process, Path(said))


class Calm(NamedTuple):
    """What a stage takes that nothing disturbs."""

    seconds: float
    changes: int  # of files, by Python
    bytes: int  # more on the disk


def finish(folder: Path, stage: str) -> Calm:
    """To a good end."""
    began, before = time.monotonic(), _used(folder)
    code, output = start(command(folder, stage), place=folder).end()
    if code:
        raise RuntimeError(f"a run that nothing disturbed failed:\n{output[-3000:]}")
    seconds = time.monotonic() - began
    changes = int(output.rpartition("changes: ")[2])
    return Calm(seconds, changes, _used(folder) - before)


def _used(folder: Path) -> int:
    return sum(512 * path.lstat().st_blocks for path in folder.rglob("*"))


def undisturbed(folder: Path) -> dict[str, Calm]:
    """A whole run, and the pictures that it predicts beside it."""
    pictures = folder.parent / "pictures"
    pictures.mkdir()
    for number in range(6):
        noise = np.random.default_rng(number).integers(0, 256, (60, 50, 3), np.uint8)
        Image.fromarray(noise).save(pictures / f"{number}.png")
    for stage in STAGES:  # compiles, for all that follow
        finish(folder, stage)
    shutil.rmtree(folder)
    return {stage: finish(folder, stage) for stage in STAGES}


# --- what is compared ----------------------------------------------------------------


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
        # A teacher that is trained again writes behind its student.
        lines = sorted(read_metrics(path), key=lambda x: (x["stage"], x["step"]))
        return json.dumps(_steady(lines), sort_keys=True)
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
    return path.read_bytes().decode("latin-1")


def _steady(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _steady(v) for k, v in value.items() if k not in VOLATILE}
    return [_steady(v) for v in value] if isinstance(value, list) else value


def differences(folder: Path, whole: dict[str, str]) -> list[str]:
    """What differs from the undisturbed run, and what is left over."""
    try:
        found = snapshot(folder)
    except Exception as error:  # a damaged file
        return [f"cannot be read: {error}"]
    names = [n for n in sorted({*whole, *found}) if whole.get(n) != found.get(n)]
    everything = [p.relative_to(folder).as_posix() for p in folder.rglob("*")]
    left = [n for n in everything if any(part in n for part in LEFTOVERS)]
    return [*(f"differs: {n}" for n in names), *(f"left over: {n}" for n in left)]


# --- kills ---------------------------------------------------------------------------


def kill_once(folder: Path, stage: str, chance: random.Random, calm: Calm) -> str:
    """Starts a stage and kills it somewhere; where, or "" if it came to its end."""
    if chance.random() < 0.5:
        number = chance.randint(1, int(SOON * calm.changes))
        where = f"{stage} at change {number} of a file"
        code, output = start(command(folder, stage), "kill", number, folder).end()
    else:
        moment = chance.uniform(0, SOON * calm.seconds)
        where = f"{stage} after {moment:.1f} s"
        code, output = start(command(folder, stage), place=folder).end(moment)
    if code not in (0, -signal.SIGKILL):
        raise RuntimeError(f"{where}: the start before failed:\n{output[-3000:]}")
    return where if code else ""


def killed_run(
    folder: Path, most: int, chance: random.Random, calm: dict[str, Calm]
) -> Iterator[str]:
    """A run that is killed ``most`` times at most and ends; where it was killed."""
    for stage, often in STAGES.items():
        for _ in range(min(often, most)):
            if not (where := kill_once(folder, stage, chance, calm[stage])):
                break
            most -= 1
            yield where
        finish(folder, stage)


def kills(
    folder: Path,
    whole: dict[str, str],
    count: int,
    chance: random.Random,
    calm: dict[str, Calm],
) -> Iterator[str]:
    """Runs until all of them together were killed so often; the faults."""
    done = 0
    for run in itertools.count(1):
        if done >= count:
            return
        place = folder / f"killed_{run}"
        for where in killed_run(place, count - done, chance, calm):
            done += 1
            print(f"  kill {done}: {where}", flush=True)
        found = differences(place, whole)
        print(f"run {run}, {done} kills: {found or 'bit-equal'}", flush=True)
        yield from found
        shutil.rmtree(place)


# --- full disks ----------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A disk in memory at ``folder``; False where none can be had."""
    folder.mkdir()
    mounted = _quietly("mount", "-t", "tmpfs", "tmpfs", folder)
    try:
        yield mounted
    finally:
        if mounted:
            _quietly("umount", folder)


def _quietly(*words: Any) -> bool:
    with contextlib.suppress(FileNotFoundError):
        done = subprocess.run([*map(str, words)], capture_output=True, check=False)
        return not done.returncode
    return False


def full_disk(
    folder: Path, whole: dict[str, str], chance: random.Random, calm: dict[str, Calm]
) -> Iterator[str]:
    """One stage finds too little room, and then enough; the faults."""
    full = chance.choice([*STAGES])
    with small_disk(folder) as real:
        for stage in STAGES:
            if stage == full:
                yield from _full_stage(folder, stage, chance, calm[stage], real)
            finish(folder, stage)
        yield from differences(folder, whole)


def _full_stage(
    folder: Path, stage: str, chance: random.Random, calm: Calm, real: bool
) -> Iterator[str]:
    number, room = chance.randint(1, calm.changes), int(chance.random() * calm.bytes)
    if chance.random() < 0.5:  # at an operation that Python knows of
        where = f"{stage}, full from change {number} of a file on"
        code, output = start(command(folder, stage), "full", number, folder).end()
    elif real:
        where = f"{stage}, {room // 1024} kB free"
        size = f"remount,size={_used(folder) + room}"
        _quietly("mount", "-o", size, folder)
        code, output = start(command(folder, stage), place=folder).end()
        _quietly("mount", "-o", "remount,size=1g", folder)
    else:
        return
    lines = [line for line in output.splitlines() if line.startswith("error: ")]
    text = lines[0] if lines else output[-3000:]
    print(f"  {where}: code {code}, {text}", flush=True)
    whole_line = len(lines) == 1 and "Traceback" not in output
    if code and not (whole_line and str(folder) in text and "room" in text):
        yield f"{where}: {output[-3000:]}"


# --- damaged files -------------------------------------------------------------------


def damaged(path: Path, how: str, at: int | None = None) -> None:
    """Flips the bit in the middle of a file, or at a byte, or cuts it there."""
    content = bytearray(path.read_bytes())
    at = len(content) // 2 if at is None else at
    if how == "cut":
        content = content[:at]
    elif content:
        content[at] ^= 1
    path.write_bytes(bytes(content))


def arrays_of(path: Path) -> dict[str, int]:
    """Name -> a byte in the middle of each array of a file that holds several."""
    content = path.read_bytes()
    if path.suffix == ".safetensors":
        head = 8 + int.from_bytes(content[:8], "little")
        record = json.loads(content[8:head])
        record.pop("__metadata__", None)
        return {n: head + sum(r["data_offsets"]) // 2 for n, r in record.items()}
    if path.suffix == ".npz":
        with zipfile.ZipFile(path) as file:
            members = file.infolist()
        # Behind the member's header of 30 bytes, its name and that of the array.
        return {m.filename: m.header_offset + m.compress_size for m in members}
    return {}


def damage(folder: Path, whole: dict[str, str], names: list[str]) -> Iterator[str]:
    """Each file of a finished run, damaged while the others are whole; what came."""
    original = folder.rename(folder.with_name("original"))
    for name in names:
        for array, at in arrays_of(original / name).items():
            if text := _read_damaged(original / name, at):
                yield f"{name}, {array} flipped: {text}"
        for how in ("flipped", "cut"):
            shutil.copytree(original, folder)  # whose name is in its files
            _unfinish(folder, folder / name)
            damaged(folder / name, how)
            code, output = start(command(folder), place=folder).end()
            yield f"{name} {how}: {_verdict(folder, name, code, output, whole)}"
            shutil.rmtree(folder)
    original.rename(folder)


def _read_damaged(path: Path, at: int) -> str:
    """A fault where a file is read that has one wrong bit."""
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(shutil.copy(path, temporary))
        damaged(copy, "flipped", at)
        try:
            read_arrays(copy) if path.suffix == ".safetensors" else _said(copy)
        except (Damaged, zipfile.BadZipFile, ValueError) as error:
            return "" if copy.name in str(error) or path.suffix == ".npz" else "FAULT"
        return "FAULT, not noticed"


def _unfinish(folder: Path, path: Path) -> None:
    """Takes away what follows a file, so that it is read."""
    if path.is_relative_to(folder / "data"):  # pictures are read for the student
        shutil.rmtree(folder / "run" / "student_distill")
    if "checkpoints" in path.parts:
        at = path.parts.index("checkpoints")
        folder, step = Path(*path.parts[: at + 1]), int(path.parts[at + 1])
        for later in folder.iterdir():
            if int(later.name) > step:
                shutil.rmtree(later)
        for file in folder.parent.glob("*.json"):
            file.unlink()


def _verdict(
    folder: Path, name: str, code: int, output: str, whole: dict[str, str]
) -> str:
    named = str(folder / name) in output
    if code:
        line = next((n for n in output.splitlines() if n.startswith("error: ")), "")
        fault = "Traceback" in output or not line
        return f"{'FAULT, ' * fault}stops: {line[:300] or output[-600:]}"
    if wrong := differences(folder, whole):
        return f"FAULT, {'' if named else 'not '}named, {wrong[:3]}"
    return "named, ends as undisturbed" if named else "written again without a look"


# --- the command ---------------------------------------------------------------------


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--full", type=int, default=0, help="runs with a full disk")
    parser.add_argument("--damage", default="", help="pattern of files; '*': all")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _environment(folder: Path) -> None:
    """Of all that is started: this source, CPUs, programs compiled once."""
    os.environ |= {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "cache"))


def main() -> int:
    """Runs what the arguments ask for; 1 where there are faults."""
    args = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # takes disks away again
    chance, faults = random.Random(args.seed), []
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        folder = Path(temporary)
        _environment(folder)
        calm = undisturbed(folder / "calm")
        whole = snapshot(folder / "calm")
        print(f"undisturbed: {len(whole)} files compared, {calm}", flush=True)
        faults += kills(folder, whole, args.kills, chance, calm)
        for number in range(args.full):
            found = list(full_disk(folder / f"full_{number}", whole, chance, calm))
            print(f"full disk {number + 1}: {found or 'bit-equal'}", flush=True)
            faults += found
        files = [p for p in (folder / "calm").rglob("*") if p.is_file()]
        names = [p.relative_to(folder / "calm").as_posix() for p in files]
        names = [n for n in names if not any(part in n for part in UNREAD)]
        chosen = [n for n in sorted(names) if Path(n).match(args.damage or "-")]
        for text in damage(folder / "calm", whole, chosen):
            print(text, flush=True)
            faults += [text] if "FAULT" in text else []
    print(
        f"{args.kills} kills, {args.full} full disks, {len(chosen)} damaged files: "
        f"{len(faults)} faults"
    )
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
