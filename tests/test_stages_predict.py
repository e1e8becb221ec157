"""--stage=predict: poses of pictures and videos, as files."""

import csv
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import tiny_student as tiny
from ml_collections import ConfigDict
from PIL import Image
from tiny_data import coco_record, write_video
from tiny_student import noise

from configs.default import get_config
from input_pipeline.landmarks import make_landmarks
from input_pipeline.pictures import video_facts
from pose_jax.estimator import PoseEstimator
from stages import predict
from stages.boxes import find_sources, pictures_of


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run whose student was never trained, but saved like a trained one."""
    return tiny.write_student(tmp_path_factory.mktemp("run")).parent


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
        rest += ["center_0", "center_1", "center_2", "fnum", "picture", "frame"]
        assert columns[6 * tiny.P :] == rest
        x, y, score = np.reshape(result["keypoints"], (-1, 3))[3]
        z = result["keypoints_3d"][3][2]
        given = [float(row[f"Neck_{part}"]) for part in ("x", "y", "z", "score")]
        np.testing.assert_allclose(given, [x, y, z, score], atol=2e-3)
        error = np.hypot(*result["keypoints_std"][3])
        assert float(row["Neck_error"]) == pytest.approx(error, abs=2e-3)
        assert (float(row["Neck_ncams"]), row["fnum"]) == (1, "0")
        assert (row["picture"], row["frame"]) == ("a.png", "")


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
    with open(tmp_path / "out" / "predictions.csv", newline="") as table:
        rows = list(csv.DictReader(table))
    assert [row["fnum"] for row in rows] == [row["frame"] for row in rows] == ["0", "5"]
    assert {row["picture"] for row in rows} == {"film.mp4"}
    (film,) = (tmp_path / "out" / "overlays").iterdir()
    assert film.name == "film.mp4"
    assert video_facts(film)[0] == 2
    import av

    with av.open(str(film)) as container:
        frames = list(container.decode(video=0))
    assert [float(frame.time) for frame in frames] == [0.0, 0.5]  # as in the video
    shown = [frame.to_image() for frame in frames]
    assert shown[0].size == (64 + 48, 48)  # the picture, and the pose beside it
    left, right = (
        np.asarray(shown[1])[:, part] for part in (slice(64), slice(64, 112))
    )
    assert np.median(left) == pytest.approx(170, abs=4)  # the grey of frame 5
    assert np.median(right) > 240
    assert right.min() < 200  # something is drawn


@pytest.mark.parametrize("frames", [(5,), ()])
def test_any_batch_and_all_of_them_may_be_without_a_body(
    workdir, tmp_path, frames, capsys
):
    """A person enters in the last frame, of the second batch, or never."""
    file = write_video(tmp_path / "film.mp4", count=6)
    noise(40, 40).save(tmp_path / "a.png")
    boxes = tmp_path / "boxes.json"
    record = {f"film.mp4#{frame}": [[0, 0, 40, 40]] for frame in frames}
    boxes.write_text(json.dumps({"film.mp4#0": [], **record}))
    images = f"{file},{tmp_path / 'a.png'}"
    options = {"annotations": str(boxes), "out": str(tmp_path / "out")}
    path = predict.predict(config(images, **options), workdir)
    assert [r["frame"] for r in json.loads(path.read_text())] == list(frames)
    about = json.loads((path.parent / "about.json").read_text())
    assert (about["poses"], about["pictures"]) == (len(frames), 6)
    (film,) = (path.parent / "overlays").iterdir()
    assert video_facts(film)[0] == 6  # also without a body
    with open(path.parent / "predictions.csv", newline="") as table:
        assert [row["fnum"] for row in csv.DictReader(table)] == [*map(str, frames)]
    said = "no box in any of them" in capsys.readouterr().err
    assert said == (not frames)


@pytest.mark.parametrize("rule", ["landmarks", "annotation"])
def test_a_body_is_cropped_as_the_training_cropped_it(tmp_path, rule):
    tiny.write_student(tmp_path, box=rule)
    noise(80, 100).save(tmp_path / "000.png")
    record = coco_record(1)
    annotation = record["annotations"][0] | {"bbox": [2, 4, 40, 60]}
    record |= {"annotations": [annotation]}
    record["images"][0] |= {"width": 100, "height": 80}
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps(record))
    options = {"annotations": str(boxes), "overlays": False, "viewer_samples": 0}
    path = predict.predict(config(tmp_path, **options), tmp_path)
    (result,) = json.loads(path.read_text())
    points = np.reshape(annotation["keypoints"], (1, -1, 3))
    trained = make_landmarks(
        skeleton=tiny.SKELETON,
        sample_ids=np.zeros(1, np.int64),
        keypoints=points[..., :2],
        labelled=points[..., 2] > 0,
        boxes=np.array([annotation["bbox"]]) if rule == "annotation" else None,
        names=("000.png",),
        padding=1.25,
    )
    corner = trained.centre[0] - trained.half_side[0]
    expected = [*corner, *(2 * trained.half_side[0],) * 2]
    np.testing.assert_allclose(result["bbox"], expected, atol=2e-3)


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
    options = {"annotations": str(boxes), "viewer_samples": 20}
    options |= {"out": str(tmp_path / "out"), "overlays": False}
    predict.predict(config(tmp_path, **options), workdir)
    page = (tmp_path / "out" / "viewer.html").read_text()
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


def test_files_of_the_user_are_never_replaced(workdir, tmp_path):
    """Pictures that an earlier run drew become inputs; tables that somebody made."""
    noise(16, 16).save(tmp_path / "a.png")
    out = tmp_path / "out"
    options = {"out": str(out), "viewer_samples": 0}
    predict.predict(config(tmp_path, **options), workdir)
    before = {f: f.read_bytes() for f in out.rglob("*") if f.is_file()}
    with pytest.raises(ValueError, match=r"holds the input .*overlays/a\.jpg; write"):
        predict.predict(config(out / "overlays", **options), workdir)
    boxes = out / "predictions.json"
    with pytest.raises(ValueError, match=r"holds the input .*predictions\.json"):
        predict.predict(config(tmp_path, annotations=str(boxes), **options), workdir)
    (out / "predictions_mine.csv").write_text("mine")
    with pytest.raises(ValueError, match=r"predictions_mine\.csv was not written by"):
        predict.predict(config(tmp_path, **options), workdir)
    (out / "predictions_mine.csv").unlink()
    assert {f: f.read_bytes() for f in out.rglob("*") if f.is_file()} == before
    predict.predict(config(tmp_path, **options, overlays=False), workdir)
    assert not (out / "overlays").exists()


def test_little_is_kept_of_a_large_picture(workdir, tmp_path):
    """Whatever a folder holds, what waits for the network fits into memory."""
    Image.new("RGB", (6000, 4000), "red").save(tmp_path / "a.jpg")
    estimator = PoseEstimator.load(workdir, mode="", batch_size=1)
    cutter = predict.Cutter(estimator, {}, overlays=True, looks=True)
    sources = find_sources(str(tmp_path / "a.jpg"), "", box="landmarks")
    (picture,) = pictures_of(sources, every=1)
    cut = cutter.cut(picture)
    assert not cut.failures
    assert len(pickle.dumps(cut)) < 2**20


HUGE = "9" * 5000


def test_one_bad_file_is_one_failure(workdir, tmp_path):
    """Of names and boxes of every kind; the others are predicted."""
    pictures = tmp_path / "in"
    pictures.mkdir()
    long = "l" * 251 + ".png"
    for name in ("a.png", long, "=1+1.png"):
        noise(16, 16).save(pictures / name)
    strange = os.fsencode(pictures) + b"/caf\xe9.png"
    Path(os.fsdecode(strange)).write_bytes((pictures / "a.png").read_bytes())
    os.mkfifo(pictures / "pipe.png")
    (pictures / "x.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0")
    options = {"out": str(tmp_path / "out")}
    with pytest.raises(ValueError, match="2 could not be read") as said:
        predict.predict(config(pictures, **options), workdir)
    assert str(said.value).isprintable()
    results = json.loads((tmp_path / "out" / "predictions.json").read_text("utf-8"))
    names = [r["file_name"] for r in results]
    assert names == sorted(["a.png", long, "=1+1.png", os.fsdecode(b"caf\xe9.png")])
    about = json.loads((tmp_path / "out" / "about.json").read_text("utf-8"))
    assert [f["file"] for f in about["failures"]] == ["pipe.png", "x.jpg"]
    assert len(list((tmp_path / "out" / "overlays").iterdir())) == 4
    text = (tmp_path / "out" / "predictions.csv").read_text("utf-8")
    assert ",'=1+1.png," in text
    predict.predict(config(pictures / "a.png", **options), workdir)  # over all of it


@pytest.mark.parametrize("side", [1e30, 1e300, 1e-320, 1e6])
def test_an_impossible_box_is_one_failure(workdir, tmp_path, side):
    noise(16, 16).save(tmp_path / "a.png")
    boxes = tmp_path / "boxes.json"
    both = [[0, 0, side, side], [2, 2, 8, 8], [-side, 0, 8, 8]][: 2 + (side > 1)]
    record = {
        "a.png": both,
        f"a.mp4#{HUGE}": [2, 2, 8, 8],
        "a.mp4#\u00b2": [2, 2, 8, 8],
    }
    boxes.write_text(json.dumps(record))
    options = {"annotations": str(boxes), "out": str(tmp_path / "out")}
    with pytest.raises(
        ValueError, match=r"could not be read: a\.png: box = .* is not a b"
    ):
        predict.predict(config(tmp_path, **options), workdir)
    (result,) = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert result["bbox"] == [1, 1, 10, 10]
    about = json.loads((tmp_path / "out" / "about.json").read_text())
    assert len(about["failures"]) == len(both) - 1 + 2
    assert (about["pictures"], about["poses"]) == (1, 1)


def test_a_frame_that_a_video_lacks_is_a_failure(workdir, tmp_path):
    file = write_video(tmp_path / "film.mp4", count=3)
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps({f"film.mp4#{n}": [0, 0, 40, 40] for n in (1, 7)}))
    options = {"annotations": str(boxes), "out": str(tmp_path / "out")}
    with pytest.raises(
        ValueError, match=r"1 could not be read: .*film\.mp4 has no frame 7"
    ):
        predict.predict(config(file, **options), workdir)


def test_no_file_of_json_holds_what_is_no_json(workdir, tmp_path):
    noise(16, 16).save(tmp_path / "a.png")
    boxes = tmp_path / "boxes.json"
    box = {"file_name": "a.png", "bbox": [0, 0, 16, 16], "image_id": float("nan")}
    boxes.write_text(json.dumps([box]))
    options = {"annotations": str(boxes), "out": str(tmp_path / "out")}
    path = predict.predict(config(tmp_path, **options), workdir)

    def refuse(name):
        raise AssertionError(name)

    for file in (path, path.parent / "about.json"):
        json.loads(file.read_text(), parse_constant=refuse)


def test_a_known_length_gives_millimetres(workdir, tmp_path):
    for i in range(3):
        noise(30 + 20 * i, 40).save(tmp_path / f"{i}.png")
    options = {"length": "Neck-Head=120", "overlays": False, "viewer_samples": 0}
    path = predict.predict(config(tmp_path, **options), workdir)
    results = json.loads(path.read_text())
    points = np.array([r["keypoints_3d_mm"] for r in results])
    pixels = np.array([r["keypoints_3d"] for r in results])
    neck, head = (tiny.SKELETON.joints.index(name) for name in ("Neck", "Head"))
    lengths = np.linalg.norm(points[:, neck] - points[:, head], axis=-1)
    scale = np.linalg.norm(points, axis=(1, 2)) / np.linalg.norm(pixels, axis=(1, 2))
    np.testing.assert_allclose(points, pixels * scale[:, None, None], atol=0.01)
    assert lengths.min() <= 120 <= lengths.max()
    with open(path.parent / "predictions.csv", newline="") as file:
        row = next(csv.DictReader(file))
    given = [float(row[f"Head_{axis}_mm"]) for axis in "xyz"]
    np.testing.assert_allclose(given, points[0, head], atol=1e-6)
    about = json.loads((path.parent / "about.json").read_text())
    assert "millimetres" in about["units"]["keypoints_3d_mm"]
    with pytest.raises(
        ValueError, match="the length 'Neck-Tail=1' is not 'JOINT-JOINT"
    ):
        predict.predict(config(tmp_path, length="Neck-Tail=1"), workdir)
