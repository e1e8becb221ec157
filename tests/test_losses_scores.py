"""The table of scores: which joints count, and whose x and y."""

import numpy as np
import pytest

from losses import metrics
from losses.scores import NO_TRUTH, score_poses

EDGES = ((0, 1), (1, 2), (2, 3), (3, 4))


@pytest.fixture
def samples():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(7, 5, 3)) * 200
    pose = truth / 300 + 0.05 * rng.normal(size=truth.shape)
    labelled = rng.random((7, 5)) < 0.7
    labelled[:, :2] = True
    return pose, truth[..., :2] / 300, labelled, truth


def _score(pose, annotated, labelled, truth, **options):
    return score_poses(
        pose, annotated, labelled, truth, edges=EDGES, root=0, sign="given", **options
    )


def test_unlabelled_joints_count_nowhere(samples):
    """Whatever a method says there, its rows are the same."""
    pose, annotated, labelled, truth = samples
    mean = truth.mean(0)
    actions = np.array(["a", "b"] * 3 + ["a"])
    scores = _score(*samples, mean_pose=mean, actions=actions)
    wild = np.where(labelled[..., None], pose, 1e3)
    other = np.where(labelled[..., None], annotated, np.nan)
    lost = np.where(labelled[..., None], truth, 1e6)
    assert _score(wild, other, labelled, truth, mean_pose=mean, actions=actions) == (
        scores
    )
    assert _score(pose, annotated, labelled, lost)["mpjpe_mm"] == scores["mpjpe_mm"]
    assert set(scores["per_action"]) == {"a", "b", "average"}


def test_each_row_is_the_metric_of_its_pose(samples):
    pose, annotated, labelled, truth = samples
    scores = _score(*samples)
    how = {"edges": EDGES, "root": 0, "labelled": labelled}

    def mpjpe(poses):
        return metrics.evaluate_poses(poses, truth, **how)["mpjpe_mm"]

    given = np.concatenate([annotated, pose[..., 2:]], -1)
    flat = np.concatenate([annotated, 0 * pose[..., 2:]], -1)
    assert scores["mpjpe_mm"] == mpjpe(pose)
    assert scores["annotated_xy"]["mpjpe_mm"] == mpjpe(given)
    zero = scores["baselines"]["z_zero"]
    assert zero["mpjpe_mm"] == mpjpe(pose * [1, 1, 0])
    assert zero["annotated_xy"]["mpjpe_mm"] == mpjpe(flat)
    assert "left_out" not in scores
    assert "per_action" not in scores


def test_a_sample_without_a_bone_is_left_out_and_counted(samples):
    pose, annotated, labelled, truth = samples
    labelled = labelled.copy()
    labelled[3] = [True, False, True, False, False]
    scores = _score(pose, annotated, labelled, truth)
    rest = np.arange(7) != 3
    expected = _score(*(x[rest] for x in (pose, annotated, labelled, truth)))
    assert scores == expected | {"left_out": 1}


def test_without_truth_there_is_a_message(samples):
    pose, annotated, labelled, _ = samples
    assert _score(pose, annotated, labelled, None) == {"message": NO_TRUTH}
