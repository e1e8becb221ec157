"""Who may import whom: the import graph of every shipped file, and what it pulls in."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import house
from setup import EXTRAS, FOLDERS

ROOT = Path(__file__).parents[1]
TREES = {
    module: ast.parse(text)
    for module, text in house.sources(ROOT).items()
    if module.partition(".")[0] != "tests"
}
PACKAGES = {module.partition(".")[0] for module in TREES}

# What the modules of a package may import of ours, besides their own package.
ALLOWED = {
    "losses": (),
    "runtime": (),
    "configs": (),
    "nrsfm_distill": (),
    "setup": (),
    "input_pipeline": ("runtime.files", "runtime.reading", "configs.default"),
    "view": ("input_pipeline.skeleton", "runtime.files"),
    "nrsfm_jax": ("losses", "runtime"),
    "pose_jax": (
        *("losses", "runtime"),
        *(
            f"input_pipeline.{name}"
            for name in ("skeleton", "crops", "decoding", "pictures")
        ),
    ),
    "stages": tuple(PACKAGES),
    "benchmarks": tuple(PACKAGES),
    "main": tuple(PACKAGES),
}
# Those that tie the mathematics to the data.
TRUTH = ("input_pipeline.ground_truth",)
STAGES = {f"{p}.{m}" for p in ("nrsfm_jax", "pose_jax") for m in ("train", "evaluate")}
# 3D labels: evaluation, the supervised reference, the data check, tables of scores.
READS_TRUTH = {
    *("nrsfm_jax.evaluate", "pose_jax.evaluate", "pose_jax.train", "stages.report"),
    *("input_pipeline.checks.validate", "input_pipeline.dataset"),
    # What brings its own 3D hands it on apart from the landmarks.
    *(f"input_pipeline.sources.{m}" for m in ("mocap", "sequence", "prepared")),
    "input_pipeline.sources.build",
    *("benchmarks.lift", "benchmarks.nrsfm", "benchmarks.table_scores"),
}
# Heavy and optional, or of one backend only: imported where they are used.
HEAVY = {
    *("tensorflow", "tensorflow_datasets", "torch", "av", "cv2", "cvxpy", "pandas"),
    *("tables", "sleap_io", "yaml", "jax.experimental.jax2tf", "mkdocs"),
}
# pose_jax's package offers the estimator without loading it.
LAZY = {"pose_jax"}


def within(name, prefixes):
    return any(name == p or name.startswith(f"{p}.") for p in prefixes)


def hidden_imports(tree):
    """The dotted names that are imported inside a function."""
    return {
        name
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for name in house.names(function).values()
    }


def test_every_package_has_its_rule():
    assert set(ALLOWED) == PACKAGES
    assert set(TREES) >= STAGES | READS_TRUTH


def test_imports_go_downwards_only():
    wrong = {}
    for module, others in house.imports(TREES).items():
        package = module.partition(".")[0]
        allowed = (package, *ALLOWED[package])
        allowed += ("input_pipeline",) if module in STAGES else ()
        beyond = {other for other in others if not within(other, allowed)}
        if beyond:
            wrong[module] = beyond
    assert not wrong


def test_no_files_import_each_other_in_a_circle():
    assert not house.circles(house.imports(TREES))


def test_only_heavy_packages_are_imported_inside_a_function():
    found = {module: hidden_imports(TREES[module]) for module in set(TREES) - LAZY}
    found = {m: {n for n in ns if not within(n, HEAVY)} for m, ns in found.items()}
    assert not {module: names for module, names in found.items() if names}


def test_3d_labels_are_read_only_where_named():
    """Neither the file that holds them nor the data set's ``truth`` elsewhere."""
    readers = set()
    for module, tree in TREES.items():
        names = set(house.names(tree).values())
        asked = (n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute))
        if "truth" in asked or any(within(n, TRUTH) for n in names):
            readers.add(module)
    assert readers <= READS_TRUTH


def test_tensorflow_stays_in_the_input_pipeline_and_jax_outside():
    for module, tree in TREES.items():
        packages = {name.partition(".")[0] for name in house.names(tree).values()}
        if module.startswith("input_pipeline"):
            assert not packages & {"jax", "flax", "optax"}, module
        elif module != "stages.export":
            assert not packages & {"tensorflow", "tensorflow_datasets"}, module


def test_the_reader_of_imports_sees_every_form():
    source = (
        "import jax.numpy as jnp\n"
        "from input_pipeline import ground_truth\n"
        "def f():\n"
        "    import losses.metrics\n"
        "    from losses import mpjpe\n"
    )
    modules = (
        "pose_jax.train",
        "losses",
        "losses.metrics",
        "input_pipeline.ground_truth",
    )
    trees = {module: ast.parse("") for module in modules}
    trees["pose_jax.train"] = ast.parse(source)
    found = house.imports(trees)["pose_jax.train"]
    assert found == set(modules[1:])
    assert hidden_imports(trees["pose_jax.train"]) == {"losses.metrics", "losses.mpjpe"}
    assert not any(
        isinstance(node, ast.ImportFrom) and node.level
        for tree in TREES.values()
        for node in ast.walk(tree)
    ), "relative imports are not read"


def test_circles_and_ways_by_hand():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"e"}}
    assert house.circles(graph) == {("b", "c")}
    assert house.ways(graph, "a")["d"] == ["a", "b", "c", "d"]


@pytest.mark.parametrize("package", ["losses", "nrsfm_jax", "pose_jax"])
def test_importing_the_mathematics_pulls_in_no_tensorflow(package):
    """Nor does it change JAX's settings."""
    code = (
        "import jax, sys\n"
        "before = dict(jax.config.values)\n"
        f"import {package}\n"
        "found = {m.partition('.')[0] for m in sys.modules}\n"
        "unwanted = {'tensorflow', 'tensorflow_datasets', 'torch'}\n"
        f"unwanted |= {{'flax', 'orbax'}} if {package!r} == 'losses' else set()\n"
        "assert not found & unwanted, found & unwanted\n"
        "changed = {k for k, v in jax.config.values.items() if before.get(k) != v}\n"
        "assert not changed, changed\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_main_is_short():
    assert len((ROOT / "main.py").read_text("utf-8").splitlines()) < 80


# Modules of another name than the package that brings them.
OTHER_NAMES = {
    "PIL": "pillow",
    "absl": "absl-py",
    "cv2": "opencv-python-headless",
    "orbax": "orbax-checkpoint",
    "yaml": "pyyaml",
}


def _declared(path: Path) -> set[str]:
    lines = [line.partition("#")[0].strip() for line in path.read_text().splitlines()]
    return {_name(line) for line in lines if line and not line.startswith("-")}


def _name(requirement: str) -> str:
    return re.split(r"[\[<>=!~ ]", requirement)[0].lower().replace("_", "-")


def test_every_import_is_declared():
    declared = _declared(ROOT / "requirements.txt")
    for extra in EXTRAS.values():
        declared |= {_name(requirement) for requirement in extra}
    shipped = {"main", *FOLDERS}
    # What is converted by its own format, said where it is asked.
    known = {*sys.stdlib_module_names, *PACKAGES, "torch"}
    for module, tree in TREES.items():
        if module.partition(".")[0] in shipped:
            for name in {n.partition(".")[0] for n in house.names(tree).values()}:
                package = OTHER_NAMES.get(name, name).lower().replace("_", "-")
                assert name in known or package in declared, f"{module} imports {name}"
