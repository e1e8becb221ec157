"""Bad data: the readers stop at the first problem, the report has them all."""

from pathlib import Path

import numpy as np
import pytest
from tiny_data import JOINTS, SIZE, changed, coco_record, write_coco, write_motion

from input_pipeline.checks.problems import Problem
from input_pipeline.checks.validate import (
    Report,
    left_out,
    problem_lines,
    validate,
)
from input_pipeline.dataset import open_dataset


def _keypoints(record, annotation, joint, x, y, v=2):
    """The keypoints of an annotation with one joint replaced."""
    values = list(record["annotations"][annotation]["keypoints"])
    values[3 * joint : 3 * joint + 3] = [x, y, v]
    return values


def _kinds(report: Report) -> list[str]:
    return [problem.kind for problem in report.problems if problem.fatal]


@pytest.fixture
def record():
    return coco_record(20)


def test_good_data_is_ok(tmp_path, record):
    data = write_coco(tmp_path, record)
    report = validate(open_dataset(data))
    assert report.ok
    assert report.problems == ()
    assert report.samples == {"train": 18, "val": 2}
    assert report.verdict == "0 errors, 0 notes: ok"


BAD_PERSONS = {
    "NaN": lambda r: changed(r, 3, keypoints=_keypoints(r, 3, 2, float("nan"), 5)),
    "landmark outside the picture": lambda r: changed(
        r, 3, keypoints=_keypoints(r, 3, 2, SIZE + 9, 5)
    ),
    "no labelled joint": lambda r: changed(r, 3, keypoints=[0] * 3 * len(JOINTS)),
    "zero-area box": lambda r: changed(r, 3, keypoints=[9, 9, 2] * len(JOINTS)),
    "skeleton mismatch": lambda r: changed(r, 3, keypoints=[9, 9, 2]),
    "unknown image": lambda r: changed(r, 3, image_id=7),
    "duplicate id": lambda r: changed(r, 3, id=500),
    "bad annotation": lambda r: changed(r, 3, id="x"),
}


@pytest.mark.parametrize("kind", BAD_PERSONS)
def test_a_bad_person_is_named(tmp_path, record, kind):
    """One ValueError for the reader; the same problem in the report."""
    data = write_coco(tmp_path, BAD_PERSONS[kind](record))
    report = validate(open_dataset(data))
    assert _kinds(report) == [kind]
    problem = report.problems[0]
    assert problem.index.startswith("annotations[3]")
    assert problem.file == data["annotations"]
    assert not report.ok
    with pytest.raises(ValueError, match=kind) as caught:
        open_dataset(data).landmarks("train")
    assert str(caught.value) == str(problem)
    assert "\n" not in str(caught.value)


def test_index_value_and_remedy_are_in_the_message(tmp_path, record):
    bad = changed(record, 3, keypoints=_keypoints(record, 3, 2, 99.5, 5))
    data = write_coco(tmp_path, bad)
    with pytest.raises(ValueError, match=r"annotations\[3\] \(id 503\)") as caught:
        open_dataset(data).landmarks("train")
    for part in ("train.json", "99.5", "003.png", "outside=drop"):
        assert part in str(caught.value)


def test_all_problems_in_one_report(tmp_path, record):
    bad = record
    for i, make in enumerate(BAD_PERSONS.values()):
        moved = make(record)["annotations"][3]
        fields = {key: moved[key] for key in moved if moved[key] != _get(record, key)}
        bad = changed(bad, 10 + i, **fields)
    data = write_coco(tmp_path, bad)
    images = Path(data["images"])
    (images / "005.png").unlink()
    (images / "001.png").write_bytes(b"no picture")
    truncated = (images / "002.png").read_bytes()[:60]
    (images / "002.png").write_bytes(truncated)
    report = validate(open_dataset(data))
    expected = [
        *BAD_PERSONS,
        "missing file",
        "image does not decode",
        "image does not decode",
    ]
    assert sorted(_kinds(report)) == sorted(expected)
    text = "\n".join(problem_lines(report.problems))
    assert all(kind in text for kind in expected)


def _get(record, key):
    return record["annotations"][3].get(key)


def test_damaged_picture_stops_the_reader(tmp_path, record):
    data = write_coco(tmp_path, record)
    path = Path(data["images"]) / "004.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"004\.png.*image does not decode.*replace"):
        open_dataset(data).landmarks("train")


def test_other_size_than_annotated(tmp_path, record):
    record["images"][2]["width"] = SIZE + 1
    data = write_coco(tmp_path, record)
    assert _kinds(validate(open_dataset(data))) == ["size differs"]


def test_landmark_outside_where_no_size_is_given(tmp_path, record):
    for image in record["images"]:
        del image["width"]
    data = write_coco(tmp_path, record)
    assert validate(open_dataset(data)).ok
    bad = changed(record, 3, keypoints=_keypoints(record, 3, 2, 99.5, 5))
    data = write_coco(tmp_path, bad)
    assert _kinds(validate(open_dataset(data))) == ["landmark outside"]


def test_crowds_and_unlabelled_are_left_out_and_counted(tmp_path, record):
    record = changed(record, 0, iscrowd=1)
    record = changed(record, 1, num_keypoints=0, keypoints=[0] * 3 * len(JOINTS))
    two = [9, 9, 2, 20, 20, 1] + [0, 0, 0] * (len(JOINTS) - 2)
    record = changed(record, 2, keypoints=two)
    data = write_coco(tmp_path, record) | {"min_joints": 3, "num_val": 0}
    assert len(open_dataset(data).landmarks("train")) == 17
    report = validate(open_dataset(data))
    assert report.skipped["train"] == {
        "crowd": 1,
        "unlabelled": 1,
        "too few joints": 1,
    }
    said = left_out(report.skipped["train"])
    assert said == " (left out: 1 crowd, 1 unlabelled, 1 too few joints)"


def test_other_skeleton_in_validation(tmp_path, record):
    data = write_coco(tmp_path, record)
    record["categories"][0]["keypoints"] = JOINTS[::-1]
    data |= write_coco(tmp_path, record, name="val")
    report = validate(open_dataset(data))
    assert _kinds(report) == ["skeleton mismatch"]
    assert report.problems[0].file == data["annotations_val"]


def test_shared_pictures_and_missing_sides_are_notes(tmp_path, record):
    record["categories"][0]["keypoints"] = list("abcdef")
    data = write_coco(tmp_path, record)
    data |= {"annotations_val": data["annotations"]}
    report = validate(open_dataset(data))
    assert report.ok
    kinds = {problem.kind for problem in report.problems}
    assert kinds == {"no sides", "shared pictures"}


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"{", "not JSON"),
        (b"[]", "not a COCO file"),
        (b'{"images": [], "annotations": []}', "not a COCO file"),
        (b'{"images":[],"annotations":[],"categories":[{"id":1}]}', "no skeleton"),
    ],
)
def test_files_that_are_no_coco(tmp_path, content, kind):
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    data = {"name": "coco", "annotations": str(path), "images": str(tmp_path)}
    assert _kinds(validate(open_dataset(data))) == [kind]
    with pytest.raises(ValueError, match=kind):
        open_dataset(data | {"data_dir": str(tmp_path / "prepared")}).landmarks("train")


def test_nobody_labelled(tmp_path, record):
    for annotation in record["annotations"]:
        annotation["num_keypoints"] = 0
    data = write_coco(tmp_path, record)
    assert _kinds(validate(open_dataset(data))) == ["no labelled person"]


def test_missing_annotations(tmp_path):
    data = {"name": "coco", "annotations": str(tmp_path / "gone.json")}
    assert _kinds(validate(open_dataset(data))) == ["missing file"]
    with pytest.raises(ValueError, match=r"gone\.json.*config\.data\.annotations"):
        open_dataset(data).landmarks("train")


def test_ground_truth_that_does_not_fit(tmp_path, record):
    path = tmp_path / "truth.npz"
    np.savez(path, image_id=np.arange(3), positions_mm=np.zeros((3, 6, 3)))
    data = write_coco(tmp_path, record) | {"ground_truth": str(path)}
    assert _kinds(validate(open_dataset(data))) == ["ground truth"] * 2


def test_no_validation_pictures(tmp_path, record):
    data = write_coco(tmp_path, record) | {"num_val": 0}
    assert _kinds(validate(open_dataset(data))) == ["no validation samples"]


def test_mannequin_and_motion(tmp_path):
    path = write_motion(tmp_path / "motion.npz")
    data = {"mocap_file": path, "num_train": 30, "num_val": 5}
    for good in (
        {"num_train": 40, "num_val": 10},
        data | {"name": "mannequin"},
        data | {"name": "mocap"},
    ):
        assert validate(open_dataset(good)).ok
    report = validate(open_dataset(data | {"name": "mannequin", "num_train": 300}))
    assert _kinds(report) == ["motion"]
    gone = {"name": "mocap", "mocap_file": str(tmp_path / "gone.npz")}
    assert set(_kinds(validate(open_dataset(gone)))) == {"motion"}


@pytest.mark.parametrize(
    ("split", "name"), [("val", "mannequin"), ("train", "mannequin"), ("val", "coco")]
)
def test_a_split_without_samples_is_said_alike(tmp_path, record, split, name):
    data = {"name": name, f"num_{split}": 0, "data_dir": str(tmp_path)}
    if name == "coco":
        data = write_coco(tmp_path, record) | {"num_val": 0}
    else:
        data |= {"num_val" if split == "train" else "num_train": 2, "render_size": 16}
    opened = open_dataset(data)
    (problem,) = [p for p in validate(opened).problems if p.fatal]
    with pytest.raises(ValueError, match="0 samples") as caught:
        opened.landmarks(split)
    assert str(caught.value) == str(problem)


def test_long_tables_are_cut():
    problems = tuple(Problem("NaN", "f.json", str(i), "v", "remedy") for i in range(50))
    text = "\n".join(problem_lines(problems))
    assert "and 49 more of this kind" in text
    assert text.count("remedy") == 1
    assert Report(problems, {"train": 1}, {}).verdict == "50 errors, 0 notes: not ok"
    assert Report(problems[:1], {"train": 1}, {}).verdict == "1 error, 0 notes: not ok"


def test_a_joint_that_nobody_shows_is_named(tmp_path, record):
    for annotation in range(len(record["annotations"])):
        keypoints = _keypoints(record, annotation, 2, 0, 0, v=0)
        record = changed(record, annotation, keypoints=keypoints)
    report = validate(open_dataset(write_coco(tmp_path, record)))
    assert _kinds(report) == ["joint never seen"]
    assert JOINTS[2] in str(report.problems)
    assert not report.ok
