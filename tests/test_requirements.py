"""Every package that the product imports is declared."""

import ast
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
OURS = {path.name for path in ROOT.iterdir() if path.is_dir()} | {"main"}
# Modules of another name than the package that brings them.
PACKAGES = {
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


def _imported(folders) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for folder in folders:
        for path in [folder] if folder.is_file() else folder.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                names = [a.name for a in getattr(node, "names", [])]
                if isinstance(node, ast.ImportFrom):
                    names = [node.module or ""]
                elif not isinstance(node, ast.Import):
                    continue
                found |= {name.partition(".")[0]: path for name in names}
    return found


def test_every_import_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = _declared(ROOT / "requirements.txt")
    for extra in project["optional-dependencies"].values():
        declared |= {_name(requirement) for requirement in extra}
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    packages = {p.partition(".")[0] for p in tools["setuptools"]["packages"]}
    imported = _imported([*(ROOT / p for p in packages), ROOT / "main.py"])
    optional = {"torch"}  # what is converted by its own format, said where it is asked
    for module, path in imported.items():
        package = PACKAGES.get(module, module).lower().replace("_", "-")
        known = module in sys.stdlib_module_names or module in OURS | optional
        assert known or package in declared, f"{path} imports {module}"
