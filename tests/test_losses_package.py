"""The package as a whole: its page, its doctests, and what importing it brings."""

import doctest
import functools
import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from losses_samples import random_camera, unit_dictionary

import losses

ROOT = Path(__file__).parent.parent


def test_the_page_about_the_loss_runs():
    page = ROOT / "docs" / "loss.md"
    result = doctest.testfile(str(page), module_relative=False)
    assert result.attempted > 10
    assert result.failed == 0
    lines = page.read_text().splitlines()
    assert sum(line.startswith(">>> ") for line in lines) <= 20


def test_batches_are_mapped_as_the_page_says():
    rng = np.random.default_rng(0)
    D, M = unit_dictionary(rng, 17, 64), random_camera(rng)
    B_xy, B_z = losses.split_dictionary(D, M)
    phi = jnp.asarray(rng.uniform(0, 1, 64), jnp.float32)
    one = {"z": B_z @ phi + 0.1, "phi": phi, "M": M, "w": B_xy @ phi}
    one |= {"B_xy": B_xy, "B_z": B_z}
    names = {name: jnp.stack([x, x]) for name, x in one.items()}
    names |= {"D": D, "gram": losses.dictionary_gram(D), "c": {"code_l1_weight": 0.15}}
    names |= {"jax": jax, "losses": losses, "partial": functools.partial}
    page = (ROOT / "docs" / "loss.md").read_text()
    found = [eval(call, names) for call in re.findall(r"`(jax\.vmap\(.+?)`", page)]
    assert [loss.shape for loss in found] == [(2,), (2,)]
    np.testing.assert_allclose(*found, rtol=1e-4)


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
