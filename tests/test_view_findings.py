"""The sentences at the top of the report, from made-up results."""

import pytest

from view.findings import findings, last_fall

LABELS = {"distill": "Distilled"}


def _rows(own, train, mean=145.0, teacher=65.0):
    return {
        "mean_pose": {"val": {"pa_mpjpe_mm": mean}},
        "teacher": {"val": {"pa_mpjpe_mm": teacher}},
        "labels": {"val": {"pa_mpjpe_mm": 44.0}},  # no student: nothing to say of it
        "distill": {"val": {"pa_mpjpe_mm": own}, "train": {"pa_mpjpe_mm": train}},
    }


FALLING = [(step, 200.0 - step) for step in range(10, 110, 10)]
FLAT = [(step, 100.0) for step in range(10, 110, 10)]


def test_a_student_between_the_mean_pose_and_its_teacher():
    (text,) = findings(_rows(105.0, 100.0), {"distill": FALLING}, LABELS)
    assert text.startswith("Distilled: PA-MPJPE 105.0 mm on the validation set")
    assert "50% of the way" in text
    assert "has not converged" in text
    assert "hardly less: more steps (config.student.steps=400)" in text


def test_a_student_of_too_few_pictures():
    (text,) = findings(_rows(105.0, 70.0), {"distill": FLAT}, LABELS)
    assert "has converged" in text
    assert "more pictures" in text
    assert "config.student.steps" not in text


def test_a_student_that_has_learned_nothing_says_so():
    (text,) = findings(_rows(150.0, 149.0), {}, LABELS)
    assert "no better than the mean pose (145.0)" in text
    assert "of the way" not in text


def test_without_3d_the_landmarks_are_judged_and_no_depth():
    student = {"val": {"xy_error": 0.1}, "train": {"xy_error": 0.05}}
    rows = {"distill": student, "teacher": {"val": {}}}
    (text,) = findings(rows, {"distill": FLAT}, LABELS)
    assert "0.100 half sides of the crop from the landmarks" in text
    assert "its depth is not judged" in text
    assert "has converged" in text
    assert "error is 0.050 half sides, much less: more pictures" in text
    assert findings({"distill": {"val": {}}}, {}, LABELS) == []


def test_a_loss_that_rose_and_one_too_short():
    assert last_fall([(i, 1.0 + i) for i in range(10)]) == pytest.approx(1 - 10 / 8)
    assert last_fall(FLAT[:9]) is None
