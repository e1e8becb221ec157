"""A whole teacher run in a folder: files, resume after a kill, evaluation."""

import copy
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import em_bodies as bodies
import jax
import numpy as np
import pytest

from configs import default
from input_pipeline.dataset import Dataset, open_dataset
from input_pipeline.landmarks import Landmarks
from input_pipeline.skeleton import H36M_17, Skeleton
from input_pipeline.sources import memory_mapped
from losses import metrics
from nrsfm_jax import evaluate, loop, train
from nrsfm_jax import teacher as teachers
from pose_jax.targets import label_depth
from runtime import teacher_file
from runtime.files import read_json

RUNS_LONG = True

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def mocap_file(tmp_path_factory):
    """Motion of two stick figures in the layout of the motion-capture file."""
    rng = np.random.default_rng(0)
    count, parents = 240, np.full(17, -1)
    for parent, child in H36M_17.edges:
        parents[child] = parent
    bones = rng.normal(size=(17, 3)) * 200
    S = np.zeros((count, 17, 3))
    for joint, parent in enumerate(parents):
        bend = rng.normal(size=(count, 3)) * 40
        S[:, joint] = bones[joint] + bend + (S[:, parent] if parent >= 0 else 0)
    path = tmp_path_factory.mktemp("motion") / "motion.npz"
    np.savez(
        path,
        positions=S.astype(np.float32),
        subject=np.repeat([1, 2], count // 2),
        trial=np.ones(count, np.int32),
        action=np.full(count, "walk"),
        frame=np.arange(count),
        joint_names=np.array(H36M_17.joints),
        parents=parents,
    )
    return path


def _config(mocap_file):
    config = default.get_config()
    config.data.name = "mocap"
    config.data.mocap_file = str(mocap_file)
    config.data.num_train, config.data.num_val = 100, 40
    config.teacher.dictionary_sizes = (16, 6)
    config.teacher.batch_size, config.teacher.steps = 16, 40
    config.teacher.checkpoint_every, config.teacher.log_every = 10, 5
    config.teacher.em.views = "upright"
    config.teacher.em.num_samples, config.teacher.em.num_yaws = 60, 6
    config.teacher.em.elevations_deg = (0.0, 20.0)
    return config


def _run(config, workdir):
    return train.train_and_evaluate(config, workdir, open_dataset(config.data))


@pytest.fixture(scope="module")
def finished(few_trials, mocap_file, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    config = _config(mocap_file)
    return config, workdir, _run(config, workdir)


def test_results_have_every_number_and_say_how_they_were_made(finished):
    _, workdir, results = finished
    written = read_json(workdir / "teacher" / "results.json")
    assert written == results
    for split, count in (("train", 100), ("val", 40)):
        numbers = results[split]
        assert numbers["count"] == count
        for each in (numbers, numbers["annotated_xy"], numbers["baselines"]["z_zero"]):
            for name in ("mpjpe_mm", "pa_mpjpe_mm", "n_mpjpe_mm", "depth_error_mm"):
                assert np.isfinite(each[name])
        assert numbers["sign"] == (
            "depth sign +1 of the teacher, one for all samples, given by the config"
        )
        assert numbers["alignment"]
        assert "mean_pose" in numbers["baselines"]


def test_predictions_are_in_the_frame_of_the_patch(finished):
    config, workdir, results = finished
    saved = np.load(workdir / "teacher" / "predictions_val.npz")
    landmarks = open_dataset(config.data).landmarks("val")
    np.testing.assert_array_equal(saved["sample_ids"], landmarks.sample_ids)
    error = np.linalg.norm(saved["pose"][..., :2] - landmarks.patch, axis=(1, 2))
    np.testing.assert_allclose(error.mean(), results["val"]["reprojection"], rtol=1e-4)


def test_landmarks_without_pictures_are_not_lifted_for_students(finished):
    _, workdir, _ = finished
    assert not teacher_file.read(workdir / "teacher").has_labels("train")


def test_labels_for_students_are_scored_where_there_is_truth(finished, monkeypatch):
    """By their own numbers: those of a label that is the truth are 0."""
    config, workdir, _ = finished
    data = open_dataset(config.data)
    marks, truth = data.landmarks("val"), data.truth("val")
    depth = label_depth(
        truth.positions_mm, marks.keypoints, marks.half_side, marks.labelled
    )
    file = teacher_file.read(workdir / "teacher")
    monkeypatch.setattr(teacher_file.TeacherFile, "has_labels", lambda *_: True)
    monkeypatch.setattr(teacher_file.TeacherFile, "labels", lambda *_: {"depth": depth})
    scores = evaluate._evaluate_split(file, "val", marks, truth, None)
    label = scores["baselines"]["labels"]
    assert label["depth_error_mm"] < 1
    assert label["depth_error_mm"] < 0.1 * scores["depth_error_mm"]


def test_metrics_have_one_line_for_each_chunk(finished):
    _, workdir, _ = finished
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == list(range(5, 41, 5))


def test_a_finished_run_is_not_repeated(finished, monkeypatch):
    config, workdir, results = finished
    monkeypatch.setattr(loop, "fit", lambda *a, **k: pytest.fail("trained again"))
    assert _run(config, workdir) == results


def test_a_folder_of_another_config_is_refused(finished):
    config, workdir, _ = finished
    other = copy.deepcopy(config)
    other.teacher.steps = 41
    with pytest.raises(ValueError, match=r"teacher.steps: 40 there, 41 now"):
        _run(other, workdir)


def test_how_often_things_are_written_may_change(finished):
    config, workdir, results = finished
    other = copy.deepcopy(config)
    other.teacher.log_every = 7
    assert _run(other, workdir) == results


_PROGRAM = """
import json, sys, time
sys.path.insert(0, "tests")
import jax
jax.config.update("jax_num_cpu_devices", 4)
from ml_collections import ConfigDict
from input_pipeline.dataset import open_dataset
from nrsfm_jax import train
from runtime.checkpoints import Checkpoints
from em_bodies import make_trials_few

make_trials_few(setattr)
save = Checkpoints.save

def save_and_hang(self, *arguments):  # so that the kill comes in the middle
    save(self, *arguments)
    time.sleep(600)

Checkpoints.save = save_and_hang
config = ConfigDict(json.loads(sys.argv[1]))
train.train_and_evaluate(config, sys.argv[2], open_dataset(config.data))
"""


def test_killed_and_started_again_it_ends_with_the_same_bits(finished, tmp_path):
    config, workdir, results = finished
    command = [sys.executable, "-c", _PROGRAM, config.to_json(), str(tmp_path)]
    process = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": "cpu"}
    )
    checkpoints = tmp_path / "teacher" / "checkpoints"
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if any(path.name.isdecimal() for path in checkpoints.glob("*")):
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "teacher" / "results.json").exists()
    assert _run(config, tmp_path) == results
    for split in ("train", "val"):
        a = teachers.load_reconstruction(workdir / "teacher", split)
        b = teachers.load_reconstruction(tmp_path / "teacher", split)
        for name, value in vars(a).items():
            np.testing.assert_array_equal(getattr(b, name), value)


def test_a_verdict_that_a_kill_lost_is_written_again(finished, tmp_path):
    config, workdir, _ = finished
    shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "teacher" / "verdict.json"
    before = path.read_text()
    path.unlink()
    (tmp_path / "teacher" / "results.json").unlink()
    results = _run(config, tmp_path)
    assert path.read_text() == before
    assert results["verdict"]["text"].startswith("Depth: ")


def test_truth_may_be_given_to_a_finished_run(finished, tmp_path, monkeypatch):
    """Without one there are two-dimensional numbers; with it nothing is trained."""
    config, workdir, results = finished
    shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(loop, "fit", lambda *a, **k: pytest.fail("trained again"))
    with monkeypatch.context() as blinded:
        blinded.setattr(Dataset, "truth", lambda *_: None)
        blind = _run(config, tmp_path)
    assert blind["val"]["message"].startswith("no 3D ground truth")
    assert blind["val"]["reprojection"] == results["val"]["reprojection"]
    assert "mpjpe_mm" not in blind["val"]
    assert _run(config, tmp_path) == results


def test_a_batch_larger_than_the_data_set_is_made_smaller_and_said(
    mocap_file, tmp_path, capsys
):
    config = _config(mocap_file)
    config.data.num_train = 24
    config.teacher.batch_size, config.teacher.steps = 32, 5
    config.teacher.em.guide_fraction = 0.0
    assert _run(config, tmp_path)["train"]["count"] == 24
    said = "config.teacher.batch_size = 32, but there are 24 samples: batches of 24\n"
    assert capsys.readouterr().out == said


@pytest.fixture
def on_disk(finished, tmp_path):
    """The landmarks of the finished run as a folder of NumPy files, and its config."""
    config, _, _ = finished
    folder = tmp_path / "marks"
    for split in ("train", "val"):
        marks = open_dataset(config.data).landmarks(split)
        (folder / split).mkdir(parents=True)
        for name in ("keypoints", "labelled", "sample_ids"):
            np.save(folder / split / f"{name}.npy", getattr(marks, name))
    (folder / "skeleton.json").write_text(json.dumps(H36M_17.to_dict()))
    other = copy.deepcopy(config)
    other.data.name, other.data.mocap_file = "landmarks", ""
    other.data.landmarks = str(folder)
    return other


def test_a_folder_on_disk_trains_the_teacher_of_training_in_memory(
    finished, on_disk, tmp_path, monkeypatch
):
    _, workdir, results = finished
    for module in (memory_mapped, evaluate):  # several parts, the last one smaller
        monkeypatch.setattr(module, "ROWS", 40)
    found = _run(on_disk, tmp_path)
    for split in ("train", "val"):
        a = teachers.load_reconstruction(workdir / "teacher", split)
        b = teachers.load_reconstruction(tmp_path / "teacher", split)
        np.testing.assert_array_equal(a.sample_ids, b.sample_ids)
        for name in ("camera", "code", "residual", "W"):
            np.testing.assert_allclose(
                getattr(a, name), getattr(b, name), rtol=1e-2, atol=1e-3
            )
        for name in ("reprojection", "active_codes", "count"):
            np.testing.assert_allclose(
                found[split][name], results[split][name], rtol=1e-3
            )
        assert found[split]["message"].startswith("no 3D ground truth")
    poses = [
        np.load(path / "teacher" / "predictions_val.npz")["pose"]
        for path in (workdir, tmp_path)
    ]
    np.testing.assert_allclose(*poses, rtol=1e-2, atol=1e-3)
    assert not (tmp_path / "teacher" / "em_pose").exists()


def test_a_loss_that_is_not_finite_names_the_last_good_checkpoint(
    mocap_file, tmp_path, monkeypatch
):
    config = _config(mocap_file)
    config.teacher.em.guide_fraction = 0.0
    real = loop.fit

    def breaks_after_the_first_checkpoint(*args, after_chunk, **options):
        def limited(state, metrics):
            after_chunk(state, metrics)
            if int(state.step) == 20:
                raise loop.NonFiniteLoss("the teacher's loss is [nan] in 21..25")

        return real(*args, after_chunk=limited, **options)

    monkeypatch.setattr(loop, "fit", breaks_after_the_first_checkpoint)
    with pytest.raises(ValueError, match=r"last good checkpoint is step 20"):
        _run(config, tmp_path)


def test_procrustes_mean_undoes_rotation_scale_and_shift():
    rng = np.random.default_rng(0)
    shape = rng.normal(size=(6, 3))
    turns = np.linalg.qr(rng.normal(size=(20, 3, 3)))[0]
    turns *= np.sign(np.linalg.det(turns))[:, None, None]
    poses = rng.uniform(1, 3, (20, 1, 1)) * shape @ turns + rng.normal(size=(20, 1, 3))
    mean = evaluate.procrustes_mean(poses)
    error = metrics.pa_mpjpe(mean[None].astype(np.float64), shape[None])
    assert error < 1e-5


def test_a_joint_that_is_never_seen_is_named(mocap_file, tmp_path, monkeypatch):
    whole = Dataset.landmarks

    def hidden(data, split):
        marks = whole(data, split)
        labelled = marks.labelled.copy()
        labelled[:, 4] = False
        return dataclasses.replace(marks, labelled=labelled)

    monkeypatch.setattr(Dataset, "landmarks", hidden)
    with pytest.raises(ValueError, match=f"joint {H36M_17.joints[4]}: labelled in"):
        _run(_config(mocap_file), tmp_path)


# --- landmarks of a detector --------------------------------------------------------

SIX = Skeleton("six", tuple("abcdef"), ((0, 1), (1, 2), (0, 3)), left_right=((1, 3),))


def _detected(count=150, *, outliers):
    """Noisy landmarks of which some are missing, the wrong ones, and true depths."""
    W, depth = bodies.sample(bodies.two_poses(), count)
    rng = np.random.default_rng(4)
    labelled = np.arange(bodies.P) != rng.integers(4 * bodies.P, size=(count, 1))
    wrong = labelled & (rng.random(labelled.shape) < outliers)
    anywhere = rng.uniform(-0.9, 0.9, size=W.shape)
    pixels = 64 * np.where(wrong[..., None], anywhere, W).astype(np.float32) + 64
    marks = Landmarks(
        skeleton=SIX,
        sample_ids=np.arange(count),
        keypoints=np.where(labelled[..., None], pixels, 0),
        labelled=labelled,
        centre=np.full((count, 2), 64, np.float32),
        half_side=np.full(count, 64, np.float32),
        names=(),
    )
    return marks, wrong, depth


def _depth_error(marks, depth):
    z = train.expected_pose(bodies.two_poses(), *train._centred(marks))[0][..., 2]
    return np.abs(z - depth).mean()


def test_outliers_are_missing_for_students_and_the_label_is_better():
    """Most of what they cost in the depth of all joints is won back."""
    marks, wrong, depth = _detected(outliers=0.05)
    right = dataclasses.replace(marks, labelled=marks.labelled & ~wrong)
    least, most = (_depth_error(each, depth) for each in (right, marks))
    assert 1.2 * least < most < np.abs(depth).mean()
    kept = train.believed(bodies.two_poses(), {"train": marks, "val": marks})
    for each in kept.values():
        hidden = marks.labelled & ~each.labelled
        assert hidden[wrong].mean() > 0.5
        assert hidden[~wrong].mean() < 0.01
        assert _depth_error(each, depth) < least + 0.4 * (most - least)


def test_landmarks_with_few_outliers_stay_as_they_are():
    marks, _, _ = _detected(outliers=0)
    given = {"train": marks, "val": _detected(outliers=0.05)[0]}
    assert train.believed(bodies.two_poses(), given) is given


@pytest.mark.parametrize(("outliers", "fits"), [(0.0, 1), (0.05, train.FITS)])
def test_shapes_are_fitted_again_without_outliers(
    tmp_path, monkeypatch, outliers, fits
):
    marks, wrong, _ = _detected(outliers=outliers)
    asked = []

    def fit(W, labelled, **_):
        asked.append(labelled)
        return bodies.two_poses(), object.__new__(train.FitReport)

    monkeypatch.setattr(train, "fit_shapes", fit)
    monkeypatch.setattr(train, "read_or_fit", lambda _, fit: fit())
    monkeypatch.setattr(train.processes, "on_first", lambda *_: None)
    settings = default.get_config().teacher.em
    train._shapes(settings, tmp_path, jax.random.key(0), marks, hide=True)
    assert len(asked) == fits
    np.testing.assert_array_equal(asked[0], marks.labelled)
    assert not outliers or asked[-1][wrong].mean() < 0.5
