"""A check over the real socket, on counters that stand in the real Postgres."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

from metering import periods
from runtime.settings import Settings
from tests.integration.entitlement_data import ANCHORED, INACTIVE, PLANLESS, TENANT, put_catalog
from tests.integration.serving import Server, execute, serving


@pytest.fixture(scope="module")
def server(migrated: Settings) -> Iterator[Server]:
    secret, _ = put_catalog(migrated)
    with serving(migrated, secret=secret) as running:
        yield running


@pytest.fixture
def counted(migrated: Settings) -> Iterator[Callable[..., None]]:
    """Puts counters; they are gone after the test."""

    def put(tenant: str, usage_type: str, quantity: str, day: date | None = None) -> None:
        day = day or datetime.now(UTC).date()
        execute(
            migrated,
            [
                ("INSERT INTO usage_counters VALUES (%s, %s, %s, %s, 1)", (tenant, usage_type, day, quantity)),
                (
                    "INSERT INTO usage_totals AS t VALUES (%s, %s, %s, now()) ON CONFLICT (tenant_id, usage_type)"
                    " DO UPDATE SET quantity = t.quantity + excluded.quantity",
                    (tenant, usage_type, quantity),
                ),
            ],
        )

    yield put
    execute(migrated, [("TRUNCATE usage_counters, usage_totals", ())])


def eventually(look: Callable[[], bool], within_s: float = 5.0) -> bool:
    """Looks until it is so; what it waits for happens in another process, which tells nobody."""
    deadline = time.monotonic() + within_s
    while not look():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_a_check_says_all_that_the_contract_names(server: Server, counted: Callable[..., None]) -> None:
    counted(TENANT, "DEEP", "5")
    said = server.check(tenantId=TENANT, usageType="DEEP", quantity=1)
    today = datetime.now(UTC).date()
    assert said["resetsAt"] == f"{periods.month(today).end}T00:00:00Z"
    assert {name: said[name] for name in said if name not in ("resetsAt", "asOf")} == {
        "allowed": True,
        "remaining": 5,
        "reason": "within_plan",
        "used": 5,
        "reserved": 0,
        "limit": 10,
        "hardStop": True,
        "isExceeded": False,
    }


@pytest.mark.parametrize(("quantity", "allowed"), [("0.000001", True), ("0.000002", False)])
def test_the_border_is_exact_to_a_millionth(server: Server, counted: Callable[..., None], quantity: str, allowed: bool) -> None:
    counted(TENANT, "DEEP", "9.999999")
    as_number = server.ask(
        "POST",
        "/v1/billing/entitlements/check",
        b'{"tenantId":"%s","usageType":"DEEP","quantity":%s}' % (TENANT.encode(), quantity.encode()),
    )
    assert as_number.json["allowed"] is allowed
    assert server.check(tenantId=TENANT, usageType="DEEP", quantity=quantity)["allowed"] is allowed
    # The answer's own text is exact, not the nearest double.
    assert b'"remaining":0.000001' in as_number.body
    assert b'"used":9.999999' in as_number.body


def test_sums_wider_than_a_double_are_exact(server: Server, counted: Callable[..., None]) -> None:
    month = periods.month(datetime.now(UTC).date())
    for number in range(3):
        counted(TENANT, "FREE", "999999999999999999999.000001", month.start + timedelta(days=number))
    said = server.check(tenantId=TENANT, usageType="FREE", quantity="1")
    assert str(said["used"]) == "2999999999999999999997.000003"
    assert (said["reason"], said["limit"], said["remaining"]) == ("unlimited", None, None)


def test_a_soft_limit_allows_overage_and_shows_that_it_is_exceeded(server: Server, counted: Callable[..., None]) -> None:
    counted(TENANT, "SOFT", "10.5")
    said = server.check(tenantId=TENANT, usageType="SOFT", quantity=1)
    assert (said["allowed"], said["reason"], said["isExceeded"], said["hardStop"]) == (True, "overage", True, False)
    assert said["remaining"] == 0


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"tenantId": "nobody", "usageType": "DEEP"}, "unknown_tenant"),
        ({"tenantId": PLANLESS, "usageType": "DEEP"}, "no_subscription"),
        ({"tenantId": INACTIVE, "usageType": "DEEP"}, "subscription_inactive"),
        ({"tenantId": TENANT, "usageType": "OFF"}, "feature_disabled"),
        ({"tenantId": TENANT, "usageType": "UNPLANNED"}, "not_in_plan"),
        ({"tenantId": TENANT, "usageType": "no such type"}, "not_in_plan"),
        ({"tenantId": TENANT, "feature": "off"}, "feature_disabled"),
        ({"tenantId": TENANT, "feature": "unplanned"}, "not_in_plan"),
        ({"tenantId": "nobody", "feature": "analysis"}, "unknown_tenant"),
        ({"tenantId": TENANT, "usageType": "DEEP", "quantity": "10.000001"}, "limit_exceeded"),
    ],
)
def test_what_may_not_be_used_is_denied_with_its_reason_and_a_stop(server: Server, body: dict[str, object], reason: str) -> None:
    said = server.check(**body)
    assert (said["allowed"], said["reason"], said["hardStop"]) == (False, reason, True)


def test_a_feature_is_a_switch(server: Server) -> None:
    said = server.check(tenantId=TENANT, feature="analysis")
    assert (said["allowed"], said["reason"], said["limit"], said["resetsAt"]) == (True, "within_plan", None, None)


def test_each_period_counts_its_own_days_and_no_others(server: Server, counted: Callable[..., None]) -> None:
    today = datetime.now(UTC).date()
    windows = {
        "DAILY": periods.day(today),
        "DEEP": periods.month(today),
        "BILLED": periods.billing_period(today, 31),
    }
    one_day = timedelta(days=1)
    for usage_type, period in windows.items():
        counted(ANCHORED, usage_type, "1", period.start)
        counted(ANCHORED, usage_type, "1000", period.start - one_day)
        # An event may be dated ahead: it belongs to the period that it falls in.
        counted(ANCHORED, usage_type, "1000", period.end)
        said = server.check(tenantId=ANCHORED, usageType=usage_type)
        assert said["used"] == 1, usage_type
        assert said["resetsAt"] == f"{period.end}T00:00:00Z"


def test_a_lifetime_limit_reads_the_running_total(server: Server, counted: Callable[..., None]) -> None:
    counted(TENANT, "LIFE", "60", date(2021, 3, 1))
    counted(TENANT, "LIFE", "39.5")
    said = server.check(tenantId=TENANT, usageType="LIFE", quantity="0.5")
    assert (said["allowed"], said["used"], said["remaining"], said["resetsAt"]) == (True, Decimal("99.5"), Decimal("0.5"), None)
    assert server.check(tenantId=TENANT, usageType="LIFE", quantity="0.500001")["reason"] == "limit_exceeded"


def test_a_batch_answers_each_in_its_place(server: Server, counted: Callable[..., None]) -> None:
    counted(TENANT, "DEEP", "10")
    checks = [
        {"tenantId": TENANT, "usageType": "DEEP"},
        {"tenantId": "nobody", "usageType": "DEEP"},
        {"tenantId": TENANT, "usageType": "SOFT", "quantity": 3},
        {"tenantId": TENANT, "feature": "analysis"},
        {"tenantId": TENANT, "usageType": "DEEP", "quantity": 0},
    ]
    for body in ({"checks": checks}, checks):
        answer = server.ask("POST", "/v1/billing/entitlements/check/batch", body)
        assert answer.status == 200, answer.body
        reasons = [result["reason"] for result in answer.json["results"]]
        assert reasons == ["limit_exceeded", "unknown_tenant", "within_plan", "within_plan", "within_plan"]
    one = server.check(tenantId=TENANT, usageType="DEEP")
    assert {**answer.json["results"][0], "asOf": one["asOf"]} == one


def test_a_batch_holds_a_hundred_and_no_more(server: Server) -> None:
    check = {"tenantId": TENANT, "usageType": "DEEP"}
    full = server.ask("POST", "/v1/billing/entitlements/check/batch", {"checks": [check] * 100})
    assert full.status == 200
    assert len(full.json["results"]) == 100
    over = server.ask("POST", "/v1/billing/entitlements/check/batch", {"checks": [check] * 101})
    assert (over.status, over.json["code"]) == (400, "bad_batch")


def test_one_wrong_check_of_a_batch_is_named(server: Server) -> None:
    checks = [{"tenantId": TENANT, "usageType": "DEEP"}, {"tenantId": 7}]
    answer = server.ask("POST", "/v1/billing/entitlements/check/batch", checks)
    assert (answer.status, answer.json["code"]) == (400, "bad_type")
    assert answer.json["detail"].startswith("checks[1]: ")


def test_as_of_is_the_latest_sample_that_every_fence_has_reached(server: Server, migrated: Settings) -> None:
    start = datetime(2026, 11, 1, tzinfo=UTC)
    partitions = migrated.topic_partitions
    samples = [
        (start + timedelta(seconds=n), start + timedelta(seconds=n, milliseconds=900), [n * 10] * partitions) for n in range(1, 4)
    ]
    fences = "UPDATE delta_fences SET next_offset = %(to)s, admitted = %(to)s WHERE partition = %(partition)s"
    try:
        execute(migrated, [("INSERT INTO freshness_samples VALUES (1, %s, %s, %s)", sample) for sample in samples])
        execute(migrated, [(fences, {"to": 20, "partition": partition}) for partition in range(partitions)])
        assert eventually(lambda: server.check(tenantId=TENANT, usageType="DEEP")["asOf"] == "2026-11-01T00:00:02.900Z")
        # One partition is behind by one event: the newest sample is not reached.
        behind = [(fences, {"to": 30 if partition else 29, "partition": partition}) for partition in range(partitions)]
        execute(migrated, behind)
        assert not eventually(lambda: server.check(tenantId=TENANT, usageType="DEEP")["asOf"] != "2026-11-01T00:00:02.900Z", 0.5)
        execute(migrated, [(fences, {"to": 30, "partition": 0})])
        assert eventually(lambda: server.check(tenantId=TENANT, usageType="DEEP")["asOf"] == "2026-11-01T00:00:03.900Z")
    finally:
        execute(migrated, [("DELETE FROM freshness_samples", ())])


def test_a_check_costs_two_index_reads_however_many_tenants_there_are(migrated: Settings, server: Server) -> None:
    """No table that grows is scanned: the plan of the very statement names indexes only."""
    import psycopg

    from entitlements.queries import statement
    from entitlements.standings import Windows

    with psycopg.connect(migrated.postgres_url.get_secret_value()) as connection:
        connection.execute("INSERT INTO tenants (tenant_id, plan_id) SELECT 'many_' || n, 'pro' FROM generate_series(1, 3000) n")
        connection.execute(
            "INSERT INTO usage_counters SELECT 'many_' || n, 'DEEP', date '2026-11-01' + d, 1, 1"
            " FROM generate_series(1, 1000) n, generate_series(0, 20) d"
        )
        connection.execute("ANALYZE tenants, usage_counters")
        parameters = {
            "tenants": ["many_7"] * 64,
            "types": ["DEEP"] * 64,
            "features": [None] * 64,
            "users": [None] * 64,
            **Windows.of(datetime.now(UTC).date()).parameters,
        }
        for custom in ("force_custom_plan", "force_generic_plan"):
            connection.execute(f"SET plan_cache_mode = {custom}".encode())
            lines = [row[0] for row in connection.execute(b"EXPLAIN " + statement("standings"), parameters)]
            growing = (
                *("tenants", "usage_counters", "tenant_limits", "tenant_features", "grants", "holds"),
                *("credit_accounts", "credit_lots"),
            )
            scanned = [line for line in lines if any(f"Seq Scan on {table}" in line for table in growing)]
            assert scanned == [], "\n".join(lines)
        connection.rollback()
