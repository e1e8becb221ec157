"""Pictures from outside: decoding, turning, cutting as in training, videos."""

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from tiny_data import write_video
from tiny_student import noise

from benchmarks import house
from input_pipeline import decoding
from input_pipeline.augment import FILL, draw_patch
from input_pipeline.decoding import Upright
from input_pipeline.pictures import cut_patch, open_picture, read_video, video_facts


def seen(file, *arguments):
    """Size and all pixels of a file."""
    with open_picture(file, *arguments) as picture:
        return picture.size, picture.window((0, 0), picture.size, 1)[0]


# --- crops -------------------------------------------------------------------------


def test_a_crop_at_full_resolution_is_the_picture_itself():
    picture = noise(48, 48)
    patch = cut_patch(Upright(picture), np.array([20.0, 24.0]), 16.0, 32)
    np.testing.assert_array_equal(patch, np.asarray(picture)[8:40, 4:36])


def test_outside_the_picture_is_the_grey_of_training():
    patch = cut_patch(Upright(noise(32, 32)), np.array([0.0, 0.0]), 16.0, 32)
    assert (patch[:15] == FILL).all()
    assert (patch[:, :15] == FILL).all()
    assert patch[17:, 17:].std() > 5


def test_a_large_picture_is_averaged_not_skipped():
    board = np.indices((256, 256)).sum(0) % 2 * 255
    picture = Image.fromarray(np.repeat(board[..., None], 3, 2).astype(np.uint8))
    patch = cut_patch(Upright(picture), np.array([128.0, 128.0]), 128.0, 32)
    assert np.abs(patch.astype(int) - 127).max() <= 1


@pytest.mark.parametrize(
    ("size", "centre", "half_side"),
    [
        ((100, 90), (41.3, 52.9), 24.0),
        ((100, 90), (41.3, 52.9), 45.7),
        ((700, 900), (600.2, 500.7), 70.3),
        ((700, 900), (300.0, 690.0), 400.0),
        ((300, 280), (900.0, -400.0), 50.0),
    ],
)
def test_the_patch_is_that_of_training(size, centre, half_side, tmp_path):
    file = tmp_path / "picture.png"
    noise(*size).save(file)
    place = np.array(centre, np.float32)
    trained = draw_patch(file.read_bytes(), place, half_side, np.eye(2), np.ones(3), 32)
    patch = cut_patch(Upright(Image.open(file)), place, half_side, 32)
    np.testing.assert_array_equal(trained, patch)


# --- files -------------------------------------------------------------------------


def test_exif_turns_the_picture_unless_its_annotations_are_unturned(tmp_path):
    file = tmp_path / "turned.jpg"
    picture = noise(40, 64)
    exif = picture.getexif()
    exif[0x0112] = 6  # turn by a quarter, clockwise
    picture.save(file, exif=exif, quality=95)
    assert seen(file)[0] == (40, 64)
    assert seen(file, (40, 64))[0] == (40, 64)
    assert seen(file, (64, 40))[0] == (64, 40)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_parts_of_a_turned_picture_are_those_of_the_whole(orientation, monkeypatch):
    """Also where they are copied in strips, and where blocks end at the border."""
    stored = noise(37, 50)
    stored.getexif()[0x0112] = orientation
    whole = Upright(ImageOps.exif_transpose(stored))
    monkeypatch.setattr(decoding, "_PART_PIXELS", 200)
    turned = Upright(stored, orientation)
    assert turned.size == whole.size
    for low, high, shrink in (
        ((0, 0), whole.size, 1),
        ((3, 5), (20, 31), 1),
        ((3, 5), (99, 99), 4),
        ((30, 20), (33, 24), 8),
    ):
        expected, corner = decoding.cut_window(
            whole.window((0, 0), whole.size, 1)[0], low, high, shrink
        )
        found, at = turned.window(low, high, shrink)
        assert at == corner
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("minify", [1.5, 2.1, 30.0])
def test_a_jpeg_is_decoded_no_finer_than_needed(tmp_path, mode, minify):
    file = tmp_path / "a.jpg"
    noise(203, 301).resize((301, 203)).convert(mode).save(file, quality=95)
    with open_picture(file, minify=lambda size: minify) as picture:
        assert picture.size == (301, 203)
        asked = min(decoding.power_below(minify), 8)
        assert picture._stored.size == (-(-301 // asked), -(-203 // asked))
        place = np.array([160.0, 90.0]), 24 * minify, np.eye(2), np.ones(3), 48
        trained = draw_patch(file.read_bytes(), *place)
        np.testing.assert_allclose(
            draw_patch(picture, *place).astype(int), trained, atol=2
        )
        small = picture.thumbnail(30)
    assert small.size == (30, 20)


@pytest.mark.parametrize(("progressive", "limit"), [(False, 4000), (True, 20_000)])
def test_a_jpeg_above_the_limit_is_decoded_at_less(
    tmp_path, monkeypatch, progressive, limit
):
    grey = np.repeat(np.mgrid[:120, :128][1][..., None] * 2, 3, axis=2).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "a.jpg", progressive=progressive, quality=95)
    monkeypatch.setattr(decoding, "LIMIT", limit)
    with open_picture(tmp_path / "a.jpg") as picture:
        assert picture._stored.size == (64, 60)
        patch = cut_patch(picture, np.array([64.0, 60.0]), 32.0, 64)
    np.testing.assert_allclose(patch[32, 1:-1, 0], grey[0, 33:95, 0], atol=4)


def test_pictures_wait_for_each_other_where_they_are_large(tmp_path, monkeypatch):
    noise(20, 20).save(tmp_path / "a.png")
    monkeypatch.setattr(decoding, "_ROOM", decoding._Room(500))
    inside, most = [], []

    def look(_):
        with open_picture(tmp_path / "a.png"):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.01)
            inside.pop()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(look, range(8)))
    assert max(most) == 1
    monkeypatch.setattr(decoding, "LIMIT", 399)
    with pytest.raises(ValueError, match=r"its 400 pixels are more than 399"):
        look(0)


def test_only_pictures_are_opened_as_such(tmp_path):
    """Not what starts another program, nor what has no end."""
    (tmp_path / "a.jpg").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
    )
    with pytest.raises(ValueError, match=r"a\.jpg .*\(it is no picture of JPEG, PNG"):
        seen(tmp_path / "a.jpg")
    os.mkfifo(tmp_path / "b.jpg")
    os.mkfifo(tmp_path / "b.mp4")
    (tmp_path / "c.jpg").symlink_to("/dev/zero")
    for name in ("b.jpg", "c.jpg", "."):
        with pytest.raises(ValueError, match="it is no regular file"):
            seen(tmp_path / name)
    pytest.importorskip("av", reason="PyAV is not installed")
    with pytest.raises(ValueError, match=r"b\.mp4 is no regular file"):
        list(read_video(tmp_path / "b.mp4"))
    assert video_facts(tmp_path / "b.mp4") == (0, 0.0)


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\xff\xd8\xff\xe0"])
def test_a_file_that_does_not_decode_is_named(tmp_path, content):
    file = tmp_path / "broken.jpg"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.jpg does not decode.*replace"):
        seen(file)


@pytest.mark.parametrize("mode", ["CMYK", "L", "P", "1", "RGBA", "LA", "YCbCr"])
def test_pictures_of_other_colours_are_read(tmp_path, mode):
    file = tmp_path / ("picture.jpg" if mode in ("CMYK", "YCbCr") else "picture.png")
    noise(20, 30).convert(mode).save(file)
    size, pixels = seen(file)
    assert size == (30, 20)
    expected = np.asarray(Image.open(file).convert("RGB"))
    np.testing.assert_array_equal(pixels, expected)


def test_greys_of_16_bits_keep_their_upper_byte(tmp_path):
    file = tmp_path / "deep.png"
    values = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    Image.fromarray(values).save(file)
    grey = seen(file)[1]
    np.testing.assert_array_equal(grey[..., 1].ravel(), np.arange(256))
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ValueError, match=r"float\.tif .*floats; save it with 8"):
        seen(tmp_path / "float.tif")


def test_pictures_are_opened_in_one_place_by_known_formats():
    texts = house.sources(Path(__file__).parents[1])
    opened = {m for m, text in texts.items() if "Image.open(" in text}
    shipped = {m for m in opened if m.partition(".")[0] not in ("tests", "benchmarks")}
    assert shipped == {"input_pipeline.decoding"}
    text = texts["input_pipeline.decoding"]
    assert text.count("Image.open(") == text.count("formats=FORMATS") == 1


# --- videos ------------------------------------------------------------------------


def test_the_frames_of_a_video_come_in_order(tmp_path):
    frames = list(read_video(write_video(tmp_path / "a.mp4"), every=2))
    assert [number for number, _ in frames] == [0, 2, 4]
    greys = [np.asarray(picture).mean() for _, picture in frames]
    np.testing.assert_allclose(greys, [20, 80, 140], atol=4)
    assert frames[0][1].size == (64, 48)


def test_a_video_made_with_the_telephone_upright_is_turned(tmp_path):
    file = write_video(tmp_path / "a.mp4", 1, half=True)
    ((_, stored),) = list(read_video(file))
    assert np.asarray(stored)[24, 10].mean() > 200 > np.asarray(stored)[24, 50].mean()
    data = bytearray(file.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # its matrix of 16.16 fixed points
    quarter = [0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30]  # clockwise
    data[at : at + 36] = b"".join(v.to_bytes(4, "big", signed=True) for v in quarter)
    file.write_bytes(data)
    ((_, turned),) = list(read_video(file))
    assert turned.size == (48, 64)
    assert np.asarray(turned)[10, 24].mean() > 200 > np.asarray(turned)[50, 24].mean()


def test_a_broken_video_gives_its_frames_and_is_named(tmp_path):
    file = tmp_path / "broken.avi"
    file.write_bytes(b"RIFF not a video at all" * 10)
    pytest.importorskip("av", reason="PyAV is not installed")
    with pytest.raises(ValueError, match=r"broken\.avi does not decode as a video"):
        list(read_video(file))
    with pytest.raises(ValueError, match=r"none\.avi does not exist"):
        list(read_video(tmp_path / "none.avi"))


@pytest.mark.parametrize("text", ["ffconcat version 1.0\nfile film.mp4\n", "#EXTM3U\n"])
def test_a_list_of_other_files_is_no_video(tmp_path, text):
    """FFmpeg opens by content: it would read what lies beside it."""
    write_video(tmp_path / "film.mp4")
    assert video_facts(tmp_path / "film.mp4") == (6, 10.0)
    (tmp_path / "list.mp4").write_text(text)
    with pytest.raises(ValueError, match=r"list\.mp4 does not decode as a video"):
        list(read_video(tmp_path / "list.mp4"))


def test_without_pyav_the_install_line_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ValueError, match=r'a\.mp4: videos need PyAV: pip install "av'):
        list(read_video(tmp_path / "a.mp4"))
