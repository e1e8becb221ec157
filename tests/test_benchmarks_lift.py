"""What the benchmark of lifting shows to a lifter."""

import argparse

import numpy as np
import pytest

from benchmarks import lift


def flags(*given):
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    lift.add_flags(parser)
    return parser.parse_args(given)


@pytest.fixture(scope="module")
def truth():
    return 300 * np.random.default_rng(0).normal(size=(400, 17, 3))


def test_the_landmarks_as_they_are_have_one_scale(truth):
    xy, wrong = lift.landmarks(truth, flags("--noise=.02"), plain=True)
    np.testing.assert_allclose((xy - lift.MIDDLE) / lift.SCALE, truth[..., :2])
    assert not wrong.any()


def test_noise_is_a_share_of_the_box(truth):
    clean, _ = lift.landmarks(truth, flags(), plain=True)
    noisy, _ = lift.landmarks(truth, flags("--noise=.02"), plain=False)
    side = np.ptp(clean, axis=1).max(1)[:, None, None]
    assert np.std((noisy - clean) / side) == pytest.approx(0.02, rel=0.05)


def test_outliers_stay_in_the_box(truth):
    clean, _ = lift.landmarks(truth, flags(), plain=True)
    xy, wrong = lift.landmarks(truth, flags("--outliers=.05"), plain=False)
    assert wrong.mean() == pytest.approx(0.05, abs=0.01)
    np.testing.assert_array_equal(xy[~wrong], clean[~wrong])


def test_a_near_camera_enlarges_what_is_near(truth):
    xy, _ = lift.landmarks(truth, flags("--perspective=2"), plain=False)
    distance = 2 * lift.HEIGHT_MM
    seen = distance * truth[..., :2] / (distance + truth[..., 2:])
    np.testing.assert_allclose(xy, lift.MIDDLE + lift.SCALE * seen)


def test_tracks_have_an_even_rate(tmp_path):
    """Frames at 120 a second, of which some are missing, of a joint that moves on."""
    frame = np.delete(np.arange(0, 360), np.arange(50, 90))
    positions = np.tile(frame[:, None, None] / 120.0, (1, 17, 3))
    path = tmp_path / "motion.npz"
    np.savez(path, trial=np.full(len(frame), "a"), frame=frame, fps=120.0)
    ((first, second),) = lift.cut_tracks(path, positions, np.arange(len(frame)))
    assert (len(first), len(second)) == (60, 30)
    np.testing.assert_allclose(np.diff(first[:, 0, 0]), 1 / lift.RATE)


def test_every_recording_gives_a_track_before_one_gives_two():
    trials = [["a1", "a2", "a3"], ["b1"], [], ["c1", "c2"]]
    found = lift.one_of_each(trials, np.random.default_rng(0))
    assert sorted(name[0] for name in found[:3]) == ["a", "b", "c"]
    assert sorted(name[0] for name in found[3:5]) == ["a", "c"]
    assert sorted(found) == ["a1", "a2", "a3", "b1", "c1", "c2"]


def test_a_case_is_named_by_what_it_adds():
    assert lift.name_of(flags()) == ""
    name = lift.name_of(flags("--noise=.02", "--tracks"))
    assert name == "noise 2%, tracks"
