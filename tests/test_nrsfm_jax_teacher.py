"""The teacher's record: reconstruction, round trip and depth sign."""

import jax
import numpy as np
import pytest

from input_pipeline.skeleton import Skeleton
from losses.camera_frame import split_dictionary
from nrsfm_jax import model
from nrsfm_jax import teacher as teachers

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
    return teachers.Teacher(params, skeleton=SKELETON, config=config)


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
    teachers.save(tmp_path, trained, {"train": split, "val": split})
    loaded = teachers.load(tmp_path)
    assert jax.tree.structure(loaded.params) == jax.tree.structure(trained.params)
    for a, b in zip(
        jax.tree.leaves((loaded.params, loaded.dictionary)),
        jax.tree.leaves((trained.params, trained.dictionary)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    for name in ("skeleton", "depth_sign", "depth_sign_source", "config"):
        assert getattr(loaded, name) == getattr(trained, name)
    val = teachers.load_reconstruction(tmp_path, "val")
    for name, value in vars(split).items():
        np.testing.assert_array_equal(getattr(val, name), value)
    np.testing.assert_array_equal(
        loaded.reconstruct(*_samples()).code, trained.reconstruct(*_samples()).code
    )


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


def test_a_teacher_of_the_other_sign_is_saved_as_trained(tmp_path, trained, split):
    mirrored = trained.mirrored()
    teachers.save(tmp_path, mirrored, {"val": split.mirrored()})
    loaded = teachers.load(tmp_path)
    assert loaded.depth_sign == -1
    np.testing.assert_array_equal(loaded.dictionary, mirrored.dictionary)
    camera = np.load(tmp_path / "val" / "camera.npy")
    np.testing.assert_array_equal(camera, split.camera)
    read = teachers.load_reconstruction(tmp_path, "val")
    np.testing.assert_array_equal(read.camera, split.mirrored().camera)
