"""The manual's table of who may what is the table that is enforced."""

from __future__ import annotations

import re
from pathlib import Path

from access.principals import ROLES_OF, Who
from entitlements.permissions import PERMISSIONS

MANUAL = Path(__file__).parents[2] / "docs" / "http.md"


def documented() -> dict[tuple[str, str], frozenset[str] | None]:
    text = MANUAL.read_text("utf-8")
    heading = re.search(r"^\| route \| (.+) \|$", text, re.MULTILINE)
    assert heading is not None
    columns = [column.split(", ") for column in heading[1].split(" | ")]
    assert sorted(role for column in columns for role in column) == sorted(set[Who]().union(*ROLES_OF.values()))
    table: dict[tuple[str, str], frozenset[str] | None] = {}
    for method, path, cells in re.findall(
        r"^\| `([A-Z]+) (\S+)` \| ((?:yes|no|open)(?: \| (?:yes|no|open))*) \|$", text, re.MULTILINE
    ):
        said = cells.split(" | ")
        assert len(said) == len(columns)
        granted = frozenset(role for column, word in zip(columns, said, strict=True) if word == "yes" for role in column)
        table[method, path] = None if set(said) == {"open"} else granted
    return table


def test_the_manual_says_of_every_route_who_may_call_it() -> None:
    assert documented() == {(method, path.replace(":path}", "}")): who for (method, path), who in PERMISSIONS.items()}
