"""What ``pip install`` makes of the repository: one package with its own imports."""

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import nrsfm_distill
from benchmarks import house
from setup import FOLDERS, namespaced

ROOT = Path(__file__).parents[1]


def test_imports_are_those_of_the_installed_package():
    text = (
        "import jax\nimport losses\nimport nrsfm_jax.train\n"
        "import input_pipeline.skeleton as s\nfrom runtime.files import plain\n"
        "from losses import masked\nfrom lossesx import y\n"
        "def f():\n    from pose_jax import estimator\n"
    )
    assert namespaced(text) == (
        "import jax\nimport nrsfm_distill.losses\nfrom nrsfm_distill import losses\n"
        "import nrsfm_distill.nrsfm_jax.train\nfrom nrsfm_distill import nrsfm_jax\n"
        "import nrsfm_distill.input_pipeline.skeleton as s\n"
        "from nrsfm_distill.runtime.files import plain\n"
        "from nrsfm_distill.losses import masked\nfrom lossesx import y\n"
        "def f():\n    from nrsfm_distill.pose_jax import estimator\n"
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Unpacked, as in site-packages."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--wheel-dir", str(folder)]
    # The build writes beside the sources: a copy without what is not shipped.
    copy = folder / "source"
    names = [*FOLDERS, "nrsfm_distill", "setup.py", "pyproject.toml", "main.py"]
    names += ["requirements.txt", "README.md", "LICENSE"]
    copy.mkdir()
    for name in names:
        subprocess.run(["cp", "-r", str(ROOT / name), str(copy)], check=True)
    subprocess.run([*command, str(copy)], check=True, capture_output=True)
    (file,) = folder.glob("nrsfm_distill-*.whl")
    with zipfile.ZipFile(file) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.mark.slow
def test_only_one_name_is_at_the_top_and_no_import_leaves_it(wheel):
    top = {path.name for path in wheel.iterdir() if path.suffix != ".dist-info"}
    assert top == {"nrsfm_distill"}
    (metadata,) = wheel.glob("*.dist-info/METADATA")
    text = metadata.read_text()
    for extra in ("train", "readers", "video", "gpu"):
        assert f"Provides-Extra: {extra}\n" in text
    needed = [x for x in text.splitlines() if x.startswith("Requires-Dist")]
    core = [x for x in needed if ";" not in x]
    assert len(core) == 6
    assert not any("tensorflow" in line for line in core)
    for path in (wheel / "nrsfm_distill").rglob("*.py"):
        names = house.names(ast.parse(path.read_text("utf-8"))).values()
        assert not {name.partition(".")[0] for name in names} & set(FOLDERS), path


def test_in_the_repository_the_package_says_what_to_import():
    with pytest.raises(ImportError, match="in the repository: import nrsfm_jax"):
        _ = nrsfm_distill.PoseLifter


@pytest.mark.slow
def test_lifter_and_losses_are_imported_beside_modules_of_the_same_names(
    wheel, tmp_path
):
    """A stranger has his own losses.py and configs.py, and no TensorFlow or Flax."""
    for name in ("losses", "configs", "runtime", "main"):
        (tmp_path / f"{name}.py").write_text("mine = True\n")
    code = (
        "import sys\n"
        "blocked = ('tensorflow', 'flax', 'orbax', 'PIL', 'cv2', 'rich', 'scipy.io')\n"
        "sys.modules.update(dict.fromkeys(blocked))\n"
        "import losses, configs\n"
        "import nrsfm_distill\n"
        "from nrsfm_distill import PoseLifter, losses as theirs\n"
        "assert losses.mine and configs.mine and theirs.distillation_loss\n"
        "print(nrsfm_distill.__version__, PoseLifter.__module__)\n"
        "try:\n    nrsfm_distill.command()\n"
        "except SystemExit as end:\n    assert 'distill[train]' in end.code, end.code\n"
        "try:\n    nrsfm_distill.PoseEstimator\n"
        "except ImportError as error:\n    assert 'distill[train]' in str(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(wheel), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0.1.0", "nrsfm_distill.nrsfm_jax.lifting.lifter"]


@pytest.mark.slow
def test_the_command_is_main(wheel, tmp_path):
    code = "from nrsfm_distill import command; command()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--config=quikstart", "--workdir=w"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(wheel), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "the nearest is quickstart" in done.stderr
