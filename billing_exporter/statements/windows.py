"""Which rows a period bills, as parts of the tenant's rows: its own, without those that earlier closes billed.

A close bills every row of days before its end, below its positions, that none before it billed. Where an invoice was final
before the close, it cut its usage types off at an older revision: of those the period bills that revision's rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from clickhouse_connect.driver.client import Client
from psycopg import Connection

from billing_exporter.closes import Close
from billing_exporter.truth import places
from metering.periods import FIRST_DAY, Period
from store.billed_lines import BilledLine, Part, billed_lines
from store.event_log import Places

_CUTS = """
SELECT f.period_start, u.usage_type, l.positions, l.follows
  FROM export_finals f
  JOIN export_mappings m USING (account, livemode, meter, period_start)
 CROSS JOIN LATERAL unnest(m.usage_types) AS u (usage_type)
  LEFT JOIN export_ledger l ON l.id = f.ledger_id
 WHERE f.tenant_id = %s
"""


@dataclass(frozen=True)
class Windows:
    """Of one period. `cut` are the usage types that an invoice cut off here or before, each with (own, earlier) parts."""

    tenant_id: str
    period: Period
    own: Part
    earlier: tuple[Part, ...]
    cut: Mapping[str, tuple[Part, tuple[Part, ...]]]

    @classmethod
    def of(
        cls, connection: Connection[Any], tenant_id: str, closes: Mapping[date, Close], period: Period, running: Part
    ) -> Windows:
        """`running` is the part of a period that is not closed."""
        cuts = {
            (start, usage_type): None
            if positions is None
            else Part(start if follows is None else FIRST_DAY, start, places(positions))
            for start, usage_type, positions, follows in connection.execute(_CUTS, (tenant_id,))
        }

        def billed(close: Close, usage_type: str) -> Part:
            if usage_type not in close.finalized:
                return Part(FIRST_DAY, close.period.end, places(close.positions))
            found = cuts.get((close.period.start, usage_type))
            # None: the invoice was final before anything had come of it.
            return Part(FIRST_DAY, close.period.end, {}) if found is None else Part(found.start, close.period.end, found.below)

        done = sorted(
            (close for close in closes.values() if close.state == "closed" and close.period.start <= period.start),
            key=lambda close: close.period.start,
        )
        standing = done.pop() if done and done[-1].period.start == period.start else None

        def parts(usage_type: str) -> tuple[Part, tuple[Part, ...]]:
            earlier = []
            for close in reversed(done):
                earlier.append(billed(close, usage_type))
                if usage_type not in close.finalized:
                    break  # it billed all that lies below it
            return running if standing is None else billed(standing, usage_type), tuple(earlier)

        types = {usage_type for close in (*done, *([standing] if standing else [])) for usage_type in close.finalized}
        return cls(tenant_id, period, *parts(""), {usage_type: parts(usage_type) for usage_type in sorted(types)})

    def lines(self, client: Client) -> list[BilledLine]:
        """What the period bills."""
        found = billed_lines(client, self.tenant_id, self.own, self.earlier, but=self.cut)
        for usage_type, (own, earlier) in self.cut.items():
            found += billed_lines(client, self.tenant_id, own, earlier, only=usage_type)
        return _in_order(found)

    def later(self, client: Client, below: Places) -> list[BilledLine]:
        """What is below these positions, of the period's days or of earlier ones, and neither billed here nor before."""
        rest = Part(FIRST_DAY, self.period.end, below)
        found = billed_lines(client, self.tenant_id, rest, (self.own, *self.earlier), but=self.cut)
        for usage_type, (own, earlier) in self.cut.items():
            found += billed_lines(client, self.tenant_id, rest, (own, *earlier), only=usage_type)
        return _in_order(found)


def _in_order(lines: list[BilledLine]) -> list[BilledLine]:
    return sorted(lines, key=lambda line: (line.usage_type, line.day, line.source_service, line.kind))
