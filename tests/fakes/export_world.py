"""Everything round the exporter, for tests: real Postgres, a Stripe in memory that fails as it is told, a clock that moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
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
from billing_exporter.truth import TotalsBelow, Window
from runtime import postgres
from runtime.settings import Settings
from tests.fakes.stripe_gateway import FakeGateway

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
NOVEMBER = (2026, 11)
TABLES = (
    "export_finals, export_invoices_read, export_runs, export_transitions,"
    " export_ledger, export_heads, export_mappings, export_carries, stripe_accounts, period_closes,"
    " usage_counters, usage_totals, freshness_samples, delta_fences, epochs,"
    " tenants, usage_types, meters, plans, features"
)


@dataclass
class World:
    """Everything round the exporter."""

    settings: Settings
    connection: psycopg.Connection[Any]
    now: datetime = NOW
    stripe: FakeGateway = field(init=False)
    log: list[tuple[str, str, date, Decimal, int]] = field(default_factory=list)
    """Tenant, usage type, day, quantity, offset in partition 0: what ClickHouse holds."""
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
            self.sql(
                "INSERT INTO usage_totals VALUES (%s, %s, %s, now()) ON CONFLICT (tenant_id, usage_type)"
                " DO UPDATE SET quantity = usage_totals.quantity + excluded.quantity",
                tenant,
                usage_type,
                Decimal(quantity),
            )
            self.sql("UPDATE delta_fences SET next_offset = next_offset + 1, admitted = admitted + 1")
            ((offset,),) = self.sql("SELECT next_offset - 1 FROM delta_fences WHERE partition = 0")
            self.log.append((tenant, usage_type, date.fromisoformat(day), Decimal(quantity), offset))

    def fresh(self, until: datetime) -> None:
        """The counters hold everything that was logged until then."""
        self.sql("DELETE FROM freshness_samples")
        self.sql(
            "INSERT INTO freshness_samples SELECT 1, %s, %s, array_agg(next_offset ORDER BY partition) FROM delta_fences",
            until,
            until,
        )

    def totals(self) -> AbstractContextManager[TotalsBelow]:
        """ClickHouse's side: the counters' own figures, but for what `truth` says."""

        def totals_below(window: Window, tenants: Sequence[str]) -> dict[tuple[str, str], Decimal]:
            found: dict[tuple[str, str], Decimal] = {}
            for tenant, usage_type, day, quantity, offset in self.log:
                billed = window.after is not None and day < window.after[0] and offset < window.after[1].get("1:0", 0)
                inside = window.start <= day < window.end and offset < window.positions.get("1:0", 0)
                if tenant in tenants and inside and not billed:
                    found[tenant, usage_type] = found.get((tenant, usage_type), Decimal(0)) + quantity
            return found | {key: total for key, total in self.truth.items() if key[0] in tenants}

        return nullcontext(totals_below)

    def sender(self, account: Account) -> Sender:
        return Sender(
            self.settings,
            self.stripe,
            account,
            self.totals,
            now=lambda: self.now,
            reached=lambda name: self.reached(name),
        )

    def run(self, month: tuple[int, int] | None = NOVEMBER, *, every: bool = False) -> RunReport:
        return run(
            self.settings,
            self.stripe,
            self.sender,
            b"key",
            self.totals,
            month=month,
            every=every,
            now=lambda: self.now,
            patience_s=0,
        )

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
        return self.stripe.summary(meter_id, f"cus_{tenant}", start, datetime(2026 + month // 12, month % 12 + 1, 1, tzinfo=UTC))

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
