"""Broken input: a message that names file and place, or handled; nothing half written.

The kinds are listed in ``broken_inputs``; docs/broken_inputs.md is their table.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broken_inputs import CASES, Bench, Case

from input_pipeline.checks.validate import validate
from input_pipeline.dataset import open_dataset
from input_pipeline.landmarks import Landmarks

DOCS = Path(__file__).parents[1] / "docs" / "broken_inputs.md"
IDS = [f"{case.format}: {case.what}" for case in CASES]


@dataclasses.dataclass(frozen=True)
class Read:
    """What was read of a handled case."""

    data: dict[str, Any]
    landmarks: Landmarks

    def image(self, row: int) -> np.ndarray:
        """(32, 32, 3) crop of a sample, as training sees it."""
        (batch,) = open_dataset(self.data).pictures(
            "train", batch_size=8, image_size=32, seed=0, train=False
        )
        return batch["image"][row]


def _problem(case: Case, data: dict[str, Any]) -> str:
    """The message of the check; the readers must raise the same."""
    if case.error == "bad setting":
        return _raised(data)
    report = validate(open_dataset(data))
    assert not report.ok, report
    fatal = [p for p in report.problems if p.fatal and p.kind == case.error]
    assert fatal, report
    problem = fatal[0]
    assert problem.file
    assert problem.remedy
    text = str(problem)
    assert "\n" not in text
    assert "Traceback" not in text
    assert len(text) < 900
    return text


def _raised(data: dict[str, Any]) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        open_dataset(data).landmarks("train")
    return str(caught.value)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")  # Pillow says so
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_broken_input(case, tmp_path):
    bench = Bench(tmp_path / "data")
    data = case.make(bench)
    if case.error:
        text = _problem(case, data)
        raised = _raised(data)
        assert raised == text
        left = [p for p in (bench.folder / "prepared").rglob("*") if p.is_file()]
        # The note of the pictures' digest is whole whatever comes after it.
        left = [p for p in left if p.parent.name != "contents"]
        assert [p.name for p in left if p.name != ".lock"] == []
        return
    report = validate(open_dataset(data))
    assert {p.kind for p in report.problems if p.fatal} <= {
        "no validation samples",
        "joint never seen",
    }
    read = Read(data, open_dataset(data).landmarks("train"))
    assert np.isfinite(read.landmarks.patch).all()
    if case.look is not None:
        case.look(read)


def test_there_are_at_least_sixty_kinds():
    assert len(CASES) >= 60
    assert len(set(IDS)) == len(IDS)


def test_the_table_in_the_docs_is_this_list():
    rows = [line for line in DOCS.read_text().splitlines() if line.startswith("| ")]
    assert rows[1:] == [case.row for case in CASES]
