"""The sets that judge the verdict: what they promise of their shapes and cameras."""

import json

import numpy as np
import pytest

from benchmarks import verdicts


def made(name, count=200):
    make, _ = verdicts.SETS[name]
    return make(np.random.default_rng(0), count)


def distances(X):
    return np.linalg.norm(X[:, :, None] - X[:, None], axis=-1)


def test_the_box_is_rigid_and_turns_any_way():
    X = made("box").X
    np.testing.assert_allclose(distances(X).std(axis=0), 0, atol=1e-6)
    up = X[:, 2] - X[:, 0]  # one edge: its direction is spread over the sphere
    up /= np.linalg.norm(up, axis=1, keepdims=True)
    assert np.abs(up.mean(axis=0)).max() < 0.2


def test_the_worm_has_segments_of_one_length():
    X = made("worm").X
    np.testing.assert_allclose(np.linalg.norm(np.diff(X, axis=1), axis=-1), 1)


def test_the_mask_turns_by_twenty_degrees():
    X = made("mask", 2000).X
    W = X[..., :2].reshape(len(X), -1)
    share = np.linalg.svd(W - W.mean(0), compute_uv=False) ** 2
    assert X.shape == (2000, 40, 3)
    assert share[:4].sum() > 0.95 * share.sum()  # three ways to deform and a turn


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("animal, 30 % hidden", 0.6, 0.8), ("animal from above", 1, 1)],
)
def test_animals_miss_the_joints_that_they_should(name, low, high):
    case = made(name, 60)
    assert low <= case.labelled.mean() <= high
    assert case.X.shape[1:] == (23, 3)


def test_landmarks_are_in_patch_units_and_centred():
    case = made("animal, 30 % hidden", 40)
    W, half = case.landmarks()
    assert not W[~case.labelled].any()
    np.testing.assert_allclose(W.sum(axis=1), 0, atol=1e-4)
    sides = np.where(case.labelled[..., None], case.X[..., :2], np.nan)
    sides = np.nanmax(sides, 1) - np.nanmin(sides, 1)
    np.testing.assert_allclose(2 * half, 1.25 * sides.max(axis=1))


@pytest.mark.parametrize("name", ["mouse, side", "mouse, below", "fly, right"])
def test_photographs_are_read(shared_data, monkeypatch, name):
    monkeypatch.setattr(verdicts, "DATA", shared_data)
    case = made(name)
    assert len(case.X) >= 40
    assert np.isfinite(case.X[case.labelled]).all()


def test_the_table_is_written(monkeypatch, tmp_path, capsys):
    figures = {"depth": 0.5, "flip": 0.0, "trusted": 1.0}
    monkeypatch.setattr(verdicts, "measure", lambda case, seed: (figures, "Depth."))
    monkeypatch.setitem(verdicts.SETS, "box", (lambda rng, count: None, 1))
    path = tmp_path / "rows.json"
    flags = ["verdicts", "--set=box", "--seeds=2", f"--json={path}"]
    monkeypatch.setattr("sys.argv", flags)
    verdicts.main()
    rows = {row["metric"]: row for row in json.loads(path.read_text("utf-8"))}
    assert set(rows) == set(figures)
    assert rows["depth"]["n"] == 2
    assert "box, seed 1: depth 0.50. Depth." in capsys.readouterr().out
