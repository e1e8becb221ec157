"""The tables: what is trained for them, their errors, ratios and intervals."""

import dataclasses
import sys

import numpy as np
import pytest

from benchmarks import table_scores as scores
from benchmarks import tables
from input_pipeline.landmarks import Landmarks
from input_pipeline.skeleton import H36M_17
from runtime import teacher_file

P = H36M_17.num_joints


def arguments(monkeypatch, *flags):
    monkeypatch.setattr(sys, "argv", ["tables.py", *flags])
    return tables.parse_args()


@pytest.fixture
def split():
    """Two bodies of 1.7 m whose landmarks are their x and y in units of 500 mm."""
    rng = np.random.default_rng(0)
    truth = 300 * rng.normal(size=(2, P, 3)).astype(np.float32)
    return scores.Split(
        Landmarks(
            skeleton=H36M_17,
            sample_ids=np.arange(2),
            keypoints=truth[..., :2] / 500 * 64 + 64,
            labelled=np.ones((2, P), bool),
            centre=np.full((2, 2), 64, np.float32),
            half_side=np.full(2, 64, np.float32),
            names=("a", "b"),
        ),
        truth,
        np.array(["walk", "run"]),
    )


def test_the_truth_has_no_error(split):
    found = scores.errors(split.truth_mm / 500, split)
    for name, values in found.items():
        np.testing.assert_allclose(values, 0, atol=1e-2, err_msg=name)


def test_annotated_xy_leaves_the_error_of_the_depth(split):
    pose = split.truth_mm / 500
    wrong = pose.copy()
    wrong[..., :2] += np.random.default_rng(1).normal(size=(2, P, 2)).astype(np.float32)
    found = scores.errors(wrong, split)
    assert (found["own xy: MPJPE"] > 50).all()
    np.testing.assert_allclose(found["annotated xy: MPJPE"], 0, atol=1e-2)
    flat = pose * np.array([1, 1, 0], np.float32)
    true = scores.errors(pose, split)
    assert (scores.errors(flat, split)["annotated xy: depth"] > 100).all()
    assert set(true) == {
        f"{kind}: {m}" for kind in ("own xy", "annotated xy") for m in scores.METRICS
    }


def test_an_unlabelled_joint_has_no_share(split):
    labelled = split.landmarks.labelled.copy()
    labelled[:, 5] = False
    marks = dataclasses.replace(split.landmarks, labelled=labelled)
    pose = split.truth_mm / 500
    pose[:, 5] += 3
    for name, values in scores.errors(pose, split._replace(landmarks=marks)).items():
        np.testing.assert_allclose(values, 0, atol=1e-2, err_msg=name)
    assert (scores.errors(pose, split)["own xy: depth"] > 10).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_the_depth_of_the_labels_has_the_sign_of_the_teacher(split, tmp_path, sign):
    """A turned teacher's labels are right where those as lifted are mirrored."""
    pose = split.truth_mm / 500
    count = len(pose)
    arrays = {
        "sample_ids": np.arange(count),
        "camera": np.zeros((count, 3, 2), np.float32),
        "code": np.zeros((count, 4), np.float32),
        "residual": np.zeros(count, np.float32),
        "W": pose[..., :2],
        "labelled": np.ones((count, P), bool),
        "depth": sign * pose[..., 2],  # as fitted
        "covariance": np.zeros((count, P, P), np.float32),
        "code_of_depth": np.zeros((count, 4), np.float32),
    }
    teacher_file.save(
        tmp_path,
        dictionary=np.zeros((3 * P, 4), np.float32),
        params={},
        skeleton=H36M_17.to_dict(),
        config={},
        splits={"train": arrays},
    )
    teacher_file.set_depth_sign(tmp_path, sign, "cue", {})
    found = scores.errors(scores.lifted_pose(tmp_path, "train", split), split)
    np.testing.assert_allclose(found["own xy: depth"], 0, atol=1e-2)


def of(*values):
    return {"depth": np.asarray(values, float)}


def test_ratios_and_differences_go_seed_by_seed():
    ours = {0: of(10, 20), 1: of(20, 40), 5: of(1, 1)}
    baseline = {0: of(20, 40), 1: of(30, 30)}
    assert scores.ratio(ours, baseline, "depth")[::3] == (pytest.approx(0.75), 2)
    assert scores.difference(ours, baseline, "depth").mean == pytest.approx(-7.5)
    # A teacher has one seed, which is everybody's partner.
    teacher = {0: of(10, 10)}
    assert scores.ratio(ours, teacher, "depth").mean == pytest.approx(4.6 / 3)
    assert np.isnan(scores.ratio(ours, {0: of(10, 10), 9: of(1, 1)}, "depth").low)


def test_the_interval_is_that_of_student():
    # Standard error of 1, 2, 3: 1 / sqrt(3); t of 2 degrees of freedom 4.303.
    mean, low, high, n = scores.interval([1.0, 2.0, 3.0])
    assert (mean, n) == (2.0, 3)
    assert high - mean == pytest.approx(4.303 / np.sqrt(3), rel=1e-3)
    assert mean - low == pytest.approx(high - mean)
    assert str(scores.interval([50.0])) == "50.0"
    assert str(scores.interval([0.9, 1.0])) == "0.950 [0.315, 1.585]"


def test_quarters_and_actions_by_hand():
    errors = {0: of(1, 2, 3, 4, 5, 6, 7, 8), 1: of(3, 4, 5, 6, 7, 8, 9, 10)}
    order = np.array([8, 7, 6, 5, 4, 3, 2, 1])
    quarters = scores.by_quartile(errors, "depth", order)
    assert [q.mean for q in quarters] == [8.5, 6.5, 4.5, 2.5]
    action = np.array(["a"] * 6 + ["b"] * 2)
    table = scores.by_action(errors, "depth", action)
    assert {n: v.mean for n, v in table.items()} == {"a": 4.5, "b": 8.5, "average": 6.5}


def test_all_students_of_a_table_see_the_same(monkeypatch):
    args = arguments(monkeypatch, "--table=2", "--dataset=mannequin")
    rows = tables.rows_of(args)
    assert {"weaksup_bs", "distill", "distill+extra", "supervised"} < set(rows)
    configs = {row: tables.config_of(args, row, 3) for row in rows}
    reference = configs["weaksup_bs"].to_dict()
    for row, config in configs.items():
        plain = config.to_dict()
        assert plain["student"] == reference["student"]
        assert bool(plain["data"]["extra_sources"]) == row.endswith("+extra")
    assert configs["distill+extra"].data.extra_sources.count("coco") >= 1
    teacher = tables.config_of(args, "teacher", 0).teacher
    assert tuple(teacher.dictionary_sizes)[-1] == 8


def test_table_4_changes_the_weight_alone(monkeypatch):
    args = arguments(monkeypatch, "--table=4", "--row=distill@0.1")
    assert tables.rows_of(args) == ["distill@0.1"]
    config = tables.config_of(args, "distill@0.1", 0)
    assert config.student.code_l1_weight == 0.05
    assert tables.label("distill@0.1").endswith("weight 0.1 (0.05 here)")


def test_fields_of_the_config_change_every_row(monkeypatch):
    flags = ("--config.student.steps=5", "--config.student.augment.scale=0.3")
    args = arguments(monkeypatch, "--dataset=mannequin", *flags)
    for row in tables.rows_of(args):
        student = tables.config_of(args, row, 1).student
        assert (student.steps, student.augment.scale) == (5, 0.3)
    swapped = arguments(monkeypatch, "--dataset=mannequin", *reversed(flags))
    assert tables.folder_of(args) == tables.folder_of(swapped)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.student.stepz=5", "Did you mean"),
        ("--config.student.steps=few", "invalid literal for int"),
        ("--steps=5", "unexpected --steps=5"),
        ("--config.seed=5", "--seeds say which"),
        ("--config.student.modes=distill", "rows and --seeds"),
    ],
)
def test_a_wrong_field_is_refused(monkeypatch, capsys, flag, message):
    with pytest.raises(SystemExit):
        arguments(monkeypatch, flag)
    assert message in capsys.readouterr().err


def test_runs_that_differ_lie_apart(monkeypatch):
    folders = {
        str(tables.folder_of(arguments(monkeypatch, *flags)))
        for flags in (
            (),
            ("--form=full",),
            ("--teacher=default",),
            ("--config.student.steps=5",),
            ("--config.student.steps=5", "--config.data.num_train=9"),
        )
    }
    assert len(folders) == 5
    args = arguments(monkeypatch)
    folder = tables.folder_of(args)
    assert tables.student_folder(folder, "distill@0.1", 2) == (
        folder / "seed2" / "distill@0.1" / "student_distill"
    )


def test_a_table_of_what_is_there(monkeypatch, split):
    args = arguments(monkeypatch, "--table=2")
    found = {
        "teacher": {0: scores.errors(0.9 * split.truth_mm / 500, split)},
        "distill": {
            seed: scores.errors(split.truth_mm / 500 + seed, split) for seed in (0, 1)
        },
    }
    monkeypatch.setattr(scores, "split_of", lambda *_: split)
    monkeypatch.setattr(tables, "errors_of", lambda *_: found)
    text = "\n".join(tables.table(args))
    assert "| distilled (Eq. 14) (2) | 0.0" in text
    assert text.count("| distilled (Eq. 14) beside teacher | ") == 2
    assert "Weaksup-bs" not in text
