"""Executes the notebooks of docs/notebooks and keeps what their cells say.

python -m benchmarks.notebooks docs/notebooks/loss.ipynb

As Jupyter does it, but without it: the cells run in order in one namespace, and the
value of a last line is kept as text or picture. MkDocs makes a page of each notebook by
``on_files`` (mkdocs.yml, ``hooks``).
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import os
import sys
from pathlib import Path
from typing import Any


def run(path: str | Path, **parameters: Any) -> dict[str, Any]:
    """Executes a notebook in its own folder.

    Args:
        path: of the ``.ipynb``.
        parameters: take the place of those that its cell tagged "parameters" sets.

    Returns:
        The notebook with the outputs of this execution.
    """
    book = json.loads(Path(path).read_text("utf-8"))
    names: dict[str, Any] = {"__name__": "__main__"}
    cells = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    with contextlib.chdir(Path(path).parent):
        for count, cell in enumerate(cells, start=1):
            cell["outputs"] = _outputs("".join(cell["source"]), names, count)
            cell["execution_count"] = count
            if "parameters" in cell["metadata"].get("tags", ()):
                unknown = set(parameters) - set(names)
                assert not unknown, f"{path} has no parameters {unknown}"
                names.update(parameters)
    return book


def _outputs(source: str, names: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Executes one cell; what it printed, and the value of its last line."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    printed, found = io.StringIO(), []
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "<cell>", "exec"), names)
        code = ast.Expression(last.value) if last else ast.parse("None", mode="eval")
        value = eval(compile(code, "<cell>", "eval"), names)
    if printed.getvalue():
        text = printed.getvalue().splitlines(keepends=True)
        found.append({"output_type": "stream", "name": "stdout", "text": text})
    if value is not None:
        data: dict[str, Any] = {"text/plain": repr(value).splitlines(keepends=True)}
        if hasattr(value, "_repr_png_"):
            data["image/png"] = base64.b64encode(value._repr_png_()).decode()
        found.append(
            {
                "output_type": "execute_result",
                "execution_count": count,
                "metadata": {},
                "data": data,
            }
        )
    return found


def page(book: dict[str, Any]) -> str:
    """A notebook as Markdown."""
    parts = []
    for cell in book["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                parts.append(f"![](data:image/png;base64,{data['image/png']})")
            else:
                text = "".join(output.get("text", data.get("text/plain", ())))
                parts.append(f"```text\n{text.rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def on_files(files: Any, config: Any) -> Any:
    """Called by MkDocs: adds the page of each notebook."""
    from mkdocs.structure.files import File

    for path in sorted(Path(config.docs_dir, "notebooks").glob("*.ipynb")):
        text = page(json.loads(path.read_text("utf-8")))
        name = f"notebooks/{path.stem}.md"
        files.append(File.generated(config, name, content=text))
    return files


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    for argument in sys.argv[1:]:
        text = json.dumps(run(argument), indent=1, ensure_ascii=False)
        Path(argument).write_text(text + "\n", "utf-8")
