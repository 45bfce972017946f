"""kill -9 between any two steps of a subscription's making: afterwards there is one customer, one subscription, and no orphan."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from control_plane.subscriptions import recovering
from runtime.settings import Settings
from tests.integration.selling import Shop, shop
from tests.integration.serving import ROOT, environment

KILLED = -9


@pytest.fixture(scope="module")
def sold(migrated: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with shop(migrated, tmp_path_factory.mktemp("stripe")) as running:
        yield running


def killed_at(sold: Shop, point: str, tenant_id: str, cycle: str) -> int:
    variables = {"PATH": os.environ["PATH"], **environment(sold.settings), "METERLINE_CRASH_AT": point}
    command = [sys.executable, "-m", "tests.fakes.subscribing", tenant_id, cycle]
    return subprocess.run(command, cwd=ROOT, env=variables, timeout=60, check=False).returncode


@pytest.mark.parametrize(
    ("point", "cycle", "made"),
    [
        ("subscriptions.intended:1", "monthly", 0),
        ("accounts.customer_made:1", "monthly", 0),
        ("subscriptions.answered:1", "monthly", 1),
        ("subscriptions.recorded:1", "monthly", 1),
        ("subscriptions.recorded:1", "yearly", 1),
        ("subscriptions.answered:2", "yearly", 2),
    ],
)
def test_whoever_is_killed_between_two_steps_leaves_one_subscription_and_no_orphan(
    sold: Shop, point: str, cycle: str, made: int
) -> None:
    tenant_id = sold.tenant()
    assert killed_at(sold, point, tenant_id, cycle) == KILLED
    assert len(sold.at_stripe(tenant_id)) == made
    # As long as its lease runs, it is taken to be at work still.
    assert recovering.recover(sold.units, sold.provider) == 0
    sold.execute("UPDATE subscription_operations SET lease_until = now() - interval '1 s' WHERE state = 'open'")
    assert recovering.recover(sold.units, sold.provider) == 1
    there = sold.at_stripe(tenant_id)
    assert sorted(one["items"].data[0].price.recurring.interval for one in there) == (
        ["month"] if cycle == "monthly" else ["month", "year"]
    )
    here = sold.rows(
        "SELECT p.provider_subscription_id, s.status, p.status"
        "  FROM subscriptions s JOIN subscription_parts p USING (subscription_id) WHERE tenant_id = %s",
        tenant_id,
    )
    assert sorted(here) == sorted((one.id, "active", "active") for one in there)
    assert sold.row("SELECT plan_id, subscription_status FROM tenants WHERE tenant_id = %s", tenant_id) == ("studio", "active")
    named = [one for one in sold.stripe.client().v1.customers.list({"limit": 100}).data if one.name == f"Name of {tenant_id}"]
    assert len(named) == 1
    assert sold.rows("SELECT 1 FROM subscription_operations WHERE state IN ('open', 'undoing')") == []
