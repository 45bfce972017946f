"""The table of operations is the one that the tests make."""

from __future__ import annotations

import pytest

from tests.architecture.source import ROOT
from tests.e2e import seed_table
from tests.e2e.seed_operations import OPERATIONS, SERVICES, seed


def test_the_table_of_operations_is_what_the_tests_say() -> None:
    written = (ROOT / "docs" / "seed-operations.md").read_text("utf-8")
    assert written == seed_table.render(), "run: python -m tests.e2e.seed_table > docs/seed-operations.md"


def test_every_mark_names_an_operation_that_there_is() -> None:
    assert set(OPERATIONS) == set(SERVICES)
    assert [mark for mark in seed_table.marks() if mark.operation not in OPERATIONS[mark.service]] == []


def test_a_mark_that_names_nothing_fails_where_it_stands() -> None:
    with pytest.raises(AssertionError, match="no operation"):
        seed("003", "GET /api/plan", "used")
    with pytest.raises(AssertionError, match="say what is shown"):
        seed("003", "GET /api/plans")


def test_every_operation_is_used_by_a_test() -> None:
    assert [name for name, lacks in seed_table.missing().items() if "used" in lacks] == []
