"""The teacher's record: round trip, depth sign, and what a wrong file says."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from input_pipeline.skeleton import Skeleton
from losses.camera_frame import split_dictionary
from nrsfm_jax import model
from nrsfm_jax import teacher as teacher_files

SKELETON = Skeleton("five", tuple("abcde"), ((0, 1), (1, 2), (2, 3), (3, 4))).to_dict()


def _samples(count=9):
    rng = np.random.default_rng(0)
    W = rng.normal(size=(count, 5, 2)).astype(np.float32)
    labelled = rng.uniform(size=(count, 5)) < 0.8
    labelled[:, :2] = True
    W = np.where(labelled[..., None], W, np.float32(0))
    return W, labelled, np.arange(100, 100 + count)


@pytest.fixture(scope="module", params=[(12, 6), (7,)], ids=["two layers", "one"])
def trained(request):
    params = model.init(
        jax.random.key(0), num_landmarks=5, dictionary_sizes=request.param
    )
    config = {"teacher": {"ista_steps": 2}, "seed": 0}
    return teacher_files.from_params(params, skeleton=SKELETON, config=config)


@pytest.fixture(scope="module")
def split(trained):
    return trained.reconstruct(*_samples())


def test_dictionary_has_unit_columns_and_codes_carry_the_norms(trained, split):
    norms = np.linalg.norm(trained.dictionary, axis=0)
    np.testing.assert_allclose(norms, 1, atol=1e-6)
    W, _, _ = _samples()
    for w, code, camera in zip(W, split.code, split.camera, strict=True):
        _, M, S = model.reconstruct(
            jax.tree.map(jax.numpy.asarray, trained.params),
            jax.numpy.asarray(w),
            ista_steps=2,
        )
        np.testing.assert_allclose(trained.dictionary @ code, S.ravel(), atol=1e-5)
        np.testing.assert_allclose(camera, M, atol=1e-5)


def test_residual_is_the_norm_over_the_visible_joints(trained, split):
    for i in range(len(split)):
        B_xy, _ = split_dictionary(
            jax.numpy.asarray(trained.dictionary), jax.numpy.asarray(split.camera[i])
        )
        error = (np.asarray(B_xy) @ split.code[i]).reshape(5, 2) - split.W[i]
        expected = np.linalg.norm(error[split.labelled[i]])
        np.testing.assert_allclose(split.residual[i], expected, rtol=1e-4)


def test_chunks_do_not_change_the_reconstruction(trained, split):
    again = trained.reconstruct(*_samples(), chunk=4)
    np.testing.assert_allclose(again.code, split.code, atol=1e-5)
    np.testing.assert_allclose(again.camera, split.camera, atol=1e-5)
    assert len(again) == 9


def test_round_trip(tmp_path, trained, split):
    teacher_files.save(tmp_path, trained, {"train": split, "val": split})
    loaded = teacher_files.load(tmp_path)
    assert jax.tree.structure(loaded.params) == jax.tree.structure(trained.params)
    for a, b in zip(
        jax.tree.leaves((loaded.params, loaded.dictionary)),
        jax.tree.leaves((trained.params, trained.dictionary)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    for name in ("skeleton", "depth_sign", "depth_sign_source", "config"):
        assert getattr(loaded, name) == getattr(trained, name)
    val = teacher_files.load_reconstruction(tmp_path, "val")
    for name, value in vars(split).items():
        np.testing.assert_array_equal(getattr(val, name), value)
    np.testing.assert_array_equal(
        loaded.reconstruct(*_samples()).code, trained.reconstruct(*_samples()).code
    )


def test_files_are_those_of_the_layout(tmp_path, trained, split):
    teacher_files.save(tmp_path, trained, {"train": split})
    arrays = load_file(tmp_path / "teacher.safetensors")
    assert arrays["dictionary"].shape == trained.dictionary.shape
    assert any(name.startswith("params/dictionaries/") for name in arrays)
    record = json.loads((tmp_path / "teacher.json").read_text())
    assert record["format"] == 1
    assert Skeleton.from_dict(record["skeleton"]).joints == tuple("abcde")
    samples = load_file(tmp_path / "train.safetensors")
    assert {k: (v.dtype.name, v.shape[1:]) for k, v in samples.items()} == {
        "sample_ids": ("int64", ()),
        "camera": ("float32", (3, 2)),
        "code": ("float32", trained.dictionary.shape[1:]),
        "residual": ("float32", ()),
        "W": ("float32", (5, 2)),
        "labelled": ("bool", (5,)),
    }


def test_mirrored_negates_depth_and_keeps_everything_else(trained, split):
    mirrored, turned = trained.mirrored(), split.mirrored()
    assert (mirrored.depth_sign, trained.depth_sign) == (-1, 1)
    pose = split.poses(trained.dictionary)
    flipped = turned.poses(mirrored.dictionary)
    np.testing.assert_allclose(flipped[..., :2], pose[..., :2], atol=1e-5)
    np.testing.assert_allclose(flipped[..., 2], -pose[..., 2], atol=1e-5)
    np.testing.assert_array_equal(turned.code, split.code)
    # The network of the mirrored teacher says the same as the mirrored samples.
    again = mirrored.reconstruct(*_samples())
    np.testing.assert_allclose(again.camera, turned.camera, atol=1e-6)
    np.testing.assert_array_equal(mirrored.mirrored().dictionary, trained.dictionary)


def test_given_sign_minus_one_is_the_mirrored_teacher(trained):
    negative = teacher_files.from_params(
        trained.params, skeleton=SKELETON, depth_sign=-1, config=trained.config
    )
    np.testing.assert_array_equal(negative.dictionary, trained.mirrored().dictionary)
    assert negative.depth_sign == -1


@pytest.mark.parametrize(
    ("field", "value"), [("depth_sign", 0), ("depth_sign_source", "guess")]
)
def test_wrong_signs_are_refused(trained, field, value):
    fields = vars(trained) | {field: value}
    with pytest.raises(ValueError, match=field):
        teacher_files.Teacher(**fields)


def _edit_record(folder, **changes):
    path = folder / "teacher.json"
    record = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in record.items() if v is not None}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "teacher.json").unlink(), "does not exist"),
        (lambda f: (f / "teacher.json").write_text("{"), "not JSON"),
        (lambda f: _edit_record(f, format=2), "format is 2"),
        (lambda f: _edit_record(f, depth_sign=None), r"lacks \['depth_sign'\]"),
        (lambda f: (f / "teacher.safetensors").write_bytes(b"no"), "not a safetensors"),
        (
            lambda f: save_file(
                {"dictionary": np.zeros((6, 2), np.float32)}, f / "teacher.safetensors"
            ),
            r"\(6, 2\).* needs 15 rows",
        ),
        (
            lambda f: save_file(
                {"x": np.zeros(1, np.float32)}, f / "teacher.safetensors"
            ),
            "no 'dictionary'",
        ),
    ],
)
def test_a_wrong_teacher_is_refused_with_its_file(
    tmp_path, trained, split, damage, message
):
    teacher_files.save(tmp_path, trained, {"train": split})
    damage(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        teacher_files.load(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_wrong_samples_are_refused(tmp_path, trained, split):
    teacher_files.save(tmp_path, trained, {"train": split})
    path = tmp_path / "train.safetensors"
    arrays = load_file(path)
    save_file(arrays | {"residual": arrays["residual"][:4]}, path)
    with pytest.raises(ValueError, match="differ in length"):
        teacher_files.load_reconstruction(tmp_path, "train")
    del arrays["camera"]
    save_file(arrays, path)
    with pytest.raises(ValueError, match=r"lacks the arrays \['camera'\]"):
        teacher_files.load_reconstruction(tmp_path, "train")
    with pytest.raises(ValueError, match="does not exist"):
        teacher_files.load_reconstruction(tmp_path, "val")
