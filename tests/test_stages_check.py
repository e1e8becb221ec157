"""--stage=check: the files it writes, what it notes, and the two readings of depth."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_formats as formats
from ml_collections import ConfigDict
from PIL import Image
from tiny_data import coco_record, write_coco

import stages.check
from input_pipeline.checks import suspects
from input_pipeline.checks.validate import validate
from input_pipeline.dataset import open_dataset
from input_pipeline.skeleton import H36M_17, LSP_14, MPII_16, Skeleton
from input_pipeline.sources.rendering import render_jpeg


def _config(data, batch_size=4):
    batches = {part: {"batch_size": batch_size} for part in ("teacher", "student")}
    batches["student"]["modes"] = ("distill",)
    return ConfigDict({"data": data, **batches})


def test_check_writes_the_report_and_a_sheet(tmp_path, capsys):
    data = write_coco(tmp_path, coco_record(20))
    assert stages.check.run(_config(data), tmp_path / "run")
    folder = tmp_path / "run" / "check"
    record = json.loads((folder / "check.json").read_text())
    assert record["ok"]
    assert record["samples"] == {"train": 18, "val": 2}
    assert record["splits"]["train"]["joints"]["head"] == 18
    assert record["splits"]["train"]["picture_px"] == [64, 64, 64]
    with Image.open(folder / "sheet.png") as sheet:
        assert sheet.height > 2 * 192
    assert not (folder / "sheet_suspects.png").exists()
    out = capsys.readouterr().out
    assert "18 (100%)" in out
    assert out.rstrip().endswith("0 errors, 0 notes: ok")


def test_check_fails_where_training_would(tmp_path, capsys):
    data = write_coco(tmp_path, coco_record(20))
    Path(data["images"], "003.png").write_bytes(b"x")
    assert not stages.check.run(_config(data), tmp_path / "run")
    record = json.loads((tmp_path / "run" / "check" / "check.json").read_text())
    assert not record["ok"]
    (problem,) = [p for p in record["problems"] if p["fatal"]]
    assert problem["kind"] == "image does not decode"
    assert problem["file"].endswith("003.png")
    assert problem["index"] == "picture of annotation id 503"
    assert "003.png" in capsys.readouterr().out


def test_check_draws_the_mannequins_of_training(tmp_path, monkeypatch):
    """From the same elevation, in the same poses."""
    data = {"name": "mannequin", "num_train": 6, "num_val": 2, "render_size": 32}
    data |= {"elevation_deg": (60.0, 70.0), "data_dir": str(tmp_path)}
    drawn = []

    def render(*arguments, **more):
        drawn.append(render_jpeg(*arguments, **more))
        return drawn[-1]

    monkeypatch.setattr(stages.check, "render_jpeg", render)
    assert stages.check.run(_config(data), tmp_path / "run")
    assert (tmp_path / "run" / "check" / "sheet.png").exists()
    trained = open_dataset(data).landmarks("train")
    keypoints = np.stack([sample.keypoints for _, sample in drawn])
    np.testing.assert_allclose(keypoints, trained.keypoints, rtol=1e-6)


@pytest.mark.parametrize(("batch_size", "notes", "ok"), [(128, 2, True), (0, 0, False)])
def test_check_accepts_the_batches_that_training_accepts(
    tmp_path, batch_size, notes, ok
):
    """A batch larger than the data set is made smaller, which the report says."""
    data = {"name": "mannequin", "num_train": 40, "num_val": 8, "render_size": 32}
    config = _config(data, batch_size)
    assert stages.check.run(config, tmp_path) == ok
    record = json.loads((tmp_path / "check" / "check.json").read_text())
    small = [p["value"] for p in record["problems"] if p["kind"] == "small data set"]
    assert len(small) == notes
    assert all("batches of 40" in text for text in small)


def test_a_sample_labelled_twice_is_noted(tmp_path):
    record = coco_record(20)
    record["annotations"].append(record["annotations"][3] | {"id": 900})
    # The same picture under another name.
    record["images"].append(record["images"][5] | {"id": 901, "file_name": "copy.png"})
    record["annotations"].append(
        record["annotations"][5] | {"id": 902, "image_id": 901}
    )
    data = write_coco(tmp_path, record) | {"num_val": 0}
    report = validate(open_dataset(data))
    found = [p for p in report.problems if p.kind == "duplicate sample"]
    assert [p.index for p in found] == [
        "annotations[20] (id 900)",
        "annotations[21] (id 902)",
    ]
    assert "annotations[3] (id 503)" in found[0].value


def test_a_box_that_misses_its_landmarks_is_noted(tmp_path):
    record = coco_record(20)
    record["annotations"][3]["bbox"] = [0, 0, 10, 10]
    data = write_coco(tmp_path, record) | {"num_val": 0}
    found = [
        p for p in validate(open_dataset(data)).problems if p.kind == "box does not fit"
    ]
    assert [p.index for p in found] == ["annotations[3] (id 503)"]


def test_exchanges_are_connected_parts_of_limbs():
    groups = suspects.exchanges(H36M_17)
    names = {"-".join(sorted(H36M_17.joints[a][1:] for a, _ in g)) for g in groups}
    assert len(groups) == len(names) == 12
    assert {"Ankle", "Ankle-Knee", "Ankle-Hip-Knee", "Elbow-Wrist"} <= names
    assert "Ankle-Hip" not in names
    whole = {tuple(sorted(pair)) for pair in LSP_14.left_right}
    for group in suspects.exchanges(LSP_14):
        assert {tuple(sorted(pair)) for pair in group} < whole


@pytest.fixture(scope="module")
def walkers():
    """(600, 17, 2) figures with bent limbs, seen from all around."""
    rng = np.random.default_rng(0)
    rest = np.zeros((17, 3))
    for name, place in {
        "Hip": (120, 950, 0),
        "Knee": (140, 500, 0),
        "Ankle": (140, 80, 0),
        "Shoulder": (180, 1430, 0),
        "Elbow": (330, 1200, 0),
        "Wrist": (380, 950, 0),
    }.items():
        rest[H36M_17.joints.index(f"L{name}")] = place
        rest[H36M_17.joints.index(f"R{name}")] = np.multiply(place, (-1, 1, 1))
    for name, y in {"Spine": 1150, "Thorax": 1430, "Neck": 1520, "Head": 1700}.items():
        rest[H36M_17.joints.index(name)] = (0, y, 0)
    rest[0] = (0, 950, 0)
    poses = rest + rng.normal(0, 60, (600, 17, 3))
    yaw = rng.uniform(0, 2 * np.pi, 600)
    x = poses[..., 0] * np.cos(yaw)[:, None] + poses[..., 2] * np.sin(yaw)[:, None]
    return np.stack([x, -poses[..., 1]], axis=-1)


@pytest.mark.parametrize("hidden", [0.0, 0.2])
def test_exchanged_limbs_are_found(walkers, hidden):
    """Legs seen broadside and labelled the wrong way round stand out."""
    points = walkers.copy()
    rng = np.random.default_rng(1)
    labelled = rng.random(points.shape[:2]) >= hidden
    arms = [(11, 14), (12, 15), (13, 16)]
    width = np.abs(points[:, 11, 0] - points[:, 14, 0])
    labelled[:, [11, 12, 13, 14, 15, 16]] = True
    wide = np.argsort(-width)[:10]
    for a, b in arms:
        points[np.ix_(wide, [a, b])] = points[np.ix_(wide, [b, a])]
    found = suspects.suspected_swaps(points, labelled, H36M_17)
    rows = {swap.row for swap in found}
    assert len(rows & set(wide.tolist())) >= 9
    assert len(rows - set(wide.tolist())) <= 6  # of 590
    best = found[0]
    assert best.row in wide
    # Arms exchanged are legs exchanged of a body that faces the other way.
    assert set(best.pairs) in (set(arms), {(4, 1), (5, 2), (6, 3)})


def test_the_whole_body_exchanged_is_a_body_from_behind(walkers):
    plain = suspects.suspected_swaps(walkers, np.ones((600, 17), bool), H36M_17)
    other = walkers.copy()
    other[:10] = other[:10][:, H36M_17.flip_permutation]
    swapped = suspects.suspected_swaps(other, np.ones((600, 17), bool), H36M_17)
    assert {s.row for s in swapped} <= {s.row for s in plain} | set(range(10))
    assert len([s for s in swapped if s.row < 10]) <= 2


def test_few_samples_or_no_sides_raise_no_suspicion(walkers):
    ones = np.ones((40, 17), bool)
    assert suspects.suspected_swaps(walkers[:40], ones, H36M_17) == []
    sideless = Skeleton("s", H36M_17.joints, H36M_17.edges)
    ones = np.ones((600, 17), bool)
    assert suspects.suspected_swaps(walkers, ones, sideless) == []


def test_mpii_beside_coco_is_checked_in_one_skeleton(tmp_path):
    xy, files = formats.points(MPII_16), formats.names()
    formats.write_pictures(tmp_path, files)
    gone = formats.hidden(MPII_16)
    extra = formats.write_mpii_json(tmp_path, xy, gone, files)
    main = {"name": "mannequin", "num_train": 8, "num_val": 4}
    report = validate(
        open_dataset(main | {"extra_sources": {"mpii": extra | {"weight": 0.5}}})
    )
    assert report.ok, report.problems
    assert report.samples == {"train": 8, "val": 4, "extra.mpii": 12}
    assert report.surveys["extra.mpii"].joints["Spine"] == 0
    bad = {"mpii": extra | {"annotations": str(tmp_path / "gone.json")}}
    assert not validate(open_dataset(main | {"extra_sources": bad})).ok
