"""Frames of videos and of SLEAP packages as pictures, by their number."""

import io
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from input_pipeline.checks.validate import validate
from input_pipeline.dataset import open_dataset
from input_pipeline.formats.splits import read_splits
from input_pipeline.frames import holder, is_there, picture_size, read_encoded
from input_pipeline.pictures import read_video
from input_pipeline.settings import read_settings

av = pytest.importorskip("av", reason="PyAV is not installed")
COUNT = 30
RED, BLUE = (220, 30, 30), (30, 30, 220)


def _video(path: Path, frames, codec: str = "mpeg4", **options: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=10, options=options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            file.mux(stream.encode(picture))
        file.mux(stream.encode())
    return path


def _plain(colour, size=(48, 64)) -> np.ndarray:
    return np.full((*size, 3), colour, np.uint8)


def _colour(picture: Path) -> np.ndarray:
    image = Image.open(io.BytesIO(read_encoded(picture)))
    return np.asarray(image.convert("RGB")).mean(axis=(0, 1))


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        # Frames that refer to later ones, so that they are not stored in their order.
        ("b.mp4", "libx264", {"bf": "3", "g": "12", "b-pyramid": "normal"}),
        ("b.avi", "mpeg4", {"bf": "0", "g": "7"}),
        ("b.mkv", "libx264", {"bf": "2", "g": "250"}),
    ],
)
def test_a_frame_by_its_number_is_that_of_the_order(tmp_path, name, codec, options):
    greys = [_plain(8 * i) for i in range(COUNT)]
    file = _video(tmp_path / name, greys, codec, **options)
    in_order = [np.asarray(image).mean() for _, image in read_video(file)]
    assert len(in_order) == COUNT
    for i in (0, 1, 11, 12, 13, 20, COUNT - 1):
        assert _colour(Path(f"{file}#{i}"))[0] == pytest.approx(in_order[i], abs=1.5)
    with pytest.raises(ValueError, match=f"{COUNT} frames and no number {COUNT}"):
        read_encoded(Path(f"{file}#{COUNT}"))


def test_names_of_frames(tmp_path):
    file = tmp_path / "a#1" / "clip.mp4"
    _video(file, [_plain(RED)] * 2)
    frame = Path(f"{file}#1")
    assert holder(frame) == file
    assert is_there(frame)
    assert picture_size(frame) == (64, 48)
    assert not is_there(tmp_path / "none.mp4#1")
    odd = tmp_path / "x.mp4#1"  # a file of that name is itself
    odd.write_bytes(b"text")
    assert holder(odd) == odd
    assert read_encoded(odd) == b"text"
    assert picture_size(odd) is None


def _sleap(folder: Path, *, package: bool, symmetric: bool = False) -> Path:
    """Two videos of one name, red and blue, with labels on frames 0, 3 and 6."""
    import sleap_io as sio

    nodes = ["nose", "earA", "earB", "left_eye", "right_eye"]
    pairs = [("earA", "earB"), ("right_eye", "left_eye")] if symmetric else []
    skeleton = sio.Skeleton(nodes=nodes, edges=[("nose", "earA")], symmetries=pairs)
    points = np.array([[5.0, 6], [40, 12], [12, 22], [20, 40], [30, 40]])
    frames = []
    for k, colour in enumerate((RED, BLUE)):
        _video(folder / f"cam{k}" / "clip.mp4", [_plain(colour)] * 8)
        video = sio.Video(str(folder / f"cam{k}" / "clip.mp4"))
        for i in (0, 3, 6):
            body = sio.Instance.from_numpy(points + k, skeleton=skeleton)
            frames.append(sio.LabeledFrame(video=video, frame_idx=i, instances=[body]))
    path = folder / ("labels.pkg.slp" if package else "labels.slp")
    sio.Labels(frames).save(str(path), embed=package, verbose=False)
    return path


@pytest.mark.parametrize("package", [False, True])
def test_sleap_reads_frames_of_two_videos_of_one_name(tmp_path, package):
    """Where the pictures were saved by the video's name, red ones became blue."""
    path = _sleap(tmp_path / "made", package=package)
    moved = (tmp_path / "made").rename(tmp_path / "moved")
    if package:
        for file in moved.glob("cam*/*"):
            file.unlink()
    data = {"name": "sleap", "annotations": str(moved / path.name), "num_val": 0}
    persons = read_splits(read_settings(data), report=print)["train"].persons
    assert len(persons) == 6
    assert len({person.file for person in persons}) == 6
    for k, person in enumerate(persons):
        colour = RED if k < 3 else BLUE
        np.testing.assert_allclose(_colour(person.file), colour, atol=6)
        np.testing.assert_allclose(person.keypoints[0], (5.5 + k // 3, 6.5 + k // 3))
        assert person.size == (64, 48)
    prepared = data | {"data_dir": str(tmp_path / "prepared")}
    (batch,) = open_dataset(prepared).pictures(
        "train", batch_size=8, image_size=8, seed=0, train=False
    )
    colours = batch["image"][:6].mean(axis=(1, 2))
    np.testing.assert_allclose(colours, [RED] * 3 + [BLUE] * 3, atol=8)


def test_which_of_two_videos_is_not_guessed(tmp_path):
    path = _sleap(tmp_path, package=False)
    (tmp_path / "cam0" / "clip.mp4").rename(tmp_path / "clip.mp4")
    (tmp_path / "cam1" / "clip.mp4").unlink()
    data = {"name": "sleap", "annotations": str(path), "num_val": 0}
    problems = [p for p in validate(open_dataset(data)).problems if p.fatal]
    assert {p.kind for p in problems} == {"no pictures", "no validation samples"}
    assert "cam0/clip.mp4 or" in problems[0].value


def test_symmetric_nodes_of_sleap_are_pairs(tmp_path):
    path = _sleap(tmp_path, package=True, symmetric=True)
    data = {"name": "sleap", "annotations": str(path), "num_val": 0}
    skeleton = read_splits(read_settings(data), report=print)["train"].skeleton
    # The names say which eye is the left one; of the ears only that they are a pair.
    assert sorted(skeleton.left_right) == [(1, 2), (3, 4)]
    assert skeleton.unpaired == ("nose",)


@pytest.mark.parametrize(
    ("fields", "colour"),
    [
        ({"format": "png", "channel_order": "RGB"}, RED),
        ({"format": "png", "channel_order": "BGR"}, RED[::-1]),
        ({"format": "png"}, RED[::-1]),  # older packages: as OpenCV writes
        ({}, RED),  # plain arrays
    ],
)
def test_the_colours_of_a_package(tmp_path, fields, colour):
    file = tmp_path / "x.pkg.slp"
    buffer = io.BytesIO()
    Image.fromarray(_plain(RED)).save(buffer, format="PNG")
    encoded = np.frombuffer(buffer.getvalue() + b"\0" * 5, np.int8)
    with h5py.File(file, "w") as package:
        values = [encoded] * 2 if fields else [_plain(RED)] * 2
        array = package.create_dataset("video0/video", data=np.stack(values))
        array.attrs.update(fields)
        package["elsewhere"] = h5py.ExternalLink("other.h5", "video0/video")
    np.testing.assert_array_equal(_colour(Path(f"{file}#video0/video#1")), colour)
    with pytest.raises(ValueError, match="no picture video0/video#2"):
        read_encoded(Path(f"{file}#video0/video#2"))
    with pytest.raises(ValueError, match="no array elsewhere"):
        read_encoded(Path(f"{file}#elsewhere#0"))
