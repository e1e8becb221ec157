"""The package as a whole: its page, its doctests, and what importing it brings."""

import doctest
import json
import subprocess
import sys
from pathlib import Path

import losses

ROOT = Path(__file__).parent.parent


def test_the_page_about_the_loss_runs():
    page = ROOT / "docs" / "loss.md"
    result = doctest.testfile(str(page), module_relative=False)
    assert result.attempted > 10
    assert result.failed == 0
    lines = page.read_text().splitlines()
    assert sum(line.startswith(">>> ") for line in lines) <= 20


def test_import_brings_neither_tensorflow_nor_flax():
    code = "import json, sys, losses; print(json.dumps(sorted(sys.modules)))"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    loaded = {name.partition(".")[0] for name in json.loads(run.stdout)}
    unwanted = {"tensorflow", "flax", "optax", "orbax"}
    ours = {"input_pipeline", "nrsfm_jax", "pose_jax", "runtime", "view"}
    assert not loaded & (unwanted | ours)


def test_every_public_name_is_there_and_documented():
    public = {n: v for n, v in vars(losses).items() if callable(v)}
    assert "distillation_loss" in public
    for name, value in public.items():
        assert value.__doc__, name
