"""Usage of many tenants, straight into ClickHouse and the counters: what the exporter reads, without the pipeline before it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from random import Random

from clickhouse_connect.driver.client import Client

from runtime import clickhouse, postgres
from runtime.settings import Settings

METERS = (("units", 1_000_000, ("DEEP", "QUICK")), ("calls", 1, ("CALL",)), ("storage", 1_000, ("STORE",)))
"""Meter, scale, usage types."""

_ROWS_A_STATEMENT = 2_000
_ROW_VERSION_OF_EPOCH_1 = (1 << 64) - 1 - (1 << 48)


class Usage:
    """The log has one partition; its next offset is `offset`."""

    def __init__(self, settings: Settings, tenants: int, seed: int) -> None:
        self._settings = settings
        self.tenants = [f"t{number:05}" for number in range(tenants)]
        self._random = Random(seed)
        self.offset = 0

    def prepare(self) -> None:
        """An empty catalog's worth: tenants, meters, usage types, one epoch."""
        with postgres.connect(self._settings) as connection:
            # The topic's own epoch, of which nothing was read yet, gives way to one with a single partition.
            connection.execute("TRUNCATE freshness_samples, delta_fences, epochs CASCADE")
            for meter, scale, types in METERS:
                connection.execute("INSERT INTO meters VALUES (%s, %s, 'floor', 'last')", (meter, scale))
                for usage_type in types:
                    connection.execute("INSERT INTO usage_types (usage_type, meter) VALUES (%s, %s)", (usage_type, meter))
            connection.execute("INSERT INTO tenants (tenant_id) SELECT unnest(%s::text[])", (self.tenants,))
            connection.execute(
                "INSERT INTO epochs (epoch, topic, cluster_id, topic_id, partitions, starts) VALUES (1, 't', 'c', 'i', 1, '{0}')"
            )
            connection.execute("INSERT INTO delta_fences (epoch, partition, next_offset, rules_version) VALUES (1, 0, 0, 1)")

    def add(self, share: float, day: date) -> None:
        """An event of each usage type of so many of the tenants, corrections among them; stored, then counted."""
        some = [tenant for tenant in self.tenants if self._random.random() < share]
        events = [
            (tenant, usage_type, Decimal(self._random.randint(-200_000, 3_000_000)).scaleb(-6))
            for tenant in some
            for _, _, types in METERS
            for usage_type in types
        ]
        with clickhouse.client(self._settings) as client:
            for begin in range(0, len(events), _ROWS_A_STATEMENT):
                self._store(client, events[begin : begin + _ROWS_A_STATEMENT], begin, day)
        self._count(events, day)
        self.offset += len(events)

    def _store(self, client: Client, events: Sequence[tuple[str, str, Decimal]], begin: int, day: date) -> None:
        values = []
        for place, (tenant, usage_type, quantity) in enumerate(events):
            offset = self.offset + begin + place
            kind, corrects = ("correction", f"of e{offset}") if quantity < 0 else ("usage", "")
            values.append(
                f"('{tenant}', '{usage_type}', 's', 'e{offset}', {quantity:f}, '{kind}', '{corrects}', '{day} 00:00:00', 1, 0,"
                f" {offset}, {_ROW_VERSION_OF_EPOCH_1 - offset})"
            )
        client.command(
            "INSERT INTO usage_events (tenant_id, usage_type, source_service, source_entity_id, quantity, kind, corrects,"
            f" occurred_at, log_epoch, kafka_partition, kafka_offset, row_version) VALUES {', '.join(values)}"
        )

    def _count(self, events: Sequence[tuple[str, str, Decimal]], day: date) -> None:
        """As the aggregator does: counters, totals and fence in one transaction."""
        columns = [[event[place] for event in events] for place in range(3)]
        with postgres.connect(self._settings) as connection:
            connection.execute("SELECT FROM delta_fences FOR UPDATE")
            connection.execute(
                "INSERT INTO usage_counters SELECT t, u, %s, q, 1"
                " FROM unnest(%s::text[], %s::text[], %s::numeric[]) AS n (t, u, q)"
                " ON CONFLICT (tenant_id, usage_type, day)"
                " DO UPDATE SET quantity = usage_counters.quantity + excluded.quantity, events = usage_counters.events + 1",
                (day, *columns),
            )
            connection.execute(
                "INSERT INTO usage_totals SELECT t, u, q, now() FROM unnest(%s::text[], %s::text[], %s::numeric[]) AS n (t, u, q)"
                " ON CONFLICT (tenant_id, usage_type) DO UPDATE SET quantity = usage_totals.quantity + excluded.quantity",
                columns,
            )
            connection.execute(
                "UPDATE delta_fences SET next_offset = next_offset + %s, admitted = admitted + %s", (len(events), len(events))
            )

    def fresh(self, until: datetime) -> None:
        """Everything that was logged until then is counted."""
        with postgres.connect(self._settings) as connection:
            connection.execute("DELETE FROM freshness_samples")
            connection.execute(
                "INSERT INTO freshness_samples SELECT 1, %s, %s, array_agg(next_offset ORDER BY partition) FROM delta_fences",
                (until, until),
            )

    def expected(self) -> dict[tuple[str, str], int]:
        """What each (tenant, meter) has to show at Stripe, by ClickHouse alone."""
        with clickhouse.client(self._settings) as client:
            result = client.query("SELECT tenant_id, usage_type, toString(sum(quantity)) FROM usage_events FINAL GROUP BY 1, 2")
        sums = {(tenant, usage_type): Decimal(text) for tenant, usage_type, text in result.result_rows}
        found = {}
        for tenant in self.tenants:
            for meter, scale, types in METERS:
                total = sum((sums.get((tenant, usage_type), Decimal(0)) for usage_type in types), Decimal(0))
                found[tenant, meter] = max(0, int((total * scale).to_integral_value("ROUND_FLOOR")))
        return found
