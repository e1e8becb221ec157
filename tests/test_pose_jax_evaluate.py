"""Scores of a student, and a whole run of every mode on a few rendered pictures."""

import json

import jax
import numpy as np
import pytest
import tiny_student as tiny

from configs import default
from input_pipeline.ground_truth import GroundTruth
from input_pipeline.landmarks import Landmarks
from pose_jax import evaluate, train
from pose_jax import state as student
from pose_jax.loss import MODES
from pose_jax.state import StudentRecord, init_state
from pose_jax.targets import label_targets
from runtime import teacher_file


def made_up(count=6, seed=0):
    """Landmarks seen in weak perspective, their truth, and the perfect prediction."""
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
    return marks, found, perfect


def test_the_perfect_prediction_has_no_error():
    marks, truth, perfect = made_up()
    scores = evaluate.score_split(perfect, marks, truth, "given")
    names = ("mpjpe_mm", "pa_mpjpe_mm", "n_mpjpe_mm", "depth_error_mm", "xy_error")
    for name in names:
        assert scores[name] == pytest.approx(0.0, abs=1e-2)
    assert scores["flip_fraction"] == 0.0
    assert scores["count"] == 6
    assert scores["sign"] == "given"
    assert set(scores["per_action"]) == {"walk", "run", "average"}


def test_annotated_xy_leaves_only_the_error_in_depth():
    marks, truth, pose = made_up()
    pose[..., :2] += np.random.default_rng(1).normal(size=pose[..., :2].shape)
    scores = evaluate.score_split(pose, marks, truth, "given")
    assert scores["mpjpe_mm"] > 100
    assert scores["annotated_xy"]["mpjpe_mm"] == pytest.approx(0.0, abs=1e-2)


def test_without_truth_only_the_landmarks_are_scored():
    marks, _, perfect = made_up()
    scores = evaluate.score_split(perfect, marks, None, "given")
    assert scores["count"] == 6
    assert "mpjpe_mm" not in scores
    assert "no 3D" in scores["message"]


def test_labels_of_the_supervised_mode_are_depths_in_patch_units():
    marks, truth, perfect = made_up()
    table = label_targets(
        truth.positions_mm, marks.keypoints, marks.half_side, marks.labelled
    )
    np.testing.assert_allclose(table.depth, perfect[..., 2], rtol=1e-4, atol=1e-5)


@pytest.fixture
def record():
    return StudentRecord(
        mode="distill",
        skeleton=tiny.SKELETON,
        net=tiny.NET,
        image_size=tiny.SIZE,
        padding=1.25,
        depth_sign=1,
        depth_weight=1.0,
        matched_weight=1.0,
    )


@pytest.fixture
def tiny_net(monkeypatch):
    """The loop's own network in place of the PoseNet, which compiles for long."""

    def make_net(fields, *, num_joints, axis_name=None):
        return tiny.TinyNet(axis_name=axis_name, num_joints=num_joints)

    monkeypatch.setattr(student, "make_net", make_net)
    monkeypatch.setattr(train, "make_net", make_net)


def test_predictions_come_back_in_row_order(record, tiny_net):
    _, W = tiny.made_up_targets(11)
    state = init_state(
        record.make_net(), jax.random.key(1), image_size=tiny.SIZE, learning_rate=1e-3
    )
    made = list(tiny.val_batches(W, batch_size=4))
    pose = evaluate.predict_batches(
        record, state, reversed(made), count=11, parallel="pmap", num_devices=4
    )
    images = jax.numpy.asarray(made[1]["image"])
    wanted = record.make_net().apply(state.variables, images, train=False)
    np.testing.assert_allclose(pose[4:8], wanted, atol=1e-5)
    with pytest.raises(ValueError, match="no batch holds row 8 of 11"):
        evaluate.predict_batches(record, state, made[:2], count=11)


def test_students_follow_a_teacher_that_was_mirrored_since(record, tmp_path):
    marks, *_ = made_up()
    split = (marks.sample_ids, *marks.centred[:1], marks.labelled)
    tiny.write_teacher(
        tmp_path / "teacher",
        tiny.SKELETON,
        {"train": split},
        source="cue",
        sign=-1,
    )
    sign, text = evaluate._depth_sign(record, tmp_path)
    assert sign == -1
    assert "from what is seen in a picture" in text


def test_a_teacher_of_other_samples_is_refused(tmp_path):
    marks, *_ = made_up()
    split = (marks.sample_ids, *marks.centred[:1], marks.labelled)
    tiny.write_teacher(tmp_path / "teacher", tiny.SKELETON, {"train": split})
    teacher = teacher_file.read(tmp_path / "teacher")
    with pytest.raises(ValueError, match="train holds 6 samples"):
        teacher.split("train", marks.sample_ids[::-1])
    with pytest.raises(ValueError, match=r"sample_ids\.npy does not exist"):
        teacher.split("val", marks.sample_ids)


# --- a whole run -------------------------------------------------------------------


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    config = default.get_config()
    config.data.data_dir = str(tmp_path_factory.mktemp("data"))
    config.data.num_train, config.data.num_val = 24, 10
    config.data.render_size = 48
    config.student.update(image_size=32, batch_size=8, steps=6, log_every=2)
    config.student.update(eval_every=3, checkpoint_every=3, parallel="jit")
    return config


@pytest.fixture(scope="module")
def workdir(config, tmp_path_factory):
    pytest.importorskip("tensorflow")
    from input_pipeline.landmarks import read_landmarks

    folder = tmp_path_factory.mktemp("run")
    marks = {split: read_landmarks(config.data, split) for split in ("train", "val")}
    splits = {s: (m.sample_ids, m.centred[0], m.labelled) for s, m in marks.items()}
    tiny.write_teacher(folder / "teacher", marks["train"].skeleton, splits)
    return folder


def of_mode(config, mode):
    config = config.copy_and_resolve_references()
    config.student.mode = mode
    return config


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_trains_and_is_scored(config, workdir, tiny_net, mode):
    train.train_and_evaluate(of_mode(config, mode), workdir)
    folder = workdir / f"student_{mode}"
    results = json.loads((folder / "results.json").read_text())
    for split, count in (("train", 24), ("val", 10)):
        assert results[split]["count"] == count
        assert results[split]["mpjpe_mm"] > 0
        assert results[split]["annotated_xy"]["pa_mpjpe_mm"] > 0
        with np.load(folder / f"predictions_{split}.npz") as saved:
            assert saved["pose"].shape == (count, 17, 3)
            assert saved["sample_ids"].shape == (count,)
    about = results["student"]
    assert about["reads_3d"] == (mode == "supervised")
    assert about["step"] == 6
    l1 = ("supervised", "weaksup_bs", "weaksup_residual", "weaksup_em")
    assert (about["matched_weight"] == 1.0) == (mode in l1)


def test_a_finished_run_is_not_repeated(config, workdir, tiny_net, monkeypatch):
    settings = of_mode(config, "weaksup_bs")
    train.train_and_evaluate(settings, workdir)

    def refuse(*_, **__):
        raise AssertionError("trained or predicted again")

    monkeypatch.setattr(train, "fit", refuse)
    monkeypatch.setattr(evaluate, "predict_split", refuse)
    train.train_and_evaluate(settings, workdir)


def test_an_interrupted_run_ends_with_the_same_numbers(
    config, workdir, tiny_net, tmp_path, monkeypatch
):
    settings = of_mode(config, "distill")
    train.train_and_evaluate(settings, workdir)  # done by the test of the modes
    (tmp_path / "teacher").symlink_to(workdir / "teacher")

    real = train._next_batch

    def stop(batches, now):
        if now == 5:
            raise KeyboardInterrupt
        return real(batches, now)

    with monkeypatch.context() as patch:
        patch.setattr(train, "_next_batch", stop)
        with pytest.raises(KeyboardInterrupt):
            train.train_and_evaluate(settings, tmp_path)
    train.train_and_evaluate(settings, tmp_path)
    made = [
        (folder / "student_distill" / "results.json").read_text()
        for folder in (workdir, tmp_path)
    ]
    assert made[0] == made[1]


def test_supervised_without_truth_says_what_to_do(config, workdir, monkeypatch):
    monkeypatch.setattr(train, "read_ground_truth", lambda *_: None)
    settings = of_mode(config, "supervised")
    settings.student.steps = 7
    with pytest.raises(ValueError, match=r"set config\.data\.ground_truth"):
        train.train(settings, workdir / "elsewhere")


@pytest.mark.parametrize(
    ("change", "words"),
    [({"mode": "distil"}, "'distil' is not one of"), ({"batch_size": 25}, "25")],
)
def test_impossible_settings_are_named(config, workdir, change, words):
    settings = of_mode(config, "weaksup_bs")
    settings.student.update(change)
    with pytest.raises(ValueError, match=words):
        train.train_and_evaluate(settings, workdir / "other")
