"""A tenant's summary, and what /docs says of every answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import jsonschema
import pytest

from metering import periods
from runtime.settings import Settings
from tests.integration.entitlement_data import ANCHORED, SERVICE, TENANT, put_catalog
from tests.integration.serving import Answer, Server, execute, serving

COUNTED = [
    (TENANT, "DEEP", date(2026, 9, 30), "1000"),
    (TENANT, "DEEP", date(2026, 10, 1), "1"),
    (TENANT, "DEEP", date(2026, 10, 31), "0.000001"),
    (TENANT, "SOFT", date(2026, 10, 5), "12.5"),
    (TENANT, "DAILY", date(2026, 10, 6), "3"),
    (TENANT, "DAILY", date(2026, 10, 7), "1"),
    (TENANT, "DAILY", date(2026, 10, 8), "2.6"),
    (TENANT, "LIFE", date(2025, 1, 1), "70"),
    (TENANT, "UNPLANNED", date(2026, 10, 9), "4"),
    (ANCHORED, "BILLED", date(2026, 10, 30), "1000"),
    (ANCHORED, "BILLED", date(2026, 10, 31), "20"),
    (ANCHORED, "BILLED", date(2026, 11, 29), "31"),
    (ANCHORED, "BILLED", date(2026, 11, 30), "1000"),
]


@pytest.fixture(scope="module")
def server(migrated: Settings) -> Iterator[Server]:
    secret, _ = put_catalog(migrated)
    execute(migrated, [("INSERT INTO usage_counters VALUES (%s, %s, %s, %s, 1)", row) for row in COUNTED])
    execute(
        migrated,
        [("INSERT INTO usage_totals SELECT tenant_id, usage_type, sum(quantity), now() FROM usage_counters GROUP BY 1, 2", ())],
    )
    with serving(migrated, secret=secret) as running:
        yield running


def summary(server: Server, tenant: str, query: str = "?period=2026-10") -> dict[str, Any]:
    answer = server.ask("GET", f"/v1/billing/summaries/{tenant}{query}")
    assert answer.status == 200, answer.body
    said: dict[str, Any] = answer.json
    return said


def line(said: dict[str, Any], usage_type: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = [entry for entry in said["usage"] if entry["usageType"] == usage_type]
    assert len(found) == 1
    return found[0]


def test_a_month_adds_up_its_own_days(server: Server) -> None:
    said = summary(server, TENANT)
    assert (said["tenantId"], said["period"], said["nextCursor"]) == (TENANT, "2026-10", None)
    assert line(said, "DEEP") == {
        "usageType": "DEEP",
        "used": Decimal("1.000001"),
        "reserved": 0,
        "limit": 10,
        "granted": 0,
        "remaining": Decimal("8.999999"),
        "overage": 0,
        "isExceeded": False,
        "usedPercent": 10,
        "thresholds": [80, 100, 120],
        "thresholdReached": None,
        "projection": None,
        "hardStop": True,
        "inPlan": True,
        "limitPeriod": "month",
        "period": {"start": "2026-10-01", "end": "2026-11-01"},
    }


def test_overage_of_a_soft_limit_is_shown_as_exceeded(server: Server) -> None:
    soft = line(summary(server, TENANT), "SOFT")
    assert (soft["overage"], soft["isExceeded"], soft["remaining"], soft["hardStop"]) == (Decimal("2.5"), True, 0, False)
    assert (soft["usedPercent"], soft["thresholdReached"]) == (125, 120)


def test_a_daily_limit_is_held_against_each_day(server: Server) -> None:
    daily = line(summary(server, TENANT), "DAILY")
    assert (daily["used"], daily["overage"], daily["isExceeded"]) == (Decimal("6.6"), Decimal("0.6"), True)
    # The newest day of that month had no usage.
    assert daily["remaining"] == Decimal("2.5")


def test_a_lifetime_has_no_period_and_no_limit_no_remaining(server: Server) -> None:
    said = summary(server, TENANT)
    life, free = line(said, "LIFE"), line(said, "FREE")
    assert (life["used"], life["remaining"], life["period"]) == (70, 30, {"start": None, "end": None})
    assert (free["limit"], free["remaining"], free["used"]) == (None, None, 0)


def test_a_billing_period_is_shown_in_the_month_it_starts_in(server: Server) -> None:
    billed = line(summary(server, ANCHORED), "BILLED")
    assert billed["period"] == {"start": "2026-10-31", "end": "2026-11-30"}
    assert (billed["used"], billed["overage"]) == (51, 1)


def test_what_the_plan_does_not_name_is_shown_all_the_same(server: Server) -> None:
    unplanned = line(summary(server, TENANT), "UNPLANNED")
    assert (unplanned["used"], unplanned["limit"], unplanned["overage"], unplanned["inPlan"]) == (4, 0, 4, False)


def test_pages_hold_every_type_once_in_order(server: Server) -> None:
    whole = [entry["usageType"] for entry in summary(server, TENANT)["usage"]]
    assert whole == sorted(whole)
    paged: list[str] = []
    cursor = ""
    for _ in range(len(whole)):
        said = summary(server, TENANT, f"?period=2026-10&limit=3{cursor}")
        paged += [entry["usageType"] for entry in said["usage"]]
        if said["nextCursor"] is None:
            break
        cursor = f"&cursor={said['nextCursor']}"
    assert paged == whole


def test_the_running_month_is_the_default(server: Server) -> None:
    assert summary(server, TENANT, "")["period"] == datetime.now(UTC).strftime("%Y-%m")


def test_what_runs_now_is_shown_as_a_check_sees_it_with_where_it_leads(server: Server, migrated: Settings) -> None:
    today = datetime.now(UTC).date()
    rows = [("tnt_now", usage_type, today, "2") for usage_type in ("DEEP", "DAILY", "BILLED")]
    yesterday = today - timedelta(days=1)
    execute(
        migrated,
        [
            ("INSERT INTO tenants (tenant_id, plan_id, anchor_day) VALUES ('tnt_now', 'pro', 31)", ()),
            *(("INSERT INTO usage_counters VALUES (%s, %s, %s, %s, 1)", row) for row in rows),
            ("INSERT INTO usage_counters VALUES ('tnt_now', 'DAILY', %s, 3, 1)", (yesterday,)),
            ("INSERT INTO tenant_limits VALUES ('tnt_now', 'DEEP', 4, true, NULL, 'month')", ()),
            ("INSERT INTO grants VALUES ('tnt_now', 'g', 'DEEP', 1, %s, %s)", (today, today + timedelta(days=1))),
        ],
    )
    said = summary(server, "tnt_now", "")
    kinds = {"DEEP": periods.month(today), "DAILY": periods.day(today), "BILLED": periods.billing_period(today, 31)}
    for usage_type, period in kinds.items():
        shown = line(said, usage_type)
        check = server.check(tenantId="tnt_now", usageType=usage_type)
        assert shown["period"] == {"start": str(period.start), "end": str(period.end)}
        same = ("used", "reserved", "limit", "remaining", "isExceeded")
        assert {name: shown[name] for name in same} == {name: check[name] for name in same}
        assert shown["projection"]["method"] == "linear"
        assert shown["projection"]["used"] >= shown["used"]
    deep = line(said, "DEEP")
    assert (deep["limit"], deep["granted"], deep["usedPercent"], deep["thresholdReached"]) == (5, 1, 40, None)
    assert line(said, "FREE")["projection"]["percent"] is None
    assert line(said, "LIFE")["projection"] is None
    before = line(summary(server, "tnt_now", "?period=previous"), "DAILY")
    assert (before["period"]["end"], before["used"], before["overage"], before["projection"]) == (
        str(today),
        3,
        Decimal("0.5"),
        None,
    )


def test_a_daily_limits_overage_is_what_no_grant_of_its_day_paid_for(server: Server, migrated: Settings) -> None:
    rows = [("tnt_daily", "DAILY", date(2026, 10, day), quantity) for day, quantity in ((6, "3"), (7, "4"), (8, "4"))]
    execute(
        migrated,
        [
            ("INSERT INTO tenants (tenant_id, plan_id) VALUES ('tnt_daily', 'pro')", ()),
            *(("INSERT INTO usage_counters VALUES (%s, %s, %s, %s, 1)", row) for row in rows),
            ("INSERT INTO grants VALUES ('tnt_daily', 'g', 'DAILY', 1, '2026-10-07', '2026-11-01')", ()),
        ],
    )
    daily = line(summary(server, "tnt_daily"), "DAILY")
    # 0.5 before the grant, 1.5 of which it paid 1, and 1.5 when it was spent.
    assert (daily["used"], daily["overage"], daily["granted"]) == (11, Decimal("2.5"), 0)


def test_every_answer_is_what_the_document_says(server: Server) -> None:
    """Each route is asked, rightly and wrongly; status, media type and body must be documented exactly so."""
    document = server.ask("GET", "/openapi.json", secret=None).json
    check = {"tenantId": TENANT, "usageType": "DEEP"}
    event = {**check, "quantity": 1, "sourceService": SERVICE, "sourceEntityId": "d1"}
    asked: list[tuple[str, str, Answer]] = []
    ids: list[str] = ["none"]

    def ask(method: str, path: str, *more: object, **how: Any) -> None:
        asked_path = path.replace("{tenantId}", TENANT).replace("{reservationId}", ids[-1])
        asked.append((method.lower(), path.split("?")[0], server.ask(method, asked_path, *more, **how)))

    checks: list[dict[str, str]] = [check, {"tenantId": "nobody", "feature": "x"}, {}]
    for wrong_or_right in checks:
        ask("POST", "/v1/billing/entitlements/check", wrong_or_right)
    ask("POST", "/v1/billing/entitlements/check/batch", {"checks": [check, {**check, "usageType": "FREE"}]})
    ask("POST", "/v1/billing/entitlements/check/batch", [])
    for body in (event, {**event, "usageType": "nothing"}, {**event, "sourceService": "other"}):
        ask("POST", "/v1/billing/usage", body)
    ask("POST", "/v1/billing/usage?wait=counted&timeout=10ms", event)
    ask("POST", "/v1/billing/usage", event, secret=None)
    ask("POST", "/v1/billing/usage/batch", {"events": [event]})
    ask("POST", "/v1/billing/usage/batch", [event, {}])
    ask("GET", "/v1/billing/summaries/{tenantId}?period=2026-10")
    ask("GET", "/v1/billing/summaries/{tenantId}?period=x")
    for view in ("series", "events", "rows"):
        ask("GET", f"/v1/billing/usage/{{tenantId}}?view={view}")
    ask("GET", f"/v1/billing/explain?sourceService={SERVICE}&sourceEntityId=d1&usageType=DEEP")
    ask("GET", "/v1/billing/explain")
    ask("POST", "/v1/billing/reservations", {**event, "quantity": 1000})
    for order in (["settle", "settle", "release"], ["release", "release", "settle"], []):
        ask("POST", "/v1/billing/reservations", {**event, "usageType": "FREE"})
        ids.append(asked[-1][2].json["reservationId"] if order else "none")
        for what in [*order, "settle", "release"]:
            ask("POST", "/v1/billing/reservations/{reservationId}/" + what)
        ask("GET", "/v1/billing/reservations/{reservationId}")
    for path in ("/health", "/ready", "/metrics"):
        ask("GET", path, secret=None)
    assert {(method, path) for method, path, _ in asked} == {
        (method, path) for path, methods in document["paths"].items() for method in methods
    }
    for method, path, answer in asked:
        said = document["paths"][path][method]["responses"][str(answer.status)]
        ((media_type, content),) = said["content"].items()
        assert answer.headers["content-type"].split(";")[0] == media_type
        if media_type != "text/plain":
            schema = {**content["schema"], "components": document["components"]}
            jsonschema.Draft202012Validator(schema).validate(json.loads(answer.body))
    for name, schema in document["components"]["schemas"].items():
        jsonschema.Draft202012Validator.check_schema(schema), name


def test_the_documents_examples_are_taken(server: Server) -> None:
    document = server.ask("GET", "/openapi.json", secret=None).json
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if "requestBody" not in operation:
                continue
            content = operation["requestBody"]["content"]["application/json"]
            schema = {**content["schema"], "components": document["components"]}
            jsonschema.Draft202012Validator(schema).validate(content["example"])
            # What the examples name is not in this catalog, and no reservation has this id.
            assert server.ask(method.upper(), path, content["example"]).status in (200, 202, 207, 404, 409, 422), path
