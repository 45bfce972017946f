"""Each choice of weight has a short record, and the index leads to all of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.architecture.source import ROOT

FOLDER = ROOT / "docs" / "decisions"
RECORDS = sorted(path for path in FOLDER.glob("*.md") if path.name != "README.md")


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_record_gives_the_context_the_decision_and_its_price(path: Path) -> None:
    text = path.read_text("utf-8")
    number = re.match(r"(\d{4})-[a-z0-9-]+\.md$", path.name)
    assert number is not None
    assert text.startswith(f"# {int(number[1])}. ")
    headings = re.findall(r"^(?:\*\*|## )(Context|Decision|What it costs|Cost)\b", text, re.MULTILINE)
    assert headings in (["Context", "Decision", "What it costs"], ["Context", "Decision", "Cost"])


def test_the_index_names_every_record_once_by_its_title_in_order() -> None:
    titles = [(path.name, path.read_text("utf-8").splitlines()[0].partition(". ")[2]) for path in RECORDS]
    listed = re.findall(r"^\| \[\d+\]\((\S+)\) \| (.+) \|$", (FOLDER / "README.md").read_text("utf-8"), re.MULTILINE)
    assert listed == titles
    numbers = [name[:4] for name, _ in titles]
    assert len(numbers) == len(set(numbers))
