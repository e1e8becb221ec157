"""The report of a run: which samples it shows, and what it reads for them."""

import numpy as np
import pytest
from ml_collections import ConfigDict
from tiny_data import coco_record, write_coco

from input_pipeline import pipeline
from input_pipeline.dataset import open_dataset
from stages import report


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Ten training and 40 validation pictures."""
    folder = tmp_path_factory.mktemp("data")
    train = write_coco(folder, coco_record(10))
    return open_dataset(train | write_coco(folder, coco_record(40), name="val"))


def test_only_the_pictures_that_are_shown_are_decoded(data, tmp_path, monkeypatch):
    decoded = []
    draw = pipeline.draw_patch

    def counted(*arguments, **more):
        decoded.append(arguments[0])
        return draw(*arguments, **more)

    monkeypatch.setattr(pipeline, "draw_patch", counted)
    rows = report.chosen(data, report.predictions(tmp_path))
    found = report.samples(data, {}, rows)
    assert len(found) == len(decoded) == report.SHOWN
    for row, sample in zip(rows, found, strict=True):
        assert sample["caption"] == data.landmarks("val").names[row]
        assert sample["image"].shape == (report.PICTURE, report.PICTURE, 3)
        # The picture has a white dot at the first landmark.
        x, y = sample["keypoints_2d"][0].astype(int)
        assert sample["image"][y, x].min() > 128


def test_the_poses_of_a_sample_are_found_by_its_id(data, tmp_path):
    marks = data.landmarks("val")
    order = np.arange(len(marks))[::-1]
    pose = np.zeros((len(marks), marks.skeleton.num_joints, 3), np.float32)
    pose[..., 2] = marks.sample_ids[order][:, None]
    for folder in ("teacher", "student_distill"):
        (tmp_path / folder).mkdir()
        file = tmp_path / folder / "predictions_val.npz"
        np.savez(file, sample_ids=marks.sample_ids[order], pose=pose)
    rows = {3: "", 1: "worst"}
    found = report.samples(data, report.predictions(tmp_path), rows)
    for row, sample in zip(rows, found, strict=True):
        assert set(sample["poses"]) == {"teacher", "distill"}
        assert (sample["points"]["distill"] == report.PICTURE / 2).all()
        assert (sample["poses"]["distill"][:, 2] == marks.sample_ids[row]).all()


def test_the_best_the_median_and_the_worst_are_shown(data):
    """By the distance to the landmarks, where there is no 3D."""
    marks = data.landmarks("val")
    order = np.random.default_rng(0).permutation(len(marks))
    pose = np.concatenate([marks.patch, 0 * marks.patch[..., :1]], axis=-1)
    pose[order, :, 0] += 0.01 * np.arange(len(marks))[:, None]
    by_id = dict(zip(marks.sample_ids.tolist(), pose, strict=True))
    rows = report.chosen(data, {"teacher": {}, "distill": by_id})
    words = ["best of Distilled"] * 4 + ["median of Distilled"] * 4
    words += ["worst of Distilled"] * 4
    assert list(rows) == [int(i) for i in (*order[:4], *order[18:22], *order[-4:])]
    assert [text.partition(",")[0] for text in rows.values()] == words
    assert rows[int(order[-1])].endswith("0.390 half sides from the landmarks")


def test_a_page_that_no_run_wrote_is_not_replaced(data, tmp_path, monkeypatch):
    monkeypatch.setattr("nrsfm_jax.evaluate.evaluate", lambda *_: None)
    config = ConfigDict({"seed": 0, "data": {"name": "x"}, "student": {"modes": ()}})
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(ValueError, match=r"report\.html was not written by an earlier"):
        report.write(config, tmp_path, data)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    (tmp_path / "report.html").unlink()
    for _ in range(2):
        report.write(config, tmp_path, data)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"report.html", "results.json"}
