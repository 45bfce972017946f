"""Reconciling: what Stripe's own summaries show, against the ledger. A row is confirmed when they are equal.

Rows that were confirmed are read again, for until an invoice is final a summary may still change. Rows whose sending had
no clear end are settled here: the summary shows the event or it does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Literal, cast

from billing_exporter import ledger
from billing_exporter.figures import mappings
from billing_exporter.gateway import Account, Gateway, GatewayAway, GatewayError, GatewayHalted, StripeMeter
from billing_exporter.ledger import Row
from billing_exporter.sending import Clock, utc_now
from metering.export_states import State, after_summary, quantity_of
from runtime import metrics
from runtime.settings import Settings

READ_STATES: tuple[State, ...] = ("accepted", "confirmed", "ambiguous")


@dataclass(frozen=True)
class Compared:
    """A ledger row beside what Stripe shows."""

    row: Row
    scale: int
    found: int | None
    verdict: Literal["equal", "waiting", "drift", "ambiguous", "manual", "resend", "unread"]
    reason: str

    @property
    def expected_quantity(self) -> Decimal | None:
        """What the row's value stands for."""
        return quantity_of(self.row.value, self.scale)

    @property
    def found_quantity(self) -> Decimal | None:
        """What Stripe's total stands for; None where it could not be read."""
        return None if self.verdict == "unread" else quantity_of(self.found or 0, self.scale)


def starts_in(month: tuple[int, int] | None) -> list[date] | None:
    """Every day on which a period of the named month can start."""
    if month is None:
        return None
    first = date(month[0], month[1], 1)
    return [day for offset in range(31) if (day := date.fromordinal(first.toordinal() + offset)).month == first.month]


def reconcile(
    settings: Settings,
    gateway: Gateway,
    account: Account,
    *,
    month: tuple[int, int] | None = None,
    states: Sequence[State] = READ_STATES,
    now: Clock = utc_now,
) -> list[Compared]:
    """Compares every such row and moves it where its summary takes it. Raises GatewayHalted when the key is wrong.

    A row whose summary cannot be read stays as it is, and says so.
    """
    with ledger.connect(settings) as connection:
        rows = _newest(ledger.in_states(connection, account, states, starts_in(month)))
        if not rows:
            return []
        of_starts = mappings(connection, account, sorted({row.period_start for row in rows}))
        connection.commit()
        scales = {(start, mapping.meter): mapping.scale for start, of in of_starts.items() for mapping in of}
        ids = _ids(gateway.meters())
        with ThreadPoolExecutor(settings.stripe_concurrency, thread_name_prefix="reconcile") as pool:
            summaries = list(pool.map(lambda row: _summary(gateway, ids, row), rows))
        without = ledger.shown_without(connection, [row.id for row in rows])
        compared = []
        for row, (found, problem) in zip(rows, summaries, strict=True):
            scale = scales[row.period_start, row.meter]
            if problem is not None:
                compared.append(Compared(row, scale, None, "unread", problem))
                continue
            state = cast(Literal["accepted", "confirmed", "ambiguous"], row.state)
            at = now()
            older = without[row.id]
            expected = older[0] + row.value if row.mode == "sum" else row.value
            step = after_summary(state, expected, older, found, row.changed_at, at, row.mode)
            if step.state != row.state:
                moved = ledger.move_unleased(connection, row, step, at)
                if moved and step.state == "confirmed" and row.mode == "sum":
                    ledger.confirm_older(connection, row, at)
            elif (step.reason or None) != row.reason and step.state != "ambiguous":
                ledger.note(connection, row, step.reason)
            connection.commit()
            compared.append(Compared(row, scale, found, _verdict(row, step.state, step.reason), step.reason))
    for one in compared:
        metrics.EXPORTS_COMPARED.labels(one.verdict).inc()
    return compared


def _newest(rows: Sequence[Row]) -> list[Row]:
    """Of each (tenant, meter, period) the newest revision: the summary is about all of them together."""
    newest = {(row.tenant_id, row.meter, row.period_start): row for row in sorted(rows, key=lambda row: row.revision)}
    return list(newest.values())


def _verdict(
    row: Row, state: State, reason: str
) -> Literal["equal", "waiting", "drift", "ambiguous", "manual", "resend", "unread"]:
    if reason.startswith("drift"):
        return "drift"
    if state in ("superseded", "manual", "ambiguous"):
        return cast(Literal["resend", "manual", "ambiguous"], {"superseded": "resend"}.get(state, state))
    if not reason or row.state == "ambiguous":
        return "equal"
    return "waiting"


def _ids(meters: Iterable[StripeMeter]) -> dict[str, str]:
    """Stripe's id by event name; of two meters with one name the active one."""
    ids: dict[str, str] = {}
    for meter in sorted(meters, key=lambda meter: meter.active):
        ids[meter.meter] = meter.id
    return ids


def _summary(gateway: Gateway, ids: dict[str, str], row: Row) -> tuple[int | None, str | None]:
    """(found, None), or (None, the problem)."""
    if row.meter not in ids:
        return None, f"Stripe has no meter {row.meter}; run `meterline stripe setup`"
    try:
        return gateway.summary(ids[row.meter], row.customer_id, row.period.starts_at, row.period.ends_at), None
    except GatewayHalted:
        raise
    except (GatewayAway, GatewayError) as error:
        return None, str(error)
