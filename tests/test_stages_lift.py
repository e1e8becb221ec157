"""--stage=lift, and --stage=all on a tracker's file: the command as a user gives it."""

import csv
import json
import subprocess
import sys
from types import SimpleNamespace

import launch
import numpy as np
import pandas as pd
import pytest

from configs import tracks as config_of_tracks
from input_pipeline.dataset import open_dataset
from input_pipeline.formats.tracks.read import read_tracks
from stages.lift import lift, warn_far_off

JOINTS = ["nose", "left_ear", "right_ear", "tail_base", "left_paw", "right_paw"]
FRAMES, SIZE = 160, 64
TINY = {
    "teacher.dictionary_sizes": (16, 8),
    "teacher.steps": 40,
    "teacher.batch_size": 32,
    "teacher.log_every": 20,
    "teacher.em.num_samples": 120,
    "teacher.em.components": 1,
    "teacher.em.views": "upright",
    "teacher.em.num_yaws": 8,
    "teacher.em.elevations_deg": (0.0, 20.0),
}
# As a user starts it; the last line says what was loaded on the way.
RUN = """
import sys
from absl import app
import main
try:
    app.run(main.main, flags_parser=main.parse)
finally:
    print("LOADED", *sorted({m.partition(".")[0] for m in sys.modules}))
"""


def walk(*, animals=1):
    """(A, F, P, 2) pixels of bodies that turn and wobble."""
    rng = np.random.default_rng(0)
    shape = np.array(
        [[0, 0, 9], [2, -2, 7], [-2, -2, 7], [0, 0, -8], [3, 5, 3], [-3, 5, -3.0]]
    )
    angle = np.linspace(0, 4 * np.pi, FRAMES)
    c, s = np.cos(angle), np.sin(angle)
    turn = np.stack([np.stack([c, s], -1), np.stack([-s, c], -1)], -2)
    found = []
    for a in range(animals):
        X = shape + 0.8 * np.cumsum(rng.normal(0, 0.2, (FRAMES, 6, 3)), 0).clip(-1, 1)
        X[..., [0, 2]] = X[..., [0, 2]] @ turn
        found.append(X[..., :2] + 0.2 * X[..., 2:] + [24 + 20 * a, 32])
    return np.stack(found).round(3)


def write_dlc(path, xy, names=("",), joints=JOINTS):
    """A table of predictions with likelihoods; the last joint is lost at times."""
    parts, columns = [], []
    for name, one in zip(names, xy, strict=True):
        for j, joint in enumerate(joints):
            likely = np.full(len(one), 0.9)
            likely[::7] = 0.9 if j < len(joints) - 1 else 0.1
            parts += [one[:, j, 0] - 0.5, one[:, j, 1] - 0.5, likely]
            who = (name,) if name else ()
            columns += [("net", *who, joint, c) for c in ("x", "y", "likelihood")]
    levels = ["scorer", *(["individuals"] if names[0] else []), "bodyparts", "coords"]
    index = pd.MultiIndex.from_tuples(columns, names=levels)
    pd.DataFrame(np.stack(parts, 1), columns=index).to_csv(path)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(workdir, tracker's file, output) of --stage=all."""
    folder = tmp_path_factory.mktemp("lift")
    file = write_dlc(folder / "mouseDLC_net.csv", walk())
    fields = [f"--config.{name}={value}" for name, value in TINY.items()]
    arguments = [f"--workdir={folder / 'run'}", f"--config.data.annotations={file}"]
    done = subprocess.run(
        [sys.executable, "-c", RUN, "--config=configs/tracks.py", *arguments, *fields],
        cwd=launch.ROOT,
        env=launch.ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=launch.SECONDS,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "run", file, done


@pytest.fixture
def config(run):
    """To lift with the teacher of that run."""
    config = config_of_tracks.get_config()
    config.data.annotations = str(run[1])
    for name, value in TINY.items():
        section, _, field = name.rpartition(".")
        target = config
        for part in section.split("."):
            target = target[part]
        target[field] = value
    return config


def test_one_command_from_a_trackers_file_to_3d_without_tensorflow(run):
    workdir, file, done = run
    loaded = done.stdout.split("LOADED")[1].split()
    assert "jax" in loaded
    assert not {"tensorflow", "tensorflow_datasets", "pandas"} & {*loaded}
    names = {path.name for path in (workdir / "lifted").iterdir()}
    tables = {f"{file.stem}_3D.h5", f"{file.stem}_3D.csv", "lifted.npz"}
    assert names == {
        *("predictions.json", "predictions.csv", "viewer.html", "about.json"),
        *tables,
    }
    assert (workdir / "check" / "check.json").exists()
    assert (workdir / "report.html").exists()
    about = json.loads((workdir / "lifted" / "about.json").read_text())
    assert about["poses"] == about["detections"] == FRAMES
    text = about["verdict"]["text"]
    assert text.startswith("Depth:")
    assert text in done.stderr  # beside what was lifted
    assert f"lifted {FRAMES} of {FRAMES} detections" in done.stderr


def test_every_row_names_its_video_and_frame(run):
    workdir, file, _ = run
    with open(workdir / "lifted" / "predictions.csv", newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert [int(row["frame"]) for row in rows] == list(range(FRAMES))
    assert {row["picture"] for row in rows} == {file.name}
    entries = json.loads((workdir / "lifted" / "predictions.json").read_text())
    assert [entry["frame"] for entry in entries] == list(range(FRAMES))
    assert {entry["individual"] for entry in entries} == {""}
    assert all(0 <= entry["evidence_quantile"] <= 1 for entry in entries)


def test_the_tables_are_those_of_deeplabcut(run):
    """pandas reads both, and they say what the tracks and the npz say."""
    workdir, file, _ = run
    stem = workdir / "lifted" / f"{file.stem}_3D"
    hdf = pd.DataFrame(pd.read_hdf(f"{stem}.h5"))
    text = pd.read_csv(f"{stem}.csv", header=[0, 1, 2], index_col=0)
    assert hdf.columns.names == ["scorer", "bodyparts", "coords"]
    assert list(hdf.columns) == list(text.columns)
    np.testing.assert_allclose(hdf.to_numpy(), text.to_numpy(), atol=1e-3)
    with np.load(workdir / "lifted" / "lifted.npz") as arrays:
        assert arrays["joints"].tolist() == JOINTS
        depth = arrays["keypoints_3d"][..., 2]
        np.testing.assert_array_equal(arrays["frame"], np.arange(FRAMES))
    table = hdf.to_numpy().reshape(FRAMES, len(JOINTS), 3)
    np.testing.assert_allclose(table[..., 2], depth, atol=1e-6)
    # The wobbling walk is not denoised beyond a pixel or two.
    given = read_tracks(str(file), field="x")
    known = given.score >= 0.6
    apart = np.linalg.norm(table[..., :2] + 0.5 - given.xy, axis=-1)[known]
    assert np.median(apart) < 2


def test_without_tracks_it_lifts_what_the_teacher_learned_from(run, config, tmp_path):
    workdir, _, _ = run
    config.lift.out = str(tmp_path / "out")
    config.lift.length = "nose-tail_base=120"
    folder = lift(config, workdir)
    with (
        np.load(folder / "lifted.npz") as again,
        np.load(workdir / "lifted" / "lifted.npz") as first,
    ):
        np.testing.assert_allclose(
            again["keypoints_3d"], first["keypoints_3d"], atol=1e-3
        )
        mm = again["keypoints_3d_mm"]
    lengths = np.linalg.norm(mm[:, 0] - mm[:, 3], axis=-1)
    assert 80 < np.median(lengths) < 160
    config.data.num_train = 30
    with pytest.raises(ValueError, match="not what the teacher was trained on"):
        lift(config, workdir)


def test_labelled_pictures_are_each_by_themselves(run, config, tmp_path):
    """Bodies in the same place of two pictures are no track."""
    data = open_dataset(config.data)
    fields = ("identity", "settings", "landmarks")
    pictures = {name: getattr(data, name) for name in fields} | {"source": None}
    config.data.name, config.lift.out = "coco", str(tmp_path / "out")
    folder = lift(config, run[0], SimpleNamespace(**pictures))
    entries = json.loads((folder / "predictions.json").read_text())
    assert len({entry["track"] for entry in entries}) == len(entries)
    assert json.loads((folder / "about.json").read_text())["breaks"] == []


def test_two_animals_that_exchange_their_names_are_told(run, config, tmp_path):
    xy = walk(animals=2)
    xy[:, 100:] = xy[::-1, 100:]
    file = write_dlc(tmp_path / "two.csv", xy, names=("mus", "rat"))
    config.lift.tracks, config.lift.out = str(file), str(tmp_path / "out")
    folder = lift(config, run[0])
    about = json.loads((folder / "about.json").read_text())
    assert about["breaks"] == ["two.csv frame 100 mus", "two.csv frame 100 rat"]
    entries = json.loads((folder / "predictions.json").read_text())
    assert len({entry["track"] for entry in entries}) == 4
    for name, table in (("mus", ""), ("rat", "_person2")):
        rows = (folder / f"predictions{table}.csv").read_text().splitlines()
        own = [e for e in entries if e["individual"] == name]
        assert len(rows) - 1 == len(own) == FRAMES
        assert rows[1].startswith(str(own[0]["keypoints"][0]))
    hdf = pd.DataFrame(pd.read_hdf(folder / "two_3D.h5"))
    assert hdf.columns.names == ["scorer", "individuals", "bodyparts", "coords"]
    assert hdf.shape == (FRAMES, 2 * 3 * len(JOINTS))


def test_a_video_of_the_tracks_is_drawn_on(run, config, tmp_path):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = SIZE
        for i in range(6):
            image = np.full((SIZE, SIZE, 3), 40 * i, np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    file = write_dlc(tmp_path / "clipDLC.csv", walk()[:, :8])  # two frames too many
    config.lift.tracks, config.lift.out = str(file), str(tmp_path / "out")
    config.lift.images = str(tmp_path / "clip.mp4")
    folder = lift(config, run[0])
    with av.open(str(next((folder / "overlays").glob("*.mp4")))) as container:
        assert len(list(container.decode(video=0))) == 6
    assert "data:image/jpeg" in (folder / "viewer.html").read_text()
    assert json.loads((folder / "about.json").read_text())["poses"] == 8


@pytest.mark.parametrize(
    ("xy", "joints", "match"),
    [
        (walk()[:, :3], ["wing", "beak", "a", "b", "c", "d"], "no name in common"),
        (np.full((1, 3, 6, 2), np.nan), JOINTS, "no joint was detected in any of its"),
        (walk()[:, :3, :1], JOINTS[:1], "none of 3 detections shows two joints"),
        (0 * walk()[:, :3] + 20, JOINTS, "two joints apart with a score of 0.6"),
    ],
)
def test_tracks_that_cannot_be_lifted(run, config, tmp_path, xy, joints, match):
    file = write_dlc(tmp_path / "odd.csv", xy, joints=joints)
    config.lift.tracks, config.lift.out = str(file), str(tmp_path / "out")
    with pytest.raises(ValueError, match=rf"odd\.csv: .*{match}"):
        lift(config, run[0])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("focal", -5.0, "focal = -5.0 is not above 0"),
        ("focal", 2.0, "focal = 2 pixels would have the camera touch"),
        ("principal", (3.0,), r"principal = \(3.0,\) is not x and y"),
        ("images", "film.mp4", r"config\.lift\.images: film\.mp4 does not exist"),
        ("length", "nose-paw=120", "the joints are nose, left_ear"),
    ],
)
def test_what_is_wrong_is_told_before_the_work(
    run, config, tmp_path, monkeypatch, field, value, match
):
    monkeypatch.setattr("nrsfm_jax.PoseLifter.adapt", None)
    config.lift.tracks, config.lift.adapt = str(run[1]), 1
    config.lift[field] = value
    with pytest.raises(ValueError, match=match):
        lift(config, run[0])


@pytest.mark.parametrize(
    ("principal", "size", "warning"),
    [
        ((32.0, 300.0), (64, 64), "(32, 300) lies outside the pictures of 64 x 64"),
        ((63.0, 63.0), (64, 64), None),
        ((45.0, 32.0), None, None),
        ((-90.0, 32.0), None, "pixels, the extent of all landmarks, off them"),
    ],
)
def test_a_principal_point_far_off_is_warned_of(capsys, principal, size, warning):
    xy = np.where(np.arange(6)[:, None] == 3, np.nan, walk()[0])
    warn_far_off(principal, xy, (None, size))
    said = capsys.readouterr().err
    assert (warning in said) if warning else not said
    warn_far_off(principal, np.full_like(xy, np.nan), (None,))  # off from what?
    assert not capsys.readouterr().err


def test_one_frame_is_a_pose_and_joints_of_other_names_are_told(
    run, config, tmp_path, capsys
):
    joints = [*JOINTS[:4], "paw_1", "paw_2"]
    file = write_dlc(tmp_path / "one.csv", walk()[:, 1:2], joints=joints)
    config.lift.tracks, config.lift.out = str(file), str(tmp_path / "out")
    folder = lift(config, run[0])
    assert len(json.loads((folder / "predictions.json").read_text())) == 1
    about = json.loads((folder / "about.json").read_text())
    assert about["joints_not_detected"] == ["left_paw", "right_paw"]
    assert "no frame shows are guessed: left_paw, right_paw;" in capsys.readouterr().err
