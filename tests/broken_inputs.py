"""Every kind of broken input that is tested, and what has to happen to it.

``docs/broken_inputs.md`` is the table of these cases; a test keeps it in step.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tiny_formats as formats
from PIL import Image

from input_pipeline.skeleton import H36M_17, LSP_14, MPII_16

SIZE = 64
JOINTS = ["root", "left_hand", "right_hand"]
POINTS = ((10.0, 12.0), (40.0, 20.0), (30.0, 50.0))
COUNT = 4


@dataclasses.dataclass(frozen=True)
class Case:
    """One kind of broken input.

    Args:
        what: in words, for the table.
        format: which reader.
        make: breaks a :class:`Bench`; returns ``config.data``.
        error: the kind of problem that stops training; empty where it is handled.
        handled: what is done instead, in words.
        look: checks what was read, where it is handled.
    """

    what: str
    format: str
    make: Callable[[Bench], dict[str, Any]]
    error: str = ""
    handled: str = ""
    look: Callable[[Any], None] | None = None

    @property
    def row(self) -> str:
        """Its line of the table."""
        happens = f"error: {self.error}" if self.error else self.handled
        return f"| {self.what} | {self.format} | {happens} |"


@dataclasses.dataclass
class Bench:
    """Four good pictures with COCO labels, to be broken in one place."""

    folder: Path
    record: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        keypoints = [v for x, y in POINTS for v in (x, y, 2)]
        category = {"id": 1, "name": "toy", "keypoints": JOINTS}
        self.record = {
            "images": [
                {"id": i, "file_name": f"{i}.png", "width": SIZE, "height": SIZE}
                for i in range(COUNT)
            ],
            "annotations": [
                {
                    "id": i,
                    "image_id": i,
                    "category_id": 1,
                    "keypoints": [
                        float(i * (k % 3 < 2)) + v for k, v in enumerate(keypoints)
                    ],
                    "bbox": [5, 5, 40, 50],
                }
                for i in range(COUNT)
            ],
            "categories": [category | {"skeleton": [[1, 2], [1, 3]]}],
        }
        for i in range(COUNT):
            self.save(Image.new("RGB", (SIZE, SIZE), (50 + i, 100, 150)), f"{i}.png")

    def path(self, name: str) -> Path:
        return self.folder / name

    def save(self, image: Image.Image, name: str, **how: Any) -> Path:
        image.save(self.path(name), **how)
        return self.path(name)

    def show(self, name: str, **fields: Any) -> None:
        """Makes ``name`` the picture of image 2."""
        self.record["images"][2] |= {"file_name": name} | fields

    def person(self, **fields: Any) -> None:
        """Changes annotation 2."""
        self.record["annotations"][2] |= fields

    def joint(self, x: Any, y: Any, v: Any = 2) -> None:
        """Puts joint 1 of annotation 2 somewhere else."""
        keypoints = copy.copy(self.record["annotations"][2]["keypoints"])
        keypoints[3:6] = [x, y, v]
        self.person(keypoints=keypoints)

    def category(self, **fields: Any) -> None:
        self.record["categories"][0] |= fields

    def coco(self, content: bytes | None = None, **data: Any) -> dict[str, Any]:
        """Writes the labels; returns ``config.data``."""
        path = self.path("labels.json")
        text = json.dumps(self.record).encode()
        path.write_bytes(text if content is None else content)
        return self.data("coco", path) | data

    def data(self, name: str, path: Path | str) -> dict[str, Any]:
        return {
            "name": name,
            "annotations": str(path),
            "data_dir": str(self.folder / "prepared"),
            "num_val": 0,
        }


CASES: list[Case] = []


def error(what: str, format: str, kind: str) -> Callable[[Any], Any]:
    """Registers a case that must stop with a message of this kind."""

    def register(make: Callable[[Bench], dict[str, Any]]) -> None:
        CASES.append(Case(what, format, make, error=kind))

    return register


def handled(
    what: str, format: str, how: str, look: Callable[[Any], None] | None = None
) -> Callable[[Any], Any]:
    """Registers a case that must be read, and in what way."""

    def register(make: Callable[[Bench], dict[str, Any]]) -> None:
        CASES.append(Case(what, format, make, handled=how, look=look))

    return register


# --- pictures ------------------------------------------------------------------------


def _shows(
    colour: tuple[int, int, int], *, tolerance: int = 3
) -> Callable[[Any], None]:
    """The crop of sample 2 is of this colour in the middle."""

    def look(read: Any) -> None:
        middle = read.image(2)[12:20, 12:20].reshape(-1, 3).astype(int)
        assert np.abs(middle - colour).max() <= tolerance, middle[0]

    return look


@error("truncated JPEG", "picture", "image does not decode")
def _(b: Bench) -> dict[str, Any]:
    path = b.save(Image.effect_noise((SIZE, SIZE), 50).convert("RGB"), "x.jpg")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    b.show("x.jpg")
    return b.coco()


@error("truncated PNG", "picture", "image does not decode")
def _(b: Bench) -> dict[str, Any]:
    path = b.path("2.png")
    path.write_bytes(path.read_bytes()[:-30])
    return b.coco()


@error("zero-byte picture", "picture", "image does not decode")
def _(b: Bench) -> dict[str, Any]:
    b.path("2.png").write_bytes(b"")
    return b.coco()


@error("text in a file called .png", "picture", "image does not decode")
def _(b: Bench) -> dict[str, Any]:
    b.path("2.png").write_text("<html>404</html>")
    return b.coco()


@error("picture that claims 60,000 x 60,000 pixels", "picture", "image does not decode")
def _(b: Bench) -> dict[str, Any]:
    head = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    parts = [b"\x89PNG\r\n\x1a\n"]
    for name, content in (
        (b"IHDR", head),
        (b"IDAT", zlib.compress(b"0")),
        (b"IEND", b""),
    ):
        crc = struct.pack(">I", zlib.crc32(name + content))
        parts.append(struct.pack(">I", len(content)) + name + content + crc)
    b.path("2.png").write_bytes(b"".join(parts))
    return b.coco()


@error("32-bit float TIFF", "picture", "image does not decode")
def _(b: Bench) -> dict[str, Any]:
    b.save(Image.new("F", (SIZE, SIZE), 0.5), "x.tif")
    b.show("x.tif")
    return b.coco()


@handled("CMYK JPEG", "picture", "converted to RGB", _shows((255, 0, 0), tolerance=8))
def _(b: Bench) -> dict[str, Any]:
    b.save(Image.new("CMYK", (SIZE, SIZE), (0, 255, 255, 0)), "x.jpg", quality=95)
    b.show("x.jpg")
    return b.coco()


@handled("16-bit grey PNG", "picture", "reduced to 8 bits", _shows((128, 128, 128)))
def _(b: Bench) -> dict[str, Any]:
    b.save(Image.fromarray(np.full((SIZE, SIZE), 128 * 257, np.uint16)), "x.png")
    b.show("x.png")
    return b.coco()


@handled("16-bit grey TIFF", "picture", "reduced to 8 bits", _shows((128, 128, 128)))
def _(b: Bench) -> dict[str, Any]:
    b.save(Image.fromarray(np.full((SIZE, SIZE), 128 * 257, np.uint16)), "x.tif")
    b.show("x.tif")
    return b.coco()


@handled("1-bit PNG", "picture", "read as black and white", _shows((255, 255, 255)))
def _(b: Bench) -> dict[str, Any]:
    b.save(Image.new("1", (SIZE, SIZE), 1), "x.png")
    b.show("x.png")
    return b.coco()


@handled("grey JPEG", "picture", "three equal channels", _shows((90, 90, 90)))
def _(b: Bench) -> dict[str, Any]:
    b.save(Image.new("L", (SIZE, SIZE), 90), "x.jpg", quality=95)
    b.show("x.jpg")
    return b.coco()


@handled("palette PNG", "picture", "the colours of its palette", _shows((10, 200, 30)))
def _(b: Bench) -> dict[str, Any]:
    b.save(Image.new("RGB", (SIZE, SIZE), (10, 200, 30)).convert("P"), "x.png")
    image = Image.new("P", (SIZE, SIZE), 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    b.save(image, "x.png")
    b.show("x.png")
    return b.coco()


@handled(
    "PNG with transparency",
    "picture",
    "its colours without the transparency",
    _shows((9, 8, 7)),
)
def _(b: Bench) -> dict[str, Any]:
    b.save(Image.new("RGBA", (SIZE, SIZE), (9, 8, 7, 100)), "x.png")
    b.show("x.png")
    return b.coco()


@handled("progressive JPEG", "picture", "read", _shows((80, 90, 100)))
def _(b: Bench) -> dict[str, Any]:
    image = Image.new("RGB", (SIZE, SIZE), (80, 90, 100))
    b.save(image, "x.jpg", quality=95, progressive=True)
    b.show("x.jpg")
    return b.coco()


@handled("animated GIF", "picture", "its first frame", _shows((200, 0, 0)))
def _(b: Bench) -> dict[str, Any]:
    first, second = (
        Image.new("RGB", (SIZE, SIZE), c) for c in ((200, 0, 0), (0, 0, 9))
    )
    b.save(first, "x.gif", save_all=True, append_images=[second])
    b.show("x.gif")
    return b.coco()


@handled("WebP, BMP", "picture", "stored as PNG", _shows((20, 40, 60), tolerance=6))
def _(b: Bench) -> dict[str, Any]:
    b.save(Image.new("RGB", (SIZE, SIZE), (20, 40, 60)), "x.webp", lossless=True)
    b.save(Image.new("RGB", (SIZE, SIZE), (20, 40, 60)), "y.bmp")
    b.show("x.webp")
    b.record["images"][1]["file_name"] = "y.bmp"
    return b.coco()


@handled(
    "JPEG called .png", "picture", "recognised by its contents", _shows((20, 40, 60))
)
def _(b: Bench) -> dict[str, Any]:
    image = Image.new("RGB", (SIZE, SIZE), (20, 40, 60))
    b.save(image, "2.png", format="JPEG", quality=95)
    return b.coco()


def _halves() -> Image.Image:
    """Wide: red on the left, blue on the right."""
    image = Image.new("RGB", (2 * SIZE, SIZE), (0, 0, 255))
    image.paste((255, 0, 0), (0, 0, SIZE, SIZE))
    return image


def _turned(b: Bench, **fields: Any) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned a quarter clockwise: tall, red above
    b.save(_halves(), "x.jpg", exif=exif, quality=95)
    b.show("x.jpg", **fields)


def _red_above(read: Any) -> None:
    image = read.image(2).astype(int)
    assert image[4, 16, 0] > 150
    assert image[28, 16, 2] > 150
    assert image[4, 16, 2] < 90


def _red_left(read: Any) -> None:
    image = read.image(2).astype(int)
    assert image[16, 4, 0] > 150
    assert image[16, 28, 2] > 150
    assert image[16, 4, 2] < 90


@handled(
    "EXIF rotation, labelled as displayed",
    "picture",
    "rotated as EXIF says",
    _red_above,
)
def _(b: Bench) -> dict[str, Any]:
    _turned(b, width=SIZE, height=2 * SIZE)
    b.person(keypoints=[22, 44, 2, 42, 64, 2, 32, 84, 2])
    return b.coco()


@handled("EXIF rotation, no size given", "picture", "rotated as EXIF says", _red_above)
def _(b: Bench) -> dict[str, Any]:
    _turned(b, width=0, height=0)
    b.person(keypoints=[22, 44, 2, 42, 64, 2, 32, 84, 2])
    return b.coco()


@handled(
    "EXIF rotation, labelled before it",
    "picture",
    "not rotated, as the annotated width and height say",
    _red_left,
)
def _(b: Bench) -> dict[str, Any]:
    _turned(b, width=2 * SIZE, height=SIZE)
    b.person(keypoints=[44, 22, 2, 64, 42, 2, 84, 32, 2])
    return b.coco()


@handled("damaged EXIF", "picture", "ignored", _shows((20, 40, 60)))
def _(b: Bench) -> dict[str, Any]:
    image = Image.new("RGB", (SIZE, SIZE), (20, 40, 60))
    b.save(image, "x.jpg", exif=b"Exif\x00\x00MM\x00*\x00\x00\xff\xff", quality=95)
    b.show("x.jpg")
    return b.coco()


@handled("picture of one pixel", "picture", "read", _shows((1, 2, 3), tolerance=9))
def _(b: Bench) -> dict[str, Any]:
    b.save(Image.new("RGB", (1, 1), (1, 2, 3)), "x.png")
    b.show("x.png", width=1, height=1)
    b.person(keypoints=[0.4, 0.4, 2, 0.5, 0.6, 2, 0.6, 0.5, 2], bbox=[0, 0, 1, 1])
    return b.coco()


@error("another size than annotated", "picture", "size differs")
def _(b: Bench) -> dict[str, Any]:
    b.show("2.png", width=SIZE + 1)
    return b.coco()


# --- paths ---------------------------------------------------------------------------


@error("missing picture", "path", "missing file")
def _(b: Bench) -> dict[str, Any]:
    b.path("2.png").unlink()
    return b.coco()


@error("a folder instead of a picture", "path", "missing file")
def _(b: Bench) -> dict[str, Any]:
    b.path("2.png").unlink()
    b.path("2.png").mkdir()
    return b.coco()


@error("dangling link", "path", "missing file")
def _(b: Bench) -> dict[str, Any]:
    b.path("2.png").unlink()
    b.path("2.png").symlink_to("gone.png")
    return b.coco()


@error("link to itself", "path", "missing file")
def _(b: Bench) -> dict[str, Any]:
    b.path("2.png").unlink()
    b.path("2.png").symlink_to("2.png")
    return b.coco()


@error("a null character in a file name", "path", "missing file")
def _(b: Bench) -> dict[str, Any]:
    b.show("2\0.png")
    return b.coco()


@error("a file name of 5,000 letters", "path", "missing file")
def _(b: Bench) -> dict[str, Any]:
    b.show("x" * 5000)
    return b.coco()


@handled("link to a picture", "path", "followed", _shows((7, 8, 9)))
def _(b: Bench) -> dict[str, Any]:
    b.save(Image.new("RGB", (SIZE, SIZE), (7, 8, 9)), "real.png")
    b.path("2.png").unlink()
    b.path("2.png").symlink_to("real.png")
    return b.coco()


@handled("spaces and unicode in paths", "path", "read", _shows((7, 8, 9)))
def _(b: Bench) -> dict[str, Any]:
    name = "Mäuse 日本 ' \" #/bild (1) é.png"
    b.path(name).parent.mkdir()
    b.save(Image.new("RGB", (SIZE, SIZE), (7, 8, 9)), name)
    b.show(name)
    data = b.coco()
    moved = b.path("meine Daten ß.json")
    os.rename(data["annotations"], moved)
    return data | {"annotations": str(moved)}


@handled("an absolute file name", "path", "read from there", _shows((7, 8, 9)))
def _(b: Bench) -> dict[str, Any]:
    path = b.save(Image.new("RGB", (SIZE, SIZE), (7, 8, 9)), "real.png")
    b.show(str(path.absolute()))
    return b.coco()


# --- COCO JSON -----------------------------------------------------------------------


@error("missing labels", "coco", "missing file")
def _(b: Bench) -> dict[str, Any]:
    return b.coco() | {"annotations": str(b.path("gone.json"))}


@error("empty file", "coco", "empty file")
def _(b: Bench) -> dict[str, Any]:
    return b.coco(b"")


@error("JSON cut in half", "coco", "not JSON")
def _(b: Bench) -> dict[str, Any]:
    text = json.dumps(b.record).encode()
    return b.coco(text[: len(text) // 2])


@error("Latin-1 text", "coco", "not JSON")
def _(b: Bench) -> dict[str, Any]:
    b.category(name="Mäuse")
    text = json.dumps(b.record, ensure_ascii=False)
    return b.coco(text.encode("latin-1"))


@error("100,000 nested lists", "coco", "not JSON")
def _(b: Bench) -> dict[str, Any]:
    return b.coco(b"[" * 100_000)


@handled("UTF-8 with a byte order mark", "coco", "read")
def _(b: Bench) -> dict[str, Any]:
    return b.coco(b"\xef\xbb\xbf" + json.dumps(b.record).encode())


@handled("UTF-16", "coco", "read")
def _(b: Bench) -> dict[str, Any]:
    return b.coco(json.dumps(b.record).encode("utf-16"))


@error("a list instead of an object", "coco", "not a COCO file")
def _(b: Bench) -> dict[str, Any]:
    return b.coco(b"[1, 2]")


@error("no category with keypoints", "coco", "no skeleton")
def _(b: Bench) -> dict[str, Any]:
    del b.record["categories"][0]["keypoints"]
    return b.coco()


@error("two categories with other joints in use", "coco", "several skeletons")
def _(b: Bench) -> dict[str, Any]:
    b.record["categories"].append({"id": 2, "name": "other", "keypoints": ["a"]})
    b.person(category_id=2)
    return b.coco()


@error("a labelled object of an unknown category", "coco", "unknown category")
def _(b: Bench) -> dict[str, Any]:
    b.person(category_id=7)
    return b.coco()


def _three_bones(read: Any) -> None:
    assert read.landmarks.skeleton.edges == ((0, 1), (1, 2), (2, 0))


@handled("a skeleton with a cycle", "coco", "read: bones are pairs", _three_bones)
def _(b: Bench) -> dict[str, Any]:
    b.category(skeleton=[[1, 2], [2, 3], [3, 1]])
    return b.coco()


@error("a bone to a joint that does not exist", "coco", "bad skeleton")
def _(b: Bench) -> dict[str, Any]:
    b.category(skeleton=[[1, 9]])
    return b.coco()


@error("a bone from a joint to itself", "coco", "bad skeleton")
def _(b: Bench) -> dict[str, Any]:
    b.category(skeleton=[[1, 1]])
    return b.coco()


@error("bones that are not pairs of numbers", "coco", "bad skeleton")
def _(b: Bench) -> dict[str, Any]:
    b.category(skeleton=[["root", None]])
    return b.coco()


@error("bones between joints, [1.7, 2.2]", "coco", "bad skeleton")
def _(b: Bench) -> dict[str, Any]:
    b.category(skeleton=[[1.7, 2.2]])
    return b.coco()


@error("two joints of one name", "coco", "bad skeleton")
def _(b: Bench) -> dict[str, Any]:
    b.category(keypoints=["root", "tail", "tail"])
    return b.coco()


@error("keypoints of the wrong length", "coco", "skeleton mismatch")
def _(b: Bench) -> dict[str, Any]:
    b.person(keypoints=[1, 2, 2])
    return b.coco()


@error("keypoints that are text", "coco", "skeleton mismatch")
def _(b: Bench) -> dict[str, Any]:
    b.person(keypoints="1,2,2")
    return b.coco()


@error("NaN", "coco", "NaN")
def _(b: Bench) -> dict[str, Any]:
    b.joint(float("nan"), 5)
    return b.coco()


@error("infinity", "coco", "NaN")
def _(b: Bench) -> dict[str, Any]:
    b.joint(5, float("inf"))
    return b.coco()


@error("text as a coordinate", "coco", "NaN")
def _(b: Bench) -> dict[str, Any]:
    b.joint("12", 5)
    return b.coco()


@error("null as a coordinate", "coco", "NaN")
def _(b: Bench) -> dict[str, Any]:
    b.joint(None, 5)
    return b.coco()


@error("a list as a coordinate", "coco", "NaN")
def _(b: Bench) -> dict[str, Any]:
    b.joint([1, 2], 5)
    return b.coco()


@error("an integer of 400 digits", "coco", "NaN")
def _(b: Bench) -> dict[str, Any]:
    b.joint(10**400, 5)
    return b.coco()


@error("a coordinate of 1e300", "coco", "impossible coordinate")
def _(b: Bench) -> dict[str, Any]:
    b.joint(1e300, 5)
    return b.coco()


@error("a landmark outside the picture", "coco", "landmark outside the picture")
def _(b: Bench) -> dict[str, Any]:
    b.joint(SIZE + 9, 5)
    return b.coco()


@error("a landmark outside, no size given", "coco", "landmark outside")
def _(b: Bench) -> dict[str, Any]:
    b.show("2.png", width=None)
    b.joint(5, -30)
    return b.coco()


def _kept(read: Any) -> None:
    assert read.landmarks.keypoints[2, 1].tolist() == [SIZE + 9, 5]


@handled("a landmark outside, outside='keep'", "coco", "kept", _kept)
def _(b: Bench) -> dict[str, Any]:
    b.joint(SIZE + 9, 5)
    return b.coco(outside="keep")


@handled("the same, no size given", "coco", "kept", _kept)
def _(b: Bench) -> dict[str, Any]:
    b.show("2.png", width=None)
    b.joint(SIZE + 9, 5)
    return b.coco(outside="keep")


@error("far outside, outside='keep'", "coco", "landmark outside the picture")
def _(b: Bench) -> dict[str, Any]:
    b.joint(2 * SIZE + 9, 5)
    return b.coco(outside="keep")


@error("all landmarks at one point", "coco", "zero-area box")
def _(b: Bench) -> dict[str, Any]:
    b.person(keypoints=[9, 9, 2] * 3)
    return b.coco()


@error("a box of zero area", "coco", "zero-area box")
def _(b: Bench) -> dict[str, Any]:
    b.person(bbox=[5, 5, 0, 40])
    return b.coco(box="annotation")


@error("a box of negative width", "coco", "zero-area box")
def _(b: Bench) -> dict[str, Any]:
    b.person(bbox=[5, 5, -9, 40])
    return b.coco(box="annotation")


@error("a box of text", "coco", "zero-area box")
def _(b: Bench) -> dict[str, Any]:
    b.person(bbox="all")
    return b.coco()


@error("no box where boxes are used", "coco", "zero-area box")
def _(b: Bench) -> dict[str, Any]:
    del b.record["annotations"][2]["bbox"]
    return b.coco(box="annotation")


@error("two annotations of one id", "coco", "duplicate id")
def _(b: Bench) -> dict[str, Any]:
    b.person(id=1)
    return b.coco()


@error("two images of one id", "coco", "duplicate id")
def _(b: Bench) -> dict[str, Any]:
    b.record["images"].append(b.record["images"][1])
    return b.coco()


@error("an annotation of an unknown image", "coco", "unknown image")
def _(b: Bench) -> dict[str, Any]:
    b.person(image_id=99)
    return b.coco()


@error("a list as an image id", "coco", "unknown image")
def _(b: Bench) -> dict[str, Any]:
    b.person(image_id=[1])
    return b.coco()


@error("text as an id", "coco", "bad annotation")
def _(b: Bench) -> dict[str, Any]:
    b.person(id="two")
    return b.coco()


@error("an id of more than 64 bits", "coco", "bad annotation")
def _(b: Bench) -> dict[str, Any]:
    b.person(id=2**70)
    return b.coco()


@error("null as an annotation", "coco", "bad annotation")
def _(b: Bench) -> dict[str, Any]:
    b.record["annotations"][2] = None
    return b.coco()


@error("iscrowd as text", "coco", "bad annotation")
def _(b: Bench) -> dict[str, Any]:
    b.person(iscrowd="0")
    return b.coco()


@error("num_keypoints as text", "coco", "bad annotation")
def _(b: Bench) -> dict[str, Any]:
    b.person(num_keypoints="0")
    return b.coco()


@error("the width of a picture as text", "coco", "bad image entry")
def _(b: Bench) -> dict[str, Any]:
    b.record["images"][2]["width"] = "64"
    return b.coco()


@error("an image without a file name", "coco", "bad image entry")
def _(b: Bench) -> dict[str, Any]:
    del b.record["images"][2]["file_name"]
    return b.coco()


@error("all v are 0, num_keypoints not given", "coco", "no labelled joint")
def _(b: Bench) -> dict[str, Any]:
    b.person(keypoints=[0] * 9)
    return b.coco()


@error("no person labelled at all", "coco", "no labelled person")
def _(b: Bench) -> dict[str, Any]:
    for annotation in b.record["annotations"]:
        annotation["num_keypoints"] = 0
    return b.coco()


def _three_left(read: Any) -> None:
    assert read.landmarks.sample_ids.tolist() == [0, 1, 3]


@handled("a crowd", "coco", "left out and counted", _three_left)
def _(b: Bench) -> dict[str, Any]:
    b.person(iscrowd=1)
    return b.coco()


@handled("num_keypoints 0", "coco", "left out and counted", _three_left)
def _(b: Bench) -> dict[str, Any]:
    b.person(num_keypoints=0, keypoints=[0] * 9)
    return b.coco()


def _hidden(read: Any) -> None:
    assert read.landmarks.labelled[2].tolist() == [True, False, True]
    assert read.landmarks.keypoints[2, 1].tolist() == [0, 0]


@handled("v = 0 beside NaN", "coco", "unlabelled", _hidden)
def _(b: Bench) -> dict[str, Any]:
    b.joint(float("nan"), float("nan"), 0)
    return b.coco()


@handled("negative v", "coco", "unlabelled", _hidden)
def _(b: Bench) -> dict[str, Any]:
    b.joint(3, 3, -1)
    return b.coco()


# --- the other formats ---------------------------------------------------------------


def _mpii(b: Bench, change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    files = formats.names(COUNT)
    formats.write_pictures(b.folder, files)
    xy = formats.points(MPII_16, count=COUNT)
    data = formats.write_mpii_json(b.folder, xy, np.zeros((COUNT, 16), bool), files)
    record = json.loads(Path(data["annotations"]).read_text())
    change(record[2])
    Path(data["annotations"]).write_text(json.dumps(record))
    return b.data("mpii", data["annotations"])


@error("15 joints", "mpii JSON", "skeleton mismatch")
def _(b: Bench) -> dict[str, Any]:
    return _mpii(b, lambda person: person["joints"].pop())


@error("text as a coordinate", "mpii JSON", "skeleton mismatch")
def _(b: Bench) -> dict[str, Any]:
    return _mpii(b, lambda person: person["joints"].__setitem__(1, ["1", "2"]))


@error("NaN", "mpii JSON", "impossible coordinate")
def _(b: Bench) -> dict[str, Any]:
    return _mpii(b, lambda person: person["joints"].__setitem__(1, [float("nan"), 2]))


@error("no image", "mpii JSON", "bad image entry")
def _(b: Bench) -> dict[str, Any]:
    return _mpii(b, lambda person: person.pop("image"))


@error("an object instead of a list", "mpii JSON", "not an MPII file")
def _(b: Bench) -> dict[str, Any]:
    b.path("x.json").write_text("{}")
    return b.data("mpii", b.path("x.json"))


def _mpii_mat(b: Bench) -> Path:
    files = formats.names(COUNT)
    formats.write_pictures(b.folder, files)
    xy = formats.points(MPII_16, count=COUNT)
    gone = np.zeros((COUNT, 16), bool)
    return Path(formats.write_mpii_mat(b.folder, xy, gone, files)["annotations"])


@error("truncated file", "mpii .mat", "not a .mat file")
def _(b: Bench) -> dict[str, Any]:
    path = _mpii_mat(b)
    path.write_bytes(path.read_bytes()[:2000])
    return b.data("mpii", path)


@error("another variable", "mpii .mat", "not a .mat file")
def _(b: Bench) -> dict[str, Any]:
    from scipy.io import savemat

    savemat(b.path("x.mat"), {"joints": np.zeros(3)})
    return b.data("mpii", b.path("x.mat"))


def _release(b: Bench, ids: list[int]) -> dict[str, Any]:
    from scipy.io import savemat

    points = [{"x": 5.0 + i, "y": 6.0, "id": key} for i, key in enumerate(ids)]
    rect = {"annopoints": {"point": points}}
    picture = {"image": {"name": "0.png"}, "annorect": rect}
    savemat(b.path("x.mat"), {"RELEASE": {"annolist": [picture, picture]}})
    return b.data("mpii", b.path("x.mat"))


@error("a joint numbered 16", "mpii .mat", "skeleton mismatch")
def _(b: Bench) -> dict[str, Any]:
    return _release(b, [0, 16])


@error("a joint labelled twice", "mpii .mat", "skeleton mismatch")
def _(b: Bench) -> dict[str, Any]:
    return _release(b, [3, 3])


@error("joints of another shape", "lsp", "skeleton mismatch")
def _(b: Bench) -> dict[str, Any]:
    from scipy.io import savemat

    savemat(b.path("joints.mat"), {"joints": np.zeros((3, 13, 5))})
    return b.data("lsp", b.path("joints.mat"))


@error("text instead of numbers", "lsp", "skeleton mismatch")
def _(b: Bench) -> dict[str, Any]:
    from scipy.io import savemat

    savemat(b.path("joints.mat"), {"joints": "abc"})
    return b.data("lsp", b.path("joints.mat"))


@error("MATLAB 7.3 (HDF5)", "lsp", "not a .mat file")
def _(b: Bench) -> dict[str, Any]:
    b.path("joints.mat").write_bytes(
        b"MATLAB 7.3 MAT-file".ljust(124, b" ") + b"\x00\x02IM" + b"\0" * 400
    )
    return b.data("lsp", b.path("joints.mat"))


@error("missing pictures", "lsp", "missing file")
def _(b: Bench) -> dict[str, Any]:
    xy = formats.points(LSP_14, count=COUNT)
    gone = np.zeros((COUNT, 14), bool)
    data = formats.write_lsp(b.folder, xy, gone, extended=False)
    b.path("images/im0003.jpg").unlink()
    return b.data("lsp", data["annotations"])


def _h36m(b: Bench, **changes: Any) -> dict[str, Any]:
    files = formats.names(COUNT)
    formats.write_pictures(b.folder, files)
    data = formats.write_h36m_npz(b.folder, formats.points(H36M_17, count=COUNT), files)
    with np.load(data["annotations"]) as table:
        arrays = {key: table[key] for key in table.files} | changes
    np.savez(data["annotations"], **arrays)
    return b.data("h36m", data["annotations"])


@error("not a zip file", "h36m .npz", "not an .npz file")
def _(b: Bench) -> dict[str, Any]:
    b.path("x.npz").write_bytes(b"PK nothing")
    return b.data("h36m", b.path("x.npz"))


@error("pickled objects", "h36m .npz", "not an .npz file")
def _(b: Bench) -> dict[str, Any]:
    return _h36m(b, part=np.array([None, 1], object))


@error("landmarks of another shape", "h36m .npz", "skeleton mismatch")
def _(b: Bench) -> dict[str, Any]:
    return _h36m(b, part=np.zeros((COUNT, 16, 3)))


@error("NaN", "h36m .npz", "impossible coordinate")
def _(b: Bench) -> dict[str, Any]:
    part = np.random.default_rng(0).uniform(5, 60, (COUNT, 17, 3))
    part[2, 3] = np.nan
    return _h36m(b, part=part)


@error("no 2D landmarks beside the folder", "h36m challenge", "missing file")
def _(b: Bench) -> dict[str, Any]:
    b.path("Train/IMG").mkdir(parents=True)
    return b.data("h36m", b.folder)


@error("landmarks that are still a pickle", "h36m challenge", "missing file")
def _(b: Bench) -> dict[str, Any]:
    formats.write_challenge(b.folder, formats.points(H36M_17, count=2))
    for path in b.folder.glob("*_cache/*.npz"):
        path.rename(path.with_suffix(".pkl"))
    return b.data("h36m", b.folder)


HEAD = ["scorer,m,m,m,m", "bodyparts,a,a,b,b", "coords,x,y,x,y"]


def _csv(b: Bench, lines: list[str], encoding: str = "utf-8") -> dict[str, Any]:
    b.path("x.csv").write_bytes("\n".join(lines).encode(encoding))
    return b.data("dlc", b.path("x.csv")) | {"images": str(b.folder)}


@error("no header", "dlc .csv", "not a DeepLabCut file")
def _(b: Bench) -> dict[str, Any]:
    return _csv(b, ["0.png,1,2,30,40"])


@error("semicolons as separators", "dlc .csv", "not a DeepLabCut file")
def _(b: Bench) -> dict[str, Any]:
    return _csv(b, [line.replace(",", ";") for line in [*HEAD, "0.png,1,2,30,40"]])


@error("one column twice", "dlc .csv", "not a DeepLabCut file")
def _(b: Bench) -> dict[str, Any]:
    return _csv(b, [HEAD[0], HEAD[1], "coords,x,y,x,x", "0.png,1,2,30,40"])


@error("a row that is too short", "dlc .csv", "bad row")
def _(b: Bench) -> dict[str, Any]:
    return _csv(b, [*HEAD, "0.png,1,2,30"])


@error("text in a cell", "dlc .csv", "bad row")
def _(b: Bench) -> dict[str, Any]:
    return _csv(b, [*HEAD, "0.png,1,2,30,left"])


@error("infinity", "dlc .csv", "impossible coordinate")
def _(b: Bench) -> dict[str, Any]:
    return _csv(b, [*HEAD, "0.png,1,2,inf,4"])


@error("x without y", "dlc .csv", "impossible coordinate")
def _(b: Bench) -> dict[str, Any]:
    return _csv(b, [*HEAD, "0.png,1,2,30,"])


@error("no rows", "dlc .csv", "no labelled person")
def _(b: Bench) -> dict[str, Any]:
    return _csv(b, HEAD)


@error("not UTF-8", "dlc .csv", "not a csv file")
def _(b: Bench) -> dict[str, Any]:
    return _csv(b, [*HEAD, "Mäuse.png,1,2,30,40"], encoding="latin-1")


@error("predictions for a video", "dlc .csv", "no pictures")
def _(b: Bench) -> dict[str, Any]:
    return _csv(b, [*HEAD, "0,1,2,30,40", "1,1,2,30,40"])


@error("a folder without labels", "dlc project", "missing file")
def _(b: Bench) -> dict[str, Any]:
    return b.data("dlc", b.folder)


@handled("a damaged config.yaml", "dlc project", "read without bones, with a note")
def _(b: Bench) -> dict[str, Any]:
    b.path("labeled-data/v").mkdir(parents=True)
    b.path("config.yaml").write_text("skeleton: [[a, b]\n  }")
    lines = [*HEAD, "0.png,1,2,30,40"]
    b.path("labeled-data/v/CollectedData_m.csv").write_text("\n".join(lines))
    return b.data("dlc", b.folder)


@handled("a config.yaml of aliases", "dlc project", "read without bones, with a note")
def _(b: Bench) -> dict[str, Any]:
    b.path("labeled-data/v").mkdir(parents=True)
    bomb = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 20)]
    text = "\n".join(["a0: &a0 [lol]", *bomb, "skeleton: *a19"])
    b.path("config.yaml").write_text(text)
    lines = [*HEAD, "0.png,1,2,30,40"]
    b.path("labeled-data/v/CollectedData_m.csv").write_text("\n".join(lines))
    return b.data("dlc", b.folder)


@error("not an HDF5 file", "dlc .h5", "not a DeepLabCut file")
def _(b: Bench) -> dict[str, Any]:
    b.path("x.h5").write_bytes(b"nothing of the kind")
    return b.data("dlc", b.path("x.h5"))


@error("HDF5 without a table", "dlc .h5", "not a DeepLabCut file")
def _(b: Bench) -> dict[str, Any]:
    import h5py

    with h5py.File(b.path("x.h5"), "w") as file:
        file["a"] = np.zeros(3)
    return b.data("dlc", b.path("x.h5"))


@error("pickled cells", "dlc .h5", "not a DeepLabCut file")
def _(b: Bench) -> dict[str, Any]:
    import pandas as pd

    columns = pd.MultiIndex.from_product([["m"], ["a"], ["x", "y"]])
    columns.names = ["scorer", "bodyparts", "coords"]
    frame = pd.DataFrame([[1.0, 2.0]], ["0.png"], columns).astype(object)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas says that it pickles
        frame.to_hdf(b.path("x.h5"), key="df_with_missing")
    return b.data("dlc", b.path("x.h5")) | {"images": str(b.folder)}


@error("not an HDF5 file", "sleap", "not a SLEAP file")
def _(b: Bench) -> dict[str, Any]:
    b.path("x.slp").write_bytes(b"nothing of the kind")
    return b.data("sleap", b.path("x.slp"))


@error("truncated file", "sleap", "not a SLEAP file")
def _(b: Bench) -> dict[str, Any]:
    xy = formats.points(LSP_14, count=COUNT)
    files = formats.names(COUNT)
    formats.write_pictures(b.folder, files)
    gone = np.zeros((COUNT, 14), bool)
    data = formats.write_sleap(b.folder, LSP_14, xy, gone, files)
    path = Path(data["annotations"])
    path.write_bytes(path.read_bytes()[:1500])
    return b.data("sleap", path)


@error("frames of a video", "sleap", "no pictures")
def _(b: Bench) -> dict[str, Any]:
    import sleap_io as sio

    skeleton = sio.Skeleton([sio.Node("a"), sio.Node("b")])
    video = sio.Video(filename="mouse.mp4", open_backend=False)
    instance = sio.Instance.from_numpy(np.ones((2, 2)), skeleton=skeleton)
    frame = sio.LabeledFrame(video=video, frame_idx=3, instances=[instance])
    labels = sio.Labels([frame], videos=[video], skeletons=[skeleton])
    labels.save(str(b.path("x.slp")))
    return b.data("sleap", b.path("x.slp"))


# --- the skeleton and the settings ---------------------------------------------------


@error("a missing skeleton file", "config", "bad skeleton")
def _(b: Bench) -> dict[str, Any]:
    return b.coco(skeleton=str(b.path("gone.json")))


@error("a skeleton with a bone to an unknown joint", "config", "bad skeleton")
def _(b: Bench) -> dict[str, Any]:
    record = {"joints": ["root", "left_hand"], "edges": [["root", "tail"]]}
    return b.coco(skeleton=json.dumps(record))


@error("a skeleton without a joint of the file", "config", "skeleton mismatch")
def _(b: Bench) -> dict[str, Any]:
    return b.coco(skeleton=json.dumps({"joints": ["wing", "beak"]}))


@error("a joint name that the file does not have", "config", "skeleton mismatch")
def _(b: Bench) -> dict[str, Any]:
    return b.coco(joint_names={"paw": "root"})


@error("an unknown format", "config", "bad setting")
def _(b: Bench) -> dict[str, Any]:
    return b.coco() | {"name": "yolo"}


@error("an unknown field", "config", "bad setting")
def _(b: Bench) -> dict[str, Any]:
    return b.coco() | {"anotations": "x"}
