"""Everything round the exporter, for tests: real Postgres, a Stripe in memory that fails as it is told, a clock that moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import psycopg

from billing_exporter import ledger, planning
from billing_exporter.exporter import RunReport, run
from billing_exporter.gateway import Account
from billing_exporter.planning import Line
from billing_exporter.reconciling import reconcile
from billing_exporter.sending import Sender
from billing_exporter.setup import ensure_meters_and_customers
from billing_exporter.truth import TotalsBelow
from metering.export_states import Positions
from metering.periods import Period
from runtime import postgres
from runtime.settings import Settings
from tests.fakes.stripe_gateway import FakeGateway

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
NOVEMBER = (2026, 11)
TABLES = (
    "export_transitions, export_ledger, export_heads, export_mappings, stripe_accounts, usage_counters, delta_fences, epochs,"
    " tenants, usage_types, meters, plans, features"
)


@dataclass
class World:
    """Everything round the exporter."""

    settings: Settings
    connection: psycopg.Connection[Any]
    now: datetime = NOW
    stripe: FakeGateway = field(init=False)
    truth: dict[tuple[str, str], Decimal] = field(default_factory=dict)
    """What ClickHouse would say of (tenant, usage type), where that is not what the counters say."""
    reached: Callable[[str], None] = lambda _: None

    def __post_init__(self) -> None:
        self.stripe = FakeGateway(now=lambda: self.now)

    def sql(self, text: str, *values: object) -> list[tuple[Any, ...]]:
        found = self.connection.execute(text, values)
        return found.fetchall() if found.description else []

    def count(self, tenant: str, usage_type: str, day: str, quantity: str) -> None:
        """As the aggregator does: counters and fence in one transaction."""
        with self.connection.transaction():
            self.sql(
                "INSERT INTO usage_counters VALUES (%s, %s, %s, %s, 1) ON CONFLICT (tenant_id, usage_type, day)"
                " DO UPDATE SET quantity = usage_counters.quantity + excluded.quantity, events = usage_counters.events + 1",
                tenant,
                usage_type,
                day,
                Decimal(quantity),
            )
            self.sql("UPDATE delta_fences SET next_offset = next_offset + 1, admitted = admitted + 1")

    def totals(self) -> AbstractContextManager[TotalsBelow]:
        """ClickHouse's side: the counters' own figures, but for what `truth` says."""

        def totals_below(positions: Positions, period: Period, tenant_id: str) -> dict[str, Decimal]:
            with postgres.connect(self.settings) as connection:
                rows = connection.execute(
                    "SELECT usage_type, sum(quantity) FROM usage_counters"
                    " WHERE tenant_id = %s AND day >= %s AND day < %s GROUP BY 1",
                    (tenant_id, period.start, period.end),
                ).fetchall()
            counted = {usage_type: Decimal(total) for usage_type, total in rows}
            return counted | {kind: total for (tenant, kind), total in self.truth.items() if tenant == tenant_id}

        return nullcontext(totals_below)

    def sender(self, account: Account) -> Sender:
        return Sender(
            self.settings, self.stripe, account, self.totals, now=lambda: self.now, reached=lambda name: self.reached(name)
        )

    def run(self, month: tuple[int, int] | None = NOVEMBER, *, every: bool = False) -> RunReport:
        return run(self.settings, self.stripe, self.sender, b"key", month=month, every=every, now=lambda: self.now, patience_s=0)

    def reconcile(self) -> list[str]:
        found = reconcile(self.settings, self.stripe, Account("acct_fake", False), now=lambda: self.now)
        return [one.verdict for one in found]

    def plan(self, month: tuple[int, int] = NOVEMBER) -> list[Line]:
        with postgres.connect(self.settings) as connection:
            connection.read_only = True
            account = ledger.known_account(connection, b"key")
            connection.commit()
            lines: list[Line] = []
            for which in planning.rounds(connection, self.now.date(), month, False):
                lines += planning.plan(connection, account, which, self.now, write=False)
            return lines

    def rows(self) -> list[tuple[Any, ...]]:
        return self.sql(
            "SELECT tenant_id, meter, revision, state, value FROM export_ledger ORDER BY tenant_id, meter, period_start, revision"
        )

    def shown(self, tenant: str, meter: str = "units", month: int = 11) -> int | None:
        """What Stripe would bill."""
        meter_id = next(one.id for one in self.stripe.meters() if one.meter == meter)
        start = datetime(2026, month, 1, tzinfo=UTC)
        return self.stripe.summary(meter_id, f"cus_{tenant}", start, datetime(2026, month + 1, 1, tzinfo=UTC))

    def end_leases(self) -> None:
        self.sql("UPDATE export_ledger SET lease_until = clock_timestamp() - interval '1 second' WHERE lease_until IS NOT NULL")


@contextmanager
def open_world(settings: Settings) -> Iterator[World]:
    """Two tenants, one meter for two usage types and another for a third, set up at Stripe."""
    with postgres.connect(settings, autocommit=True) as connection:
        connection.execute(f"TRUNCATE {TABLES} CASCADE")
        connection.execute("INSERT INTO meters VALUES ('units', 1000000, 'floor', 'last'), ('calls', 1, 'floor', 'last')")
        connection.execute(
            "INSERT INTO usage_types (usage_type, meter) VALUES"
            " ('DEEP', 'units'), ('QUICK', 'units'), ('CALL', 'calls'), ('FREE', NULL)"
        )
        connection.execute("INSERT INTO tenants (tenant_id) VALUES ('a'), ('b')")
        connection.execute(
            "INSERT INTO epochs (epoch, topic, cluster_id, topic_id, partitions, starts) VALUES (1, 't', 'c', 'i', 2, '{0,0}')"
        )
        connection.execute(
            "INSERT INTO delta_fences (epoch, partition, next_offset, rules_version) VALUES (1, 0, 0, 1), (1, 1, 0, 1)"
        )
        world = World(settings, connection)
        ensure_meters_and_customers(settings, world.stripe)
        yield world
