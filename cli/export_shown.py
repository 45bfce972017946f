"""How exports are shown: JSON documents for programs, tables for people."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import datetime
from decimal import Decimal
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from billing_exporter.exporter import RunReport
from billing_exporter.gateway import Account
from billing_exporter.ledger import Row
from billing_exporter.planning import Line, Unmapped
from billing_exporter.reconciling import Compared
from metering.export_states import plain

SHOWN_MAX = 200
"""Rows of a table for people; `--json` has all of them."""

# -- for programs: decimal strings, whole numbers as numbers ------------------------------------------------------


def print_json(document: dict[str, Any]) -> None:
    click.echo(json.dumps(document, ensure_ascii=False))


def account_document(account: Account | None) -> dict[str, Any] | None:
    return None if account is None else {"id": account.id, "livemode": account.livemode}


def counts(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))


def decimal_text(value: Decimal | None) -> str | None:
    return None if value is None else plain(value)


def sum_text(values: Iterable[Decimal | None]) -> str | None:
    """None when one of them is not known or no finite decimal."""
    total = Decimal(0)
    for value in values:
        if value is None:
            return None
        total += value
    return decimal_text(total)


def when(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")


def line_document(line: Line) -> dict[str, Any]:
    return {
        "tenant": line.tenant_id,
        "meter": line.meter,
        "customer": line.customer_id,
        "period_start": line.period.start.isoformat(),
        "period_end": line.period.end.isoformat(),
        "total": decimal_text(line.total),
        "change": decimal_text(line.change),
        "late": decimal_text(line.late),
        "value": line.value,
        "scale": line.scale,
        "state": line.state,
        "action": line.action,
        "reason": line.reason or None,
    }


def loose_document(unmapped: list[Unmapped]) -> list[dict[str, Any]]:
    return [
        {"tenant": one.tenant_id, "usage_type": one.usage_type, "quantity": decimal_text(one.quantity), "reason": one.reason}
        for one in unmapped
    ]


def row_document(row: Row) -> dict[str, Any]:
    return {
        "number": row.id,
        "tenant": row.tenant_id,
        "meter": row.meter,
        "customer": row.customer_id,
        "period_start": row.period_start.isoformat(),
        "period_end": row.period_end.isoformat(),
        "revision": row.revision,
        "state": row.state,
        "reason": row.reason,
        "total": decimal_text(row.exact_total),
        "value": row.value,
        "remainder": decimal_text(row.remainder),
        "identifier": row.identifier,
        "event_time": when(row.event_time),
        "attempts": row.attempts,
        "next_try_at": when(row.next_try_at),
        "positions": dict(row.positions),
    }


def report_document(report: RunReport) -> dict[str, Any]:
    return {
        "ok": report.ok,
        "account": account_document(report.account),
        "closed": report.closed,
        "refused": report.refused,
        "invoices_that_disagree": report.disagree,
        "planned": report.planned,
        "unchanged": report.unchanged,
        "states": dict(sorted(report.states.items())),
        "held": report.held,
        "halted": report.halted,
        "away": report.away,
        "problems": [line_document(line) for line in report.problems],
        "unmapped": loose_document(report.unmapped),
        "open": [row_document(row) for row in report.open_rows],
    }


def compared_document(one: Compared) -> dict[str, Any]:
    return row_document(one.row) | {
        "verdict": one.verdict,
        "reason": one.reason or None,
        "stripe_value": one.found,
        "expected_quantity": decimal_text(one.expected_quantity),
        "stripe_quantity": decimal_text(one.found_quantity),
    }


# -- for people ----------------------------------------------------------------------------------------------------


def console_of() -> Console:
    # A file or a pipe has no width to keep to.
    return Console() if sys.stdout.isatty() else Console(width=160)


def print_table(title: str, headings: tuple[str, ...], rows: list[Any], cells: Callable[[Any], tuple[str, ...]]) -> None:
    if not rows:
        return
    table = Table(title=f"{title} ({len(rows)})", title_justify="left")
    for heading in headings:
        table.add_column(
            heading, overflow="fold", justify="right" if heading in ("total", "change", "value", "Stripe") else "left"
        )
    for row in rows[:SHOWN_MAX]:
        table.add_row(*(escape(text) for text in cells(row)))
    console_of().print(table)
    if len(rows) > SHOWN_MAX:
        console_of().print(f"and {len(rows) - SHOWN_MAX} more; --json has them all")


def plan_table(lines: list[Line], title: str = "plan") -> None:
    if not lines:
        console_of().print("nothing to export: no usage is counted in these periods")
    print_table(
        title,
        ("tenant", "meter", "period", "total", "change", "value", "state", "action", "reason"),
        lines,
        lambda line: (
            line.tenant_id,
            line.meter,
            line.period.start.isoformat(),
            decimal_text(line.total) or "",
            decimal_text(line.change) or "",
            "" if line.value is None else str(line.value),
            line.state,
            line.action,
            line.reason,
        ),
    )


def loose_table(unmapped: list[Unmapped]) -> None:
    print_table(
        "counted, billed to nobody",
        ("tenant", "usage type", "total", "reason"),
        unmapped,
        lambda one: (one.tenant_id, one.usage_type, decimal_text(one.quantity) or "", one.reason),
    )


def rows_table(title: str, rows: list[Row]) -> None:
    print_table(
        title,
        ("number", "tenant", "meter", "period", "revision", "total", "value", "state", "reason"),
        rows,
        lambda row: (
            str(row.id),
            row.tenant_id,
            row.meter,
            row.period_start.isoformat(),
            str(row.revision),
            decimal_text(row.exact_total) or "",
            str(row.value),
            row.state,
            row.reason or "",
        ),
    )


def compared_table(compared: list[Compared]) -> None:
    if not compared:
        console_of().print("nothing to compare: no export was accepted in these periods")
    print_table(
        "ledger and Stripe",
        ("tenant", "meter", "period", "value", "Stripe", "verdict", "reason"),
        sorted(compared, key=lambda one: one.verdict == "equal"),
        lambda one: (
            one.row.tenant_id,
            one.row.meter,
            one.row.period_start.isoformat(),
            str(one.row.value),
            "" if one.found is None else str(one.found),
            one.verdict,
            one.reason,
        ),
    )


def report_tables(report: RunReport) -> None:
    did = ", ".join(f"{count} {state}" for state, count in sorted(report.states.items())) or "nothing was due"
    console_of().print(f"planned {report.planned}, unchanged {report.unchanged}; sent: {did}", highlight=False)
    if report.problems:
        plan_table(report.problems, "not planned")
    for text in (*(f"{tenant}: {why}" for tenant, why in report.refused.items()), *report.disagree):
        console_of().print(text, markup=False, highlight=False, soft_wrap=True)
    rows_table("not at Stripe", report.open_rows)
    loose_table(report.unmapped)
