"""The command line: one line for a mistake, the stages, the check."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PYTHON = [sys.executable, "-W", "error::UserWarning:__main__", "main.py"]
# Not the workers' eight virtual devices: as a user starts it, on one.
ENVIRONMENT = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1"}


def start(*arguments: str) -> subprocess.CompletedProcess:
    """Runs main.py to its end."""
    return subprocess.run(
        [*PYTHON, *arguments],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.studnet.steps=5"], "did you mean config.student.steps?"),
        (["--config.student.steps=many"], "expected a whole number"),
        (["--stage=trian"], "trian"),
        (["steps=5"], "unexpected argument 'steps=5'"),
        (["--config.data.elevation_deg=up"], "config.data.elevation_deg"),
    ],
)
def test_a_mistake_is_one_line_without_a_traceback(arguments, message, tmp_path):
    done = start("--config=configs/quickstart.py", f"--workdir={tmp_path}", *arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_missing_config_names_the_file(tmp_path):
    done = start("--config=configs/none.py", f"--workdir={tmp_path}")
    assert done.returncode == 1
    assert "configs/none.py" in done.stderr
    assert "Traceback" not in done.stderr


def test_check_reports_every_problem_and_fails(tmp_path):
    record = {
        "categories": [{"id": 1, "name": "a", "keypoints": ["x", "y"], "skeleton": []}],
        "images": [
            {"id": 1, "file_name": "gone.png", "width": 8, "height": 8},
            {"id": 2, "file_name": "gone_too.png", "width": 8, "height": 8},
        ],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1, "keypoints": [1, 1, 2, 5, x, 2]}
            for i, x in ((1, 5), (2, 90))
        ],
    }
    (tmp_path / "keypoints.json").write_text(json.dumps(record))
    done = start(
        "--config=configs/mocap_images.py",
        f"--workdir={tmp_path / 'run'}",
        f"--config.data.annotations={tmp_path / 'keypoints.json'}",
        f"--config.data.images={tmp_path}",
        "--stage=check",
    )
    assert done.returncode == 1, done.stderr
    for problem in ("gone.png", "gone_too.png", "90"):
        assert problem in done.stdout
    assert "Traceback" not in done.stderr
