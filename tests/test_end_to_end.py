"""The whole chain by main.py on a tiny mannequin set, killed and started again."""

import importlib
import json
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import launch
import numpy as np
import pytest
from absl.testing import flagsaver
from PIL import Image

import main
from benchmarks import chaos
from runtime.metric_writer import read_metrics

RUNS_LONG = True
# ml_collections loads a config by a method that Python will drop.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

TINY = chaos.TINY | {
    "data.num_train": "96",
    "data.num_val": "16",
    "teacher.dictionary_sizes": "32,16,8",
    "teacher.steps": "60",
    "teacher.batch_size": "32",
    "teacher.em.num_samples": "96",
    "teacher.log_every": "10",
    "student.log_every": "2",
    "cpu_devices": "4",
}


def command(cache: Path, workdir: Path, *more: str) -> list[str]:
    """The command line of a tiny run."""
    fields = [f"--config.{name}={value}" for name, value in TINY.items()]
    start = [sys.executable, "main.py", "--config=configs/quickstart.py"]
    place = [f"--workdir={workdir}", f"--config.data.data_dir={cache}"]
    return [*start, *place, *fields, *more]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def whole(cache, tmp_path_factory):
    """A run of all stages that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("whole")
    launch.finish([command(cache, workdir)])
    return workdir


@pytest.fixture
def run(cache, whole, monkeypatch):
    """A command line on the folder of that run, in this process."""

    def start(*more):
        arguments = command(cache, whole, *more)[1:]
        monkeypatch.setattr(sys, "argv", arguments)  # where overrides are looked for
        main.parse(arguments)
        main.main(arguments)

    # Defines flags when it is first used, which must outlive those saved here.
    importlib.import_module("array_record.python.array_record_data_source")
    with flagsaver.flagsaver():
        yield start


@pytest.mark.slow
def test_a_run_leaves_all_that_is_promised(whole):
    results = json.loads((whole / "results.json").read_text())
    for method in ("teacher", "distill"):
        for split, count in (("train", 96), ("val", 16)):
            row = results[method][split]
            assert row["count"] == count
            for metric in ("mpjpe", "pa_mpjpe", "n_mpjpe", "depth_error"):
                assert 0 < row[f"{metric}_mm"] < 2000
            assert 0 <= row["flip_fraction"] <= 1
            assert "bone length" in row["alignment"]
            assert "depth sign +1" in row["sign"]
    assert set(results["seconds"]) >= {"teacher", "student_distill"}
    assert results["environment"]["versions"]["jax"]
    report = (whole / "report.html").read_text()
    assert report.count("data:image/") >= 12
    for folder in ("teacher", "student_distill", "tensorboard"):
        assert any((whole / folder).iterdir())
    steps = [m["step"] for m in read_metrics(whole / "metrics.jsonl")]
    assert steps.count(12) == 1


@pytest.mark.slow
def test_a_finished_run_is_not_repeated(whole, run):
    before = (whole / "metrics.jsonl").read_bytes()
    run()
    assert (whole / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow
def test_another_config_in_the_same_folder_is_refused(run):
    with pytest.raises(SystemExit, match=r"student\.learning_rate"):
        run("--config.student.learning_rate=0.5")


@pytest.mark.slow
def test_predict_writes_a_pose_for_every_picture(whole, run, tmp_path):
    for name in ("one.png", "two.png"):
        Image.new("RGB", (48, 64), (90, 120, 60)).save(tmp_path / name)
    out = whole.parent / "predicted"  # the run stays as it is
    places = (
        f"--config.predict.{n}={p}" for n, p in (("images", tmp_path), ("out", out))
    )
    run("--stage=predict", *places)
    results = json.loads((out / "predictions.json").read_text())
    assert sorted(r["file_name"] for r in results) == ["one.png", "two.png"]
    assert all(np.shape(r["keypoints_3d"]) == (17, 3) for r in results)


@pytest.fixture(scope="module")
def killed(whole, cache, tmp_path_factory):
    """The same, killed twice at a change of a file, stopped once, and ended."""
    workdir = tmp_path_factory.mktemp("killed")
    arguments = command(cache, workdir)
    for change in (12, 60):
        code, output = chaos.start(arguments[2:], "kill", change, workdir).end()
        assert code == -signal.SIGKILL, output[-2000:]
    with launch.started([arguments]) as (process,):
        while not any((workdir / "student_distill" / "checkpoints").glob("4*")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        process.terminate()
        output, _ = process.communicate(timeout=launch.SECONDS)
    assert process.returncode in (0, 143), output
    if process.returncode:
        assert "Traceback" not in output
        assert re.search(r"stopped: student_distill step \d+ of 12; the same", output)
    launch.finish([arguments])
    return workdir


@pytest.mark.slow
def test_killed_and_stopped_it_ends_with_the_same_files(whole, killed):
    assert chaos.differences(killed, chaos.snapshot(whole)) == []
    finished = {path.name for path in (killed / "finished").iterdir()}
    assert finished == {"teacher.json", "student_distill.json"}


@pytest.mark.slow
def test_damaged_files_are_named_and_made_again(whole, killed, cache, tmp_path):
    """One bit of each kind of file that a run reads again, all at once."""
    copy = tmp_path / "copy"
    shutil.copytree(killed, copy)
    damaged = [
        *("teacher/em.safetensors", "teacher/train/code.npy"),
        *("teacher/results.json", "student_distill/results.json"),
        *(
            "finished/teacher.json",
            "student_distill/checkpoints/12/state/manifest.ocdbt",
        ),
    ]
    for name in damaged:
        chaos.damaged(copy / name, "flipped")
    with launch.started([command(cache, copy)]) as (process,):
        output, _ = process.communicate(timeout=launch.SECONDS)
    assert process.returncode == 0, output
    assert chaos.differences(copy, chaos.snapshot(whole)) == []
    # What is made again for the sake of another file, is not read before.
    for name in set(damaged) - {"teacher/train/code.npy", "finished/teacher.json"}:
        assert str(copy / name) in output, output
    assert "taken instead: step 8" in output
    assert "student_distill: goes on from step 8 of 12" in output


@pytest.mark.slow
def test_two_processes_end_with_the_numbers_of_one(whole, cache, tmp_path):
    """But for the EM, which one process fits and the others read, as here."""
    (tmp_path / "teacher").mkdir()
    for file in (whole / "teacher").glob("em.*"):
        shutil.copy(file, tmp_path / "teacher")
    with launch.reserved_address() as address:
        places = [f"--processes={address},{index},2" for index in range(2)]
        share = "--config.cpu_devices=2"
        launch.finish([command(cache, tmp_path, place, share) for place in places])
    one, two = (json.loads((w / "results.json").read_text()) for w in (whole, tmp_path))
    # Rounding grows with the student's steps, by a ReLU that opens in one of the runs.
    for method, close in (("teacher", 1e-3), ("distill", 2e-2)):
        for split in ("train", "val"):
            for metric in ("mpjpe_mm", "pa_mpjpe_mm", "depth_error_mm", "count"):
                ours, theirs = two[method][split][metric], one[method][split][metric]
                assert ours == pytest.approx(theirs, rel=close)
    lines = [read_metrics(w / "metrics.jsonl") for w in (whole, tmp_path)]
    for ours, theirs in zip(*lines, strict=True):
        assert (ours["stage"], ours["step"]) == (theirs["stage"], theirs["step"])
        first = ours["stage"] == "teacher" or ours["step"] == 2
        close = 1e-3 if first else 2e-2  # another batch would be farther off at once
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=close)
