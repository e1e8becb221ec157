"""Size and shape of the source, measured; exits 1 where a limit is exceeded.

python benchmarks/house.py [FOLDER]

The size has no limit: what a new method needs, it needs. It is printed, to be watched.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from pathlib import Path

TESTS, FUNCTION, CALLS, COMMENTS = 0.7, 40, 5, 0.05
LOOPS = ("fit",)  # training loops may be longer
# Where numerics or speed make the code other than the formula, and so say why.
SAYS_WHY = (
    "nrsfm_jax.em",
    "nrsfm_jax.fast",
    "pose_jax.conv",
    "input_pipeline.pipeline",
)
EQUATIONS = {
    "Eq. 4": ("losses.reprojection.",),
    "Eq. 14": ("losses.gram.gram_distillation_loss",),
}
SKIPPED = ("build", "runs")
Trees, Graph = dict[str, ast.Module], dict[str, set[str]]


def sources(root: Path) -> dict[str, str]:
    """Dotted name -> text of every module outside hidden and made folders."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if parts[0][0] != "." and parts[0] not in SKIPPED:
            name = ".".join(part for part in parts if part != "__init__")
            found[name] = path.read_text("utf-8")
    return found


def names(tree: ast.Module) -> dict[str, str]:
    """Local name -> dotted name of every import, wherever it stands."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.asname or a.name: a.name for a in node.names}
    return found


def home(name: str, trees: Trees) -> str:
    """The module of ours that a dotted name lies in, or ''."""
    while name and name not in trees:
        name = name.rpartition(".")[0]
    return name


def imports(trees: Trees) -> Graph:
    """Module -> those of ours that it imports."""
    return {
        module: {home(name, trees) for name in names(tree).values()} - {module, ""}
        for module, tree in trees.items()
    }


def calls(trees: Trees) -> Graph:
    """Function, class or table -> those that it names."""
    local = {module: names(tree) for module, tree in trees.items()}

    def full(name: str, module: str) -> str:
        found = next(
            (n for n in (name, name.partition(".")[0]) if n in local[module]), ""
        )
        found = found or next(
            (n for n in local[module] if name.startswith(f"{n}.")), ""
        )
        if not found:
            return f"{module}.{name}"
        name = local[module][found] + name.removeprefix(found)
        where = home(name, trees)
        # A package may export it again from one of its modules.
        return full(name[len(where) + 1 :], where) if where and where != name else name

    graph: Graph = {}
    for module, tree in trees.items():
        for node in tree.body:
            used = {
                n for n in ast.walk(node) if isinstance(n, (ast.Name, ast.Attribute))
            }
            reached = {full(ast.unparse(n), module) for n in used}
            for target in getattr(node, "targets", [node]):
                name = getattr(target, "name", getattr(target, "id", ""))
                graph.setdefault(f"{module}.{name}", set()).update(reached)
    return graph


def ways(graph: Graph, start: str) -> dict[str, list[str]]:
    """All that ``start`` leads to -> the shortest way there."""
    found, queue = {start: [start]}, [start]
    for node in queue:
        for other in sorted(graph.get(node, set()) - set(found)):
            found[other] = [*found[node], other]
            queue.append(other)
    return found


def circles(graph: Graph) -> set[tuple[str, ...]]:
    """Groups of modules that lead to each other."""
    to = {node: ways(graph, node) for node in graph}
    groups = {tuple(sorted(o for o in to[n] if n in to[o])) for n in graph}
    return {group for group in groups if len(group) > 1}


def long_functions(trees: Trees) -> dict[str, int]:
    """Those over the limit -> their lines, docstrings not counted."""
    found = {}
    for module, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                text = ast.get_docstring(node, clean=False)
                quoted = (
                    0
                    if text is None
                    else node.body[0].end_lineno - node.body[0].lineno + 1
                )
                lines = node.end_lineno - node.lineno + 1 - quoted
                if lines > FUNCTION:
                    found[f"{module}.{node.name}"] = lines
    return found


def comment_lines(source: str) -> int:
    """Lines with a comment that is no ruler."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return sum(t.type == tokenize.COMMENT and t.string[:4] != "# --" for t in tokens)


def main() -> None:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else __file__).resolve()
    texts = sources(root if root.is_dir() else root.parents[1])
    size = {m: len(text.splitlines()) for m, text in texts.items()}
    trees = {m: ast.parse(t) for m, t in texts.items() if not m.startswith("tests.")}
    product = sum(size[m] for m in trees)
    tests = sum(size.values()) - product
    long = long_functions(trees)
    beyond = {n: k for n, k in long.items() if n.rpartition(".")[2] not in LOOPS}
    found = circles(imports(trees))
    why = [m for m in trees if f"{m}.".startswith(SAYS_WHY)]
    share = sum(comment_lines(texts[m]) for m in why) / sum(size[m] for m in why)
    measures = [
        ("product, lines", product, True),
        ("tests, lines", f"{tests}, {tests / product:.2f}", tests >= TESTS * product),
        (f"functions over {FUNCTION} lines", beyond, not beyond),
        ("training loops over it", {n: long[n] for n in long if n not in beyond}, True),
        ("circles of imports", found, not found),
        ("comments in " + ", ".join(why), f"{share:.1%}", share >= COMMENTS),
    ]
    graph = ways(calls(trees), "main.main")
    for equation, start in EQUATIONS.items():
        way = next((way for name, way in graph.items() if name.startswith(start)), [])
        text = f"{len(way)}: {' > '.join(way)}"
        measures.append((f"calls to {equation}", text, 0 < len(way) <= CALLS))
    for name, value, good in measures:
        print(f"{'' if good else 'BEYOND THE LIMIT '}{name}: {value}")
    sys.exit(not all(good for *_, good in measures))


if __name__ == "__main__":
    main()
