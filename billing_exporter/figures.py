"""What planning reads: mappings, counters with their fences and closes, the ledger's newest revisions; and the locks it takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Literal

from psycopg import Connection
from psycopg.rows import class_row

from billing_exporter.gateway import Account
from metering.closing import Totals
from metering.export_states import Latest
from metering.periods import Period
from runtime.locks import AdvisoryLock


@dataclass(frozen=True)
class MeterMapping:
    """Which usage types a meter covers in periods that start on a day, and how their total becomes a value."""

    meter: str
    usage_types: tuple[str, ...]
    scale: int
    rounding: Literal["floor"]
    mode: Literal["last", "sum"]
    frozen: bool

    def __post_init__(self) -> None:
        object.__setattr__(self, "usage_types", tuple(self.usage_types))


@dataclass(frozen=True)
class PeriodClose:
    """What a close says about one period of a tenant, or about the one before it."""

    period: Period
    state: Literal["copied", "closed", "refused"]
    positions: dict[str, int]
    totals: Totals
    reason: str | None
    finalized: dict[str, str]
    """Usage type to the invoice that was final before the close."""


@dataclass(frozen=True)
class Figures:
    """Totals by (tenant, meter) and the positions below which they were counted, of one instant. Pairs without usage are absent.

    `totals` are of the days of the period. Of a tenant whose period before is closed, `cumulative` has everything before the
    period's end by usage type: what is late belongs to this period.
    """

    positions: dict[str, int]
    totals: dict[tuple[str, str], Decimal]
    cumulative: dict[str, dict[str, Decimal]]
    own: dict[str, PeriodClose]
    """Tenant to the close of this very period."""
    before: dict[str, PeriodClose]
    """Tenant to the close of the period before it."""
    passed: set[str]
    """Tenants whose first close is of a later period: what is counted in this one came late, and is billed there."""


@dataclass(frozen=True)
class LedgerView:
    """What the ledger holds of a (tenant, meter) in a period."""

    latest_id: int
    latest: Latest
    newest_event: datetime
    accepted_total: Decimal
    told: int
    """What Stripe shows by the revisions that it took."""


# The frozen mappings of a period, and those that the catalog would give the meters without one. A usage type that is
# frozen into a meter is not mapped a second time, or it would be billed twice.
_MAPPINGS = """
WITH frozen AS (
    SELECT meter, usage_types, scale, rounding, mode FROM export_mappings
    WHERE account = %(account)s AND livemode = %(livemode)s AND period_start = %(start)s
), fresh AS (
    SELECT m.meter, array_agg(u.usage_type ORDER BY u.usage_type) AS usage_types, m.scale, m.rounding, m.mode
    FROM meters m JOIN usage_types u ON u.meter = m.meter
    WHERE NOT EXISTS (SELECT FROM frozen f WHERE f.meter = m.meter OR u.usage_type = ANY(f.usage_types))
    GROUP BY m.meter
)
SELECT meter, usage_types, scale, rounding, mode, TRUE AS frozen FROM frozen
UNION ALL
SELECT meter, usage_types, scale, rounding, mode, FALSE FROM fresh
ORDER BY meter
"""

# OFFSET 0 below keeps each subject an index look-up: on a table that has just grown, statistics would say otherwise.

# One statement, so that one snapshot holds fences, closes and totals: the first row is the fences. A period that is being
# closed is seen as such by whoever reads fences at or past the copied ones, so no revision can overtake its close.
_FIGURES = """
WITH subject AS (
    SELECT s.*, own.close AS own, before.close AS before,
           own.close IS NULL AND EXISTS (SELECT FROM period_closes p WHERE p.tenant_id = s.tenant_id
               AND p.period_start >= s.period_end AND p.state = 'closed') AS passed
    FROM unnest(%(tenants)s::text[], %(starts)s::date[], %(ends)s::date[]) AS s (tenant_id, period_start, period_end)
    LEFT JOIN LATERAL (
        SELECT to_jsonb(p) AS close FROM period_closes p
        WHERE p.tenant_id = s.tenant_id AND p.period_start = s.period_start OFFSET 0
    ) own ON true
    LEFT JOIN LATERAL (
        SELECT to_jsonb(p) AS close FROM period_closes p
        WHERE p.tenant_id = s.tenant_id AND p.period_end = s.period_start AND p.state = 'closed' LIMIT 1
    ) before ON true
), mapping AS (
    SELECT * FROM unnest(%(meters)s::text[], %(meter_starts)s::date[], %(types)s::text[]) AS m (meter, period_start, usage_type)
)
SELECT NULL AS tenant_id, NULL AS meter, NULL AS usage_type, NULL::numeric AS total,
       (SELECT coalesce(jsonb_object_agg(epoch || ':' || partition, next_offset), '{}') FROM delta_fences) AS document
UNION ALL
SELECT s.tenant_id, NULL, NULL, NULL, jsonb_build_object('own', s.own, 'before', s.before, 'passed', s.passed)
FROM subject s WHERE s.own IS NOT NULL OR s.before IS NOT NULL OR s.passed
UNION ALL
SELECT s.tenant_id, m.meter, NULL, sum(c.quantity), NULL
FROM subject s
CROSS JOIN LATERAL (
    SELECT usage_type, quantity FROM usage_counters
    WHERE tenant_id = s.tenant_id AND day >= s.period_start AND day < s.period_end OFFSET 0
) c
JOIN mapping m ON m.usage_type = c.usage_type AND m.period_start = s.period_start
GROUP BY s.tenant_id, m.meter
UNION ALL
SELECT s.tenant_id, NULL, u.usage_type, u.quantity - coalesce(later.quantity, 0), NULL
FROM subject s
CROSS JOIN LATERAL (SELECT usage_type, quantity FROM usage_totals WHERE tenant_id = s.tenant_id OFFSET 0) u
LEFT JOIN LATERAL (
    SELECT sum(c.quantity) AS quantity FROM usage_counters c
    WHERE c.tenant_id = s.tenant_id AND c.usage_type = u.usage_type AND c.day >= s.period_end
) later ON true
WHERE s.before IS NOT NULL AND s.own IS NULL
"""

_VIEW = """
WITH subject AS (
    SELECT * FROM unnest(%(tenants)s::text[], %(starts)s::date[]) AS s (tenant_id, period_start)
)
SELECT l.tenant_id, l.meter,
       (array_agg(l.id ORDER BY l.revision DESC))[1], max(l.revision),
       (array_agg(l.state ORDER BY l.revision DESC))[1], (array_agg(l.customer_id ORDER BY l.revision DESC))[1],
       (array_agg(l.value ORDER BY l.revision DESC))[1], (array_agg(l.positions ORDER BY l.revision DESC))[1],
       (array_agg(l.first_sent_at IS NOT NULL ORDER BY l.revision DESC))[1],
       (array_agg(l.customer_id ORDER BY l.revision DESC)
        FILTER (WHERE l.first_sent_at IS NOT NULL AND l.state <> 'rejected'))[1],
       max(l.event_time),
       (array_agg(l.exact_total ORDER BY l.revision DESC)
        FILTER (WHERE l.state IN ('accepted', 'confirmed', 'closed', 'carry_forward')))[1],
       CASE WHEN (array_agg(l.mode))[1] = 'sum'
            THEN coalesce(sum(l.value) FILTER (WHERE l.state IN ('accepted', 'confirmed', 'closed', 'carry_forward')), 0)
            ELSE coalesce((array_agg(l.value ORDER BY l.revision DESC)
                 FILTER (WHERE l.state IN ('accepted', 'confirmed', 'closed', 'carry_forward')))[1], 0) END::bigint
FROM subject s
CROSS JOIN LATERAL (
    SELECT * FROM export_ledger
    WHERE account = %(account)s AND livemode = %(livemode)s AND tenant_id = s.tenant_id AND period_start = s.period_start OFFSET 0
) l
GROUP BY l.tenant_id, l.meter
"""


def mappings(connection: Connection[Any], account: Account | None, starts: Iterable[date]) -> dict[date, list[MeterMapping]]:
    """The mappings of the periods that start on these days."""
    found: dict[date, list[MeterMapping]] = {}
    with connection.cursor(row_factory=class_row(MeterMapping)) as cursor:
        for start in starts:
            found[start] = cursor.execute(
                _MAPPINGS,
                {"account": account.id if account else "", "livemode": account.livemode if account else False, "start": start},
            ).fetchall()
    return found


def freeze_mappings(connection: Connection[Any], account: Account, starts: Iterable[date]) -> None:
    """Fixes the mappings of these periods for good, as far as they are not. Holds an advisory lock until the commit."""
    connection.execute("SELECT pg_advisory_xact_lock(%s)", (AdvisoryLock.FREEZE_MAPPINGS,))
    for start, of_start in mappings(connection, account, starts).items():
        for mapping in of_start:
            if not mapping.frozen:
                connection.execute(
                    "INSERT INTO export_mappings (account, livemode, meter, period_start, usage_types, scale, rounding, mode)"
                    " VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
                    (
                        account.id,
                        account.livemode,
                        mapping.meter,
                        start,
                        list(mapping.usage_types),
                        mapping.scale,
                        mapping.rounding,
                        mapping.mode,
                    ),
                )


def figures(
    connection: Connection[Any], subjects: Sequence[tuple[str, Period]], by_start: Mapping[date, Sequence[MeterMapping]]
) -> Figures:
    """Fences and totals of these tenants' periods, of one instant."""
    pairs = [
        (mapping.meter, start, usage_type)
        for start, of in by_start.items()
        for mapping in of
        for usage_type in mapping.usage_types
    ]
    rows = connection.execute(
        _FIGURES,
        {
            "tenants": [tenant for tenant, _ in subjects],
            "starts": [period.start for _, period in subjects],
            "ends": [period.end for _, period in subjects],
            "meters": [meter for meter, _, _ in pairs],
            "meter_starts": [start for _, start, _ in pairs],
            "types": [usage_type for _, _, usage_type in pairs],
        },
    ).fetchall()
    found = Figures({}, {}, {}, {}, {}, set())
    for tenant, meter, usage_type, total, document in rows:
        if tenant is None:
            found.positions.update(document)
        elif document is not None:
            for which, closes in (("own", found.own), ("before", found.before)):
                if document[which] is not None:
                    closes[tenant] = _close(document[which])
            if document["passed"]:
                found.passed.add(tenant)
        elif usage_type is not None:
            found.cumulative.setdefault(tenant, {})[usage_type] = total
        else:
            found.totals[tenant, meter] = total
    return found


def _close(document: Mapping[str, Any]) -> PeriodClose:
    return PeriodClose(
        period=Period(date.fromisoformat(document["period_start"]), date.fromisoformat(document["period_end"])),
        state=document["state"],
        positions=document["positions"],
        totals={usage_type: Decimal(text) for usage_type, text in document["totals"].items()},
        reason=document["reason"],
        finalized=document["finalized"],
    )


def carries(
    connection: Connection[Any], account: Account | None, keys: Sequence[tuple[str, date]]
) -> dict[tuple[str, str], tuple[int, Decimal]]:
    """(scale, remainder) that the closed periods of these (tenant, start) leave, by (tenant, meter)."""
    if account is None or not keys:
        return {}
    rows = connection.execute(
        "SELECT tenant_id, meter, scale, remainder FROM export_carries WHERE account = %s AND livemode = %s"
        " AND (tenant_id, period_start) IN (SELECT * FROM unnest(%s::text[], %s::date[]))",
        (account.id, account.livemode, [tenant for tenant, _ in keys], [start for _, start in keys]),
    ).fetchall()
    return {(tenant, meter): (scale, remainder) for tenant, meter, scale, remainder in rows}


Left = tuple[str, str, date, int, Decimal]
"""What a closed period leaves: tenant, meter, the period's start, scale, remainder."""


def keep_carries(connection: Connection[Any], account: Account, left: Iterable[Left]) -> None:
    """Writes down what closed periods leave. What stands there stays."""
    rows = list(left)
    if not rows:
        return
    connection.execute(
        "INSERT INTO export_carries (account, livemode, tenant_id, meter, period_start, scale, remainder)"
        " SELECT %s, %s, n.* FROM unnest(%s::text[], %s::text[], %s::date[], %s::bigint[], %s::numeric[]) AS n"
        " ON CONFLICT DO NOTHING",
        (account.id, account.livemode, *([row[place] for row in rows] for place in range(5))),
    )


def ledger_view(
    connection: Connection[Any], account: Account | None, subjects: Sequence[tuple[str, Period]]
) -> dict[tuple[str, str], LedgerView]:
    """The newest revisions of these tenants' periods, by (tenant, meter)."""
    if account is None:
        return {}
    rows = connection.execute(
        _VIEW,
        {
            "account": account.id,
            "livemode": account.livemode,
            "tenants": [tenant for tenant, _ in subjects],
            "starts": [period.start for _, period in subjects],
        },
    ).fetchall()
    return {
        (tenant, meter): LedgerView(
            latest_id=latest_id,
            latest=Latest(revision, state, customer, value, positions, sent, billed_to, told),
            newest_event=newest_event,
            accepted_total=accepted if accepted is not None else Decimal(0),
            told=told,
        )
        for (
            tenant,
            meter,
            latest_id,
            revision,
            state,
            customer,
            value,
            positions,
            sent,
            billed_to,
            newest_event,
            accepted,
            told,
        ) in rows
    }


def in_flight(
    connection: Connection[Any], account: Account | None, customers: Sequence[str]
) -> dict[tuple[str, str], tuple[date, int]]:
    """(period start, revision) of the row that each (customer, meter) has in flight; there is at most one."""
    if account is None:
        return {}
    rows = connection.execute(
        "SELECT customer_id, meter, period_start, revision FROM export_ledger WHERE account = %s AND livemode = %s"
        " AND customer_id = ANY(%s) AND state IN ('planned', 'sending', 'retry_wait', 'ambiguous')",
        (account.id, account.livemode, list(customers)),
    ).fetchall()
    return {(customer, meter): (start, revision) for customer, meter, start, revision in rows}


def lock_heads(
    connection: Connection[Any], account: Account, heads: Iterable[tuple[str, str, str]]
) -> dict[tuple[str, str], str]:
    """Locks the head rows of (customer, meter, tenant), making those that are missing; returns the tenant that each is
    bound to. In order, so that two planners cannot wait for each other."""
    wanted = sorted(heads)
    columns = ([customer for customer, _, _ in wanted], [meter for _, meter, _ in wanted], [tenant for _, _, tenant in wanted])
    connection.execute(
        "INSERT INTO export_heads (account, livemode, customer_id, meter, tenant_id)"
        " SELECT %s, %s, h.customer_id, h.meter, h.tenant_id FROM unnest(%s::text[], %s::text[], %s::text[])"
        " AS h (customer_id, meter, tenant_id) ORDER BY h.customer_id, h.meter ON CONFLICT DO NOTHING",
        (account.id, account.livemode, *columns),
    )
    rows = connection.execute(
        "SELECT e.customer_id, e.meter, e.tenant_id FROM export_heads e"
        " JOIN unnest(%s::text[], %s::text[]) AS h (customer_id, meter) USING (customer_id, meter)"
        " WHERE e.account = %s AND e.livemode = %s ORDER BY e.customer_id, e.meter FOR UPDATE OF e",
        (columns[0], columns[1], account.id, account.livemode),
    ).fetchall()
    return {(customer, meter): tenant for customer, meter, tenant in rows}
