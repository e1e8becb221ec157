"""Hostile files: a line that names the file, or an honest reading; nothing else.

All are read in one process, ``hostile_reader.py``, whose audit hook refuses programs,
code and whatever changes a file.
"""

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_formats as formats
from PIL import Image

from input_pipeline.skeleton import H36M_17, MPII_16

ROOT = Path(__file__).parents[1]
COUNT = 3
MOST_BYTES = 2**30


class _Evil:
    def __reduce__(self) -> Any:
        return os.system, (f"touch {ROOT / 'executed'}",)


def _flipped(content: bytes, seed: int) -> bytes:
    """Eight bits of the first kilobyte changed."""
    data = bytearray(content)
    rng = np.random.default_rng(seed)
    for at in rng.integers(0, min(len(data), 1024), 8):
        data[at] ^= 1 << int(rng.integers(8))
    return bytes(data)


# What any file may turn into, by its good content.
BYTES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda good: b"",
    "its head": lambda good: good[:9],
    "its half": lambda good: good[: len(good) // 2],
    "all but the end": lambda good: good[:-1],
    "bits flipped": lambda good: _flipped(good, 0),
    "other bits flipped": lambda good: _flipped(good, 1),
    "still other bits": lambda good: _flipped(good, 2),
    "random": lambda good: np.random.default_rng(0).bytes(len(good)),
    "zeros": lambda good: bytes(len(good)),
    "a pickle": lambda good: pickle.dumps(_Evil()),
    "a program": lambda good: b"#!/bin/sh\ntouch executed\n",
}
TEXTS: dict[str, Callable[[bytes], bytes]] = {
    "UTF-16": lambda good: good.decode().encode("utf-16"),
    "open brackets": lambda good: b"[" * 200_000,
    "open braces": lambda good: b'{"a":' * 100_000,
    "a number of 5,000 digits": lambda good: good.replace(b"1", b"1" * 5000, 1),
    "1e999": lambda good: good.replace(b".", b"1e999,", 1),
    "NaN": lambda good: good.replace(b"0", b"NaN", 3),
    "NUL": lambda good: good.replace(b"i", b"\0", 2),
    "null": lambda good: b"null",
    "surrogates": lambda good: good.replace(b"img", b"\\ud800", 1),
}


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _folder(path: Path) -> None:
    path.mkdir()


NO_FILES = {"pipe": _pipe, "loop": _loop, "device": _device, "folder": _folder}


def _labels(folder: Path) -> Iterator[dict[str, Any]]:
    """A good file of each format, as ``config.data``."""
    files = formats.names(COUNT)
    xy = formats.points(MPII_16, count=COUNT)
    gone = formats.hidden(MPII_16, count=COUNT)
    for name in ("coco", "mpii", "csv", "h5", "sleap", "h36m", "mat"):
        (folder / name).mkdir()
        formats.write_pictures(folder / name, files)
    yield formats.write_coco(folder / "coco", MPII_16, xy, gone, files)
    yield formats.write_mpii_json(folder / "mpii", xy, gone, files)
    yield formats.write_dlc(folder / "csv", MPII_16, xy, gone, files)
    yield formats.write_dlc_hdf(
        formats.write_dlc(folder / "h5", MPII_16, xy, gone, files)
    )
    yield formats.write_sleap(folder / "sleap", MPII_16, xy, gone, files)
    body = formats.points(H36M_17, count=COUNT)
    yield formats.write_h36m_npz(folder / "h36m", body, files)
    yield formats.write_mpii_mat(folder / "mat", xy, gone, files)


class Cases:
    """The cases and the folder that they lie in."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.all = folder, []

    def add(self, what: str, file: Path | str, good: bool = False, **case: Any) -> None:
        name = os.path.basename(str(file))
        self.all.append({"what": what, "name": name, "good": good, **case})

    def labels(self) -> None:
        """Every reader of labels with every damage."""
        for data in _labels(self.folder):
            path = Path(data["annotations"])
            data |= {"images": str(path.parent), "num_val": 0}
            good = path.read_bytes()
            self.add("as it should be", path, good=True, data=data)
            text = path.suffix in (".json", ".csv")
            damages = BYTES | (TEXTS if text else {})
            if path.suffix == ".mat":  # each starts a process
                damages = {n: BYTES[n] for n in ("its half", "bits flipped")}
            for number, (what, damage) in enumerate(damages.items()):
                bad = path.with_name(f"bad{number}{path.suffix}")
                bad.write_bytes(damage(good))
                self.add(what, bad, data=data | {"annotations": str(bad)})
            for what, make in NO_FILES.items():
                bad = path.with_name(f"{what}{path.suffix}")
                make(bad)
                self.add(what, bad, data=data | {"annotations": str(bad)})

    def coco(self, what: str, change: Callable[[Any], None], picture: str = "") -> None:
        """A COCO file with one change of its record."""
        path = self.folder / "coco" / f"changed{len(self.all)}.json"
        record = json.loads((self.folder / "coco" / "coco.json").read_bytes())
        change(record)
        path.write_text(json.dumps(record))
        data = {"name": "coco", "annotations": str(path)}
        self.add(what, picture or path, data=data)

    def names(self) -> None:
        """Pictures whose names are no names."""
        for name in (
            "../" * 50 + "etc/passwd",
            "a\0b",
            "x" * 300,
            "/dev/zero",
            ".",
            "",
            "http://localhost/a.png",
            "a.mp4#²",
            "\ud800.png",
            "x.pkg.slp#a#9",
            "img000.png#0",
            "-rf",
            "$(touch executed)",
            "pipe.png",
        ):
            # What is a file, though no picture, is named itself.
            file = "passwd" if name.endswith("passwd") else ""
            self.coco(f"a picture called {name!r}"[:60], _named(name), file)
        os.mkfifo(self.folder / "coco" / "pipe.png")

    def values(self) -> None:
        """Numbers and structures that no person has."""
        for value in (1e30, 1e300, 1e-320, -1e9, 2**70, "1", None, [1], {}):
            self.coco(f"a coordinate {value}", _coordinate(value))
            self.coco(f"a box of {value}", _box(value))
        many = [f"joint {i}" for i in range(20_000)]
        self.coco("20,000 joints", lambda r: r["categories"][0].update(keypoints=many))
        self.coco("one joint", lambda r: r["categories"][0].update(keypoints=["a"]))
        self.coco(
            "joints that are a text",
            lambda r: r["categories"][0].update(keypoints="abc"),
        )
        self.coco("a huge number as an id", lambda r: r["images"][0].update(id=10**400))
        self.coco("a deep box", lambda r: r["annotations"][0].update(bbox=_deep(400)))

    def pictures(self) -> None:
        """One picture of a COCO file that is something else."""
        whole = io.BytesIO()
        Image.new("RGB", (64, 64), "red").save(whole, "PNG")
        jpeg = io.BytesIO()
        Image.effect_noise((64, 64), 9).save(jpeg, "JPEG")
        for what, content in (
            ("an EPS that asks for a program", _EPS),
            ("SVG", b"<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>"),
            ("a PNG of 2^31 pixels a side", _png(2**31 - 1, 2**31 - 1)),
            ("a PNG of 60,000 pixels a side", _png(60_000, 60_000)),
            ("an empty PNG", _png(0, 0)),
            ("half a PNG", whole.getvalue()[:60]),
            ("half a JPEG", jpeg.getvalue()[:400]),
            ("a flipped JPEG", _flipped(jpeg.getvalue(), 0)),
            ("another flipped JPEG", _flipped(jpeg.getvalue(), 1)),
            ("a flipped PNG", _flipped(whole.getvalue(), 3)),
            ("a pickle as a picture", pickle.dumps(_Evil())),
            ("nothing", b""),
        ):
            name = f"hostile{len(self.all)}.jpg"
            (self.folder / "coco" / name).write_bytes(content)
            self.coco(what, _named(name), name)

    def others(self) -> None:
        """Skeletons, YAML, motions and 3D."""
        for number, text in enumerate(
            (
                b"",
                b"[" * 10**5,
                b"{",
                b"[]",
                b'{"joints": 1}',
                b'{"joints": ["a"], "edges": [["a", "b"]]}',
            )
        ):
            path = self.folder / f"skeleton{number}.json"
            path.write_bytes(text)
            self.add("a skeleton", path, skeleton_file=str(path))
        for what, make in NO_FILES.items():
            for kind in ("skeleton_file", "motion", "truth"):
                path = self.folder / f"{kind}_{what}.npz"
                make(path)
                self.add(f"{kind}: {what}", path, **{kind: str(path)})
        self.add("a device", "/dev/zero", skeleton_file="/dev/zero")
        for kind, key in (("motion", "positions"), ("truth", "positions_mm")):
            path = self.folder / f"{kind}_bomb.npz"
            _bomb(path, key)
            self.add(f"{kind}: 4 GB of zeros", path, **{kind: str(path)})
            path = self.folder / f"{kind}_object.npz"
            np.savez(path, **{key: np.array([_Evil()], object)})
            self.add(f"{kind}: objects", path, **{kind: str(path)})
        bomb = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
        for number, text in enumerate(
            (
                "\n".join(["a0: &a0 [x]", *bomb, "skeleton: *a11"]),
                "skeleton: !!python/object/apply:os.system ['touch executed']",
                "skeleton: " + "[" * 50_000,
                "skeleton: [[a, 1e999]]\n? [b]\n: c",
                "\0",
            )
        ):
            folder = self.folder / f"project{number}"
            xy = formats.points(MPII_16, count=COUNT)
            gone = formats.hidden(MPII_16, count=COUNT)
            files = formats.names(COUNT, "labeled-data/v/")
            formats.write_pictures(folder, files)
            formats.write_dlc(folder, MPII_16, xy, gone, files)
            (folder / "config.yaml").write_text(text)
            self.add(
                "a config.yaml",
                folder,
                data={"name": "dlc", "annotations": str(folder), "num_val": 0},
            )


_EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 64 64
(executed) (w) file closefile
showpage
"""


def _png(width: int, height: int) -> bytes:
    parts = [b"\x89PNG\r\n\x1a\n"]
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    for name, content in ((b"IHDR", head), (b"IDAT", zlib.compress(bytes(99)))):
        parts.append(struct.pack(">I", len(content)) + name + content)
        parts.append(struct.pack(">I", zlib.crc32(name + content)))
    return b"".join(parts)


def _bomb(path: Path, name: str) -> None:
    head = io.BytesIO()
    shape = {"descr": "<f8", "fortran_order": False, "shape": (2**12, 17, 3)}
    np.lib.format.write_array_header_1_0(head, shape)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(f"{name}.npy", head.getvalue() + bytes(2**27))


def _named(name: str) -> Callable[[Any], None]:
    return lambda record: record["images"][1].update(file_name=name)


def _coordinate(value: Any) -> Callable[[Any], None]:
    def change(record: Any) -> None:
        record["annotations"][1]["keypoints"][:3] = [value, value, 2]

    return change


def _box(value: Any) -> Callable[[Any], None]:
    return lambda record: record["annotations"][1].update(bbox=[0, 0, value, value])


def _deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> tuple[list[Any], dict[str, Any]]:
    folder = tmp_path_factory.mktemp("hostile")
    cases = Cases(folder)
    for make in (cases.labels, cases.names, cases.values, cases.pictures, cases.others):
        make()
    (folder / "cases.json").write_text(json.dumps(cases.all))
    before = _state(folder)
    program = [sys.executable, str(ROOT / "tests" / "hostile_reader.py"), str(folder)]
    done = subprocess.run(
        program,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert _state(folder) == before, "a file was made, changed or removed"
    return cases.all, json.loads(done.stdout.splitlines()[-1])


def _state(folder: Path) -> dict[str, int]:
    places = (*folder.rglob("*"), *ROOT.glob("executed"))
    return {str(path): path.lstat().st_mtime_ns for path in places}


def test_there_are_enough(result):
    assert len(result[0]) >= 150


def test_each_is_read_or_refused_in_one_line(result):
    cases, found = result
    outcomes = zip(cases, found["cases"], strict=True)
    wrong = {
        f"{c['name']}: {c['what']}": r["said"]
        for c, r in outcomes
        if r["said"].startswith("!")
    }
    assert not wrong, json.dumps(wrong, indent=1)


def test_each_message_names_its_file(result):
    cases, found = result
    for case, outcome in zip(cases, found["cases"], strict=True):
        if case["good"]:
            assert outcome["said"] == ""
        elif outcome["said"]:
            assert case["name"] in outcome["said"], (case, outcome)


def test_none_takes_long_or_much_memory(result):
    _, found = result
    assert max(outcome["seconds"] for outcome in found["cases"]) < 10
    assert max(found["memory"]) < MOST_BYTES
