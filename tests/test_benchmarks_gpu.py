"""The report of one accelerator: rows, pictures, and what it says without one."""

import json
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import gpu, student_speed
from benchmarks.common import Row, mean_row
from configs import paper


def test_its_settings_are_those_of_the_papers_config():
    config = paper.get_config()
    augment = {f: getattr(gpu.AUGMENTATION, f) for f in config.student.augment}
    assert augment == config.student.augment.to_dict()
    for name, value in gpu.TEACHER.items():
        assert config.teacher[name] == value
    size = gpu.Size()
    assert size.dictionaries == config.teacher.dictionary_sizes
    assert size.batch == config.student.batch_size
    assert config.data.padding == 1.25
    side, fields = student_speed.NETS[size.net]
    assert (side, fields) == (config.student.image_size, {})


def test_its_batches_are_the_augmented_pictures():
    size = gpu.SMOKE
    pictures, marks = gpu.render(size)
    ready = gpu.batches(pictures, marks, size, side=32)
    batch = next(ready)
    assert batch["image"].shape == (size.batch, 32, 32, 3)
    assert len(set(batch["row"].tolist())) == size.batch
    assert batch["image"].std() > 10
    upright = marks.patch[batch["row"]]
    length = np.linalg.norm(batch["keypoints"] - batch["keypoints"][:, :1], axis=-1)
    own = np.linalg.norm(upright - upright[:, :1], axis=-1)
    swap = marks.skeleton.flip_permutation
    own = np.where(batch["flip"][:, None], own[:, swap], own)
    np.testing.assert_allclose(length, own * batch["scale"][:, None], rtol=1e-4)
    assert (next(ready)["row"] != batch["row"]).any()


def test_without_a_gpu_it_says_so(tmp_path, monkeypatch, capsys):
    row = Row(
        "student_speed", "train, batch 2", "ours", "speed", 9, "images/s", 8, 9, 2
    )
    monkeypatch.setattr(student_speed, "task_rows", lambda *_, **__: [row])
    monkeypatch.setattr(gpu, "peak_flops", lambda dtype: 1e9)
    curve = [mean_row("gpu", "paper.py", "step 2", "xy", "", [5.0])]
    monkeypatch.setattr(gpu, "curve_rows", lambda size: curve)
    monkeypatch.setattr(sys, "argv", ["gpu", f"--json={tmp_path / 'gpu.json'}"])
    gpu.main()
    assert "No GPU was found" in capsys.readouterr().out
    rows = json.loads((tmp_path / "gpu.json").read_text())
    cases = [row["case"] for row in rows]
    both = ["train, batch 2, float32"] * 2 + ["train, batch 2, bfloat16"] * 2
    assert cases == [*both, "paper.py"]
    assert {row["benchmark"] for row in rows} == {"gpu"}


def test_it_needs_no_tensorflow():
    """Nor what else the training alone uses."""
    absent = ("tensorflow", "tensorflow_datasets", "ml_collections", "tensorboardX")
    hide = "".join(f"sys.modules[{name!r}] = None\n" for name in absent)
    code = f"import sys\n{hide}import benchmarks.gpu\n"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_the_smoke_test_runs_to_its_end(tmp_path):
    file = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "benchmarks.gpu", f"--json={file}"]
    subprocess.run(command, check=True)
    found = {(row["case"], row["method"]) for row in json.loads(file.read_text())}
    assert ("train, batch 2, bfloat16", "ours") in found
    assert ("paper.py", "step 4") in found
