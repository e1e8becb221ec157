"""Readers of labels meet anything at all with a message: never but a ValueError."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import tiny_formats as formats
from broken_inputs import Bench
from hypothesis import given, settings
from hypothesis import strategies as st

from input_pipeline.checks.problems import Problem, raise_problem
from input_pipeline.formats.splits import read_splits
from input_pipeline.settings import read_settings
from input_pipeline.skeleton import H36M_17, LSP_14, MPII_16, read_skeleton

COUNT = 3
# The same examples every time: a test that fails once in a while helps nobody.
FUZZ = settings(max_examples=60, deadline=None, derandomize=True, database=None)

# Each is read in a process of its own.
FUZZ_MAT = settings(FUZZ, max_examples=6)

leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 9),
    st.sampled_from([2**63, -(10**400), 1e308, float("nan"), float("inf"), -1.5, 0.0]),
    st.text(max_size=6),
    st.sampled_from(["", "\0", "../..", "/", "~", "x" * 300, "0.png", "NaN", "\ud800"]),
)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from(["id", "x", "keypoints"]), inner, max_size=3),
    ),
    max_leaves=6,
)


def _places(record, path=()):
    """Every place in a nested record."""
    yield path
    if isinstance(record, dict):
        for key, value in record.items():
            yield from _places(value, (*path, key))
    elif isinstance(record, list):
        for i, value in enumerate(record):
            yield from _places(value, (*path, i))


def _replaced(record, path, value):
    if not path:
        return value
    record = copy.copy(record)
    record[path[0]] = _replaced(record[path[0]], path[1:], value)
    return record


@st.composite
def mutated(draw, record):
    """A record with one to three places replaced by anything."""
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(record))
        record = _replaced(record, draw(st.sampled_from(places)), draw(values))
    return record


@st.composite
def damaged(draw, content: bytes):
    """Bytes cut, doubled, or with a few of them changed."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        if not data:
            break
        at = draw(st.integers(0, len(data) - 1))
        kind = draw(st.sampled_from(["cut", "change", "insert", "remove", "digit"]))
        if kind == "cut":
            del data[at:]
        elif kind == "change":
            data[at] = draw(st.integers(0, 255))
        elif kind == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=8))
        elif kind == "remove":
            del data[at : at + draw(st.integers(1, 40))]
        else:
            data[at : at + 1] = draw(
                st.sampled_from([b"9", b"-", b".", b"e", b",", b"\n"])
            )
    return bytes(data)


def _read(data) -> None:
    """Reads twice: collecting every problem, and stopping at the first."""
    found: list[Problem] = []
    read_splits(read_settings(data), report=found.append)
    for problem in found:
        assert problem.kind
        assert problem.remedy
        assert "\n" not in str(problem)
    json.dumps([str(problem) for problem in found]).encode()
    try:
        splits = read_splits(read_settings(data), report=raise_problem)
    except ValueError as error:
        assert str(error)  # noqa: PT017 (any other exception fails the test)
        return
    for index in splits.values():
        for person in index.persons:
            assert np.isfinite(person.keypoints).all()
            assert person.labelled.any()


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Bench:
    return Bench(tmp_path_factory.mktemp("fuzz"))


def _fuzz_json(data, record) -> None:
    path = Path(data["annotations"])

    @FUZZ
    @given(mutated(record))
    def run(changed) -> None:
        path.write_text(json.dumps(changed))
        _read(data)

    run()


def _fuzz_bytes(data, fuzz=FUZZ) -> None:
    path = Path(data["annotations"])

    @fuzz
    @given(damaged(path.read_bytes()))
    def run(content) -> None:
        path.write_bytes(content)
        _read(data)

    run()


@pytest.mark.parametrize("box", ["landmarks", "annotation"])
def test_coco_with_anything_in_it(bench, box):
    _fuzz_json(bench.coco() | {"box": box}, bench.record)


def test_coco_brought_to_another_skeleton(bench):
    data = bench.coco() | {"skeleton": json.dumps({"joints": ["root", "right_hand"]})}
    _fuzz_json(data, bench.record)


def test_coco_damaged(bench):
    _fuzz_bytes(bench.coco())


def _files(folder: Path) -> list[str]:
    files = formats.names(COUNT)
    formats.write_pictures(folder, files)
    return files


@pytest.fixture
def mpii(tmp_path):
    files, xy = _files(tmp_path), formats.points(MPII_16, count=COUNT)
    return tmp_path, xy, np.zeros((COUNT, 16), bool), files


def test_mpii_with_anything_in_it(mpii):
    data = formats.write_mpii_json(*mpii)
    _fuzz_json(data, json.loads(Path(data["annotations"]).read_text()))


def test_mpii_mat_damaged(mpii):
    _fuzz_bytes(formats.write_mpii_mat(*mpii), FUZZ_MAT)


@pytest.mark.parametrize("extended", [False, True])
def test_lsp_damaged(tmp_path, extended):
    xy = formats.points(LSP_14, count=COUNT)
    gone = formats.hidden(LSP_14, count=COUNT)
    _fuzz_bytes(formats.write_lsp(tmp_path, xy, gone, extended=extended), FUZZ_MAT)


@FUZZ_MAT
@given(
    shape=st.lists(st.integers(0, 15), max_size=4),
    kind=st.sampled_from(["<f8", "<i4", "<U3", "|b1", "<c16", "|u1"]),
    value=st.sampled_from([0, 1, 20, -1]),
)
def test_lsp_of_any_shape(tmp_path_factory, shape, kind, value):
    from scipy.io import savemat

    path = tmp_path_factory.getbasetemp() / "joints.mat"
    savemat(path, {"joints": np.full(shape, value).astype(kind)})
    _read({"name": "lsp", "annotations": str(path)})


def test_h36m_npz_damaged(tmp_path):
    files = _files(tmp_path)
    xy = formats.points(H36M_17, count=COUNT)
    _fuzz_bytes(formats.write_h36m_npz(tmp_path, xy, files))


@FUZZ
@given(
    shape=st.lists(st.integers(0, 4), max_size=3),
    kind=st.sampled_from(["<f8", "<i4", "<U3", "|S4", "|b1", "<c16", "<M8[s]"]),
    name=st.sampled_from(["imgname", "part", "center", "scale"]),
)
def test_h36m_npz_of_any_shape(tmp_path_factory, shape, kind, name):
    folder = tmp_path_factory.getbasetemp()
    arrays = {
        "imgname": np.array(["a.png"] * 2),
        "part": np.full((2, 17, 3), 5.0),
        "center": np.zeros((2, 2)),
        "scale": np.ones(2),
    }
    arrays[name] = np.zeros(shape, kind)
    np.savez(folder / "any.npz", **arrays)
    _read({"name": "h36m", "annotations": str(folder / "any.npz")})


def test_deeplabcut_damaged(tmp_path):
    files, xy = _files(tmp_path), formats.points(LSP_14, count=COUNT)
    gone = formats.hidden(LSP_14, count=COUNT)
    data = formats.write_dlc(tmp_path, LSP_14, xy, gone, files)
    _fuzz_bytes(data | {"images": str(tmp_path)})


@FUZZ
@given(
    st.lists(
        st.lists(
            st.sampled_from(
                [
                    "",
                    "scorer",
                    "bodyparts",
                    "coords",
                    "individuals",
                    "x",
                    "y",
                    "a",
                    "0.png",
                    "1",
                    "nan",
                    "inf",
                    '"',
                ]
            ),
            max_size=5,
        ),
        max_size=7,
    )
)
def test_deeplabcut_of_any_cells(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_text("\n".join(",".join(row) for row in rows))
    _read({"name": "dlc", "annotations": str(path)})


@FUZZ
@given(
    mutated({"joints": ["a", "b"], "edges": [["a", 1]], "root": "a", "left_right": []})
)
def test_skeletons_of_anything(record):
    try:
        read_skeleton(json.dumps(record))
    except ValueError as error:
        assert str(error)  # noqa: PT017


STUDIO_MARK = {
    "value": {"x": 25.0, "y": 50, "keypointlabels": ["a"]},
    "original_width": 64,
    "original_height": 64,
    "parentID": "r",
}
STUDIO_BOX = {
    "id": "r",
    "value": {"x": 0, "y": 0, "width": 9, "height": 9, "rectanglelabels": ["b"]},
}
STUDIO = [
    {
        "id": 1,
        "data": {"image": "/x/?d=img000.png"},
        "annotations": [{"was_cancelled": False, "result": [STUDIO_BOX, STUDIO_MARK]}],
    },
    {"image": "img001.png", "kp": [STUDIO_MARK | STUDIO_MARK["value"]]},
]
YOLO = {
    "path": ".",
    "train": ["images"],
    "names": {"0": "cat"},
    "kpt_shape": [2, 3],
    "flip_idx": [1, 0],
    "kpt_names": {"0": ["a", "b"]},
}
DETECTIONS = [
    {"file_name": "img000.png", "frame": 1, "keypoints": [1.5, 2, 0.9, 9, 9, 0.7]},
    {"image_id": 1, "score": 0.5, "keypoints": [1.5, 2, 0.9, 9, 9, 0.7]},
]
IMAGES = {"images": [{"id": 1, "file_name": "img001.png"}], "categories": []}


@pytest.fixture(scope="module")
def any_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("any")
    formats.write_pictures(folder, formats.names(2))
    return folder


def _read_json(folder: Path, name: str, file: str, record, **fields) -> None:
    (folder / file).write_text(json.dumps(record))
    _read({"name": name, "annotations": str(folder / file)} | fields)


@FUZZ
@given(mutated(STUDIO))
def test_label_studio_of_anything(any_folder, record):
    _read_json(any_folder, "label_studio", "studio.json", record)


@FUZZ
@given(mutated(DETECTIONS), mutated(IMAGES), mutated({"skeleton": H36M_17.to_dict()}))
def test_detections_of_anything(any_folder, record, images, about):
    """With the files beside them: JSON is YAML as well."""
    (any_folder / "images.json").write_text(json.dumps(images))
    (any_folder / "about.json").write_text(json.dumps(about))
    given = json.dumps({"joints": ["a", "b"]})
    for fields in ({}, {"skeleton": given}):
        _read_json(any_folder, "coco", "detections.json", record, **fields)


@FUZZ
@given(
    mutated(YOLO), st.text("0123456789.-e \nnaif", max_size=40), st.sampled_from("01")
)
def test_yolo_of_anything(any_folder, record, page, category):
    labels = any_folder / "labels"
    labels.mkdir(exist_ok=True)
    (labels / "img000.txt").write_text("0 .5 .5 .1 .1 .2 .3 2 .4 .5 1\n")
    (labels / "img001.txt").write_text(page)
    _read_json(any_folder, "yolo", "data.yaml", record, category=category)
