"""The files of a run, and messages for a mistyped command line."""

import json
import math

import numpy as np
import pytest
from ml_collections import ConfigDict

from runtime import run_files
from runtime.run_files import check_overrides, claim_workdir


def _config() -> ConfigDict:
    return ConfigDict(
        {
            "seed": 0,
            "data": {"name": "mannequin", "data_dir": "", "box": None},
            "teacher": {"steps": 6000, "learning_rate": 0.01, "log_every": 100},
            "student": {
                "steps": 500,
                "modes": ("weaksup_bs", "distill"),
                "augment": {"flip": True, "colour": 0.2, "sizes": (1.0, 2.0)},
            },
        }
    )


def test_json_is_written_whole_with_plain_values(tmp_path):
    path = tmp_path / "sub" / "results.json"
    record = {"a": np.float32(0.5), "b": np.arange(2), "c": math.nan, "d": ("x", 1)}
    run_files.write_json_atomic(path, record)
    assert json.loads(path.read_text()) == {
        "a": 0.5,
        "b": [0, 1],
        "c": None,
        "d": ["x", 1],
    }
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]


def test_a_broken_or_missing_json_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.json does not exist"):
        run_files.read_json(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match=r"bad\.json is not valid JSON \(line 1"):
        run_files.read_json(tmp_path / "bad.json")


def test_a_workdir_keeps_to_its_config(tmp_path):
    config = _config()
    claim_workdir(tmp_path, config)
    claim_workdir(tmp_path, config)
    assert json.loads((tmp_path / "config.json").read_text()) == json.loads(
        json.dumps(config.to_dict())
    )
    config.teacher.steps = 100
    config.student.augment.flip = False
    with pytest.raises(ValueError, match="another config") as error:
        claim_workdir(tmp_path, config)
    text = str(error.value)
    assert "teacher.steps: 6000 there, 100 now" in text
    assert "student.augment.flip: True there, False now" in text
    assert "--workdir" in text
    assert "\n" not in text


def test_where_and_how_often_may_change(tmp_path):
    config = _config()
    claim_workdir(tmp_path, config)
    config.data.data_dir = "/elsewhere"
    config.teacher.log_every = 7
    config.student.modes = ("weaksup_bs", "weaksup_residual", "distill")
    claim_workdir(tmp_path, config)
    assert run_files.read_json(tmp_path / "config.json")["teacher"]["log_every"] == 7


def test_finished_stages_are_remembered(tmp_path):
    assert run_files.finished(tmp_path, "teacher") is None
    run_files.mark_finished(tmp_path, "teacher", seconds=12.5)
    assert run_files.finished(tmp_path, "teacher") == {
        "stage": "teacher",
        "seconds": 12.5,
    }
    assert run_files.finished(tmp_path, "student_distill") is None


def test_results_of_all_stages_are_gathered(tmp_path):
    teacher, student = {"val": {"mpjpe_mm": 82.5}}, {"val": {"mpjpe_mm": 80.5}}
    run_files.write_json_atomic(tmp_path / "teacher" / "results.json", teacher)
    folder = tmp_path / "student_distill"
    run_files.write_json_atomic(folder / "results.json", student)
    (tmp_path / "student_weaksup_bs").mkdir()  # trained, not yet evaluated
    run_files.mark_finished(tmp_path, "teacher", seconds=12.5)
    run_files.mark_finished(tmp_path, "evaluate")
    results = run_files.merge_results(tmp_path)
    assert results == run_files.read_json(tmp_path / "results.json")
    environment = results.pop("environment")
    assert environment["versions"]["jax"]
    assert results == {
        "teacher": teacher,
        "distill": student,
        "seconds": {"teacher": 12.5},
    }


def test_environment_is_json_and_names_jax():
    facts = json.loads(json.dumps(run_files.environment()))
    assert facts["versions"]["jax"]
    assert facts["device"]["platform"] == "cpu"
    assert facts["python"].startswith("3.")


def test_overrides_take_the_type_of_the_field():
    arguments = [
        "--config=configs/quickstart.py",
        "--workdir=w",
        "--config.student.steps=10",
        "--config.teacher.learning_rate=1e-3",
        "--config.student.augment.flip=false",
        "--config.data.name",
        "coco",
        "--config.student.modes=distill,supervised",
        "--config.student.augment.sizes=(1, 3)",
        "--config.data.box=landmarks",
        "--config.data.data_dir=~/a=b",
    ]
    assert check_overrides(_config(), arguments) == {
        "student.steps": 10,
        "teacher.learning_rate": 1e-3,
        "student.augment.flip": False,
        "data.name": "coco",
        "student.modes": ("distill", "supervised"),
        "student.augment.sizes": (1.0, 3.0),
        "data.box": "landmarks",
        "data.data_dir": "~/a=b",
    }


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.studnet.steps=5", "did you mean config.student.steps?"),
        ("--config.student.stpes=5", "did you mean config.student.steps?"),
        ("--config.learning_rate=5", "did you mean config.teacher.learning_rate?"),
        ("--config.student.steps=many", "expected a whole number, such as 500"),
        ("--config.student.steps=1.5", "expected a whole number"),
        ("--config.teacher.learning_rate=fast", "expected a number, such as 0.01"),
        ("--config.student.augment.flip=maybe", "expected true or false"),
        ("--config.student.augment.sizes=1,x", "expected a comma-separated list"),
        ("--config.student.augment=1", "is a group of fields"),
        ("--config.seed", "--config.seed needs a value"),
    ],
)
def test_mistakes_get_one_helpful_line(argument, message):
    with pytest.raises(ValueError, match=r"config") as error:
        check_overrides(_config(), [argument])
    assert message in str(error.value)
    assert "\n" not in str(error.value)
