"""Scores of a student, and a whole run of some modes on a few rendered pictures."""

import dataclasses
import itertools
import json
import shutil

import jax
import numpy as np
import pytest
import tiny_student as tiny

from configs import default
from input_pipeline.dataset import Dataset, open_dataset
from input_pipeline.ground_truth import GroundTruth
from input_pipeline.landmarks import Landmarks
from losses.scores import score_poses
from pose_jax import PoseEstimator, evaluate, train
from pose_jax.estimator import load_student
from pose_jax.state import StudentRecord, init_state
from runtime import teacher_file


def made_up(count=6, seed=0):
    """A data set seen in weak perspective, and the perfect prediction."""
    rng = np.random.default_rng(seed)
    truth = 300 * rng.normal(size=(count, tiny.P, 3))
    scale, centre = rng.uniform(0.1, 0.2, count), rng.uniform(40, 60, (count, 2))
    half_side = rng.uniform(80, 120, count).astype(np.float32)
    keypoints = truth[..., :2] * scale[:, None, None] + centre[:, None]
    marks = Landmarks(
        skeleton=tiny.SKELETON,
        sample_ids=np.arange(10, 10 + count),
        keypoints=keypoints.astype(np.float32),
        labelled=np.ones((count, tiny.P), bool),
        centre=centre.astype(np.float32),
        half_side=half_side,
        names=tuple(map(str, range(count))),
    )
    action = np.array(["walk", "run"] * (count // 2))
    positions = truth.astype(np.float32)
    found = GroundTruth(marks.sample_ids, positions, action, np.zeros(count))
    depth = truth[..., 2:] * (scale / half_side)[:, None, None]
    perfect = np.concatenate([marks.patch, depth], axis=-1).astype(np.float32)
    return Given(marks, found), perfect


class Given(Dataset):
    """The same landmarks and truth for every split."""

    def __init__(self, marks, truth):
        object.__setattr__(self, "given", (marks, truth))

    def landmarks(self, split):
        return self.given[0]

    def truth(self, split):
        return self.given[1]


def test_the_perfect_prediction_has_no_error():
    data, perfect = made_up()
    scores = evaluate.score_split(perfect, data, "val", "given")
    names = ("mpjpe_mm", "pa_mpjpe_mm", "n_mpjpe_mm", "depth_error_mm", "xy_error")
    for name in names:
        assert scores[name] == pytest.approx(0.0, abs=1e-2)
    assert scores["flip_fraction"] == 0.0
    assert (scores["count"], scores["sign"]) == (6, "given")
    assert set(scores["per_action"]) == {"walk", "run", "average"}


def test_annotated_xy_leaves_only_the_error_in_depth():
    data, pose = made_up()
    pose[..., :2] += np.random.default_rng(1).normal(size=pose[..., :2].shape)
    scores = evaluate.score_split(pose, data, "val", "given")
    assert scores["mpjpe_mm"] > 100
    assert scores["annotated_xy"]["mpjpe_mm"] == pytest.approx(0.0, abs=1e-2)


def test_the_joints_without_a_landmark_count_for_no_method():
    """The same poses have the same scores, a student's or a teacher's."""
    data, pose = made_up()
    marks, truth = data.landmarks("val"), data.truth("val")
    pose = pose + 0.1 * np.random.default_rng(2).normal(size=pose.shape)
    labelled = marks.labelled.copy()
    labelled[::2, 4] = False
    data = Given(dataclasses.replace(marks, labelled=labelled), truth)
    scores = evaluate.score_split(pose, data, "val", "given")
    wild = np.where(labelled[..., None], pose, 1e3)
    assert evaluate.score_split(wild, data, "val", "given") == scores
    teachers = score_poses(
        pose,
        data.landmarks("val").patch,
        labelled,
        truth.positions_mm,
        edges=tiny.SKELETON.edges,
        root=tiny.SKELETON.root,
        sign="given",
        actions=truth.action,
    )
    assert {name: scores[name] for name in teachers} == teachers


def test_without_truth_only_the_landmarks_are_scored():
    data, perfect = made_up()
    data = Given(data.landmarks("val"), None)
    scores = evaluate.score_split(perfect, data, "val", "given")
    assert scores["count"] == 6
    assert "mpjpe_mm" not in scores
    assert "no 3D" in scores["message"]


@pytest.fixture
def tiny_net(monkeypatch):
    """The loop's own network in place of the PoseNet, which compiles for long."""

    def make_net(record, axis_name=None, *, own=False):
        joints = record.skeleton.num_joints
        return tiny.TinyNet(axis_name=axis_name, num_joints=joints)

    monkeypatch.setattr(StudentRecord, "make_net", make_net)


def test_predictions_come_back_in_row_order(tiny_net):
    record = tiny.record()
    _, W = tiny.made_up_targets(11)
    net = record.make_net()
    state = init_state(net, jax.random.key(1), image_size=tiny.SIZE, learning_rate=1e-3)
    made = list(tiny.val_batches(W, batch_size=4))
    pose, spread = evaluate.predict(
        record, state.variables, reversed(made), 11, num_devices=4
    ).swapaxes(0, 1)
    images = jax.numpy.asarray(made[1]["image"])
    wanted = net.apply(state.variables, images, train=False)
    np.testing.assert_allclose(pose[4:8], wanted, atol=1e-5)
    assert (spread == 1).all()  # which the network says of all
    twice = evaluate.predict(record, state.variables, made, 11, mirror=True)[:, 0]
    flipped = [{**b, "image": b["image"][:, :, ::-1]} for b in made]
    other = evaluate.predict(record, state.variables, flipped, 11)[:, 0]
    other = other[:, tiny.SKELETON.flip_permutation] * [-1, 1, 1]
    np.testing.assert_allclose(twice, (pose + other) / 2, atol=1e-5)
    with pytest.raises(ValueError, match="no batch holds row 8 of 11"):
        evaluate.predict(record, state.variables, made[:2], 11, num_devices=1)


# --- a whole run -------------------------------------------------------------------


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    config = default.get_config()
    config.data.data_dir = str(tmp_path_factory.mktemp("data"))
    config.data.num_train, config.data.num_val = 24, 10
    config.data.render_size = 48
    config.student.update(image_size=32, batch_size=8, steps=6, log_every=2)
    config.student.update(eval_every=3, checkpoint_every=3, num_devices=1)
    return config


@pytest.fixture(scope="module")
def data(config):
    pytest.importorskip("tensorflow")
    return open_dataset(config.data)


@pytest.fixture(scope="module")
def workdir(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    marks = {split: data.landmarks(split) for split in ("train", "val")}
    splits = {s: (m.sample_ids, m.centred[0], m.labelled) for s, m in marks.items()}
    tiny.write_teacher(folder / "teacher", data.skeleton, splits)
    return folder


# One mode of each label and loss but Eq. 10, which tests/test_pose_jax_loss.py has.
@pytest.mark.parametrize("mode", ["supervised", "distill", "posterior"])
def test_a_mode_trains_and_is_scored(config, data, workdir, tiny_net, mode):
    train.train_and_evaluate(config, workdir, data, (mode,))
    folder = workdir / f"student_{mode}"
    results = json.loads((folder / "results.json").read_text())
    for split, count in (("train", 24), ("val", 10)):
        assert results[split]["count"] == count
        assert results[split]["mpjpe_mm"] > 0
        assert results[split]["annotated_xy"]["pa_mpjpe_mm"] > 0
        assert set(results[split]["error_bar"]["95"]) == set("xyz")
        with np.load(folder / f"predictions_{split}.npz") as saved:
            assert saved["pose"].shape == saved["spread"].shape == (count, 17, 3)
            assert saved["sample_ids"].shape == (count,)
    about = results["student"]
    assert about["reads_3d"] == (mode == "supervised")
    assert about["step"] == 6
    assert (about["matched_weight"] == 1.0) == (mode == "supervised")


def test_the_papers_own_weight_leaves_the_gradients_as_they_are(config, data, workdir):
    settings = config.copy_and_resolve_references()
    settings.student.update(match_depth_gradients=False, depth_weight=1.0)
    (record,), _ = train.prepare(settings, workdir, data, ("distill",))
    assert (record.depth_weight, record.matched_weight) == (1.0, 1.0)
    (matched,), _ = train.prepare(config, workdir, data, ("distill",))
    assert matched.depth_weight == matched.matched_weight != 1.0


def test_a_finished_run_is_not_repeated(config, data, workdir, tiny_net, monkeypatch):
    train.train_and_evaluate(config, workdir, data, ("distill",))

    def refuse(*_, **__):
        raise AssertionError("trained or predicted again")

    monkeypatch.setattr(train, "fit", refuse)
    monkeypatch.setattr(evaluate, "predict_split", refuse)
    train.train_and_evaluate(config, workdir, data, ("distill",))


def test_an_interrupted_run_ends_with_the_same_numbers(
    config, data, workdir, tiny_net, tmp_path, monkeypatch
):
    train.train_and_evaluate(config, workdir, data, ("distill",))
    (tmp_path / "teacher").symlink_to(workdir / "teacher")
    real = train.pictures

    def four_batches(*arguments, **options):
        batches, validation = real(*arguments, **options)

        def stopping():
            yield from itertools.islice(batches, 4)
            raise KeyboardInterrupt

        return stopping(), validation

    with monkeypatch.context() as patch:
        patch.setattr(train, "pictures", four_batches)
        with pytest.raises(KeyboardInterrupt):
            train.train_and_evaluate(config, tmp_path, data, ("distill",))
    train.train_and_evaluate(config, tmp_path, data, ("distill",))
    made = [
        (folder / "student_distill" / "results.json").read_text()
        for folder in (workdir, tmp_path)
    ]
    assert made[0] == made[1]


def test_a_turned_teacher_takes_its_students_and_their_copies_along(tmp_path):
    """The file of weights, copied away from its run, predicts what the run does."""
    tiny.write_student(tmp_path)
    tiny.write_teacher(tmp_path / "teacher", tiny.SKELETON, {})
    picture = np.asarray(tiny.noise(40, 40))
    before = PoseEstimator.load(tmp_path, batch_size=1)(picture).pose
    teacher_file.set_depth_sign(tmp_path / "teacher", -1, "cue", {})
    record, state = load_student(tmp_path / "student_distill")
    assert record.depth_sign == -1
    evaluate.save_weights(tmp_path / "away", record, state.variables)
    for path in (tmp_path, tmp_path / "away" / "student.safetensors"):
        pose = PoseEstimator.load(path, batch_size=1)(picture).pose
        np.testing.assert_allclose(pose, before * [1, 1, -1], atol=1e-6)
    assert np.abs(before[..., 2]).max() > 1e-3


def test_supervised_without_truth_says_what_to_do(config, data, workdir, monkeypatch):
    monkeypatch.setattr(Dataset, "truth", lambda self, split: None)
    with pytest.raises(ValueError, match=r"set config\.data\.ground_truth"):
        train.prepare(config, workdir, data, ("supervised",))


def test_an_unknown_mode_is_named(config):
    settings = config.copy_and_resolve_references()
    settings.student.modes = ("distil",)
    with pytest.raises(ValueError, match="'distil' is not one of"):
        train.trainings(settings.student)


def test_a_backbone_is_shared_by_all_modes_but_that_of_the_truth(config):
    settings = config.copy_and_resolve_references()
    settings.student.modes = ("distill", "supervised", "posterior")
    alone = [("distill",), ("supervised",), ("posterior",)]
    assert train.trainings(settings.student) == alone
    settings.student.share_backbone = True
    together = [("distill", "posterior"), ("supervised",)]
    assert train.trainings(settings.student) == together


def test_modes_that_share_a_backbone_differ_in_depth_alone(
    config, data, workdir, tmp_path
):
    """By the pyramid, its yaw and Muon: trained, scored, exported, turned."""
    shutil.copytree(workdir / "teacher", tmp_path / "teacher")
    settings = config.copy_and_resolve_references()
    student = settings.student
    student.update(network="pyramid", width=0.125, yaw_classes=4, optimizer="muon")
    student.update(heat_weight=0.1, share_backbone=True)
    modes = ("weaksup_bs", "distill")
    train.train_and_evaluate(settings, tmp_path, data, modes)
    poses, folders = [], [tmp_path / f"student_{mode}" for mode in modes]
    for folder in folders:
        results = json.loads((folder / "results.json").read_text())
        assert results["student"]["modes"] == list(modes)
        assert "weaksup_bs, distill" in results["val"]["backbone"]
        assert "weaksup_bs, distill" in (folder / "MODEL_CARD.md").read_text()
        with np.load(folder / "predictions_val.npz") as saved:
            poses.append(saved["pose"])
    np.testing.assert_allclose(poses[0][..., :2], poses[1][..., :2], atol=1e-5)
    assert np.abs(poses[0][..., 2] - poses[1][..., 2]).max() > 1e-5
    # The file of weights is a network of its own, and a turned teacher turns it.
    how = {"train": False, "image_size": 32, "seed": 0}
    pictures = next(data.pictures("val", batch_size=4, **how))
    for sign in (1, -1):
        teacher_file.set_depth_sign(tmp_path / "teacher", sign, "cue", {})
        for folder, pose in zip(folders, poses, strict=True):
            for place in (folder, folder / "student.safetensors"):
                found = PoseEstimator.load(place, batch_size=4)(pictures["image"]).pose
                wanted = pose[pictures["row"]] * [1, 1, sign]
                np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_a_batch_larger_than_the_data_set_is_made_smaller(config, data, capsys):
    settings = config.copy_and_resolve_references()
    settings.student.batch_size = 25
    _, size = train.place_step(settings.student, tiny.TinyNet(), print, data)
    assert size == 24
    assert "batches of 24" in capsys.readouterr().out
