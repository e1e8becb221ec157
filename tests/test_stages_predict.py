"""Prediction: crops as in training, files, boxes, results in COCO form."""

import contextlib
import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_student as tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict
from PIL import Image

from configs.default import get_config
from input_pipeline.augment import FILL
from input_pipeline.pictures import cut_patch, find_files, open_picture, read_video
from pose_jax.estimator import PoseEstimator
from stages import predict
from stages.boxes import find_sources, short_names

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run whose student was never trained, but saved like a trained one."""
    return tiny.write_student(tmp_path_factory.mktemp("run")).parent


@pytest.fixture(scope="module")
def estimator(workdir):
    return PoseEstimator.load(workdir, batch_size=4)


noise = tiny.noise


# --- crops -------------------------------------------------------------------------


def test_a_crop_at_full_resolution_is_the_picture_itself():
    picture = noise(48, 48)
    patch = cut_patch(picture, np.array([20.0, 24.0]), 16.0, 32)
    np.testing.assert_array_equal(patch, np.asarray(picture)[8:40, 4:36])


def test_outside_the_picture_is_the_grey_of_training():
    patch = cut_patch(noise(32, 32), np.array([0.0, 0.0]), 16.0, 32)
    assert (patch[:15] == FILL).all()
    assert (patch[:, :15] == FILL).all()
    assert patch[17:, 17:].std() > 5


def test_a_large_picture_is_averaged_not_skipped():
    board = np.indices((256, 256)).sum(0) % 2 * 255
    picture = Image.fromarray(np.repeat(board[..., None], 3, 2).astype(np.uint8))
    patch = cut_patch(picture, np.array([128.0, 128.0]), 128.0, 32)
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
    from input_pipeline.augment import draw_patch

    file = tmp_path / "picture.png"
    noise(*size).save(file)
    place = np.array(centre, np.float32)
    trained = draw_patch(file.read_bytes(), place, half_side, np.eye(2), np.ones(3), 32)
    patch = cut_patch(Image.open(file), place, half_side, 32)
    np.testing.assert_array_equal(trained, patch)


# --- files -------------------------------------------------------------------------


def test_exif_turns_the_picture_unless_its_annotations_are_unturned(tmp_path):
    file = tmp_path / "turned.jpg"
    picture = noise(40, 64)
    exif = picture.getexif()
    exif[0x0112] = 6  # turn by a quarter, clockwise
    picture.save(file, exif=exif, quality=95)
    assert open_picture(file).size == (40, 64)
    assert open_picture(file, size=(40, 64)).size == (40, 64)
    assert open_picture(file, size=(64, 40)).size == (64, 40)


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\xff\xd8\xff\xe0"])
def test_a_file_that_does_not_decode_is_named(tmp_path, content):
    file = tmp_path / "broken.jpg"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.jpg does not decode.*replace"):
        open_picture(file)


@pytest.mark.parametrize("mode", ["CMYK", "L", "P", "1", "RGBA", "LA", "YCbCr"])
def test_pictures_of_other_colours_are_read(tmp_path, mode):
    file = tmp_path / ("picture.jpg" if mode in ("CMYK", "YCbCr") else "picture.png")
    noise(20, 30).convert(mode).save(file)
    picture = open_picture(file)
    assert picture.mode == "RGB"
    assert picture.size == (30, 20)


def test_greys_of_16_bits_keep_their_upper_byte(tmp_path):
    file = tmp_path / "deep.png"
    values = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    Image.fromarray(values).save(file)
    grey = np.asarray(open_picture(file))
    np.testing.assert_array_equal(grey[..., 1].ravel(), np.arange(256))
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ValueError, match=r"float\.tif .*floats; save it with 8"):
        open_picture(tmp_path / "float.tif")


def test_files_are_found_by_folder_pattern_and_name(tmp_path):
    for name in ("b.png", "a.JPG", "c, d.png", "note.txt", "film.mp4"):
        (tmp_path / name).touch()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.JPG").touch()
    names = [f.name for f in find_files(str(tmp_path))]
    assert names == ["a.JPG", "b.png", "c, d.png"]
    assert len(find_files(f"{tmp_path}/*.png")) == 2
    assert len(find_files(f"{tmp_path}/**/*.JPG")) == 2
    assert len(find_files(f"{tmp_path}/c, d.png")) == 1
    assert len(find_files(f"{tmp_path}/b.png, {tmp_path}/film.mp4")) == 2
    assert len(find_files(f"{tmp_path}, {tmp_path}/b.png")) == 3  # none twice
    names = short_names(find_files(f"{tmp_path}/**/*.[Jp]*"))
    assert sum(Path(name).is_absolute() for name in names.values()) == 2


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ("", r"config\.predict\.images is empty"),
        ("{}", r"holds no picture \("),
        ("{}/film", r"holds no picture, but 1 videos; name one, or '.*/\*\.mp4'"),
        ("{}/*.png", r"matches 0 files and no picture"),
    ],
)
def test_nothing_to_predict_says_what_to_give(tmp_path, images, words):
    (tmp_path / "film").mkdir()
    (tmp_path / "film" / "a.mp4").touch()
    with pytest.raises(ValueError, match=words):
        find_files(images.format(tmp_path))


# --- videos ------------------------------------------------------------------------


def write_video(path, count=6, *, half=False):
    """Frames of a grey that grows by 30; or with a white left half."""
    av = pytest.importorskip("av", reason="PyAV is not installed")
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(count):
            grey = np.full((48, 64, 3), 20 + 30 * i, np.uint8)
            if half:
                grey[:, :32] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey)))
        container.mux(stream.encode())
    return path


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


def test_without_pyav_the_install_line_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ValueError, match=r'a\.mp4: videos need PyAV: pip install "av'):
        list(read_video(tmp_path / "a.mp4"))


# --- whom to predict ---------------------------------------------------------------


def coco(tmp_path, annotations, name="a.png"):
    record = {
        "images": [{"id": 7, "file_name": name, "width": 100, "height": 80}],
        "annotations": annotations,
    }
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(record))
    return str(path)


def test_boxes_come_from_landmarks_or_from_bbox(tmp_path):
    landmarks = [30, 20, 2, 50, 60, 1, 0, 0, 0]
    path = coco(
        tmp_path,
        [
            {"id": 1, "image_id": 7, "bbox": [10, 20, 30, 40]},
            {"id": 2, "image_id": 7, "bbox": [0, 0, 9, 9], "keypoints": landmarks},
            {"id": 3, "image_id": 7, "bbox": [0, 0, 9, 9], "iscrowd": 1},
        ],
    )
    (source,) = find_sources(str(tmp_path), path)
    assert (source.file, source.name) == (tmp_path / "a.png", "a.png")
    assert (source.image_id, source.size) == (7, (100, 80))
    first, second = source.persons
    np.testing.assert_allclose(first.box, [10, 20, 30, 40])
    np.testing.assert_allclose(second.box, [30, 20, 20, 40])
    assert second.ids == {"annotation_id": 2}


def test_boxes_may_be_detections_or_a_record_of_names(tmp_path):
    path = tmp_path / "boxes.json"
    box = [1, 2, 3, 4]
    path.write_text(json.dumps([{"file_name": "b.png", "bbox": box, "score": 0.5}]))
    (source,) = find_sources(str(tmp_path), str(path))
    np.testing.assert_allclose(source.persons[0].box, box)
    record = {"a.png": box, "b.png": [box, box], "c.png": [], "d.mp4#3": [box]}
    path.write_text(json.dumps(record))
    a, b, film = find_sources(str(tmp_path), str(path))
    assert [len(a.persons), len(b.persons), len(film.persons)] == [1, 2, 0]
    assert (film.name, list(film.frames)) == ("d.mp4", [3])
    (only,) = find_sources(f"{tmp_path}/none.png,{tmp_path}/b.png", str(path))
    assert only.file == tmp_path / "b.png"
    with pytest.raises(ValueError, match=r"none for e\.png; correct its file names"):
        find_sources(f"{tmp_path}/e.png", str(path))


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        ({"image_id": 7, "bbox": [1, 2, 0, 0]}, r"annotations\[0\]: bbox \[1, 2, 0, 0"),
        ({"image_id": 7}, r"annotations\[0\]: bbox None"),
        ({"image_id": 7, "bbox": ["a", 1, 2, 3]}, r"annotations\[0\]: bbox \['a'"),
        ({"image_id": 8, "bbox": [0, 0, 1, 1]}, r"annotations\[0\]: image_id 8"),
        ({"image_id": [7], "bbox": [0, 0, 1, 1]}, r"annotations\[0\]: \[7\] is not"),
        (5, r"annotations\[0\] is not a record"),
    ],
)
def test_annotations_without_a_box_are_named(tmp_path, annotation, words):
    path = coco(tmp_path, [annotation])
    with pytest.raises(ValueError, match=words):
        find_sources(str(tmp_path), path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"images": [', "is not JSON"),
        ('{"images": []}', "is not a COCO file"),
        ('{"annotations": {}}', "'images' is not a list"),
        ('{"images": [{}], "annotations": []}', r"images\[0\] has no id"),
        ('{"images": [{"id": 1}], "annotations": []}', r"images\[0\]: file_name None"),
        ('{"images": [], "annotations": []}', "has no boxes; nothing to predict"),
        ("[5]", r"\[0\] is not a record"),
        ('{"a.png": 5}', "'a.png' is not a list of boxes"),
        ("5", "is not a COCO file"),
        ("\xff", "is not JSON"),
    ],
)
def test_broken_boxes_are_named(tmp_path, text, words):
    path = tmp_path / "boxes.json"
    path.write_bytes(text.encode("latin1"))
    with pytest.raises(ValueError, match=words):
        find_sources(str(tmp_path), str(path))
    with pytest.raises(ValueError, match=r"none\.json does not exist"):
        find_sources(str(tmp_path), str(tmp_path / "none.json"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["images", "annotations", "id", "image_id", "file_name", "bbox"]
                + ["keypoints", "iscrowd", "width", "height", "a.png", "b.mp4#3"]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=30,
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(JSON)
def test_any_json_gives_boxes_or_a_message(tmp_path_factory, record):
    path = tmp_path_factory.getbasetemp() / "fuzz.json"
    path.write_text(json.dumps(record))
    sources = []
    with contextlib.suppress(ValueError):  # and nothing else
        sources = find_sources("pictures", str(path))
    for source in sources:
        persons = [*source.persons, *(p for f in source.frames.values() for p in f)]
        assert all(np.isfinite(person.box).all() for person in persons)
        assert all(person.box[2:].min() > 0 for person in persons)


# --- the stage ---------------------------------------------------------------------


def config(images, **changes):
    options = get_config().predict
    options.update({"images": str(images), "batch_size": 4, **changes})
    return ConfigDict({"predict": options})


def test_the_stage_writes_all_its_files(workdir, tmp_path):
    for name, size in (("a.png", (80, 100)), ("b.jpg", (50, 40))):
        noise(*size).save(tmp_path / name)
    path = predict.predict(config(tmp_path), workdir)
    results = json.loads(path.read_text())
    assert [r["file_name"] for r in results] == ["a.png", "b.jpg"]
    assert [r["image_id"] for r in results] == [0, 1]
    for result, (height, width) in zip(results, [(80, 100), (50, 40)], strict=True):
        assert len(result["keypoints"]) == 3 * tiny.P
        assert np.shape(result["keypoints_std"]) == (tiny.P, 2)
        assert np.shape(result["keypoints_3d_std"]) == (tiny.P, 3)
        assert np.shape(result["keypoints_3d"]) == (tiny.P, 3)
        assert result["keypoints_3d"][0] == [0, 0, 0]
        name = result["file_name"].partition(".")[0] + ".jpg"
        with Image.open(path.parent / "overlays" / name) as drawn:
            assert drawn.size == (width, height)
    assert {f.name for f in path.parent.iterdir()} == {
        *("predictions.json", "predictions.csv", "about.json", "viewer.html"),
        "overlays",
    }
    about = json.loads((path.parent / "about.json").read_text())
    assert about["skeleton"] == tiny.SKELETON.to_dict()
    assert (about["poses"], about["poses_in_viewer"], about["failures"]) == (2, 2, [])


def test_the_table_has_the_columns_of_anipose(workdir, tmp_path):
    noise(40, 40).save(tmp_path / "a.png")
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps({"a.png": [[0, 0, 40, 40], [5, 5, 20, 20]]}))
    path = predict.predict(config(tmp_path, annotations=str(boxes)), workdir)
    results = json.loads(path.read_text())
    for name, result in zip(
        ("predictions.csv", "predictions_person2.csv"), results, strict=True
    ):
        with open(path.parent / name, newline="") as file:
            (row,) = csv.DictReader(file)
        columns = list(row)
        for p, joint in enumerate(tiny.SKELETON.joints):
            parts = ("x", "y", "z", "error", "ncams", "score")
            assert columns[6 * p : 6 * p + 6] == [f"{joint}_{part}" for part in parts]
        rest = [f"M_{i}{j}" for i in range(3) for j in range(3)]
        rest += ["center_0", "center_1", "center_2", "fnum"]
        assert columns[6 * tiny.P :] == rest
        x, y, score = np.reshape(result["keypoints"], (-1, 3))[3]
        z = result["keypoints_3d"][3][2]
        given = [float(row[f"Neck_{part}"]) for part in ("x", "y", "z", "score")]
        np.testing.assert_allclose(given, [x, y, z, score], atol=2e-3)
        error = np.hypot(*result["keypoints_std"][3])
        assert float(row["Neck_error"]) == pytest.approx(error, abs=2e-3)
        assert (float(row["Neck_ncams"]), row["fnum"]) == (1, "0")


def test_a_video_is_predicted_frame_by_frame(workdir, tmp_path):
    file = write_video(tmp_path / "film.mp4", count=6)
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps({"film.mp4": [0, 0, 40, 40], "film.mp4#5": [9] * 4}))
    options = {"annotations": str(boxes), "out": str(tmp_path / "out"), "every": 5}
    path = predict.predict(config(file, **options), workdir)
    assert path == tmp_path / "out" / "predictions.json"
    results = json.loads(path.read_text())
    assert [r["frame"] for r in results] == [0, 5]
    assert [r["bbox"][2] for r in results] == [50, 11.25]
    names = sorted(f.name for f in (tmp_path / "out" / "overlays").iterdir())
    assert names == ["film_000000.jpg", "film_000005.jpg"]
    with open(tmp_path / "out" / "predictions.csv", newline="") as table:
        assert [row["fnum"] for row in csv.DictReader(table)] == ["0", "5"]


def test_an_unreadable_picture_is_named_and_the_others_go_on(workdir, tmp_path):
    for name in ("a.png", "c.png"):
        noise(40, 40).save(tmp_path / name)
    (tmp_path / "b.jpg").write_bytes(b"not a picture")
    options = {"overlays": False, "viewer_samples": 0, "out": str(tmp_path / "out")}
    with pytest.raises(
        ValueError, match=r"1 could not be read: .*b\.jpg does not deco"
    ):
        predict.predict(config(tmp_path, **options), workdir)
    folder = tmp_path / "out"
    results = json.loads((folder / "predictions.json").read_text())
    assert [r["file_name"] for r in results] == ["a.png", "c.png"]
    (failure,) = json.loads((folder / "about.json").read_text())["failures"]
    assert failure["file"] == "b.jpg"
    names = {f.name for f in folder.iterdir()}
    assert names == {"predictions.json", "predictions.csv", "about.json"}


def test_nothing_is_left_half_written(workdir, tmp_path, monkeypatch):
    noise(40, 40).save(tmp_path / "a.png")
    options = config(tmp_path, out=str(tmp_path / "out"))
    predict.predict(options, workdir)
    before = {f: f.read_bytes() for f in (tmp_path / "out").rglob("*") if f.is_file()}

    def fail(*_, **__):
        raise OSError("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr("stages.poses.write_viewer", fail)
        with pytest.raises(OSError, match="full"):
            predict.predict(options, workdir)
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no pose to write: .*a\.png does not decode"):
        predict.predict(options, workdir)
    after = {f: f.read_bytes() for f in (tmp_path / "out").rglob("*") if f.is_file()}
    assert after == before


def test_the_viewer_of_many_poses_is_bounded(workdir, tmp_path):
    noise(16, 16).save(tmp_path / "a.png")
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps({"a.png": [[0, 0, i + 5, 9] for i in range(50)]}))
    options = {"annotations": str(boxes), "out": str(tmp_path), "viewer_samples": 20}
    predict.predict(config(tmp_path, **options, overlays=False), workdir)
    page = (tmp_path / "viewer.html").read_text()
    shown = page.count("data:image/jpeg")
    assert 10 <= shown <= 20
    assert f"{shown} of 50 poses" in page


def test_a_wrong_workdir_is_named_and_stays_as_it_is(tmp_path):
    noise(16, 16).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"nowhere does not exist; give the workdir"):
        predict.predict(config(tmp_path / "a.png"), tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    "changes", [{"every": 0}, {"batch_size": 0}, {"viewer_samples": -1}]
)
def test_numbers_out_of_range_are_named(workdir, tmp_path, changes):
    name, value = next(iter(changes.items()))
    with pytest.raises(ValueError, match=rf"predict\.{name} = {value} is not at least"):
        predict.predict(config(tmp_path, **changes), workdir)


@pytest.mark.parametrize(("broken", "status"), [(False, 0), (True, 1)])
def test_the_exit_status_tells_of_failures(workdir, tmp_path, broken, status):
    noise(40, 40).save(tmp_path / "good.png")
    if broken:
        (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    done = subprocess.run(
        [
            *(sys.executable, "main.py", "--config=configs/quickstart.py"),
            *(f"--workdir={workdir}", "--stage=predict"),
            *(f"--config.predict.images={tmp_path}", "--config.predict.batch_size=4"),
            *(f"--config.predict.out={tmp_path / 'out'}", "--config.seed=5"),
        ],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    assert ("broken.png does not decode" in done.stderr) == broken
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())) == 1
    assert not (workdir / "config.json").exists()
