"""Labels as other projects write them: read, or a message that names the cause."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_data import JOINTS, SIZE, changed, coco_record, write_coco
from tiny_formats import write_pictures

from input_pipeline.checks.problems import Problem
from input_pipeline.checks.validate import Report, skeleton_lines, validate
from input_pipeline.dataset import open_dataset
from input_pipeline.formats.annotations import Labels
from input_pipeline.formats.splits import read_splits
from input_pipeline.settings import read_settings

GIVEN = json.dumps({"joints": JOINTS, "edges": [["root", "head"]]})


@pytest.fixture
def record():
    return coco_record(20)


def _read(data) -> tuple[Labels | None, list[Problem]]:
    found: list[Problem] = []
    settings = read_settings(data | {"num_val": 0})
    return read_splits(settings, report=found.append).get("train"), found


def _labels(data, *kinds: str) -> Labels:
    """The labels of data without errors, with notes of these kinds."""
    labels, found = _read(data)
    assert [p for p in found if p.fatal] == []
    assert {p.kind for p in found} == set(kinds)
    assert labels is not None
    return labels


def _error(data) -> Problem:
    """The one error of data that cannot be read."""
    _, found = _read(data)
    (problem,) = [p for p in found if p.fatal]
    return problem


# --- COCO --------------------------------------------------------------------------


def _two_categories(record):
    first = record["categories"][0]
    record["categories"] = [
        first | {"id": 1, "name": "cat"},
        first | {"id": 2, "name": "dog"},
        {"id": 3, "name": "ball"},
    ]
    for i, annotation in enumerate(record["annotations"]):
        annotation["category_id"] = 1 + i % 2
    return record


def test_categories_with_the_same_joints_are_one(tmp_path, record):
    data = write_coco(tmp_path, _two_categories(record))
    assert len(_labels(data, "several categories").persons) == 20
    for category in ("dog", "2"):
        labels = _labels(data | {"category": category})
        assert [p.sample_id for p in labels.persons] == list(range(501, 520, 2))
        assert labels.skipped["other category"] == 10
    assert "not in ['cat', 'dog', 'ball']" in _error(data | {"category": "cow"}).value


def test_categories_with_other_joints_are_chosen_from(tmp_path, record):
    record = _two_categories(record)
    record["categories"][1]["keypoints"] = [*JOINTS[:-1], "tail"]
    data = write_coco(tmp_path, record)
    problem = _error(data)
    assert problem.kind == "several skeletons"
    assert "config.data.category" in problem.remedy
    assert _labels(data | {"category": "dog"}).skeleton.joints[-1] == "tail"


def test_bones_counted_from_0(tmp_path, record):
    expected = _labels(write_coco(tmp_path, record)).skeleton.edges
    category = record["categories"][0]
    category["skeleton"] = [[a - 1, b - 1] for a, b in category["skeleton"]]
    data = write_coco(tmp_path, record)
    assert _labels(data, "bones from 0").skeleton.edges == expected


@pytest.mark.parametrize(
    "category",
    [
        {"id": 1, "name": "face"},
        {"id": 1, "keypoints": ["a", "a"], "skeleton": [[1, 2]]},
        {"id": 1, "keypoints": JOINTS, "skeleton": [[16, 14]]},  # CrowdPose: COCO's
        None,
    ],
)
def test_with_a_skeleton_the_category_need_not_be_sound(tmp_path, record, category):
    record["categories"] = [category] if category else None
    if not category:
        del record["categories"]
    data = write_coco(tmp_path, record)
    labels = _labels(data | {"skeleton": GIVEN})
    assert labels.skeleton.edges == ((0, 1),)
    points = np.reshape(record["annotations"][3]["keypoints"], (-1, 3))[:, :2]
    np.testing.assert_allclose(labels.persons[3].keypoints, points, atol=1e-5)
    assert _error(data).fatal


def test_with_a_skeleton_the_category_may_have_another_id(tmp_path, record):
    record["categories"][0]["id"] = 4
    data = write_coco(tmp_path, record)
    assert _read(data)[1][0].kind == "unknown category"
    assert len(_labels(data | {"skeleton": GIVEN}).persons) == 20


def test_another_form_is_named_once_for_the_whole_file(tmp_path, record):
    record["images"] = {str(i["id"]): i["file_name"] for i in record["images"]}
    for annotation in record["annotations"]:
        del annotation["id"]
        points = np.reshape(annotation["keypoints"], (-1, 3))
        annotation["keypoints"] = points.tolist()
    file = tmp_path / "x.json"
    file.write_text(json.dumps(record))
    problem = _error({"name": "coco", "annotations": str(file)})
    assert problem.kind == "another form of COCO"
    for part in ("'images' is an object", "no id", "'keypoints' are nested"):
        assert part in problem.value
    record = coco_record(3)
    for image, annotation in zip(record["images"], record["annotations"], strict=True):
        image["id"] = annotation["image_id"] = f"p{image['id']}"
    file.write_text(json.dumps(record))
    problem = _error({"name": "coco", "annotations": str(file)})
    assert problem.value == "the ids of the images are text, 'p100'"


def test_a_third_number_that_is_a_score_has_a_threshold(tmp_path, record):
    scores = np.tile([0.9, 0.61, 0.59, 1.0, 0.7, 0.0], (20, 1))
    for annotation, row in zip(record["annotations"], scores, strict=True):
        annotation["keypoints"][2::3] = row.tolist()
    data = write_coco(tmp_path, record)
    labels = _labels(data, "scores")
    assert labels.persons[7].labelled.tolist() == [True, True, False, True, True, False]
    labels = _labels(data | {"min_score": 0.5}, "scores")
    assert labels.persons[7].labelled.tolist() == [True] * 5 + [False]


def test_a_list_of_detections_takes_its_images_from_the_file_beside_it(
    tmp_path, record
):
    data = write_coco(tmp_path, record)
    keys = ("image_id", "category_id", "keypoints")
    detections = [{k: a[k] for k in keys} for a in record["annotations"]]
    (tmp_path / "detections.json").write_text(json.dumps(detections))
    (tmp_path / "other.json").write_text('{"images": [{"id": 1}]}')
    expected = _labels(data)
    labels = _labels(data | {"annotations": str(tmp_path / "detections.json")})
    assert labels.skeleton == expected.skeleton
    assert [p.file for p in labels.persons] == [p.file for p in expected.persons]
    Path(data["annotations"]).unlink()
    problem = _error(data | {"annotations": str(tmp_path / "detections.json")})
    assert "put the COCO file with the 'images'" in problem.remedy


def test_own_predictions_are_read_back(tmp_path, record):
    data = write_coco(tmp_path, record)
    expected = _labels(data)
    skeleton = dataclasses.replace(expected.skeleton, root=2, left_right=((2, 3),))
    entries = []
    for i, annotation in enumerate(record["annotations"]):
        keypoints = list(annotation["keypoints"])
        keypoints[2::3] = [0.8] * len(JOINTS)
        name = record["images"][i]["file_name"]
        entries.append({"image_id": i, "file_name": name, "keypoints": keypoints})
    (tmp_path / "predictions.json").write_text(json.dumps(entries))
    about = {"format": 1, "skeleton": skeleton.to_dict()}
    (tmp_path / "about.json").write_text(json.dumps(about))
    data |= {"annotations": str(tmp_path / "predictions.json")}
    labels = _labels(data, "scores")
    assert labels.skeleton == skeleton
    for one, other in zip(labels.persons, expected.persons, strict=True):
        assert one.file == other.file
        np.testing.assert_array_equal(one.keypoints, other.keypoints)


def test_a_prediction_of_a_video_names_its_frame(tmp_path):
    entry = {"file_name": "clip.mp4", "frame": 7, "keypoints": [1.5, 2, 0.9, 9, 9, 0.9]}
    (tmp_path / "x.json").write_text(json.dumps([entry]))
    (tmp_path / "clip.mp4").write_bytes(b"only its name is read")
    skeleton = json.dumps({"joints": ["a", "b"]})
    data = {"name": "coco", "annotations": str(tmp_path / "x.json")}
    labels = _labels(data | {"skeleton": skeleton}, "scores")
    assert labels.persons[0].file == tmp_path / "clip.mp4#7"


# --- pixels ------------------------------------------------------------------------


def test_the_convention_of_whole_numbers_is_said_and_can_be_set(tmp_path, record):
    for annotation in record["annotations"]:
        annotation["keypoints"] = [round(v) for v in annotation["keypoints"]]
    data = write_coco(tmp_path, record)
    plain = _labels(data, "whole numbers").persons[0].keypoints
    for centre, shift in (("0", 0.5), ("0.5", 0.0), ("1", -0.5)):
        moved = _labels(data | {"pixel_centre": centre}).persons[0].keypoints
        np.testing.assert_array_equal(moved, plain + np.float32(shift))
    with pytest.raises(ValueError, match=r"pixel_centre = '2' must be one of"):
        read_settings(data | {"pixel_centre": "2"})


def _moved(record, annotation: int, joint: int, x: float, y: float):
    keypoints = list(record["annotations"][annotation]["keypoints"])
    keypoints[3 * joint : 3 * joint + 2] = [x, y]
    return changed(record, annotation, keypoints=keypoints)


@pytest.mark.parametrize("sized", [True, False])
def test_landmarks_outside_can_be_dropped(tmp_path, record, sized):
    for image in record["images"] if not sized else ():
        del image["width"]
    record = _moved(record, 3, 2, SIZE + 1.7, 20)  # as LSP-extended has them
    assert _labels(write_coco(tmp_path, record)).persons[3].labelled.all()
    record = _moved(record, 4, 1, SIZE + 5, 20)
    data = write_coco(tmp_path, record)
    report = validate(open_dataset(data))
    (problem,) = [p for p in report.problems if p.fatal]
    assert problem.value.startswith("head at (69, 20), 004.png is")
    labels = _labels(data | {"outside": "drop"})
    assert labels.persons[4].labelled.tolist() == [True, False, *[True] * 4]
    assert labels.persons[4].keypoints[1].tolist() == [0, 0]
    assert labels.skipped["landmarks outside the picture"] == 1


@pytest.mark.parametrize("scale", [1 / SIZE, 2 / SIZE])
def test_relative_coordinates_are_no_pixels(tmp_path, record, scale):
    for annotation in record["annotations"]:
        keypoints = np.reshape(annotation["keypoints"], (-1, 3)) * (scale, scale, 1)
        annotation["keypoints"] = keypoints.ravel().tolist()
        annotation["bbox"] = (np.array(annotation["bbox"]) * scale).tolist()
    data = write_coco(tmp_path, record)
    assert _error(data).kind == "are these pixels?"
    with pytest.raises(ValueError, match="are these pixels"):
        open_dataset(data).landmarks("train")


@pytest.mark.parametrize("boxes", [True, False])
def test_exchanged_axes_are_named(tmp_path, record, boxes):
    for image, annotation in zip(record["images"], record["annotations"], strict=True):
        keypoints = np.reshape(annotation["keypoints"], (-1, 3))
        keypoints[:, 0] += 100
        if boxes:
            image["width"] = image["height"] = 200
            annotation["bbox"][0] += 100
        else:
            image["width"] = 200
            del annotation["bbox"]
        annotation["keypoints"] = keypoints[:, [1, 0, 2]].ravel().tolist()
    _, found = _read(write_coco(tmp_path, record))
    if boxes:
        (problem,) = [p for p in found if p.fatal]
        assert problem.kind == "x and y exchanged?"
        assert problem.value.startswith("20 of 20 bodies")
    else:
        assert "with x and y exchanged all would be inside" in found[0].value


def test_a_missing_folder_is_one_line(tmp_path, record):
    data = write_coco(tmp_path, record) | {"images": str(tmp_path / "gone")}
    problem = _error(data)
    assert problem.kind == "missing folder"
    assert problem.index == str(tmp_path / "gone")


# --- what the check says -----------------------------------------------------------


def _check(data) -> Report:
    return validate(open_dataset(data))


def test_pairs_and_joints_without_one_are_always_listed(tmp_path, record):
    data = write_coco(tmp_path, record)
    train = _check(data).splits["train"]
    assert skeleton_lines(train.skeleton, train.pixel_centre) == [
        "left / right: left_hand / right_hand, left_foot / right_foot",
        "without a partner: root, head",
        "root: root; 5 bones: root-head, root-left_hand, root-right_hand, "
        "root-left_foot, root-right_foot",
        "pixels: the first one has its centre at 0.5, 0.5 in the labels",
    ]
    record["categories"][0]["keypoints"] = [*JOINTS[:-1], "ear_r"]
    report = _check(write_coco(tmp_path, record))
    (note,) = report.problems
    assert note.kind == "side without a partner"
    assert note.value == "left_foot, ear_r"


def test_a_pair_and_a_root_are_set_alone(tmp_path, record):
    record["categories"][0]["keypoints"] = ["root", "head", "a", "b", "lf", "rf"]
    changes = {"left_right": [["b", "a"]], "root": "head"}
    data = write_coco(tmp_path, record) | {"skeleton": json.dumps(changes)}
    skeleton = _labels(data).skeleton
    assert skeleton.left_right == ((4, 5), (3, 2))
    assert skeleton.joints[skeleton.root] == "head"
    assert len(skeleton.edges) == 5


def test_missing_bones_are_said(tmp_path, record):
    record["categories"][0]["skeleton"] = []
    (note,) = _check(write_coco(tmp_path, record)).problems
    assert note.kind == "no bones"
    assert '"edges"' in note.remedy


# --- DeepLabCut --------------------------------------------------------------------


def _dlc(folder: Path, name: str, rows: list[str]) -> None:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(rows))


def _two_scorers(folder: Path) -> dict[str, str]:
    pictures = [f"labeled-data/v/{i}.png" for i in range(3)]
    write_pictures(folder, pictures)
    for shift, who in enumerate("AB"):
        rows = [
            f"scorer,{who},{who},{who},{who}",
            "bodyparts,a,a,b,b",
            "coords,x,y,x,y",
        ]
        rows += [f"{name},{5 + shift},6,40,50" for name in pictures]
        _dlc(folder, f"labeled-data/v/CollectedData_{who}.csv", rows)
    return {"name": "dlc", "annotations": str(folder)}


def test_two_scorers_of_one_video_do_not_count_twice(tmp_path):
    data = _two_scorers(tmp_path)
    problem = _error(data)
    assert problem.kind == "labelled twice"
    assert "CollectedData_A.csv and in CollectedData_B.csv" in problem.value
    (tmp_path / "config.yaml").write_text("scorer: B\nskeleton: []\n")
    labels = _labels(data)
    assert [p.keypoints[0].tolist() for p in labels.persons] == [[6.5, 6.5]] * 3


def test_unique_body_parts_are_no_animal(tmp_path):
    write_pictures(tmp_path, ["labeled-data/v/0.png"])
    rows = [
        "scorer,,,m,m,m,m,m,m,m,m,m,m",
        "individuals,,,a1,a1,a1,a1,a2,a2,a2,a2,single,single",
        "bodyparts,,,nose,nose,tail,tail,nose,nose,tail,tail,corner,corner",
        "coords,,,x,y,x,y,x,y,x,y,x,y",
        "labeled-data,v,0.png,5,6,40,50,15,16,20,50,1,1",
    ]
    _dlc(tmp_path, "labeled-data/v/CollectedData_m.csv", rows)
    labels = _labels({"name": "dlc", "annotations": str(tmp_path)}, "unique body parts")
    assert labels.skeleton.joints == ("nose", "tail")
    assert [p.at for p in labels.persons] == [
        f"CollectedData_m.csv row 0 {animal}" for animal in ("a1", "a2")
    ]


def test_a_lightning_pose_folder_is_found(tmp_path):
    write_pictures(tmp_path, ["labeled-data/v/0.png"])
    rows = ["scorer,m,m,m,m", "bodyparts,a,a,b,b", "coords,x,y,x,y"]
    _dlc(tmp_path, "CollectedData.csv", [*rows, "labeled-data/v/0.png,5,6,40,50"])
    (person,) = _labels({"name": "dlc", "annotations": str(tmp_path)}).persons
    assert person.file == tmp_path / "labeled-data/v/0.png"


@pytest.mark.parametrize(
    ("rows", "cause"),
    [
        (
            [",scorer,m,m", "0,bodyparts,a,a", "1,coords,x,y"],
            "write it with index=False",
        ),
        (["scorer,\"('m', 'a', 'x')\",\"('m', 'a', 'y')\""], "header=[0, 1, 2]"),
        (
            ["scorer,m,m,m,m", "bodyparts,a,a,b,b", "coords,x,y,x,y", "0.png,1,2,3"],
            "4 cells under a header of 5",
        ),
    ],
)
def test_a_damaged_table_is_told_by_its_cause(tmp_path, rows, cause):
    _dlc(tmp_path, "x.csv", rows)
    problem = _error({"name": "dlc", "annotations": str(tmp_path / "x.csv")})
    assert cause in f"{problem.value} {problem.remedy}"


def test_what_pandas_calls_empty_header_cells_is_read(tmp_path):
    write_pictures(tmp_path, ["labeled-data/v/0.png"])
    empty = [f"Unnamed: {i}_level_0" for i in (1, 2)]
    rows = [
        ",".join([head, *empty, *cells])
        for head, cells in (
            ("scorer", "mmmm"),
            ("bodyparts", "aabb"),
            ("coords", "xyxy"),
        )
    ]
    _dlc(tmp_path, "x.csv", [*rows, "labeled-data,v,0.png,5,6,40,50"])
    (person,) = _labels({"name": "dlc", "annotations": str(tmp_path / "x.csv")}).persons
    assert person.keypoints.tolist() == [[5.5, 6.5], [40.5, 50.5]]


# --- YOLO and Label Studio ---------------------------------------------------------

YOLO = """path: .
train: images/train
names: {0: cat, 1: dog}
kpt_shape: [6, 3]
flip_idx: [0, 1, 3, 2, 5, 4]
"""


def _write_yolo(folder: Path, record, config: str = YOLO, *, size=(64, 48)) -> dict:
    """The bodies of a COCO record in pictures of another shape, in turn cat and dog."""
    for i, annotation in enumerate(record["annotations"]):
        points = np.reshape(annotation["keypoints"], (-1, 3)) / (*size, 1)
        numbers = [i % 2, 0.5, 0.5, 0.25, 0.5, *points.ravel()]
        label = folder / "labels" / "train" / f"{i}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(" ".join(f"{v:.6f}" for v in numbers) + "\n")
        picture = folder / "images" / "train" / f"{i}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(picture)
    (folder / "data.yaml").write_text(config)
    return {"name": "yolo", "annotations": str(folder / "data.yaml")}


@pytest.fixture
def low(record):
    """Bodies that fit into pictures of 64 x 48 pixels."""
    for annotation in record["annotations"]:
        points = np.reshape(annotation["keypoints"], (-1, 3)) * (1, 0.75, 1)
        annotation["keypoints"] = points.ravel().tolist()
    return record


def test_yolo(tmp_path, low):
    low["annotations"][4]["keypoints"][3:6] = [0, 0, 0]
    data = _write_yolo(tmp_path, low)
    labels = _labels(data)
    assert labels.skeleton.left_right == ((2, 3), (4, 5))
    assert labels.skeleton.joints[0] == "keypoint_1"
    by_file = {person.file: person for person in labels.persons}
    for i, annotation in enumerate(low["annotations"]):
        person = by_file[tmp_path / f"images/train/{i}.png"]
        points = np.reshape(annotation["keypoints"], (-1, 3))
        np.testing.assert_allclose(person.keypoints, points[:, :2], atol=1e-4)
        np.testing.assert_array_equal(person.labelled, points[:, 2] > 0)
        np.testing.assert_allclose(person.box, (24, 12, 16, 24))
    assert _labels(data | {"annotations": str(tmp_path)}).skeleton == labels.skeleton
    assert _labels(data | {"skeleton": GIVEN}).skeleton.joints == tuple(JOINTS)
    chosen = _labels(data | {"category": "dog"})
    assert len(chosen.persons) == chosen.skipped["other category"] == 10
    named = f"{YOLO}kpt_names: {{0: [{', '.join(JOINTS)}]}}\n"
    skeleton = _labels(_write_yolo(tmp_path, low, named)).skeleton
    assert skeleton.joints == tuple(JOINTS)
    assert skeleton.left_right == ((2, 3), (4, 5))


@pytest.mark.parametrize(
    ("config", "line", "cause"),
    [
        (YOLO, "0 .5 .5 .1 .1 .2 .3 2", "8 numbers in a line, not 23"),
        (YOLO, "0 .5 .5 .1 x", "could not convert"),
        (YOLO.replace("kpt_shape", "shape"), "", "kpt_shape"),
        ("[1, 2", "", "not a YOLO file"),
    ],
)
def test_yolo_that_cannot_be_read(tmp_path, record, config, line, cause):
    data = _write_yolo(tmp_path, record, config, size=(64, 64))
    if line:
        (tmp_path / "labels" / "train" / "3.txt").write_text(line)
    assert cause in str(_error(data))


def test_a_yolo_label_without_its_picture_is_named(tmp_path, record):
    data = _write_yolo(tmp_path, record, size=(64, 64))
    (tmp_path / "images" / "train" / "7.png").unlink()
    assert "no readable picture 7 in" in _error(data).value


def _region(name: str, x: float, y: float, parent: str = "") -> dict[str, Any]:
    value = {"x": x, "y": y, "width": 0.5, "keypointlabels": [name]}
    size = {"original_width": SIZE, "original_height": 2 * SIZE}
    region = {"type": "keypointlabels", "value": value, **size}
    return region | ({"parentID": parent} if parent else {})


def _rectangle(name: str, x: float) -> dict[str, Any]:
    value = {"x": x, "y": 0, "width": 50, "height": 100, "rectanglelabels": ["cat"]}
    return {"type": "rectanglelabels", "id": name, "value": value}


def test_label_studio(tmp_path):
    Image.new("RGB", (SIZE, 2 * SIZE)).save(tmp_path / "a b.png")
    two = [
        *(_rectangle("r1", 0), _rectangle("r2", 50)),
        *(_region("nose", 25, 50, "r1"), _region("tail", 30, 75, "r1")),
        *(_region("tail", 75, 25, "r2"), _region("nose", 60, 10, "r2")),
    ]
    tasks = [
        {
            "id": 7,
            "data": {"image": "/data/upload/1/0a1b2c3d-a%20b.png"},
            "annotations": [
                {"was_cancelled": True, "result": [_region("ear", 1, 1)]},
                {"result": two},
            ],
        },
        {"id": 8, "data": {"image": "a b.png"}, "annotations": []},
    ]
    file = tmp_path / "x.json"
    file.write_text(json.dumps(tasks))
    data = {"name": "label_studio", "annotations": str(file)}
    labels = _labels(data)
    assert labels.skeleton.joints == ("nose", "tail")
    assert labels.skipped["unlabelled"] == 1
    points = [person.keypoints.tolist() for person in labels.persons]
    np.testing.assert_allclose(points[0], [[16, 64], [19.2, 96]], atol=1e-5)
    np.testing.assert_allclose(points[1], [[38.4, 12.8], [48, 32]], atol=1e-5)
    assert labels.persons[1].box.tolist() == [32, 0, 32, 128]
    # JSON-MIN of one body has the same regions without their frame.
    region = _region("nose", 25, 50)
    flat = [region.pop("value") | region]
    flat.append({**flat[0], "x": 80, "keypointlabels": ["tail"]})
    file.write_text(json.dumps([{"id": 1, "img": "/x/?d=y/a b.png", "kp": flat}]))
    (person,) = _labels(data).persons
    np.testing.assert_allclose(person.keypoints, [[16, 64], [51.2, 64]], atol=1e-5)
    tasks[0]["annotations"] = [{"result": two[:2] + [_region("nose", 1, 2)] * 2}]
    file.write_text(json.dumps(tasks))
    assert _read(data)[1][0].value == "nose twice in one body"


# --- the wrong format --------------------------------------------------------------


def test_a_file_of_another_format_is_recognised(tmp_path, record):
    coco = write_coco(tmp_path, record)["annotations"]
    (tmp_path / "mpii.json").write_text('[{"image": "a.png", "joints": [], "x": 1}]')
    (tmp_path / "studio.json").write_text('[{"data": {}, "annotations": []}]')
    (tmp_path / "video.json").write_text('[{"frame_id": 0, "instances": []}]')
    (tmp_path / "script.json").write_text('{"meta_info": {}, "instance_info": []}')
    (tmp_path / "x.slp").write_bytes(b"x")
    (tmp_path / "x.csv").write_text("track,frame_idx,instance.score,a.x\n")
    yolo = _write_yolo(tmp_path / "yolo", coco_record(1))["annotations"]
    for name, file, other in (
        ("mpii", coco, "coco"),
        ("coco", "mpii.json", "mpii"),
        ("coco", "studio.json", "label_studio"),
        ("coco", "video.json", "tracks"),
        ("coco", "script.json", "tracks"),
        ("coco", "x.slp", "sleap"),
        ("dlc", "x.csv", "tracks"),
        ("coco", yolo, "yolo"),
        ("coco", tmp_path / "yolo", "yolo"),
        ("dlc", tmp_path / "yolo", "yolo"),
    ):
        problem = _error({"name": name, "annotations": str(tmp_path / file)})
        assert problem.remedy.endswith(f"set --config.data.name={other}")
