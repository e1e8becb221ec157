"""The report of a run: which samples it shows, and what it reads for them."""

import numpy as np
import pytest
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
    rows = report.shown_rows(len(data.landmarks("val")))
    found = report.samples(data, tmp_path, rows)
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
    found = report.samples(data, tmp_path, [3, 1])
    for row, sample in zip([3, 1], found, strict=True):
        assert set(sample["poses"]) == {"teacher", "distill"}
        assert (sample["poses"]["distill"][:, 2] == marks.sample_ids[row]).all()


def test_few_samples_are_all_shown_and_many_evenly():
    assert report.shown_rows(5) == [0, 1, 2, 3, 4]
    assert np.unique(np.diff(report.shown_rows(20_000))).tolist() == [1666]
    assert len(report.shown_rows(20_000)) == report.SHOWN
