"""Pictures of users: decoded once, rotated as EXIF says, stored as JPEG or PNG."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

from PIL import Image

from input_pipeline.checks.problems import Problem, Reporter
from input_pipeline.decoding import as_rgb
from input_pipeline.formats.annotations import OUTSIDE_REMEDY, Person, text_outside
from input_pipeline.frames import read_encoded
from input_pipeline.pictures import decode_upright
from input_pipeline.skeleton import Skeleton

JPEG_QUALITY = 95


@dataclasses.dataclass(frozen=True)
class Picture:
    """A decoded picture.

    Args:
        encoded: the bytes of the file.
        image: decoded and upright.
        turned: whether EXIF turned it, so that the bytes show something else.
    """

    encoded: bytes
    image: Image.Image
    turned: bool


def check_picture(
    person: Person, annotations: Path, skeleton: Skeleton, *, report: Reporter
) -> Picture | None:
    """Decodes a person's picture and compares it with the annotations.

    EXIF turns are applied, as every viewer does. Where the annotated width and height
    are those of the picture before the turn, the labels were made without it, and the
    picture is left as it lies.

    Returns:
        The picture, or None after a report.
    """
    where = f"picture of annotation id {person.sample_id}"

    def problem(kind: str, value: str, remedy: str) -> None:
        report(Problem(kind, str(person.file), where, value, remedy))

    try:
        encoded = read_encoded(person.file)
        picture = Picture(encoded, *decode_upright(encoded, person.size))
    except Exception as error:  # damaged files make Pillow fail in any way
        reason = " ".join(str(error).split()) or type(error).__name__
        remedy = "replace the picture or remove it from the annotations"
        problem("image does not decode", reason, remedy)
        return None
    image = picture.image
    if image.mode in ("I", "F"):
        remedy = "save it with 8 or 16 bits a channel"
        problem("image does not decode", f"pixels of mode {image.mode!r}", remedy)
        return None
    if person.size is not None and image.size != person.size:
        value = f"is {image.size} but {annotations} says {person.size}"
        remedy = "correct width and height, or the picture"
        problem("size differs", value, remedy)
        return None
    outside = text_outside(person, image.size, skeleton)
    if outside:
        problem("landmark outside", outside, OUTSIDE_REMEDY)
        return None
    return picture


def storable(picture: Picture) -> bytes:
    """The bytes as they are where TensorFlow decodes them, else encoded again."""
    image = picture.image
    jpeg = image.format in ("JPEG", "MPO") or picture.encoded[:2] == b"\xff\xd8"
    plain = jpeg or image.format == "PNG"
    if plain and not picture.turned and image.mode != "CMYK":
        return picture.encoded
    buffer = io.BytesIO()
    if jpeg and picture.turned:
        as_rgb(image).save(buffer, format="JPEG", quality=JPEG_QUALITY, subsampling=0)
    else:
        as_rgb(image).save(buffer, format="PNG")
    return buffer.getvalue()
