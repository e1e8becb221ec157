"""Exported students: read back, for any number of pictures, the same poses."""

import json

import jax
import numpy as np
import pytest
import tiny_student as tiny
from jax import export as jax_export
from ml_collections import ConfigDict

from configs.default import get_config
from pose_jax import PoseEstimator
from stages.export import FORMATS, PLATFORMS, export


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run whose teacher was mirrored after its student was trained."""
    folder = tmp_path_factory.mktemp("run")
    tiny.write_student(folder)
    tiny.write_teacher(folder / "teacher", tiny.SKELETON, {}, sign=-1)
    return folder


def config(**changes):
    options = get_config().predict
    options.update(changes)
    return ConfigDict({"predict": options})


@pytest.fixture(scope="module")
def exported(workdir):
    """The folder of the stage, and poses to compare with."""
    folder = export(config(), workdir)
    estimator = PoseEstimator.load(workdir)
    assert estimator.record.depth_sign == -1
    rng = np.random.default_rng(0)
    patches = rng.integers(0, 256, (3, tiny.SIZE, tiny.SIZE, 3), dtype=np.uint8)
    pose, spread = jax.jit(estimator.network())(estimator.variables, patches)
    return folder, patches, np.asarray(pose), np.asarray(spread)


def test_the_stage_leaves_three_things(exported, workdir):
    folder = exported[0]
    assert folder == workdir / "export"
    names = {path.name for path in folder.iterdir()}
    assert names == {"student.stablehlo", "saved_model", "export.json"}
    about = json.loads((folder / "export.json").read_text())
    assert about["skeleton"] == tiny.SKELETON.to_dict()
    assert about["input"]["shape"] == ["N", tiny.SIZE, tiny.SIZE, 3]
    assert "1.25 times the longer side" in about["input"]["crop"]


def test_stablehlo_gives_the_same_poses_on_cpu_gpu_and_tpu(exported):
    folder, patches, pose, spread = exported
    module = jax_export.deserialize(
        bytearray((folder / "student.stablehlo").read_bytes())
    )
    assert set(module.platforms) == set(PLATFORMS) == {"cpu", "cuda", "tpu"}
    assert str(module.in_avals[0].shape[0]) == "n"  # any number of pictures
    assert module.in_avals[0].dtype == np.uint8
    for count in (1, 3):
        outputs = jax.jit(module.call)(patches[:count])
        np.testing.assert_allclose(outputs["pose"], pose[:count], atol=1e-6)
        np.testing.assert_allclose(outputs["spread"], spread[:count], atol=1e-6)


def test_the_saved_model_gives_the_same_poses(exported):
    tf = pytest.importorskip("tensorflow")
    folder, patches, pose, spread = exported
    model = tf.saved_model.load(str(folder / "saved_model"))
    serve = model.signatures["serving_default"]
    for count in (1, 3):
        outputs = serve(images=tf.constant(patches[:count]))
        np.testing.assert_allclose(outputs["pose"], pose[:count], atol=2e-6)
        np.testing.assert_allclose(outputs["spread"], spread[:count], atol=2e-6)
    assert len(model.weights) > 20


def test_formats_may_be_chosen_and_are_checked(workdir, tmp_path):
    options = config(formats=("stablehlo",), out=str(tmp_path / "out"))
    folder = export(options, workdir)
    assert not (folder / "saved_model").exists()
    export(options, workdir)  # over its own files
    (folder / "saved_model").mkdir()
    (folder / "saved_model" / "mine.txt").touch()
    with pytest.raises(ValueError, match=r"mine\.txt was not written by an earlier"):
        export(options, workdir)
    with pytest.raises(ValueError, match=r"formats = \('onnx',\): choose from stableh"):
        export(config(formats=("onnx",)), workdir)
    assert get_config().predict.formats == FORMATS


def test_a_wrong_workdir_is_named(tmp_path):
    with pytest.raises(ValueError, match="is not the workdir of a run"):
        export(config(), tmp_path)
