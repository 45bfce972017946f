"""What each store itself answers, side by side: the log, ClickHouse, Postgres, Stripe. Never what was intended."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import psycopg
from rich.table import Table

from runtime import clickhouse, kafka, postgres
from runtime.settings import Settings
from store import epochs, fences, topic_state

VERDICTS = ("admitted", "duplicate", "conflict", "invalid")


@dataclass
class Proof:
    """The answers, and in what they differ."""

    sent: int
    """Log end minus log start."""
    by_verdict: dict[str, int]
    """Of the fence rows, cumulative."""
    void: int
    clickhouse_rows: int
    clickhouse_rejects: dict[str, int]
    clickhouse_quantity: Decimal
    postgres_events: int
    postgres_quantity: Decimal
    stripe_quantity: Decimal = Decimal(0)
    differences: list[str] = field(default_factory=list)

    def compare(self) -> None:
        """Fills `differences`."""
        self._same("records in the log", self.sent, "verdicts of the fences", sum(self.by_verdict.values()) + self.void)
        self._same("rows in ClickHouse", self.clickhouse_rows, "admitted by the fences", self.by_verdict["admitted"])
        self._same("events in the counters", self.postgres_events, "admitted by the fences", self.by_verdict["admitted"])
        for verdict in ("conflict", "invalid"):
            self._same(
                f"{verdict} in ClickHouse",
                self.clickhouse_rejects.get(verdict, 0),
                f"{verdict} by the fences",
                self.by_verdict[verdict],
            )
        self._same("ClickHouse's quantity", self.clickhouse_quantity, "Postgres' quantity", self.postgres_quantity)
        self._same("Postgres' quantity", self.postgres_quantity, "Stripe's quantity", self.stripe_quantity)

    def _same(self, one: str, left: Decimal | int, other: str, right: Decimal | int) -> None:
        if left != right:
            self.differences.append(f"{one}: {left}, {other}: {right} (difference {left - right})")

    def table(self) -> Table:
        """For people: a row a verdict, a column a store."""
        table = Table(title="What each store answers", title_justify="left")
        for column in ("", "Kafka log", "Postgres fences", "ClickHouse", "Postgres counters", "Stripe"):
            table.add_column(column, justify="left" if not column else "right")
        table.add_row("records", f"{self.sent:,}", f"{sum(self.by_verdict.values()) + self.void:,}", "", "", "")
        for verdict in VERDICTS:
            stored = {"admitted": self.clickhouse_rows, **self.clickhouse_rejects}.get(verdict, 0)
            note = " (differing)" if verdict == "duplicate" else ""
            table.add_row(
                f"  {verdict}",
                "",
                f"{self.by_verdict[verdict]:,}",
                f"{stored:,}{note}",
                f"{self.postgres_events:,}" if verdict == "admitted" else "",
                "",
            )
        table.add_row(
            "quantity", "", "", _text(self.clickhouse_quantity), _text(self.postgres_quantity), _text(self.stripe_quantity)
        )
        return table


def ask_stores(settings: Settings) -> Proof:
    """Asks the log, the fences, ClickHouse and the counters. Stripe is asked by the exporter's side."""
    with postgres.connect(settings) as connection:
        epoch = epochs.current_epoch(connection)
        assert epoch is not None
        rows = fences.read_fences(connection, epoch.epoch)
        events, quantity = _one(connection, "SELECT coalesce(sum(events), 0), coalesce(sum(quantity), 0) FROM usage_counters")
    admin = kafka.admin(settings)
    starts = topic_state.log_starts(admin, epoch.topic, epoch.partitions)
    ends = topic_state.log_ends(admin, epoch.topic, epoch.partitions)
    client = clickhouse.client(settings)
    try:
        stored = client.query("SELECT count(), toString(sum(toDecimal128(quantity, 6))) FROM usage_events FINAL").result_rows[0]
        rejects = client.query("SELECT verdict, count() FROM usage_rejects FINAL GROUP BY verdict").result_rows
    finally:
        client.close()
    return Proof(
        sent=sum(ends) - sum(starts),
        by_verdict={verdict: sum(getattr(row.figures, verdict) for row in rows) for verdict in VERDICTS},
        void=sum(row.figures.void for row in rows),
        clickhouse_rows=int(stored[0]),
        clickhouse_rejects={str(verdict): int(count) for verdict, count in rejects},
        clickhouse_quantity=Decimal(stored[1]),
        postgres_events=int(events),
        postgres_quantity=Decimal(quantity),
    )


def months_with_events(settings: Settings) -> list[str]:
    """Every calendar month that the counters hold, as YYYY-MM."""
    with postgres.connect(settings) as connection:
        rows = connection.execute("SELECT DISTINCT to_char(day, 'YYYY-MM') FROM usage_counters ORDER BY 1").fetchall()
    return [str(month) for (month,) in rows]


class Progress:
    """How far the counting is; keeps its connections, for it is asked again and again."""

    def __init__(self, settings: Settings) -> None:
        self._connection = postgres.connect(settings, autocommit=True)
        epoch = epochs.current_epoch(self._connection)
        assert epoch is not None
        self._epoch = epoch
        self._admin = kafka.admin(settings)

    def counted(self) -> int:
        """Records that the fences have passed."""
        at = [row.next_offset for row in fences.read_fences(self._connection, self._epoch.epoch)]
        return sum(at) - sum(self._epoch.starts)

    def sent(self) -> int:
        """Records that the log holds."""
        return sum(topic_state.log_ends(self._admin, self._epoch.topic, self._epoch.partitions)) - sum(self._epoch.starts)

    def close(self) -> None:
        self._connection.close()


def _one(connection: psycopg.Connection[Any], statement: str) -> Any:
    return connection.execute(statement).fetchone()


def _text(quantity: Decimal) -> str:
    return f"{quantity:,.6f}"
