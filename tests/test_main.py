"""The command line: one line for a mistake, the stages, the check."""

import contextlib
import inspect
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import launch
import pytest
from absl.testing import flagsaver

import main
from configs import default, mocap_images, quickstart
from runtime.workdir import flatten

ROOT = Path(__file__).resolve().parents[1]
PYTHON = [sys.executable, "-W", "error::UserWarning:__main__", "main.py"]
# Not the workers' virtual devices: as a user starts it, on one.
ENVIRONMENT = launch.ENVIRONMENT | {"PYTHONUNBUFFERED": "1"}


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


# ml_collections loads a config by a method that Python will drop.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


@pytest.fixture
def parse(monkeypatch):
    """Reads flags as the command line gives them; the config that they make."""

    def read(*arguments: str) -> Any:
        argv = ["main.py", *arguments]
        monkeypatch.setattr(sys, "argv", argv)  # where overrides are looked for
        main.parse(argv)
        return main.CONFIG.value

    with flagsaver.flagsaver():
        yield read


SIZES = (256, 128, 64, 32)
QUICKSTART = ("--config=configs/quickstart.py", "--workdir=w")


def test_any_field_can_be_set_from_the_shell(parse):
    config = parse(
        *QUICKSTART,
        "--config.student.steps=10",
        "--config.teacher.learning_rate=1e-3",
        "--config.teacher.dictionary_sizes=64,32",
        "--config.student.modes=('distill', 'supervised')",
        '--config.data.joint_names={"nose": "Head"}',
        "--config.data.data_dir=~/a=b",
    )
    assert (config.student.steps, config.teacher.learning_rate) == (10, 1e-3)
    assert config.teacher.dictionary_sizes == (64, 32)
    assert config.student.modes == ("distill", "supervised")
    assert config.data.joint_names == '{"nose": "Head"}'
    assert config.data.data_dir == "~/a=b"


def test_the_papers_config_has_a_switch_for_the_guide(parse):
    guided = parse("--config=configs/paper.py", "--workdir=w").teacher
    unguided = parse("--config=configs/paper.py:unguided", "--workdir=w").teacher
    assert guided.em.guide_fraction > 0
    assert unguided.em.guide_fraction == 0
    assert unguided.dictionary_sizes == guided.dictionary_sizes == (*SIZES, 16, 8)


def test_pictures_of_ones_own_may_start_from_weights(parse):
    config = "--config=configs/mocap_images.py"
    own = parse(f"{config}:pretrained", "--workdir=w", "--config.student.pretrained=a")
    assert (own.student.network, own.student.pretrained) == ("efficientnet", "a")
    assert parse(config, "--workdir=w").student.network == "pyramid"
    with pytest.raises(ValueError, match="is not 'random' or 'pretrained'"):
        mocap_images.get_config("imagenet")


@pytest.mark.parametrize(
    "name", ["quickstart", "quickstart.py", "configs/quickstart.py"]
)
def test_a_config_is_found_by_its_name_from_any_folder(
    parse, name, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    config = parse("--config", name, "--workdir=w", "--config.teacher.steps=1e4")
    assert config.student.image_size == quickstart.get_config().student.image_size
    assert config.teacher.steps == 10_000
    assert (
        parse("--config=paper:unguided", "--workdir=w").teacher.em.guide_fraction == 0
    )


def test_the_config_may_stand_behind_its_fields(parse):
    config = parse("--config.teacher.steps=1e4", "--config=tracks", "--workdir=w")
    assert (config.data.name, config.teacher.steps) == ("tracks", 10_000)


def test_help_lists_every_field_with_its_value_and_its_comment(parse, capsys):
    with pytest.raises(SystemExit) as error:
        parse("--help")
    assert not error.value.code
    text = capsys.readouterr().out
    for name, value in flatten(default.get_config().to_dict()).items():
        assert f"--config.{name}={value!r}\n" in text
    assert "seed=0\n" in text
    assert "        lambda of Eq. 4 for unit-norm dictionary columns\n" in text
    comments = inspect.getsource(default).count("#")
    assert text.count("\n        ") > comments / 2  # of those, many have two lines


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*QUICKSTART, "--config.studnet.steps=5"], 'Did you mean "student"'),
        ([*QUICKSTART, "--config.student.stpes=5"], "no field 'stpes' Did you mean"),
        ([*QUICKSTART, "--config.lift.foo=5"], "no field 'foo'; --help lists all"),
        ([*QUICKSTART, "--config.data.joint_names.a=b"], "in the flags: string"),
        ([*QUICKSTART, "--config.student.steps=many"], "--config.student.steps=many"),
        ([*QUICKSTART, "--stage=trian"], "trian"),
        ([*QUICKSTART, "steps=5"], "unexpected argument steps=5"),
        (["--config=configs/none.py", "--workdir=w"], "configs/none.py"),
        (["--config=quikstart", "--workdir=w"], "the nearest is quickstart"),
        ([*QUICKSTART, "--config.student.steps=1.5e0"], "student.steps=1.5e0"),
        (["--config=configs/quickstart.py"], "--workdir=FOLDER are needed"),
    ],
)
def test_a_mistake_is_one_line(parse, arguments, message):
    with pytest.raises(SystemExit) as error:
        parse(*arguments)
    assert message in str(error.value.code)
    assert "\n" not in str(error.value.code)


def test_memory_is_kept_before_there_is_a_thread(parse, monkeypatch):
    """One with an arena of its own made every step map its memory anew."""
    parse(*QUICKSTART, "--config.keep_freed_memory=True")
    threads = []

    def seen(count, *, keep_memory):
        threads.append((keep_memory, threading.active_count()))
        raise ValueError

    before = threading.active_count()
    monkeypatch.setattr(main.devices, "use_cpu_devices", seen)
    with pytest.raises(SystemExit):
        main.main([])
    assert threads == [(True, before)]


def test_refused_data_claim_no_workdir(tmp_path):
    """And there is one line, no traceback; then the advice can be followed."""
    arguments = ("--config=configs/mocap_images.py", f"--workdir={tmp_path / 'run'}")
    done = start(*arguments, "--config.data.annotations=none.json", "--stage=teacher")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: none.json")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "config.json").exists()


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


def test_the_data_are_read_where_that_is_said(parse, monkeypatch, tmp_path):
    """What is read is told by the identity, and takes minutes for many pictures."""
    said = []

    @contextlib.contextmanager
    def working(text, **_):
        said.append(text)
        yield
        said.pop()

    class Data:
        @property
        def identity(self):
            raise ValueError(f"refused while {said}")

    monkeypatch.setattr(main, "working", working)
    monkeypatch.setattr(main, "open_dataset", lambda _: Data())
    devices = "--config.cpu_devices=4"  # as many as the tests have
    parse("--config=quickstart", f"--workdir={tmp_path / 'w'}", devices)
    with pytest.raises(SystemExit, match=r"refused while \['reading the data'\]"):
        main.main([])
