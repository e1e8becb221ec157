"""Who may import whom: the import graph of the source tree, and what it pulls in."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = (
    *("configs", "input_pipeline", "losses", "nrsfm_jax", "pose_jax"),
    *("runtime", "stages", "view"),
)
OURS = (*PACKAGES, "main", "benchmarks", "tests")

# What every module of a package may import of ours, besides its own package.
ALLOWED = {
    "configs": (),
    "losses": (),
    "runtime": (),
    "stages": OURS,
    "input_pipeline": (),
    "nrsfm_jax": ("losses",),
    "pose_jax": ("losses", "input_pipeline.skeleton"),
    "view": ("input_pipeline.skeleton",),
}
# The modules that tie the mathematics to disks, data and pictures.
LOOPS = {
    f"{package}.{module}": ("runtime", "input_pipeline", "view")
    for package in ("nrsfm_jax", "pose_jax")
    for module in ("train", "evaluate", "predict", "stream")
}
LOOPS["pose_jax.estimator"] = (
    "runtime",
    "input_pipeline.crops",
    "input_pipeline.pictures",
)
# 3D labels: evaluation, the supervised reference, the report and the data check.
READS_GROUND_TRUTH = {
    *("nrsfm_jax.evaluate", "pose_jax.evaluate", "pose_jax.train", "stages.report"),
    *("input_pipeline.checks.validate", "input_pipeline.ground_truth"),
}


def _source_files() -> Iterator[tuple[str, Path]]:
    """(dotted module name, file) of everything but tests and benchmarks."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(p for p in parts if p != "__init__"), path
    if (ROOT / "main.py").exists():
        yield "main", ROOT / "main.py"


def _is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or path.is_dir()


def imported_names(module: str, source: str, *, is_package: bool) -> set[str]:
    """Every module a source imports, wherever in the file the import stands."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                parts = parts[: len(parts) - node.level + is_package]
                base = ".".join([*parts, base] if base else parts)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                names.add(inner if _is_module(inner) else base)
        elif isinstance(node, ast.Call) and node.args:
            function = ast.unparse(node.func)
            argument = node.args[0]
            dynamic = function.endswith(("import_module", "__import__"))
            if dynamic and isinstance(argument, ast.Constant):
                names.add(str(argument.value))
    return names


def _imports(module: str, path: Path) -> set[str]:
    is_package = path.name == "__init__.py"
    return imported_names(module, path.read_text("utf-8"), is_package=is_package)


def _within(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == p or name.startswith(f"{p}.") for p in prefixes)


MODULES = dict(_source_files())


@pytest.mark.parametrize("module", MODULES)
def test_imports_of_ours_stay_within_the_design(module):
    package = module.partition(".")[0]
    if module == "main":
        return
    allowed = (package, *ALLOWED[package], *LOOPS.get(module, ()))
    ours = {n for n in _imports(module, MODULES[module]) if _within(n, OURS)}
    wrong = sorted(n for n in ours if not _within(n, allowed))
    assert not wrong, f"{module} may not import {wrong}"


@pytest.mark.parametrize("module", MODULES)
def test_ground_truth_is_read_only_where_named(module):
    names = _imports(module, MODULES[module])
    if any(_within(n, ("input_pipeline.ground_truth",)) for n in names):
        assert module in READS_GROUND_TRUTH


@pytest.mark.parametrize("module", MODULES)
def test_tensorflow_stays_in_the_input_pipeline(module):
    names = _imports(module, MODULES[module])
    if module == "stages.export":  # where it is asked for SavedModel
        names -= {"tensorflow"}
    if not module.startswith("input_pipeline"):
        assert not {n for n in names if n.partition(".")[0].startswith("tensorflow")}
    else:
        assert not {n for n in names if _within(n, ("jax", "flax", "optax"))}


def test_the_teacher_and_the_student_never_import_each_other():
    for module, path in MODULES.items():
        names = _imports(module, path)
        if module.startswith("nrsfm_jax"):
            assert not {n for n in names if _within(n, ("pose_jax",))}
        if module.startswith("pose_jax"):
            assert not {n for n in names if _within(n, ("nrsfm_jax",))}


def test_the_reader_of_imports_sees_every_form():
    source = (
        "import jax.numpy as jnp\n"
        "from input_pipeline import ground_truth\n"
        "from .sibling import x\n"
        "def f():\n"
        "    import losses.metrics\n"
        "    importlib.import_module('tensorflow')\n"
    )
    assert imported_names("pose_jax.train", source, is_package=False) >= {
        "jax.numpy",
        "losses.metrics",
        "tensorflow",
        "pose_jax.sibling",
    }
    source = "from . import skeleton"
    found = imported_names("input_pipeline", source, is_package=True)
    assert found == {"input_pipeline.skeleton"}


@pytest.mark.parametrize("package", ["losses", "nrsfm_jax", "pose_jax"])
def test_importing_the_mathematics_pulls_in_no_tensorflow(package):
    code = (
        f"import sys, {package}\n"
        "found = {m.partition('.')[0] for m in sys.modules}\n"
        "unwanted = {'tensorflow', 'tensorflow_datasets', 'torch'}\n"
        f"unwanted |= {{'flax', 'orbax'}} if {package!r} == 'losses' else set()\n"
        "assert not found & unwanted, found & unwanted\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)


def test_importing_every_package_leaves_jax_unconfigured():
    code = (
        "import jax\n"
        "before = dict(jax.config.values)\n"
        "import losses, nrsfm_jax, pose_jax, runtime.devices, runtime.checkpoints\n"
        "changed = {k for k, v in jax.config.values.items() if before.get(k) != v}\n"
        "assert not changed, changed\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)


def test_main_is_short():
    path = ROOT / "main.py"
    if path.exists():
        assert len(path.read_text("utf-8").splitlines()) < 80
