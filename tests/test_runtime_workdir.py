"""The folder of a run: whose it is, which stages are done, what they found."""

import json

import pytest
from ml_collections import ConfigDict

from runtime import workdir
from runtime.files import read_json, write_json
from runtime.workdir import claim_workdir


def _config(**student):
    return ConfigDict(
        {
            "seed": 0,
            "cpu_devices": 1,
            "data": {"name": "coco", "annotations": "a.json", "ground_truth": ""},
            "teacher": {"steps": 6000, "learning_rate": 0.01, "log_every": 100},
            "student": {
                "steps": 500,
                "schedule": "plateau",
                "modes": ("weaksup_bs", "distill"),
                "augment": {"colour": 0.2},
            }
            | student,
        }
    )


@pytest.fixture
def trained(tmp_path):
    """A workdir in which a teacher was begun."""
    claim_workdir(tmp_path, _config(), "digest")
    (tmp_path / "teacher").mkdir()
    return tmp_path


def test_a_workdir_keeps_to_its_config(trained):
    config = _config()
    claim_workdir(trained, config, "digest")
    kept = read_json(trained / "config.json")
    assert kept == json.loads(config.to_json()) | {"data_identity": "digest"}
    config.teacher.learning_rate = 0.1
    config.student.augment.colour = 0.0
    with pytest.raises(ValueError, match="another config") as error:
        claim_workdir(trained, config, "digest")
    text = str(error.value)
    assert "teacher.learning_rate: 0.01 there, 0.1 now" in text
    assert "student.augment.colour: 0.2 there, 0.0 now" in text
    assert "--workdir" in text
    assert "\n" not in text


def test_what_changes_no_number_may_change(trained):
    """Where files lie, the truth of a finished run, devices, how often to write."""
    config = _config()
    config.cpu_devices = 4
    config.data.annotations = "/moved/../elsewhere/a.json"
    config.data.ground_truth = "truth.npz"
    config.teacher.log_every = 7
    config.student.modes = ("weaksup_bs", "weaksup_residual", "distill")
    claim_workdir(trained, config, "digest")
    assert read_json(trained / "config.json")["teacher"]["log_every"] == 7


def test_data_are_told_by_their_contents(trained):
    with pytest.raises(ValueError, match="told by their contents, and these are"):
        claim_workdir(trained, _config(), "other")


def test_a_workdir_without_a_result_belongs_to_nobody(tmp_path):
    """A first try that was refused does not stop the corrected one."""
    claim_workdir(tmp_path, _config(), "digest")
    config = _config()
    config.teacher.steps = 100
    claim_workdir(tmp_path, config, "other")
    assert read_json(tmp_path / "config.json")["teacher"]["steps"] == 100


def test_a_longer_training_goes_on_where_the_schedule_allows_it(trained):
    claim_workdir(trained, _config(steps=800), "digest")
    with pytest.raises(ValueError, match=r"student.steps: 800 there, 700 now"):
        claim_workdir(trained, _config(steps=700), "digest")
    config = _config(steps=800)
    config.teacher.steps = 7000
    with pytest.raises(ValueError, match="a cosine over all steps"):
        claim_workdir(trained, config, "digest")


def test_a_cosine_does_not_go_on(tmp_path):
    claim_workdir(tmp_path, _config(schedule="cosine"))
    (tmp_path / "student_distill").mkdir()
    with pytest.raises(ValueError, match="only a student of schedule 'plateau'"):
        claim_workdir(tmp_path, _config(schedule="cosine", steps=800))


def test_results_of_all_stages_are_gathered(tmp_path):
    teacher, student = {"val": {"mpjpe_mm": 82.5}}, {"val": {"mpjpe_mm": 80.5}}
    write_json(tmp_path / "teacher" / "results.json", teacher)
    write_json(tmp_path / "student_distill" / "results.json", student)
    (tmp_path / "student_weaksup_bs").mkdir()  # trained, not yet evaluated
    workdir.mark_finished(tmp_path, "teacher", seconds=12.5)
    workdir.mark_finished(tmp_path, "evaluate")
    for name in (".DS_Store", ".tmp-12-teacher.json"):  # of the system, of a kill
        (tmp_path / "finished" / name).touch()
    results = workdir.merge_results(tmp_path)
    environment = results.pop("environment")
    assert environment["versions"]["jax"]
    assert environment["device"]["platform"] == "cpu"
    assert results == {
        "teacher": teacher,
        "distill": student,
        "seconds": {"teacher": 12.5},
    }


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    stale = (
        *(".tmp-7-config.json", "finished/.tmp-7-teacher.json"),
        *("teacher/train/.tmp-7-code.npy", "student_distill/.tmp-7-results.json"),
        "teacher/checkpoints/40.orbax-checkpoint-tmp/state/d",
        "student_distill/checkpoints/8/.tmp-7-digests.json",
    )
    own = (
        *("notes/.tmp-7-x", "film.incomplete", ".tmp-7", "a/checkpoints/1/x"),
        "teacher/checkpoints/40/state/d",
    )
    for name in (*stale, *own):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with workdir.hold_workdir(tmp_path):
        assert (tmp_path / ".lock").exists()
    found = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")}
    assert {name for name in found if (tmp_path / name).is_file()} == set(own)
    assert not any("orbax" in name for name in found)
