"""What the documents name exists: files, fields, flags, commands, names, pictures."""

import ast
import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components

from configs import default
from input_pipeline.skeleton import Skeleton, read_skeleton
from pose_jax.loss import MODES
from runtime import command_line

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "configs" / "README.md",
    *sorted(DOCS.rglob("*.md")),
]
FOLDERS = sorted(
    path.name
    for path in ROOT.iterdir()
    if path.is_dir() and (any(path.glob("*.py")) or path.name == "docs")
)
FIELDS = default.get_config()
SECTIONS = "|".join(key for key in FIELDS if hasattr(FIELDS[key], "keys"))
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`]+)`")
# What looks like a field and is none: the name of a file, the placeholder x.y.
FILE = re.compile(r"^x\.y$|(^|\.)(json|yaml|safetensors|stablehlo|onnx|data)$")


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def snippets(text: str) -> list[str]:
    """Code of a page: blocks with their continued lines joined, and inline code."""
    blocks = [code.replace("\\\n", " ") for _, code in FENCE.findall(text)]
    inline = INLINE.findall(FENCE.sub("", text))
    return [line for b in blocks for line in b.splitlines()] + [
        " ".join(code.split()) for code in inline
    ]


def has_field(name: str) -> bool:
    """Whether ``x.y`` is a field of a config."""
    at: Any = FIELDS
    for key in name.split("."):
        if not hasattr(at, "keys") or key not in at:
            return False
        at = at[key]
    return True


def flags_of(path: Path) -> set[str]:
    """Flags that a script defines: in it, or in the benchmarks that it imports."""
    tree = ast.parse(path.read_text("utf-8"))
    files, found = [path], {"help", "verbosity"}  # absl's own
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and "benchmarks" in str(node.module):
            names = [f"{node.module}.{a.name}" for a in node.names] + [str(node.module)]
            paths = [ROOT.joinpath(*n.split(".")).with_suffix(".py") for n in names]
            files += [p for p in paths if p.exists()]
    for file in files:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and node.args:
                name = ast.unparse(node.func).rpartition(".")[2]
                if name.startswith(("DEFINE_", "add_argument")):
                    found.add(ast.unparse(node.args[0]).strip("'").lstrip("-"))
    return found


def script_of(command: str) -> Path | None:
    """The script of ours that a command line starts."""
    match = re.search(r"python -m (benchmarks[.\w]*|input_pipeline[.\w]*)", command)
    if match:
        return ROOT.joinpath(*match[1].split(".")).with_suffix(".py")
    match = re.search(r"python (main\.py|benchmarks/\w+\.py)", command)
    return ROOT / match[1] if match else None


def problems(page: Path) -> list[str]:
    """Everything that the page names and that does not exist."""
    text = page.read_text("utf-8")
    wrong = []
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if "://" not in target and not (page.parent / target).exists():
            wrong.append(f"link {target}")
    for code in snippets(text):
        pattern = rf"(?<![\w/.-])(?:{'|'.join(FOLDERS)})/[\w./-]*\w"
        wrong += [p for p in re.findall(pattern, code) if not (ROOT / p).exists()]
        named = re.findall(r"(?<![\w.])(?:--)?config\.([a-z][\w.]*\w)", code)
        named += re.findall(rf"^((?:{SECTIONS})\.[a-z][\w.]*\w)(?: *=|$)", code)
        wrong += [f"field {n}" for n in named if not (FILE.search(n) or has_field(n))]
        script = script_of(code)
        if script is not None:
            wrong += [] if script.exists() else [f"script {script.name}"]
            rest = code.partition(script.name if ".py" in code else script.stem)[2]
            flags = set(re.findall(r"(?<=\s)--([a-zA-Z][\w-]*)(?=[=\s\]]|$)", rest))
            known = flags_of(script) if script.exists() else flags
            wrong += [f"{script.name} --{flag}" for flag in sorted(flags - known)]
        stages = re.findall(r"--stage=(\w+)", code)
        main = (ROOT / "main.py").read_text("utf-8")
        wrong += [f"stage {stage}" for stage in stages if f'"{stage}"' not in main]
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_what_a_page_names_exists(page):
    assert not problems(page)


@pytest.mark.parametrize("page", sorted((DOCS / "api").glob("*.md")), ids=_name)
def test_reference_pages_name_modules(page):
    names = re.findall(r"^::: ([\w.]+)$", page.read_text("utf-8"), re.MULTILINE)
    assert names
    for name in names:
        importlib.import_module(name)


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_python_names_exist(page):
    ours = r"(?:input_pipeline|losses|nrsfm_jax|pose_jax|runtime|stages|view)"
    for code in snippets(page.read_text("utf-8")):
        for name in re.findall(rf"(?<![\w./-]){ours}(?:\.\w+)+(?!\w*/)", code):
            if name.endswith((".md", ".py")):
                continue
            module, _, attribute = name.rpartition(".")
            try:
                importlib.import_module(name)
            except ModuleNotFoundError:
                assert hasattr(importlib.import_module(module), attribute), name


def test_tables_of_fields_name_fields():
    for page, section in (("predict.md", "predict"), ("own_data.md", "data")):
        text = (DOCS / page).read_text("utf-8")
        table = text.split(f"| field of `config.{section}`", 1)[1].split("\n\n", 1)[0]
        first = [line.split("|")[1] for line in table.splitlines()[2:]]
        names = [name for cell in first for name in INLINE.findall(cell)]
        assert names
        assert not [n for n in names if not has_field(f"{section}.{n}")]


def test_what_the_source_names_exists():
    """Files and fields of configs in docstrings, comments and messages."""
    files = [f for f in ROOT.rglob("*.py") if f.relative_to(ROOT).parts[0] in FOLDERS]
    paths = rf"(?<![\w/.])(?:{'|'.join(FOLDERS)})/[\w/]+\.(?:py|md)"
    for file in [f for f in files if f.parent.name != "tests"]:
        text = file.read_text("utf-8")
        wrong = [p for p in re.findall(paths, text) if not (ROOT / p).exists()]
        named = re.findall(r"--config\.([a-z][\w.]*\w)(?![\w.{])", text)
        wrong += [f"field {n}" for n in named if not (FILE.search(n) or has_field(n))]
        assert not wrong, file


def test_the_table_of_modes_has_all_of_them():
    text = (DOCS / "loss.md").read_text("utf-8").split("| mode |", 1)[1]
    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == sorted(
        MODES, key=lambda mode: (mode == "supervised", [*MODES].index(mode))
    )


def test_skeletons_of_the_pages_are_read():
    text = "".join(page.read_text("utf-8") for page in PAGES)
    found = [code for kind, code in FENCE.findall(text) if kind == "json"]
    skeletons = [read_skeleton(code) for code in found if '"joints"' in code]
    pairs = [len(s.left_right) for s in skeletons if isinstance(s, Skeleton)]
    assert sorted(pairs) == [1, 7]
    for skeleton in skeletons:
        assert isinstance(skeleton, Skeleton)
        tree = np.zeros((skeleton.num_joints,) * 2)
        tree[tuple(np.transpose(skeleton.edges))] = 1
        assert connected_components(tree)[0] == 1  # no joint was forgotten


def test_code_is_followed_by_an_empty_line():
    """Else what follows is no list: its items are one paragraph."""
    for page in PAGES:
        parts = re.split(r"^ *```.*$\n?", page.read_text("utf-8"), flags=re.M)
        assert [p[:40] for p in parts[2::2] if p and not p.startswith("\n")] == [], page


def test_every_picture_is_shown_by_a_page():
    shown = "".join(page.read_text("utf-8") for page in PAGES)
    pictures = [path.name for path in (DOCS / "images").iterdir()]
    assert pictures
    assert not [name for name in pictures if f"images/{name}" not in shown]


def test_every_page_is_in_the_navigation():
    nav = (ROOT / "mkdocs.yml").read_text("utf-8")
    pages = [page.relative_to(DOCS) for page in PAGES if page.is_relative_to(DOCS)]
    assert not [str(page) for page in pages if f": {page.as_posix()}\n" not in nav]


def test_make_has_the_targets_that_the_pages_name():
    text = (ROOT / "Makefile").read_text("utf-8")
    for page in PAGES:
        for code in snippets(page.read_text("utf-8")):
            for target in re.findall(r"^make (\w+)", code):
                assert f"\n{target}:" in text, f"{page.name}: make {target}"


def test_the_check_notices_what_does_not_exist(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "[gone](gone.md) `losses/gone.py` `--config.data.gone=1` `teacher.gone`\n"
        "```sh\npython main.py --gone=1 --stage=gone\npython -m benchmarks.gone\n```\n"
        "`python benchmarks/tables.py --table=1 --gone`, `--config.seed=1`\n"
    )
    assert problems(page) == [
        "link gone.md",
        "main.py --gone",
        "stage gone",
        "script gone.py",
        "losses/gone.py",
        "field data.gone",
        "field teacher.gone",
        "tables.py --gone",
    ]


def test_messages_of_troubleshooting_are_the_sources():
    text = (DOCS / "troubleshooting.md").read_text("utf-8")
    rows = re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)
    assert len(rows) > 10
    product = [p for folder in FOLDERS for p in (ROOT / folder).rglob("*.py")]
    said = "\n".join(
        " ".join(node.value.split())
        for path in product
        if path.parts[len(ROOT.parts)] != "tests"
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    assert [row for row in rows if row not in said] == []


def test_the_page_of_fields_is_that_of_help():
    """``python main.py --help`` prints it; a changed field is copied from there."""
    (text,) = FENCE.findall((DOCS / "fields.md").read_text("utf-8"))
    assert text[1] == command_line.fields(default).split("\n", 2)[2] + "\n"
