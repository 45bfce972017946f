"""What a tenant has of its own, grants, subscriptions and credits, as a check over the real socket sees them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

from metering import periods
from meterline_schemas.types import Micros
from runtime.postgres import connect
from runtime.settings import Settings
from store import catalog, credits
from store.catalog_file import parse_catalog
from store.credits import By, Owner
from store.service_secrets import create
from store.steps import run
from tests.integration.serving import Server, execute, serving

CATALOG = """
features: {f: {}}
usage_types:
  U: {feature: f}
  DAILY: {}
  LIFE: {}
  CHAT: {credits: 0.25}
plans:
  p:
    name: P
    features: {f: true}
    limits:
      U: {limit: 10, period: month}
      DAILY: {limit: 10, period: day}
      LIFE: {limit: 10, period: lifetime}
      CHAT: {limit: 100, period: month}
tenants:
"""


@pytest.fixture(scope="module")
def server(migrated: Settings) -> Iterator[Server]:
    with connect(migrated, autocommit=True) as connection:
        secret = create(connection, "photos", ["photos"])
    with serving(migrated, secret=secret) as running:
        yield running


def put(settings: Settings, *tenants: str) -> None:
    """Applies the catalog with these lines of tenants."""
    with connect(settings, autocommit=True) as connection:
        catalog.apply(connection, parse_catalog(CATALOG + "".join(f"  {tenant}\n" for tenant in tenants)), by="tester")


def counted(settings: Settings, tenant: str, usage_type: str, day: date, quantity: str) -> None:
    execute(
        settings,
        [
            ("INSERT INTO usage_counters VALUES (%s, %s, %s, %s, 1)", (tenant, usage_type, day, quantity)),
            (
                "INSERT INTO usage_totals AS t VALUES (%s, %s, %s, now()) ON CONFLICT (tenant_id, usage_type)"
                " DO UPDATE SET quantity = t.quantity + excluded.quantity",
                (tenant, usage_type, quantity),
            ),
        ],
    )


def test_an_own_limit_stands_in_place_of_the_plans_as_a_whole(server: Server, migrated: Settings) -> None:
    put(migrated, "own: {plan: p, limits: {U: {limit: unlimited, period: day}, LIFE: {limit: 3, enforce: soft, period: day}}}")
    free, soft = server.check(tenantId="own", usageType="U"), server.check(tenantId="own", usageType="LIFE", quantity=4)
    assert (free["reason"], free["limit"], free["remaining"]) == ("unlimited", None, None)
    assert (soft["reason"], soft["limit"], soft["hardStop"]) == ("overage", 3, False)
    # The other types stand as in the plan.
    assert server.check(tenantId="own", usageType="DAILY")["limit"] == 10


def test_an_own_feature_switches_what_the_plan_had_switched(server: Server, migrated: Settings) -> None:
    put(migrated, "off: {plan: p, features: {f: false}}")
    assert server.check(tenantId="off", feature="f")["reason"] == "feature_disabled"
    assert server.check(tenantId="off", usageType="U")["reason"] == "feature_disabled"
    put(migrated, "off: {plan: p, features: {}}")
    assert server.check(tenantId="off", feature="f")["allowed"]


def test_a_grant_of_the_catalog_adds_to_the_limit_until_it_is_spent(server: Server, migrated: Settings) -> None:
    month = periods.month(datetime.now(UTC).date())
    before = periods.previous(month, 1)
    live = f"valid_from: {before.start}, expires_on: {month.end}"
    grants = f"g: {{usage_type: U, quantity: 5, {live}}}, h: {{usage_type: LIFE, quantity: 0.000001, {live}}}"
    put(migrated, f"top: {{plan: p, grants: {{{grants}}}}}")
    assert server.check(tenantId="top", usageType="U", quantity=15)["allowed"]
    assert server.check(tenantId="top", usageType="U", quantity="15.000001")["reason"] == "limit_exceeded"
    # Of last month's 12.5, half of the grant was spent.
    counted(migrated, "top", "U", before.start, "12.5")
    said = server.check(tenantId="top", usageType="U", quantity="12.5")
    assert (said["allowed"], said["limit"], said["used"], said["remaining"]) == (True, Decimal("12.5"), 0, Decimal("12.5"))
    assert server.check(tenantId="top", usageType="U", quantity="12.500001")["reason"] == "limit_exceeded"
    assert server.check(tenantId="top", usageType="LIFE", quantity="10.000001")["allowed"]
    assert not server.check(tenantId="top", usageType="LIFE", quantity="10.000002")["allowed"]
    assert server.check(tenantId="top", usageType="DAILY")["limit"] == 10


@pytest.mark.parametrize("since", [1, -10])
def test_a_grant_of_other_days_adds_nothing(server: Server, migrated: Settings, since: int) -> None:
    today = datetime.now(UTC).date()
    begins = today + timedelta(days=since)
    grant = f"{{usage_type: DAILY, quantity: 5, valid_from: {begins}, expires_on: {max(begins, today)}}}"
    put(migrated, f"other{abs(since)}: {{plan: p, grants: {{g: {grant}}}}}")
    assert server.check(tenantId=f"other{abs(since)}", usageType="DAILY")["limit"] == 10


@pytest.mark.parametrize(("state", "reason"), [("past_due", "within_plan"), ("unpaid", "subscription_inactive")])
def test_the_state_of_a_subscription_lets_in_or_not(server: Server, migrated: Settings, state: str, reason: str) -> None:
    put(migrated, "sub: {plan: p}")
    execute(migrated, [("UPDATE tenants SET subscription_status = %s WHERE tenant_id = 'sub'", (state,))])
    assert server.check(tenantId="sub", usageType="U")["reason"] == reason
    # A file that is applied again does not overwrite what the provider said.
    put(migrated, "sub: {plan: p, name: renamed}")
    assert server.check(tenantId="sub", usageType="U")["reason"] == reason


def test_a_type_priced_in_credits_asks_for_the_user_and_for_what_he_has(server: Server, migrated: Settings) -> None:
    put(migrated, "chat: {plan: p}", "stranger: {plan: p}")
    for user, tenant, amount in (("u1", "chat", 2_500_000), ("u2", "stranger", 100_000_000)):
        with connect(migrated) as connection:
            run(connection, credits.grant(Owner(tenant, user), Micros(amount), by=By("tester"), key="first"))
    refused = server.ask("POST", "/v1/billing/entitlements/check", {"tenantId": "chat", "usageType": "CHAT"})
    assert (refused.status, refused.json["code"]) == (400, "user_required")

    def reason(user: str, quantity: str) -> object:
        return server.check(tenantId="chat", usageType="CHAT", userId=user, quantity=quantity)["reason"]

    assert reason("u1", "10") == "within_plan"
    assert reason("u1", "10.000001") == "insufficient_credits"
    assert reason("u1", "101") == "limit_exceeded"
    # Nobody pays with what belongs to another tenant, or to nobody.
    assert reason("u2", "1") == "insufficient_credits"
    assert reason("nobody", "0.000001") == "insufficient_credits"
    wrong = [{"tenantId": "chat", "usageType": "U"}, {"tenantId": "chat", "usageType": "CHAT"}]
    batch = server.ask("POST", "/v1/billing/entitlements/check/batch", wrong)
    assert (batch.status, batch.json["code"]) == (400, "user_required")
    assert batch.json["detail"].startswith("checks[1]: ")


def test_a_new_usage_type_is_one_entry_and_nothing_is_started_anew(server: Server, migrated: Settings) -> None:
    put(migrated, "grown: {plan: p}")
    assert server.check(tenantId="grown", usageType="BRAND_NEW")["reason"] == "not_in_plan"
    text = CATALOG.replace("  LIFE: {}", "  LIFE: {}\n  BRAND_NEW: {}")
    text = text.replace("      U: {", "      BRAND_NEW: {limit: 1, period: day}\n      U: {")
    with connect(migrated, autocommit=True) as connection:
        catalog.apply(connection, parse_catalog(text + "  grown: {plan: p}\n"), by="tester")
    assert server.check(tenantId="grown", usageType="BRAND_NEW")["reason"] == "within_plan"
