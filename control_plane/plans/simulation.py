"""What a catalog would have denied in a month: the month's events, played again as if each had been checked first.

Checks are not logged; events are. So a check is taken to have been made for each usage event of the month, with its quantity
and at its time, in the order of those times. What it finds is what its limit's period and the grants would have held then.
Not known of the past, and so left out or taken as of now: checks that were denied and so left no event, reservations, balances
of credits, other plans and states of a tenant during the month.

Both catalogs are played: the one that stands, and the one that is asked about. Only where the two differ for a tenant and a
usage type is anything read, and of its events no more than one at a time is held.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import groupby
from typing import Any

from clickhouse_connect.driver.client import Client
from psycopg import Connection

from control_plane.plans.terms import limit_of
from metering.grants import Grant, history_from
from metering.limits import Limit, Standing, is_active
from metering.periods import FIRST_DAY, Period
from metering.replaying import Replay, Terms, Used
from meterline_schemas.quantity import MICRO
from meterline_schemas.types import Micros
from store.catalog_model import Catalog, Tenant
from store.catalog_rows import load_catalog

TENANTS_AT_ONCE = 200
REACH_DAYS = 62
"""A period that holds the month's first day begins at most this long before it."""

Pair = tuple[str, str]
"""A tenant and a usage type."""


@dataclass(frozen=True)
class Effect:
    """What the change would have meant for one tenant and usage type."""

    tenant_id: str
    usage_type: str
    checks: int
    denied_now: int
    """By the catalog that stands."""
    denied: int
    """By the one that is asked about."""
    reason: str | None
    """Why it would have denied, the first time."""


@dataclass(frozen=True)
class Simulation:
    """The whole of it."""

    checks: int
    """Of all tenants, those that nothing changes for too."""
    effects: Sequence[Effect]
    """Where the two catalogs answer differently, in order of the tenants' names."""


def simulate(connection: Connection[Any], client: Client, wanted: Catalog, month: Period) -> Simulation:
    """Plays the month under both catalogs. Reads only. Raises psycopg.Error and ClickHouse's errors."""
    standing = load_catalog(connection)
    after = wanted.over(standing)
    # A tenant that the file does not name stays as it is, on what the file makes of its plan.
    after = after.model_copy(update={"tenants": {**standing.tenants, **after.tenants}})
    states: dict[str, str] = dict(
        connection.execute("SELECT tenant_id, subscription_status FROM tenants WHERE subscription_status IS NOT NULL").fetchall()
    )
    checks = 0
    differing: dict[Pair, tuple[Terms, Terms]] = {}
    for pair, count in _pairs(client, month):
        checks += count
        now, then = _terms(standing, states, *pair), _terms(after, states, *pair)
        if now != then:
            differing[pair] = (now, then)
    effects: list[Effect] = []
    tenants = sorted({tenant_id for tenant_id, _ in differing})
    for first in range(0, len(tenants), TENANTS_AT_ONCE):
        effects += _effects(client, month, tenants[first : first + TENANTS_AT_ONCE], differing)
    return Simulation(checks, effects)


def _terms(catalog: Catalog, states: dict[str, str], tenant_id: str, usage_type: str) -> Terms:
    tenant = catalog.tenants.get(tenant_id)
    if tenant is None:
        return Terms(Standing(tenant_known=False), None, 1)
    plan = None if tenant.plan is None else catalog.plans.get(tenant.plan)
    granted = limit_of(catalog, tenant, usage_type)
    limit = (
        None if granted is None else Limit(None if granted.limit is None else Micros(int(granted.limit * MICRO)), granted.hard)
    )
    standing = Standing(
        tenant_known=True,
        has_plan=plan is not None,
        active=is_active(tenant.status, states.get(tenant_id)),
        limit=limit,
        feature_enabled=_feature_enabled(catalog, tenant, usage_type),
    )
    grants = tuple(
        Grant(Micros(int(grant.quantity * MICRO)), grant.valid_from, grant.expires_on)
        for grant in tenant.grants.values()
        if grant.usage_type == usage_type
    )
    return Terms(standing, None if granted is None else granted.period, tenant.anchor_day, grants)


def _feature_enabled(catalog: Catalog, tenant: Tenant, usage_type: str) -> bool | None:
    definition = catalog.usage_types.get(usage_type)
    if definition is None or definition.feature is None:
        return None
    if tenant.features is not None and definition.feature in tenant.features:
        return tenant.features[definition.feature]
    plan = None if tenant.plan is None else catalog.plans.get(tenant.plan)
    return None if plan is None else plan.features.get(definition.feature)


def _effects(
    client: Client, month: Period, tenants: Sequence[str], differing: Mapping[Pair, tuple[Terms, Terms]]
) -> Iterator[Effect]:
    chosen = [terms for pair, both in differing.items() if pair[0] in set(tenants) for terms in both]
    grants = [grant for terms in chosen for grant in terms.grants]
    since = min(month.start - timedelta(days=REACH_DAYS), history_from(grants) if grants else month.start)
    days = _sums(client, tenants, since, month.start, by_day=True)
    totals = _sums(client, tenants, None, month.start, by_day=False) if any(t.kind == "lifetime" for t in chosen) else {}
    for pair, events in _events(client, month, tenants):
        if pair not in differing:
            continue
        now, then = (
            Replay(terms, month.start, (totals if terms.kind == "lifetime" else days).get(pair, {})) for terms in differing[pair]
        )
        for event in events:
            now.play(event)
            then.play(event)
        if now.tally.denied != then.tally.denied:
            reason = None if then.tally.reason is None else then.tally.reason.value
            yield Effect(*pair, then.tally.checks, now.tally.denied, then.tally.denied, reason)


_MICROS = "toInt128(reinterpretAsInt64(quantity))"


def _pairs(client: Client, month: Period) -> Iterator[tuple[Pair, int]]:
    """Who used what in the month, and by how many events that would have been asked for."""
    stream = client.query_rows_stream(
        "SELECT tenant_id, usage_type, countIf(kind = 'usage') FROM usage_events FINAL"
        " WHERE occurred_at >= toDateTime64({start:Date}, 3, 'UTC') AND occurred_at < toDateTime64({end:Date}, 3, 'UTC')"
        " GROUP BY tenant_id, usage_type",
        parameters={"start": month.start, "end": month.end},
    )
    with stream as rows:
        for tenant_id, usage_type, count in rows:
            yield (tenant_id, usage_type), int(count)


def _sums(
    client: Client, tenants: Sequence[str], since: date | None, end: date, *, by_day: bool
) -> dict[Pair, dict[date, Micros]]:
    """What the tenants used before a day: on each day, or all of it as if on the day before."""
    day = "toString(toDate(occurred_at, 'UTC'))" if by_day else "toString({end:Date} - 1)"
    result = client.query(
        f"SELECT tenant_id, usage_type, {day} AS day, toString(sum({_MICROS})) FROM usage_events FINAL"
        " WHERE tenant_id IN {tenants:Array(String)} AND occurred_at >= toDateTime64({since:Date}, 3, 'UTC')"
        " AND occurred_at < toDateTime64({end:Date}, 3, 'UTC') GROUP BY tenant_id, usage_type, day",
        parameters={"tenants": list(tenants), "since": since or FIRST_DAY, "end": end},
    )
    sums: dict[Pair, dict[date, Micros]] = {}
    for tenant_id, usage_type, on, micros in result.result_rows:
        sums.setdefault((tenant_id, usage_type), {})[date.fromisoformat(on)] = Micros(int(micros))
    return sums


def _events(client: Client, month: Period, tenants: Sequence[str]) -> Iterator[tuple[Pair, Iterator[Used]]]:
    """The tenants' events of the month, in order of their times; those of one instant in order of the log."""
    stream = client.query_rows_stream(
        "SELECT tenant_id, usage_type, toString(toDate(occurred_at, 'UTC')), reinterpretAsInt64(quantity), kind = 'usage'"
        " FROM usage_events FINAL WHERE tenant_id IN {tenants:Array(String)}"
        " AND occurred_at >= toDateTime64({start:Date}, 3, 'UTC') AND occurred_at < toDateTime64({end:Date}, 3, 'UTC')"
        " ORDER BY tenant_id, usage_type, occurred_at, log_epoch, kafka_partition, kafka_offset",
        parameters={"tenants": list(tenants), "start": month.start, "end": month.end},
    )
    with stream as rows:
        for pair, group in groupby(rows, key=lambda row: (row[0], row[1])):
            yield pair, (Used(date.fromisoformat(day), Micros(micros), bool(asked)) for _, _, day, micros, asked in group)
