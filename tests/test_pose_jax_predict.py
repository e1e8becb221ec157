"""Prediction: crops as in training, files, boxes, results in COCO form."""

import json

import jax
import numpy as np
import pytest
import tiny_student as tiny
from ml_collections import ConfigDict
from PIL import Image

from pose_jax import predict
from pose_jax.pictures import FILL, cut_patch, open_picture
from pose_jax.predict import PoseEstimator, find_persons
from pose_jax.student import CHECKPOINTS, StudentRecord, init_state
from runtime.checkpoints import Checkpoints


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run whose student was never trained, but saved like a trained one."""
    folder = tmp_path_factory.mktemp("run") / "student_distill"
    record = StudentRecord(
        mode="distill",
        skeleton=tiny.SKELETON,
        net=tiny.NET,
        image_size=tiny.SIZE,
        padding=1.25,
        depth_sign=1,
        depth_weight=1.0,
        matched_weight=1.0,
    )
    record.save(folder)
    state = init_state(
        record.make_net(), jax.random.key(0), image_size=tiny.SIZE, learning_rate=1e-3
    )
    with Checkpoints(folder / CHECKPOINTS, wait=True) as checkpoints:
        checkpoints.save(5, state)
    return folder.parent


@pytest.fixture(scope="module")
def estimator(workdir):
    return PoseEstimator.load(workdir / "student_distill", batch_size=4)


def noise(height, width, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, size=(height // 8 + 1, width // 8 + 1, 3))
    picture = Image.fromarray(coarse.astype(np.uint8))
    return picture.resize((width, height), Image.Resampling.BILINEAR)


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


@pytest.mark.parametrize("half_side", [24.0, 45.7])
def test_the_patch_is_that_of_training(half_side, tmp_path):
    tensorflow = pytest.importorskip("tensorflow")
    from input_pipeline.augment import draw_patch

    file = tmp_path / "picture.png"
    noise(100, 90).save(file)
    centre = np.array([41.3, 52.9], np.float32)
    trained = draw_patch(
        tensorflow.constant(file.read_bytes()),
        tensorflow.constant(centre),
        tensorflow.constant(half_side),
        tensorflow.eye(2),
        tensorflow.ones(3),
        32,
    ).numpy()
    patch = cut_patch(Image.open(file), centre, half_side, 32)
    difference = np.abs(trained.astype(int) - patch.astype(int))
    assert difference.max() <= 1


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


def test_a_missing_file_is_named(estimator, tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.jpg does not exist"):
        estimator([tmp_path / "nowhere.jpg"])


def test_arrays_of_another_kind_are_refused(estimator):
    with pytest.raises(ValueError, match=r"pictures\[1\].*float32, \(32, 32\)"):
        estimator([np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32), np.float32)])


# --- whom to predict ---------------------------------------------------------------


def coco(tmp_path, annotations):
    record = {
        "images": [{"id": 7, "file_name": "a.png", "width": 100, "height": 80}],
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
        ],
    )
    first, second = find_persons(str(tmp_path), path, padding=1.25)
    np.testing.assert_allclose(first.box, [10, 20, 30, 40])
    np.testing.assert_allclose(second.box, [30, 20, 20, 40])
    centre, half = second.crop((100, 80))
    np.testing.assert_allclose(centre, [[40, 40]])
    np.testing.assert_allclose(half, [25])
    assert second.ids == {"image_id": 7, "annotation_id": 2}


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        ({"image_id": 7, "bbox": [1, 2, 0, 0]}, r"annotations\[0\]: bbox \[1, 2, 0, 0"),
        ({"image_id": 7}, r"annotations\[0\]: bbox None"),
        ({"image_id": 8, "bbox": [0, 0, 1, 1]}, r"annotations\[0\]: image_id 8"),
    ],
)
def test_annotations_without_a_box_are_named(tmp_path, annotation, words):
    path = coco(tmp_path, [annotation])
    with pytest.raises(ValueError, match=words):
        find_persons(str(tmp_path), path, padding=1.25)


def test_nothing_to_predict_names_the_field(tmp_path):
    with pytest.raises(ValueError, match=r"config\.predict\.images is empty"):
        find_persons("", "", padding=1.25)
    with pytest.raises(ValueError, match="holds no picture"):
        find_persons(str(tmp_path), "", padding=1.25)


def test_a_student_that_was_not_trained_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"student\.json does not exist; run --stage"):
        PoseEstimator.load(tmp_path)


# --- poses -------------------------------------------------------------------------


def test_pixels_follow_from_the_box(estimator):
    picture = np.asarray(noise(64, 64))
    boxes = [None, [8.0, 8.0, 32.0, 16.0]]
    poses = estimator([picture, picture], boxes)
    np.testing.assert_allclose(poses.centre, [[32, 32], [24, 16]])
    np.testing.assert_allclose(poses.half_side, [32, 20])  # 1.25 * 32 / 2
    wanted = poses.pose[1, :, :2] * 20 + np.array([24, 16])
    np.testing.assert_allclose(poses.keypoints[1], wanted, rtol=1e-5)
    relative = (poses.pose[1] - poses.pose[1, 0]) * 20
    np.testing.assert_allclose(poses.keypoints_3d[1], relative, rtol=1e-4, atol=1e-4)
    assert ((poses.scores > 0) & (poses.scores <= 1)).all()


def test_batches_do_not_change_the_poses(estimator):
    pictures = [np.asarray(noise(40, 40, seed)) for seed in range(6)]
    together = estimator(pictures)
    assert len(together) == 6
    alone = estimator(pictures[5:])
    np.testing.assert_allclose(together.pose[5:], alone.pose, atol=1e-5)


def test_the_stage_writes_coco_results_and_pictures(workdir, tmp_path):
    for name, size in (("a.png", (80, 100)), ("b.jpg", (50, 40))):
        noise(*size).save(tmp_path / name)
    config = ConfigDict(
        {"predict": {"images": str(tmp_path), "annotations": "", "mode": "distill"}}
    )
    path = predict.predict(config, workdir)
    results = json.loads(path.read_text())
    assert [r["file_name"] for r in results] == ["a.png", "b.jpg"]
    for result, (height, width) in zip(results, [(80, 100), (50, 40)], strict=True):
        assert len(result["keypoints"]) == 3 * tiny.P
        assert np.shape(result["keypoints_3d"]) == (tiny.P, 3)
        assert result["keypoints_3d"][0] == [0, 0, 0]
        name = result["file_name"].partition(".")[0] + ".png"
        with Image.open(path.parent / name) as drawn:
            assert drawn.size == (width, height)
