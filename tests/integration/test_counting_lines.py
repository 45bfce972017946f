"""Lines added to the counters: exact whatever the names and however large the sums, each counter written once a call."""

from __future__ import annotations

from decimal import Decimal

import psycopg
import pytest

from meterline_schemas.delta import DeltaLine
from meterline_schemas.types import Micros, TenantId, UsageType
from runtime import postgres
from runtime.settings import Settings
from store import fences

LARGEST = 999_999_999_999_999_999


def line(tenant: str, usage_type: str, day: str, micros: int, events: int = 1) -> DeltaLine:
    return DeltaLine(TenantId(tenant), UsageType(usage_type), day, Micros(micros), events)


def test_names_of_any_text_and_sums_beyond_64_bits_are_added_exactly(migrated: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["NULL", "null", "back\\slash", "quo'te\"d", "{a,b}", "\u00e9 \U0001f600", "%s", "a\u2028b", " "]
    lines = [line(name, "PHOTO", day, LARGEST) for name in names for day in ("2026-09-01", "2026-09-02")]
    lines += [line("NULL", "PHOTO", "2026-09-01", LARGEST, 2)] * 11 + [line("x", "PHOTO", "2026-09-01", -1)]
    # Statements of two rows: the sums go over many of them.
    monkeypatch.setattr(fences, "ROWS_MAX", 2)
    with postgres.connect(migrated) as connection:
        fences.add_lines(connection, lines)
        fences.add_lines(connection, lines[:1])
        fences.add_lines(connection, [])
        counters = connection.execute("SELECT tenant_id, day::text, quantity, events FROM usage_counters").fetchall()
        totals = dict(connection.execute("SELECT tenant_id, quantity FROM usage_totals").fetchall())
    largest = Decimal("999999999999.999999")
    expected = {(name, day): (largest, 1) for name in names for day in ("2026-09-01", "2026-09-02")}
    expected["NULL", "2026-09-01"] = (largest * 13, 24)
    expected["x", "2026-09-01"] = (Decimal("-0.000001"), 1)
    assert {(row[0], row[1]): (row[2], row[3]) for row in counters} == expected
    assert totals == dict.fromkeys(names, largest * 2) | {"NULL": largest * 14, "x": Decimal("-0.000001")}


def test_a_name_with_the_separator_in_it_is_refused_and_nothing_is_added(migrated: Settings) -> None:
    with postgres.connect(migrated, autocommit=True) as connection:
        for forged in (line("a\x1fb", "PHOTO", "2026-09-01", 1), line("a\x1fb", "PHOTO\x1fPHOTO", "2026-09-01", 1)):
            before = connection.execute("SELECT count(*), sum(quantity) FROM usage_counters").fetchall()
            with pytest.raises(psycopg.errors.NotNullViolation):
                fences.add_lines(connection, [forged])
            assert connection.execute("SELECT count(*), sum(quantity) FROM usage_counters").fetchall() == before
