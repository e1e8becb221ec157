"""The notebooks, executed in their short form, and what is kept of the long one."""

import json
import re
from pathlib import Path

import jax
import pytest

from benchmarks import notebooks

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
BOOKS = sorted(FOLDER.glob("*.ipynb"))


@pytest.fixture(autouse=True)
def as_at_home():
    """Where nobody has made JAX strict; optax itself promotes."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def printed(book):
    """All that the cells said, as text."""
    outputs = [o for c in book["cells"] for o in c.get("outputs", ())]
    texts = [o.get("text", o.get("data", {}).get("text/plain", ())) for o in outputs]
    return "".join(line for text in texts for line in text)


def test_the_loss_alone_with_optax():
    said = printed(notebooks.run(FOLDER / "loss.ipynb", steps=60))
    assert re.search(r"z_hyp has shape \(1280, 17\).*jax\.vmap", said)
    assert re.search(r"w has shape \(17, 2\).*u1 v1 u2 v2", said)
    errors = [float(x) for x in re.findall(r"of new samples ([\d.]+)", said)]
    assert errors[-1] < 0.8 * errors[0]


@pytest.mark.slow
def test_own_data_from_pictures_to_3d(tmp_path):
    path = FOLDER / "own_data.ipynb"
    book = notebooks.run(path, folder=tmp_path)  # short as it is kept
    said = printed(book)
    assert "(24, 24, (" in said
    assert "0 errors" in said
    assert "(4, 23, 3)" in said
    pictures = [o for c in book["cells"] for o in c.get("outputs", ()) if "data" in o]
    assert sum("image/png" in o["data"] for o in pictures) == 2


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_what_is_kept_is_that_of_one_execution_in_order(path):
    book = json.loads(path.read_text("utf-8"))
    cells = [c for c in book["cells"] if c["cell_type"] == "code"]
    assert [c["execution_count"] for c in cells] == list(range(1, len(cells) + 1))
    assert len(BOOKS) == 2
    assert path.stat().st_size < 400_000
    page = notebooks.page(book)
    assert page.count("```python") == len(cells)
    assert page.startswith("# ")
