"""Reads hostile files where nothing may be run, written or changed.

``python tests/hostile_reader.py FOLDER`` reads what ``FOLDER/cases.json`` lists and
prints a JSON list: of each case its outcome and its seconds, and the peak memory.
"""

import contextlib
import faulthandler
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

FOLDER = Path(sys.argv[1]).absolute()
SECONDS = 10  # of processor time; other programs may slow a test down
CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.truncate", "os.link")
CHANGES += ("os.symlink", "os.chmod", "os.chown", "os.utime", "shutil.")
PROCESSES = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "pty.")
OTHERS = ("socket.", "pickle.find_class", "ctypes.dlopen", "ftplib.")


class Forbidden(BaseException):
    """What no reader may do; no ``except Exception`` hides it."""


class Slow(BaseException):
    """A reader that does not end."""


def guard(programs: list[str]) -> None:
    """Refuses processes but of our readers, code, and changes of files."""

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "subprocess.Popen":
            command = list(map(str, args[1]))
            python = command[:2] == [sys.executable, "-c"]
            wrong = not python or command[2] not in programs
        elif event == "open":
            name, _, flags = args
            wrong = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            wrong = wrong and name != os.devnull
            # sources are opened by imports alone
            code = str(name).endswith((".py", ".pyc", ".so"))
            wrong |= code and str(name).startswith(str(FOLDER))
        elif event in ("exec", "compile"):
            name = getattr(args[0], "co_filename", "") if event == "exec" else args[1]
            wrong = str(name).startswith(str(FOLDER))
        else:
            wrong = event.startswith((*CHANGES, *PROCESSES, *OTHERS))
        if wrong:
            raise Forbidden(f"{event} {args}"[:300])

    sys.addaudithook(hook)


def check_guard() -> None:
    """Ends the program where the guard lets something through."""
    for attempt in (
        lambda: os.system("true"),
        lambda: subprocess.run(["true"]),
        lambda: subprocess.run([sys.executable, "-c", "1"]),
        lambda: (FOLDER / "new").write_text(""),
        lambda: (FOLDER / "cases.json").unlink(),
        lambda: exec(compile("1", str(FOLDER / "x.py"), "exec")),
    ):
        try:
            attempt()
        except Forbidden:
            continue
        sys.exit("the guard lets something through")


def read(case: dict[str, Any]) -> str:
    """The outcome of one case; empty where it was read."""
    import numpy as np

    from input_pipeline.checks.problems import raise_problem
    from input_pipeline.formats.pictures import check_picture
    from input_pipeline.formats.splits import read_splits
    from input_pipeline.formats.tracks.linking import segments
    from input_pipeline.ground_truth import load_ground_truth
    from input_pipeline.settings import read_settings
    from input_pipeline.skeleton import H36M_17, read_skeleton
    from input_pipeline.sources.motion import read_motion
    from input_pipeline.sources.tracks import TrackedLandmarks

    if "skeleton_file" in case:
        read_skeleton(case["skeleton_file"])
    elif "motion" in case:
        read_motion(case["motion"])
    elif "truth" in case:
        ids = np.arange(3)
        load_ground_truth(
            Path(case["truth"]), skeleton=H36M_17, sample_ids=ids, image_ids=ids
        )
    elif case["data"]["name"] == "tracks":
        tracked = TrackedLandmarks(read_settings(case["data"]))
        for split in ("train", "val"):
            marks = tracked.landmarks(split)
            assert marks is None or np.isfinite(marks.keypoints).all()
        segments(tracked.tracks)
    else:
        settings = read_settings(case["data"])
        file = settings.annotation_file("train")[0]
        splits = read_splits(settings, report=raise_problem)
        for labels in splits.values():
            for person in labels.persons:
                assert np.isfinite(person.keypoints).all()
                check_picture(
                    person, file, skeleton=labels.skeleton, report=raise_problem
                )
    return ""


def outcome(case: dict[str, Any]) -> str:
    """Empty, the one line of a message, or what went wrong after a '!'."""
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        return read(case)
    except (ValueError, OSError) as error:
        text = str(error)
        whole = "\n" not in text and 0 < len(text) < 1200
        return text if whole else f"! no single line: {text[:1500]!r}"
    except BaseException as error:
        return f"! {type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def main() -> None:
    faulthandler.enable()
    cases = json.loads((FOLDER / "cases.json").read_text())
    # What the readers import is trusted, and compiled to files at the first time.
    for case in cases:
        if case.get("good"):
            read(case)
    from input_pipeline.formats import hdf5, mat_file

    def slow(*_: Any) -> None:
        raise Slow(f"more than {SECONDS} s")

    signal.signal(signal.SIGPROF, slow)
    guard([mat_file._PROGRAM, hdf5._PROGRAM])
    check_guard()
    found = []
    for case in cases:
        start = time.process_time()
        with contextlib.redirect_stdout(sys.stderr):
            said = outcome(case)
        found.append({"said": said, "seconds": time.process_time() - start})
    print(json.dumps({"cases": found, "memory": [own_peak(), children_peak()]}))


def own_peak() -> int:
    """Bytes; what getrusage says of this process may be its parent's, before exec."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    peak = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
    return 1024 * (peak or [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss])[0]


def children_peak() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss


if __name__ == "__main__":
    main()
