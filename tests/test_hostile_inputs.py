"""Hostile files: a line that names the file, or an honest reading; nothing else.

All are read in one process, ``hostile_reader.py``, whose audit hook refuses programs,
code and whatever changes a file.
"""

import copy
import functools
import io
import itertools
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tiny_formats as formats
import tiny_tracks
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
    for name in ("coco", "mpii", "csv", "h5", "sleap", "h36m", "mat", "yolo", "studio"):
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
    yield formats.write_yolo(folder / "yolo", MPII_16, xy, gone, files)
    yield formats.write_label_studio(folder / "studio", MPII_16, xy, gone, files)


def _tracks(folder: Path) -> Iterator[Path]:
    """A good file of each tracker; of a folder one."""
    writers = (*tiny_tracks.NAMED, *tiny_tracks.UNNAMED, tiny_tracks.mediapipe)
    for write in writers:
        place = folder / f"tracks_{write.__name__}"
        place.mkdir()
        path = write(place)
        yield sorted(path.iterdir())[0] if path.is_dir() else path


# Values in the place of a number of a JSON file, and cells of a table.
VALUES = (1e30, 1e300, 1e-320, -1e9, 2**70, 10**400, -1, "1", "", None, [1], {}, "NaN")
CELLS = (
    "1e999",
    "-1e9",
    "1e30",
    "nan",
    "=1+1",
    "0x10",
    "1_0",
    "x" * 200_000,
    '"',
    "\0",
)


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
            text = path.suffix in (".json", ".csv", ".yaml")
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

    def track(self, what: str, path: Path, name: str = "", good: bool = False) -> None:
        """A file or folder of a tracker; ``name``: of the file that is to be named."""
        data = {"name": "tracks", "annotations": str(path), "picture_size": (200, 100)}
        data["min_score"] = 0.1
        self.add(what, name or path, good=good, data=data)

    def tracks(self) -> None:
        """Every reader of tracks with every damage."""
        for path in _tracks(self.folder):
            good = path.read_bytes()
            is_folder = path.parent.name in ("openpose", "labels")
            self.track("tracks", path.parent if is_folder else path, good=True)
            text = path.suffix in (".json", ".csv")
            damages = BYTES | (TEXTS if text else {})
            if path.suffix in (".h5", ".slp"):  # each starts a process
                damages = {n: BYTES[n] for n in ("its half", "bits flipped")}
            for number, (what, damage) in enumerate(damages.items()):
                bad = self._beside(path, number) if is_folder else path
                stem = "clip_9" if path.suffix == ".txt" else f"bad{number}"
                bad = bad.with_name(stem + path.suffix)
                bad.write_bytes(damage(good))
                self.track(what, bad.parent if is_folder else bad, bad.name)
            for what, make in NO_FILES.items():
                bad = self._beside(path, what) if is_folder else path
                bad = bad.with_name(f"{what}{path.suffix}")
                make(bad)
                self.track(what, bad.parent if is_folder else bad, bad.name)

    def _beside(self, path: Path, name: Any) -> Path:
        """A folder of its own with a copy of a good file."""
        folder = path.parents[1] / f"{path.parent.name}_{name}"
        folder.mkdir()
        return Path(shutil.copy(path, folder))

    def track_values(self) -> None:
        """Numbers and structures that no tracker writes."""
        folder = self.folder / "track_values"
        folder.mkdir()
        for write, places in RECORDS.items():
            path = write(folder)
            good = sorted(path.iterdir())[0] if path.is_dir() else path
            record = json.loads(good.read_bytes())
            for place, value in itertools.product(places, VALUES):
                bad = folder / f"values{len(self.all)}.json"
                bad.write_text(json.dumps(_changed(record, place, value)))
                self.track(f"{place} is {value!r}"[:80], bad)
        for write in (tiny_tracks.long_csv, tiny_tracks.wide_csv, tiny_tracks.dlc_csv):
            lines = write(folder).read_text().splitlines()
            for column, cell in itertools.product((0, 1, 3), CELLS):
                cells = lines[4].split(",")
                cells[column] = cell
                bad = folder / f"cell{len(self.all)}.csv"
                bad.write_text("\n".join([*lines[:4], ",".join(cells), *lines[5:]]))
                self.track(f"column {column} is {cell!r}"[:80], bad)
        self._large_tables(folder)
        self._arrays(folder)

    def hdf5(self) -> None:
        """What SLEAP writes, with other values in it; each starts a process."""
        folder = self.folder / "hdf5"
        folder.mkdir()
        good = {
            w: w(folder) for w in (tiny_tracks.sleap_analysis, tiny_tracks.sleap_slp)
        }
        for write, name, value in HDF5:
            bad = folder / f"bad{len(self.all)}{good[write].suffix}"
            shutil.copy(good[write], bad)
            with h5py.File(bad, "a") as file:
                _set(file, name, value)
            self.track(f"{name} is {value!r}"[:80], bad)

    def _large_tables(self, folder: Path) -> None:
        """Small files that would become large arrays."""
        head = "frame,individual,joint,x,y,score"
        tables = {
            "a joint for each row": [
                head,
                *(f"{i},a,j{i},5,5,1" for i in range(20_000)),
            ],
            "a column for each joint": [
                ",".join(f"j{i}_x,j{i}_y" for i in range(20_000)),
                ",".join(["1"] * 40_000),
            ],
            "an animal for each row": [head, *(f"0,a{i},n,5,5,1" for i in range(9999))],
            "DLC: an animal for each column": [
                *(",".join([n, *([n] * 6000)]) for n in ("scorer",)),
                ",".join(["individuals", *(f"a{i // 2}" for i in range(6000))]),
                ",".join(["bodyparts", *(f"j{i // 2 % 900}" for i in range(6000))]),
                ",".join(["coords", *("xy"[i % 2] for i in range(6000))]),
                *(",".join([str(i), *(["1"] * 6000)]) for i in range(60)),
            ],
        }
        for number, (what, lines) in enumerate(tables.items()):
            bad = folder / f"large{number}.csv"
            bad.write_text("\n".join(lines))
            self.track(what, bad)

    def _arrays(self, folder: Path) -> None:
        """Arrays of a .npz that do not fit."""
        with np.load(tiny_tracks.npz(folder)) as file:
            good = dict(file)
        for name, value in (
            ("xy", np.zeros((3, 4))),
            ("xy", np.array([_Evil()], object)),
            ("xy", good["xy"].astype(str)),
            ("xy", good["xy"] * 1j),
            ("xy", good["xy"] * np.inf),
            ("xy", np.array(5.0)),
            ("joints", np.array("nose")),
            ("joints", np.array([_Evil()] * 4, object)),
            ("joints", np.array([["a", "b"], ["c", "d"]])),
            ("joints", np.array(["a"] * 4)),
            ("frame", good["frame"] * np.nan),
            ("frame", good["frame"] - 2**62),
            ("frame", good["frame"].astype(np.uint64) + np.uint64(2**63)),
            ("frame", good["frame"] * 1e30),
            ("individual", np.array(["a\0"] * 12)),
            ("individual", np.array([_Evil()] * 12, object)),
            ("score", good["score"] + np.inf),
            ("score", good["score"] > 0.5),
            ("size", np.array(5)),
            ("size", np.array([-5, 2**40])),
            ("size", np.array([np.nan, 1])),
            *(("fps", np.array([])), ("fps", np.array("x")), ("fps", np.array(np.nan))),
        ):
            bad = folder / f"arrays{len(self.all)}.npz"
            np.savez(bad, **good | {name: value})
            self.track(f"{name}: {value.dtype} {value.shape}", bad)
        bomb = folder / "bomb.npz"
        _bomb(bomb, "xy")
        self.track("4 GB of zeros", bomb)

    def yolo(self) -> None:
        """data.yaml and a label file with what no labelling program writes."""
        folder = self.folder / "yolo"
        config = (folder / "data.yaml").read_text()
        for line in (
            *("kpt_shape: [1000000000, 3]", "kpt_shape: [16, 3, 1]", "kpt_shape: x"),
            *("kpt_shape: [.nan, 3]", "kpt_shape: [-1, 3]", "kpt_shape: {a: b}"),
            *("flip_idx: [99]", f"flip_idx: [{', '.join(['-1'] * 16)}]", "flip_idx: 5"),
            *(f"flip_idx: [{', '.join(['99'] * 16)}]", "kpt_names: 5", "names: [[[]]]"),
            *("kpt_names: {0: [a]}", f"kpt_names: {{0: [{', '.join('a' * 16)}]}}"),
            *("path: /", "path: [a]", "path: ../../..", "path: 5", 'path: "a\\0b"'),
            *(
                "train: 5",
                "train: {a: b}",
                "train: [null]",
                'train: "a\\0b"',
                "train: ''",
            ),
            *(
                "train: /dev/zero",
                "train: /",
                "train: ../..",
                "train: /proc/self",
                "train: pipe.txt",
                "train: x.txt",
            ),
            *("train: /dev/zero.txt", "train: bytes.txt", "train: names.txt"),
        ):
            key = line.partition(":")[0]
            lines = [each for each in config.splitlines() if not each.startswith(key)]
            self._yolo(line, "\n".join([*lines, line]))
        os.mkfifo(folder / "pipe.txt")
        (folder / "bytes.txt").write_bytes(bytes(range(256)))
        (folder / "names.txt").write_text(
            "images/a\0b.png /dev/zero ../../../etc/passwd"
        )
        good = (folder / "labels" / "img001.txt").read_text()
        for what, text in (
            *(
                ("NaN", good.replace("0", "nan", 9)),
                ("1e999", good.replace("1", "1e999")),
            ),
            *(
                ("1e308", good.replace("2", "1e308")),
                ("digits", good.replace("0", "\u0660")),
            ),
            *(("a million", "0 " * 10**6), ("no line", "0 " * 52), ("cut", good[:40])),
            ("twice", good * 2),
        ):
            self._yolo_label(what, lambda path, text=text: path.write_text(text))
        for what, make in NO_FILES.items():
            self._yolo_label(what, make)

    def _yolo(self, what: str, config: str) -> None:
        bad = self.folder / "yolo" / f"data{len(self.all)}.yaml"
        bad.write_text(config)
        data = {"name": "yolo", "annotations": str(bad), "num_val": 0}
        self.add(what, "", data=data)

    def _yolo_label(self, what: str, make: Callable[[Path], Any]) -> None:
        folder = self.folder / f"yolo{len(self.all)}"
        shutil.copytree(self.folder / "yolo" / "images", folder / "images")
        shutil.copy(self.folder / "yolo" / "data.yaml", folder)
        (folder / "labels").mkdir()
        make(folder / "labels" / "img001.txt")
        data = {"name": "yolo", "annotations": str(folder / "data.yaml"), "num_val": 0}
        self.add(what, "img001.txt", data=data)

    def studio(self) -> None:
        """A Label Studio file with values that it does not write."""
        path = self.folder / "studio" / "studio.json"
        mark = (0, "annotations", 0, "result", 0)
        places = [(0, "id"), (0, "data"), (0, "data", "image"), (0, "annotations")]
        places += [mark, (*mark, "original_width"), (*mark, "value")]
        places += [(*mark, "value", key) for key in ("x", "keypointlabels")]
        record = json.loads(path.read_bytes())
        for place, value in itertools.product(places, VALUES):
            bad = path.with_name(f"values{len(self.all)}.json")
            bad.write_text(json.dumps(_changed(record, place, value)))
            data = {"name": "label_studio", "annotations": str(bad), "num_val": 0}
            self.add(f"{place} is {value!r}"[:80], bad, data=data)

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


def _changed(record: Any, place: tuple[Any, ...], value: Any) -> Any:
    """A copy of a JSON record with another value somewhere."""
    changed = copy.deepcopy(record)
    *way, last = place
    functools.reduce(lambda inner, key: inner[key], way, changed)[last] = value
    return changed


# Where a JSON file of a tracker gets other values.
RECORDS = {
    tiny_tracks.coco_results: (
        *((3,), (3, "image_id"), (3, "track_id"), (3, "keypoints")),
        *((3, "keypoints", 4), (3, "keypoints", 5)),
    ),
    tiny_tracks.mmpose: (
        *(("instance_info",), ("instance_info", 2), ("instance_info", 2, "frame_id")),
        *(("instance_info", 2, "instances"), ("instance_info", 2, "instances", 0)),
        ("instance_info", 2, "instances", 0, "keypoints", 1),
        ("instance_info", 2, "instances", 0, "keypoint_scores"),
        *(("meta_info",), ("meta_info", "keypoint_id2name")),
        *(("meta_info", "skeleton_links"), ("meta_info", "skeleton_links", 0)),
    ),
    tiny_tracks.openpose: (
        *(("people",), ("people", 0), ("people", 0, "person_id")),
        ("people", 0, "person_id", 0),
        *(("people", 0, "pose_keypoints_2d"), ("people", 0, "pose_keypoints_2d", 2)),
    ),
}


# Data sets, their attributes and fields, and what stands there in place of it.
HDF5 = [
    *((tiny_tracks.sleap_analysis, *each) for each in (
        ("node_names", np.array([b"\xff"] * 4)),
        ("node_names", np.array([b"nose"] * 4)),
        ("tracks", np.zeros((2, 2, 5, 6))),
        ("tracks", np.zeros((64, 2, 4, 2**15))),
        ("edge_inds", np.array([[0, 99]])),
        ("edge_inds", np.array(7)),
        ("track_names", np.array([[b"a"]])),
    )),
    *((tiny_tracks.sleap_slp, *each) for each in (
        ("metadata@json", "null"),
        ("metadata@json", "[" * 100_000),
        ("metadata@json", '{"skeletons": [{}], "nodes": {}}'),
        ("metadata@format_id", "x"),
        ("frames:frame_idx", 2**63),
        ("frames:frame_id", 77),
        ("instances:point_id_start", 2**62),
        ("instances:track", 9),
        ("pred_points:x", 1e300),
        ("videos_json", np.array([b"[]"])),
        ("tracks_json", np.array([b"{}"])),
    )),
]  # fmt: skip


def _set(file: h5py.File, name: str, value: Any) -> None:
    name, _, attribute = name.partition("@")
    name, _, field = name.partition(":")
    if attribute:
        file[name].attrs[attribute] = value
    elif field:
        table = file[name][:]
        table[field] = value
        file[name][:] = table
    else:
        del file[name]
        file.create_dataset(
            name, data=value, compression="gzip" if np.ndim(value) else None
        )


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
    for make in (
        cases.tracks,
        cases.track_values,
        cases.hdf5,
        cases.yolo,
        cases.studio,
    ):
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
