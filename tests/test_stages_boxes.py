"""Which pictures are predicted, and which bodies in them."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.boxes import find_files, find_sources

FIELD = "predict.images"


def test_files_are_found_by_folder_pattern_and_name(tmp_path):
    for name in ("b.png", "a.JPG", "c, d.png", "note.txt", "film.mp4"):
        (tmp_path / name).touch()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.JPG").touch()
    names = [f.name for f in find_files(str(tmp_path), FIELD)]
    assert names == ["a.JPG", "b.png", "c, d.png"]
    assert len(find_files(f"{tmp_path}/*.png", FIELD)) == 2
    assert len(find_files(f"{tmp_path}/**/*.JPG", FIELD)) == 2
    assert len(find_files(f"{tmp_path}/c, d.png", FIELD)) == 1
    assert len(find_files(f"{tmp_path}/b.png, {tmp_path}/film.mp4", FIELD)) == 2
    assert len(find_files(f"{tmp_path}, {tmp_path}/b.png", FIELD)) == 3  # none twice
    names = [s.name for s in find_sources(f"{tmp_path}/**/*.[Jp]*")]
    assert sum(Path(name).is_absolute() for name in names) == 2


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ("", r"config\.predict\.images is empty"),
        ("{}", r"no picture \(.*\) among 1 files$"),
        ("{}/film", r"no picture .*; name a video, or '.*/\*\.mp4'"),
        ("{}/*.png", r"no picture \(.*\) among 0 files$"),
    ],
)
def test_nothing_to_predict_says_what_to_give(tmp_path, images, words):
    (tmp_path / "film").mkdir()
    (tmp_path / "film" / "a.mp4").touch()
    with pytest.raises(ValueError, match=words):
        find_files(images.format(tmp_path), FIELD)


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
    assert second.annotation_id == 2
    (source,) = find_sources(str(tmp_path), path, box="annotation")
    np.testing.assert_allclose(source.persons[1].box, [0, 0, 9, 9])


def test_a_box_of_annotations_is_asked_for_where_training_took_it(tmp_path):
    path = coco(tmp_path, [{"image_id": 7, "keypoints": [30, 20, 2, 50, 60, 1]}])
    assert find_sources(str(tmp_path), path)[0].persons[0].box is not None
    with pytest.raises(ValueError, match=r"annotations\[0\]: no box: bbox None"):
        find_sources(str(tmp_path), path, box="annotation")


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
    path.write_text(json.dumps({"d.mp4": [box], "d.mp4#3": []}))
    (film,) = find_sources(str(tmp_path), str(path))
    assert film.frames[3] == ()  # nobody in this one
    path.write_text(json.dumps(record))
    (only,) = find_sources(f"{tmp_path}/none.png,{tmp_path}/b.png", str(path))
    assert only.file == tmp_path / "b.png"
    with pytest.raises(ValueError, match=r"none for e\.png; correct its file names"):
        find_sources(f"{tmp_path}/e.png", str(path))


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        ({"image_id": 7, "bbox": [1, 2, 0, 0]}, r"\[0\]: no box: bbox \[1, 2, 0, 0"),
        ({"image_id": 7}, r"\[0\]: no box: bbox None"),
        ({"image_id": 7, "bbox": ["a", 1, 2, 3]}, r"\[0\]: no box: bbox \['a'"),
        ({"image_id": 8, "bbox": [0, 0, 1, 1]}, r"\[0\]: unknown image: 8"),
        ({"image_id": [7], "bbox": [0, 0, 1, 1]}, r"\[0\]: unknown image: \[7\]"),
        (5, r"\[0\]: bad annotation: 5"),
    ],
)
def test_annotations_without_a_box_are_named(tmp_path, annotation, words):
    path = coco(tmp_path, [annotation])
    with pytest.raises(ValueError, match=words):
        find_sources(str(tmp_path), path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"images": [', "not JSON: "),
        ('{"images": []}', "is not a COCO file"),
        ('{"annotations": {}}', "no list 'images'"),
        ('{"images": [{}], "annotations": []}', r"images\[0\]: bad image entry"),
        ('{"images": [], "annotations": []}', "has no boxes; nothing to predict"),
        ("[5]", r"\[0\]: bad file_name: None"),
        ('{"a.png": 5}', "'a.png': no box: bbox 5"),
        ("5", "is not a COCO file"),
        ("\xff", "not JSON: "),
    ],
)
def test_broken_boxes_are_named(tmp_path, text, words):
    path = tmp_path / "boxes.json"
    path.write_bytes(text.encode("latin1"))
    with pytest.raises(ValueError, match=words):
        find_sources(str(tmp_path), str(path))


def test_a_file_of_boxes_that_is_not_there_is_named(tmp_path):
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


@settings(max_examples=80, deadline=None, derandomize=True)
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
