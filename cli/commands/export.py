"""`meterline export plan|run|status|reconcile`."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from billing_exporter import ledger, planning
from billing_exporter.exporter import OPEN_STATES, PATIENCE_S, RunReport, account_of, run
from billing_exporter.gateway import Account, GatewayError, GatewayHalted
from billing_exporter.ledger import Row
from billing_exporter.planning import Line, Unmapped
from billing_exporter.reconciling import Compared, reconcile, starts_in
from billing_exporter.sending import Sender, utc_now
from billing_exporter.stripe_gateway import key_digest, open_gateway
from billing_exporter.truth import TruthAway, clickhouse_totals
from cli.stage import stage
from metering.export_states import MOVES, State, plain
from metering.periods import parse_month
from runtime.exits import Exit, MeterlineExit
from runtime.settings import Settings
from store.remedies import clickhouse_away, postgres_answers

SHOWN_MAX = 200
"""Rows of a table for people; `--json` has all of them."""

_period = click.option(
    "--period",
    "month",
    metavar="YYYY-MM",
    callback=lambda _context, _option, text: _month(text),
    help="The billing period that starts in this month, for each tenant; with anchor day 1 the month itself.",
)
_every = click.option("--all-periods", "every", is_flag=True, help="Every period from the first counted day on.")
_json = click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")


def _month(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    try:
        return parse_month(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.group(help="Push monthly totals to Stripe meters.")
def command() -> None:
    """Plan, run, look, compare."""


@command.command(help="Show what a run would do. Calls nobody and writes nothing.")
@_period
@_every
@_json
def plan(month: tuple[int, int] | None, every: bool, as_json: bool) -> None:
    _one_choice(month, every)
    with stage("export", os.environ) as (settings, _), postgres_answers(settings):
        digest, now = key_digest(settings), utc_now()
        with ledger.connect(settings) as connection:
            connection.read_only = True
            account = ledger.known_account(connection, digest)
            connection.commit()
            lines: list[Line] = []
            loose: list[Unmapped] = []
            for which in planning.rounds(connection, now.date(), month, every):
                lines += planning.plan(connection, account, which, now, write=False)
                loose += planning.unmapped(connection, which)
    if as_json:
        _print_json({"account": _account(account), "lines": [_line(line) for line in lines], "unmapped": _loose(loose)})
        return
    _plan_table(lines)
    _loose_table(loose)


@command.command("run", help="Bring Stripe's meters to the totals of the running period and the one before, or of those named.")
@_period
@_every
@click.option(
    "--wait",
    "patience_s",
    type=click.FloatRange(0, 3600),
    default=PATIENCE_S,
    show_default=True,
    help="Seconds to wait for repeats.",
)
@_json
def run_command(month: tuple[int, int] | None, every: bool, patience_s: float, as_json: bool) -> int:
    _one_choice(month, every)
    with stage("export", os.environ) as (settings, stop), _answers(settings):
        gateway = open_gateway(settings)
        sender_of = partial(_sender, settings, gateway, stop)
        report = run(
            settings,
            gateway,
            sender_of,
            key_digest(settings),
            clickhouse_totals(settings),
            month=month,
            every=every,
            patience_s=patience_s,
        )
    if as_json:
        _print_json(_report(report))
    else:
        _report_tables(report)
    if report.halted is not None:
        raise MeterlineExit(
            Exit.SETTINGS,
            f"Stripe refuses the key ({report.halted}); set METERLINE_STRIPE_SECRET_KEY right and run again: every row is kept",
        )
    return Exit.OK if report.ok else Exit.FAILED


@command.command(help="Show the ledger: what Stripe was told, and what is open.")
@_period
@_json
def status(month: tuple[int, int] | None, as_json: bool) -> None:
    with stage("export", os.environ) as (settings, _), postgres_answers(settings), ledger.connect(settings) as connection:
        account = ledger.known_account(connection, key_digest(settings))
        rows = [] if account is None else ledger.in_states(connection, account, _shown_states(), starts_in(month))
    if as_json:
        _print_json(
            {"account": _account(account), "by_state": _counts(row.state for row in rows), "rows": [_row(row) for row in rows]}
        )
        return
    console = _console()
    console.print(
        " ".join(f"{state} {count}" for state, count in _counts(row.state for row in rows).items()) or "nothing was exported yet"
    )
    _rows_table("open", [row for row in rows if row.state in OPEN_STATES])
    _rows_table("at Stripe", [row for row in rows if row.state not in OPEN_STATES])


@command.command("reconcile", help="Compare the ledger with Stripe's own summaries, and confirm what is equal.")
@_period
@_json
def reconcile_command(month: tuple[int, int] | None, as_json: bool) -> int:
    with stage("export", os.environ) as (settings, _), _answers(settings):
        gateway = open_gateway(settings)
        account = account_of(settings, gateway, key_digest(settings))
        try:
            compared = reconcile(settings, gateway, account, month=month)
        except GatewayHalted as error:
            raise MeterlineExit(
                Exit.SETTINGS, f"Stripe refuses the key ({error}); set METERLINE_STRIPE_SECRET_KEY right"
            ) from error
        except GatewayError as error:
            raise MeterlineExit(Exit.UNREACHABLE, f"Stripe cannot be read ({error}); run again when it answers") from error
    if as_json:
        _print_json(
            {
                "account": _account(account),
                "by_verdict": _counts(one.verdict for one in compared),
                "expected_quantity": _sum(one.expected_quantity for one in compared),
                "stripe_quantity": _sum(one.found_quantity for one in compared),
                "rows": [_compared(one) for one in compared],
            }
        )
    else:
        _compared_table(compared)
    return Exit.OK if all(one.verdict in ("equal", "waiting") for one in compared) else Exit.FAILED


def _sender(settings: Settings, gateway: Any, stop: Any, account: Account) -> Sender:
    return Sender(settings, gateway, account, clickhouse_totals(settings), stop=stop)


@contextmanager
def _answers(settings: Settings) -> Iterator[None]:
    try:
        with postgres_answers(settings):
            yield
    except TruthAway as error:
        raise clickhouse_away(settings, error) from error


def _one_choice(month: tuple[int, int] | None, every: bool) -> None:
    if month is not None and every:
        raise click.UsageError("--period and --all-periods cannot both be given")


def _shown_states() -> list[State]:
    return [state for state in MOVES if state != "superseded"]


# -- for programs: decimal strings, whole numbers as numbers ------------------------------------------------------


def _print_json(document: dict[str, Any]) -> None:
    click.echo(json.dumps(document, ensure_ascii=False))


def _account(account: Account | None) -> dict[str, Any] | None:
    return None if account is None else {"id": account.id, "livemode": account.livemode}


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))


def _decimal(value: Decimal | None) -> str | None:
    return None if value is None else plain(value)


def _sum(values: Iterable[Decimal | None]) -> str | None:
    """None when one of them is not known or no finite decimal."""
    total = Decimal(0)
    for value in values:
        if value is None:
            return None
        total += value
    return _decimal(total)


def _when(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")


def _line(line: Line) -> dict[str, Any]:
    return {
        "tenant": line.tenant_id,
        "meter": line.meter,
        "customer": line.customer_id,
        "period_start": line.period.start.isoformat(),
        "period_end": line.period.end.isoformat(),
        "total": _decimal(line.total),
        "change": _decimal(line.change),
        "late": _decimal(line.late),
        "value": line.value,
        "scale": line.scale,
        "state": line.state,
        "action": line.action,
        "reason": line.reason or None,
    }


def _loose(unmapped: list[Unmapped]) -> list[dict[str, Any]]:
    return [
        {"tenant": one.tenant_id, "usage_type": one.usage_type, "quantity": _decimal(one.quantity), "reason": one.reason}
        for one in unmapped
    ]


def _row(row: Row) -> dict[str, Any]:
    return {
        "tenant": row.tenant_id,
        "meter": row.meter,
        "customer": row.customer_id,
        "period_start": row.period_start.isoformat(),
        "period_end": row.period_end.isoformat(),
        "revision": row.revision,
        "state": row.state,
        "reason": row.reason,
        "total": _decimal(row.exact_total),
        "value": row.value,
        "remainder": _decimal(row.remainder),
        "identifier": row.identifier,
        "event_time": _when(row.event_time),
        "attempts": row.attempts,
        "next_try_at": _when(row.next_try_at),
        "positions": dict(row.positions),
    }


def _report(report: RunReport) -> dict[str, Any]:
    return {
        "ok": report.ok,
        "account": _account(report.account),
        "closed": report.closed,
        "refused": report.refused,
        "planned": report.planned,
        "unchanged": report.unchanged,
        "states": dict(sorted(report.states.items())),
        "held": report.held,
        "halted": report.halted,
        "problems": [_line(line) for line in report.problems],
        "unmapped": _loose(report.unmapped),
        "open": [_row(row) for row in report.open_rows],
    }


def _compared(one: Compared) -> dict[str, Any]:
    return _row(one.row) | {
        "verdict": one.verdict,
        "reason": one.reason or None,
        "stripe_value": one.found,
        "expected_quantity": _decimal(one.expected_quantity),
        "stripe_quantity": _decimal(one.found_quantity),
    }


# -- for people ----------------------------------------------------------------------------------------------------


def _console() -> Console:
    # A file or a pipe has no width to keep to.
    return Console() if sys.stdout.isatty() else Console(width=160)


def _table(title: str, headings: tuple[str, ...], rows: list[Any], cells: Callable[[Any], tuple[str, ...]]) -> None:
    if not rows:
        return
    table = Table(title=f"{title} ({len(rows)})", title_justify="left")
    for heading in headings:
        table.add_column(
            heading, overflow="fold", justify="right" if heading in ("total", "change", "value", "Stripe") else "left"
        )
    for row in rows[:SHOWN_MAX]:
        table.add_row(*(escape(text) for text in cells(row)))
    _console().print(table)
    if len(rows) > SHOWN_MAX:
        _console().print(f"and {len(rows) - SHOWN_MAX} more; --json has them all")


def _plan_table(lines: list[Line], title: str = "plan") -> None:
    if not lines:
        _console().print("nothing to export: no usage is counted in these periods")
    _table(
        title,
        ("tenant", "meter", "period", "total", "change", "value", "state", "action", "reason"),
        lines,
        lambda line: (
            line.tenant_id,
            line.meter,
            line.period.start.isoformat(),
            _decimal(line.total) or "",
            _decimal(line.change) or "",
            "" if line.value is None else str(line.value),
            line.state,
            line.action,
            line.reason,
        ),
    )


def _loose_table(unmapped: list[Unmapped]) -> None:
    _table(
        "counted, billed to nobody",
        ("tenant", "usage type", "total", "reason"),
        unmapped,
        lambda one: (one.tenant_id, one.usage_type, _decimal(one.quantity) or "", one.reason),
    )


def _rows_table(title: str, rows: list[Row]) -> None:
    _table(
        title,
        ("tenant", "meter", "period", "revision", "total", "value", "state", "reason"),
        rows,
        lambda row: (
            row.tenant_id,
            row.meter,
            row.period_start.isoformat(),
            str(row.revision),
            _decimal(row.exact_total) or "",
            str(row.value),
            row.state,
            row.reason or "",
        ),
    )


def _compared_table(compared: list[Compared]) -> None:
    if not compared:
        _console().print("nothing to compare: no export was accepted in these periods")
    _table(
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


def _report_tables(report: RunReport) -> None:
    did = ", ".join(f"{count} {state}" for state, count in sorted(report.states.items())) or "nothing was due"
    _console().print(f"planned {report.planned}, unchanged {report.unchanged}; sent: {did}", highlight=False)
    if report.problems:
        _plan_table(report.problems, "not planned")
    _rows_table("not at Stripe", report.open_rows)
    _loose_table(report.unmapped)
