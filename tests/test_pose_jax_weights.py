"""A student's file: the same predictions, a card, and refusals by name."""

import json

import jax
import numpy as np
import pytest
import tiny_student as tiny
from safetensors import safe_open
from safetensors.numpy import save_file

from pose_jax.weights import load_weights, model_card, save_weights
from runtime import files

RECORD = tiny.record(depth_sign=-1)
RESULTS = {"val": {"mpjpe_mm": 91.234, "count": 7, "alignment": "by bone length"}}


@pytest.fixture(scope="module")
def variables():
    return tiny.made_up_state(RECORD.make_net(), seed=3).variables


@pytest.fixture
def folder(variables, tmp_path):
    save_weights(
        tmp_path, RECORD, variables, data={"name": "mannequin"}, results=RESULTS
    )
    return tmp_path


def test_what_is_read_back_predicts_the_same(folder, variables):
    record, found = load_weights(folder)
    assert record == RECORD
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    apply = jax.jit(record.make_net().apply, static_argnames="train")
    np.testing.assert_array_equal(
        apply(found, images, train=False), apply(variables, images, train=False)
    )
    assert load_weights(folder / "student.safetensors")[0] == RECORD


def test_the_card_says_frame_unit_data_and_numbers(folder):
    card = (folder / "MODEL_CARD.md").read_text()
    for words in (
        *("stick_5", "Pelvis, LHip, RHip", "z away from the camera", "1.25 times"),
        *("patch units", "0.485", "name: mannequin", "depth sign -1", "no 3D label"),
        *("| MPJPE, mm | 91.23 |", "by bone length."),
    ):
        assert words in card
    with safe_open(folder / "student.safetensors", framework="np") as file:
        metadata = file.metadata()
    assert metadata["card"] == card
    assert json.loads(metadata["results"]) == RESULTS
    assert json.loads(metadata["student"])["skeleton"]["name"] == "stick_5"


def test_the_card_says_what_the_error_bar_covers():
    results = {"val": {"error_bar": {"95": {"x": 0.941, "y": 0.9535}}}}
    card = model_card(RECORD, data={}, results=results)
    assert "validation set, 0.941 in x, 0.954 in y." in card
    assert "of each joint alone.\n" in model_card(RECORD, data={}, results={})


def test_a_card_without_numbers_says_so():
    assert "Not evaluated." in model_card(RECORD, data={}, results={})


def test_a_file_of_another_network_is_refused_by_name(folder):
    path = folder / "student.safetensors"
    arrays, metadata = files.read_arrays(path)
    arrays["params/head/final/bias"] = np.zeros(3, np.float32)
    arrays["params/extra"] = arrays.pop("params/backbone/conv1/kernel")
    files.write_arrays(path, arrays, metadata)
    with pytest.raises(ValueError, match="does not fit this network") as error:
        load_weights(folder)
    for words in (
        "missing: params/backbone/conv1/kernel",
        "unexpected: params/extra",
        "of another shape: params/head/final/bias (3,), not (40,)",
    ):
        assert words in str(error.value)


def test_other_files_are_refused_with_a_remedy(folder, tmp_path):
    with pytest.raises(ValueError, match="does not exist; run --stage=student"):
        load_weights(tmp_path / "nothing")
    path = tmp_path / "student.safetensors"
    save_file({"a": np.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"config\.student\.pretrained"):
        load_weights(path)
    path.write_bytes(b"no header")
    with pytest.raises(ValueError, match="is not a safetensors file"):
        load_weights(path)


@pytest.mark.parametrize(
    "student",
    [
        *("null", "[]", '"x"', "{", "[" * 5000, '{"format": 1}'),
        *("net", "skeleton", "mode", "image_size", "resnet_layers", "width"),
        *("padding", "depth_sign", "box"),
    ],
)
def test_a_record_that_no_student_has_is_one_line(folder, student):
    """With digests that are right, as somebody else could write them."""
    path = folder / "student.safetensors"
    arrays, metadata = files.read_arrays(path)
    record = json.loads(metadata["student"])
    if student in record or student in record["net"]:
        for value in (None, 1e300, -2, [], {}, "x"):
            changed = record | {student: value}
            if student in record["net"]:
                changed = record | {"net": record["net"] | {student: value}}
            if changed == record:
                continue
            files.write_arrays(
                path, arrays, metadata | {"student": json.dumps(changed)}
            )
            with pytest.raises(ValueError, match=r"student\.safetensors"):
                load_weights(path)
        return
    files.write_arrays(path, arrays, metadata | {"student": student})
    with pytest.raises(ValueError, match=r"student\.safetensors: its record"):
        load_weights(path)
