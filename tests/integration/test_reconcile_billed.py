"""I9: what Stripe shows is what the ledger says is what ClickHouse holds, or the row says why not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from billing_exporter.gateway import Account
from billing_exporter.proving import check_billed
from runtime.settings import Settings
from store.findings import Check
from tests.fakes.export_world import World, open_world


@pytest.fixture
def world(migrated: Settings) -> Iterator[World]:
    with open_world(migrated) as opened:
        opened.count("a", "DEEP", "2026-11-01", "1.5")
        opened.count("b", "CALL", "2026-11-02", "2.75")
        assert opened.run().ok
        yield opened


def billed(world: World) -> Check:
    return check_billed(world.settings, world.stripe, Account("acct_fake", False), world.totals, lambda: world.now)


def test_totals_that_agree_in_all_three_places_are_in_order(world: World) -> None:
    check = billed(world)
    assert check.ok
    assert check.checked == 2
    assert "2 totals are the same" in check.detail


def test_a_ledger_that_says_more_than_the_rows_is_drift(world: World) -> None:
    world.truth["a", "DEEP"] = Decimal("1.25")
    check = billed(world)
    (finding,) = check.findings
    assert (finding.what, finding.where["tenant_id"]) == ("ledger's total", "a")
    assert (finding.expected, finding.found) == ("1.25 by the rows in ClickHouse", "1.5")


def test_a_stripe_that_shows_another_value_is_drift(world: World) -> None:
    assert billed(world).ok
    world.stripe.stored = [(replace(sent, value=sent.value + 1), at) for sent, at in world.stripe.stored]
    world.now += timedelta(days=2)
    found = billed(world).findings
    assert {finding.what for finding in found} == {"Stripe's total"}
    assert len(found) == 2


def test_a_row_that_is_not_at_stripe_says_why_and_is_no_drift(world: World) -> None:
    world.sql("UPDATE export_ledger SET state = 'manual', reason = 'looked at by hand' WHERE tenant_id = 'a'")
    check = billed(world)
    assert check.ok
    assert "1 are not at Stripe, each with its reason" in check.detail
