"""The table of methods: which runs there are, what is kept, the classic sequences."""

import argparse
import json

import numpy as np
import pytest

from benchmarks import common, nrsfm
from input_pipeline.landmarks import Landmarks
from input_pipeline.skeleton import H36M_17
from losses.metrics import dai_error

RUNS_LONG = True

SCRIPT = """
import argparse, json, sys
parser = argparse.ArgumentParser()
for flag in ("--worker", "--runs", "--dataset"):
    parser.add_argument(flag)
parser.add_argument("--first-seed", type=int)
args = parser.parse_args()
if args.worker == "broken":
    sys.exit(1)
names = ["teacher", "EM"] if args.worker == "teacher" else [args.worker]
with open(args.runs, "a") as file:
    for name in names:
        record = {"protocol": {"dataset": args.dataset}, "method": name,
                  "seed": args.first_seed, "metrics": {"error": 1.0}, "by": args.worker}
        file.write(json.dumps(record) + "\\n")
"""


def flags(*given):
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    nrsfm.add_flags(parser)
    return parser.parse_args(given)


def test_runs_are_kept_and_not_repeated(tmp_path, capfd):
    script, path = tmp_path / "script.py", tmp_path / "runs.jsonl"
    script.write_text(SCRIPT)
    protocol = {"dataset": "a"}
    old = {"protocol": protocol, "method": "EM", "seed": 0, "metrics": {"error": 9.0}}
    other = old | {"protocol": {"dataset": "b"}, "seed": 1}
    path.write_text(f"{json.dumps(old)}\n{json.dumps(other)}\n")
    wanted = [("EM", 0), ("EM", 1), ("teacher", 1), ("broken", 0)]
    records = common.kept_results(script, protocol, wanted, path)
    assert [(r["method"], r["seed"]) for r in records] == wanted[:3]
    assert records[0]["metrics"]["error"] == 9.0  # kept
    assert records[1]["by"] == "teacher"  # given on the way
    assert "broken, seed 0: failed, see" in capfd.readouterr().err
    before = path.read_text()
    common.kept_results(script, protocol, wanted[:3], path)
    assert path.read_text() == before


def test_a_line_cut_short_is_left_out(tmp_path):
    path = tmp_path / "runs.jsonl"
    common.append_line(path, {"protocol": {}, "method": "EM", "seed": 0})
    with path.open("a") as file:
        file.write('{"protocol": {}, "meth')
    assert list(common.read_lines(path, {})) == [("EM", 0)]


@pytest.mark.parametrize(
    "given",
    [
        ("--dataset=mh_mocap", "--elevations=-30,-20", "--missing=0.1", "--steps=100"),
        ("--dataset=classic", "--sequence=yoga"),
        ("--dataset=mannequin", "--quick"),
        ("--dataset=cmu_mocap", "--cameras=front40"),
    ],
)
def test_a_worker_reads_the_protocol_it_was_started_with(given):
    protocol = nrsfm.protocol(flags(*given))
    again = [f"--{k}={v}" for k, v in protocol.items() if v not in (None, False, "")]
    again = ["--quick" if flag == "--quick=True" else flag for flag in again]
    assert nrsfm.protocol(flags(*again)) == protocol


def test_flags_change_the_config():
    given = "--dataset=cmu_mocap", "--elevations=-30,-20", "--steps=100"
    config = nrsfm.config_of(flags(*given))
    assert config.teacher.em.elevations_deg == (-30.0, -20.0)
    assert (config.teacher.steps, config.data.num_train) == (100, 15_000)
    assert config.teacher.em.views == "upright"
    other = nrsfm.config_of(flags("--dataset=cmu_mocap", "--data=other.npz"))
    assert other.data.num_train == 0  # all that are there
    quick = nrsfm.config_of(flags("--quick"))
    assert (quick.teacher.steps, quick.data.num_train) == (1500, 3000)


def test_seeds_of_every_kind_of_row():
    args = flags("--seeds=3", "--baseline-seeds=2", "--first-seed=7")
    assert nrsfm.seeds_of("teacher", args) == [7, 8, 9]
    assert nrsfm.seeds_of("Deep-NRSfM", args) == [7, 8]
    assert nrsfm.seeds_of("rigid", args) == [7]


def test_table_counts_coherent_seeds():
    names = set(nrsfm.UNITS) - {"error"}
    runs = [
        {"method": "EM", "metrics": dict.fromkeys(names, flip)}
        for flip in (0.01, 0.04, 0.3)
    ]
    rows = {row.metric: row for row in nrsfm.table_rows(runs, "case")}
    assert rows["coherent"].value == 2
    assert rows["coherent"].n == 3
    assert rows["flip_fraction"].high == 0.3


# --- the classic sequences -----------------------------------------------------------


def turning_body(frames=144, points=8, seed=0):
    """A body with one way to bend; the camera turns five degrees a frame."""
    rng = np.random.default_rng(seed)
    mean, bend = rng.normal(size=(2, points, 3)) * (1.0, 1.5, 0.8)
    body = mean + 0.3 * rng.normal(size=(frames, 1, 1)) * bend
    yaw = np.deg2rad(5.0) * np.arange(frames)
    c, s, o = np.cos(yaw), np.sin(yaw), np.zeros(frames)
    turn = np.array([[c, o, -s], [o, o + 1, o], [s, o, c]]).transpose(2, 0, 1)
    return body @ turn


@pytest.fixture(scope="module")
def drink(tmp_path_factory):
    """The flags of a sequence of 144 frames."""
    path = tmp_path_factory.mktemp("classic") / "data.npz"
    bones = np.stack([np.arange(7), np.arange(1, 8)], 1)
    X = turning_body().transpose(0, 2, 1)
    np.savez(path, drink_X=X, drink_bones=bones)
    return ("--dataset=classic", f"--data={path}", "--sequence=drink")


def test_error_by_hand():
    """Four points of a square of side 2, each moved by 0.1 in turn outwards in z."""
    truth = np.array([[[1, 1, 0], [1, -1, 0], [-1, 1, 0], [-1, -1, 0]]], float)
    pose = truth + np.array([0, 0, 0.1])  # a shift of all is no error
    assert dai_error(pose, truth) < 1e-9
    # sigma = (1 + 1 + 0) / 3; saddle: no rotation helps, each point is off by 0.1.
    saddle = truth + np.array([1, -1, -1, 1])[None, :, None] * (0, 0, 0.1)
    assert dai_error(saddle, truth) == pytest.approx(0.1 / (2 / 3), rel=1e-6)


def test_one_orthogonal_matrix_for_all_frames():
    truth = turning_body()
    Q = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    assert dai_error(truth @ Q, truth) < 1e-6
    halves = truth * np.where(np.arange(len(truth)) < 72, 1, -1)[:, None, None]
    assert dai_error(halves, truth) > 0.5


def test_frames_are_centred_and_share_one_scale(drink):
    problem = nrsfm.load(flags(*drink))
    marks = problem.landmarks
    W, _ = marks.centred
    assert W.shape == (144, 8, 2)
    assert np.ptp(marks.half_side) == 0
    np.testing.assert_allclose(W.mean(1), 0, atol=1e-6)
    assert np.abs(W).max() == pytest.approx(1 / problem.config.data.padding)
    truth = turning_body()
    truth -= truth.mean(1, keepdims=True)
    np.testing.assert_allclose(W * marks.half_side[0], truth[..., :2], atol=1e-5)


def test_all_sequences_of_the_file_are_cases_of_one_table(drink, tmp_path):
    path = tmp_path / "two.npz"
    arrays = {"walk_X": np.zeros(1), "walk_bones": np.zeros(1), "mask_X": np.zeros(1)}
    np.savez(path, **arrays)
    given = flags("--dataset=classic", f"--data={path}")
    assert [c.sequence for c in nrsfm.cases(given)] == ["walk", "mask"]
    assert [c.sequence for c in nrsfm.cases(flags(*drink))] == ["drink"]
    assert [nrsfm.case_name(c) for c in nrsfm.cases(flags())] == ["cmu_mocap"]


def test_a_worker_keeps_its_results_under_the_protocol(drink, tmp_path, monkeypatch):
    """The EM recovers a body that turns, on the way to a teacher."""
    runs = tmp_path / "runs.jsonl"
    found = {}
    for worker in ("z = 0", "teacher"):
        more = ("--steps=20", f"--worker={worker}", f"--runs={runs}")
        monkeypatch.setattr("sys.argv", ["nrsfm.py", *drink, *more])
        nrsfm.main()
        kept = common.read_lines(runs, nrsfm.protocol(flags(*drink, "--steps=20")))
        found |= {method: record["metrics"] for (method, _), record in kept.items()}
    rows = {"z = 0", "EM", "teacher"}
    assert set(found) == rows | {row + nrsfm.SYNCHRONISED for row in rows}
    assert found["EM"]["error"] < 0.2 * found["z = 0"]["error"]
    assert 0 < found["teacher"]["error"] < 2
    assert found["EM"]["cpu_seconds"] < found["teacher"]["cpu_seconds"]


# --- other cameras -------------------------------------------------------------------


@pytest.fixture(scope="module")
def walkers():
    """Level bodies whose left hip lies to the right of the right one, facing us."""
    rng = np.random.default_rng(0)
    positions = rng.normal(size=(40, 17, 3)).astype(np.float32) * 300
    marks = Landmarks(
        skeleton=H36M_17,
        sample_ids=np.arange(40),
        keypoints=positions[..., :2],
        labelled=np.ones((40, 17), bool),
        centre=np.full((40, 2), 64, np.float32),
        half_side=np.full(40, 64, np.float32),
        names=("a",) * 40,
    )
    return marks, positions


@pytest.mark.parametrize("cameras", ["any", "front40"])
def test_other_cameras_turn_bodies_without_reflection(walkers, cameras):
    marks, positions = walkers
    seen, turned = nrsfm.seen_by(cameras, marks, positions)
    before, after = (np.linalg.det(x[:, 1:4]) for x in (positions, turned))
    np.testing.assert_allclose(after, before, rtol=1e-2)
    W = seen.keypoints - seen.keypoints.mean(axis=1, keepdims=True)
    xy = turned[..., :2] - turned[..., :2].mean(axis=1, keepdims=True)
    np.testing.assert_allclose(W, xy * np.float32(0.064), rtol=1e-3, atol=1e-3)


def test_the_front_of_a_body_is_within_its_degrees(walkers):
    marks, positions = walkers
    _, turned = nrsfm.seen_by("front40", marks, positions)
    left, right = (H36M_17.joints.index(joint) for joint in ("LHip", "RHip"))
    hips = turned[:, left] - turned[:, right]
    level = positions[:, left] - positions[:, right]
    flat = np.linalg.norm(level[:, [0, 2]], axis=1)
    assert (hips[:, 0] > np.cos(np.deg2rad(20.1)) * flat).all()


def test_the_front_of_a_body_is_seen_from_above_on_average(walkers):
    marks, positions = walkers
    root, head = (H36M_17.joints.index(joint) for joint in ("Pelvis", "Head"))
    positions = positions.copy()
    positions[:, head] = positions[:, root] + np.array([0, -700, 0], np.float32)
    _, turned = nrsfm.seen_by("front40", marks, positions)
    up = turned[:, head] - turned[:, root]
    # Of what a camera looks down on the top is nearer.
    elevation = np.rad2deg(np.arctan2(-up[:, 2], -up[:, 1]))
    assert elevation.min() > -10.1
    assert elevation.max() < 30.1
    assert elevation.mean() > 5
