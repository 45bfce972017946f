"""What is held, as the database says it: the view against the pure rule, and the figures of a check and a summary."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import pytest

from metering import holds, periods
from metering.holds import Hold, HoldState, LogPosition, Settlement
from meterline_schemas.types import Micros
from runtime.postgres import connect
from runtime.settings import Settings
from tests.integration.entitlement_data import TENANT, put_catalog
from tests.integration.serving import Server, execute, serving

_INSERT = """
INSERT INTO holds (hold_id, tenant_id, usage_type, source_service, source_entity_id, quantity, reason, state, created_at,
                   expires_at, settled_at, settled_quantity, occurred_at, settled_late, settle_digest,
                   epoch, partition, kafka_offset, done_at)
VALUES (%(id)s, %(tenant)s, %(type)s, 's', 'e', %(quantity)s, 'within_plan', %(state)s, %(created)s, %(expires)s,
        %(settled)s, %(settled_quantity)s, %(occurred)s, %(late)s, %(digest)s, %(epoch)s, %(partition)s, %(offset)s, %(done)s)
"""


def put(settings: Settings, usage_type: str, hold: Hold, tenant: str = TENANT) -> uuid.UUID:
    """A hold, straight into the table."""
    settled, at = hold.settlement, hold.position
    row = {
        "id": uuid.uuid4(),
        "tenant": tenant,
        "type": usage_type,
        "quantity": hold.quantity / 1_000_000,
        "state": hold.state.value,
        "created": hold.expires_at - timedelta(hours=1),
        "expires": hold.expires_at,
        "settled": settled and settled.occurred_at,
        "settled_quantity": settled and settled.quantity / 1_000_000,
        "occurred": settled and settled.occurred_at,
        "late": settled and settled.late,
        "digest": settled and settled.digest,
        "epoch": at and at.epoch,
        "partition": at and at.partition,
        "offset": at and at.offset,
        "done": hold.expires_at if hold.state in (HoldState.RELEASED, HoldState.EXPIRED) else None,
    }
    execute(settings, [(_INSERT, row)])
    assert isinstance(row["id"], uuid.UUID)
    return row["id"]


@pytest.fixture(scope="module")
def server(migrated: Settings) -> Iterator[Server]:
    secret, _ = put_catalog(migrated)
    with serving(migrated, secret=secret) as running:
        yield running


@pytest.fixture(autouse=True)
def _no_holds_after_it(migrated: Settings) -> Iterator[None]:
    yield
    execute(migrated, [("TRUNCATE holds", ()), ("TRUNCATE usage_counters, usage_totals", ())])


def test_the_view_says_what_the_rule_says_for_every_state_time_and_fence(migrated: Settings) -> None:
    now = datetime.now(UTC)
    move = "UPDATE delta_fences SET next_offset = 50, void = 50 WHERE (epoch, partition) = (1, 0)"
    execute(migrated, [(move, ())])
    settled = Settlement(Micros(3_000_000), now, b"d")
    positions = [None, LogPosition(1, 0, 49), LogPosition(1, 0, 50), LogPosition(1, 0, 51), LogPosition(1, 1, 0)]
    fences = {(1, 0): 50, (1, 1): 0}
    cases = [
        Hold(Micros(5_000_000), expires, state, settled if state is HoldState.SETTLED else None, position)
        for state, expires, position in itertools.product(
            HoldState, [now + timedelta(hours=1), now - timedelta(hours=1)], positions
        )
        if position is None or state is HoldState.SETTLED
    ]
    ids = [put(migrated, "DEEP", case) for case in cases]
    with connect(migrated) as connection:
        seen = dict(connection.execute("SELECT hold_id, (quantity * 1000000)::bigint FROM held").fetchall())
    expected = {}
    for hold_id, case in zip(ids, cases, strict=True):
        fence = None if case.position is None else fences[case.position.epoch, case.position.partition]
        if micros := holds.held(case, now, fence):
            expected[hold_id] = micros
    assert seen == expected
    assert len(cases) > len(expected) > 5


def test_a_check_and_a_summary_of_one_moment_show_what_is_held(server: Server, migrated: Settings) -> None:
    now = datetime.now(UTC)
    later = now + timedelta(hours=1)
    put(migrated, "DEEP", Hold(Micros(4_000_000), later))
    put(migrated, "DEEP", Hold(Micros(9_000_000), later, HoldState.SETTLED, Settlement(Micros(1_500_000), now, b"d")))
    before = periods.month(now.date()).start - timedelta(days=1)
    put(
        migrated, "DEEP", Hold(Micros(7), later, HoldState.SETTLED, Settlement(Micros(2_000_000), periods.midnight(before), b"d"))
    )
    said = server.check(tenantId=TENANT, usageType="DEEP", quantity="4.500001")
    assert (str(said["reserved"]), str(said["remaining"]), said["allowed"]) == ("5.5", "4.5", False)
    assert server.check(tenantId=TENANT, usageType="DEEP", quantity="4.5")["allowed"] is True
    (line,) = [line for line in summary(server, now.date()) if line["usageType"] == "DEEP"]
    assert (str(line["reserved"]), str(line["remaining"]), line["used"]) == ("5.5", "4.5", 0)
    # What was settled for last month counts there, and what is open does not.
    (line,) = [line for line in summary(server, before) if line["usageType"] == "DEEP"]
    assert line["reserved"] == 2


def test_a_daily_limit_shows_the_months_holds_and_what_the_newest_day_has_left(server: Server, migrated: Settings) -> None:
    now = datetime.now(UTC)
    put(migrated, "DAILY", Hold(Micros(1_000_000), now + timedelta(hours=1)))
    (line,) = [line for line in summary(server, now.date()) if line["usageType"] == "DAILY"]
    assert (line["reserved"], str(line["remaining"])) == (1, "1.5")


def test_a_lifetime_limit_holds_whatever_the_day(server: Server, migrated: Settings) -> None:
    now = datetime.now(UTC)
    old = Settlement(Micros(40_000_000), now - timedelta(days=300), b"d")
    put(migrated, "LIFE", Hold(Micros(1), now - timedelta(days=299), HoldState.SETTLED, old))
    said = server.check(tenantId=TENANT, usageType="LIFE", quantity=61)
    assert (said["reserved"], said["remaining"], said["allowed"]) == (40, 60, False)


def summary(server: Server, day: date) -> list[dict[str, object]]:
    answer = server.ask("GET", f"/v1/billing/summaries/{TENANT}?period={day:%Y-%m}")
    assert answer.status == 200, answer.body
    lines = answer.json["usage"]
    assert isinstance(lines, list)
    return lines
