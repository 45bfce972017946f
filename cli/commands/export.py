"""`meterline export plan|run|status|reconcile|retry|resolve|schedule`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from billing_exporter import by_hand, ledger, planning, requests
from billing_exporter.exporter import OPEN_STATES, PATIENCE_S, account_of, run
from billing_exporter.gateway import Account, GatewayError, GatewayHalted
from billing_exporter.planning import Line, Unmapped
from billing_exporter.reconciling import reconcile, starts_in
from billing_exporter.sending import utc_now
from billing_exporter.stripe_gateway import key_digest, open_gateway
from billing_exporter.truth import TruthAway, clickhouse_totals
from cli.export_shown import (
    account_document,
    compared_document,
    compared_table,
    console_of,
    counts,
    line_document,
    loose_document,
    loose_table,
    plan_table,
    print_json,
    report_document,
    report_tables,
    row_document,
    rows_table,
    sum_text,
)
from cli.export_statement import statement
from cli.exporting import progress_bar, sender_of, serve_schedule
from cli.output import who
from cli.stage import stage
from metering.export_states import MOVES, State
from metering.periods import parse_month
from runtime.exits import Exit, MeterlineExit
from runtime.settings import Settings
from store.remedies import clickhouse_away, postgres_answers

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


command.add_command(statement)


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
        print_json(
            {
                "account": account_document(account),
                "lines": [line_document(line) for line in lines],
                "unmapped": loose_document(loose),
            }
        )
        return
    plan_table(lines)
    loose_table(loose)


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
    with stage("export", os.environ) as (settings, stop), _answers(settings), progress_bar() as progress:
        gateway = open_gateway(settings)
        report = run(
            settings,
            gateway,
            sender_of(settings, gateway, stop),
            key_digest(settings),
            clickhouse_totals(settings),
            month=month,
            every=every,
            patience_s=patience_s,
            progress=progress,
        )
    if as_json:
        print_json(report_document(report))
    else:
        report_tables(report)
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
        print_json(
            {
                "account": account_document(account),
                "by_state": counts(row.state for row in rows),
                "rows": [row_document(row) for row in rows],
            }
        )
        return
    console = console_of()
    console.print(
        " ".join(f"{state} {count}" for state, count in counts(row.state for row in rows).items()) or "nothing was exported yet"
    )
    rows_table("open", [row for row in rows if row.state in OPEN_STATES])
    rows_table("at Stripe", [row for row in rows if row.state not in OPEN_STATES])


@command.command("reconcile", help="Compare the ledger with Stripe's own summaries, and confirm what is equal.")
@_period
@_json
def reconcile_command(month: tuple[int, int] | None, as_json: bool) -> int:
    with stage("export", os.environ) as (settings, _), _answers(settings):
        gateway = open_gateway(settings)
        account = account_of(settings, gateway, key_digest(settings))
        try:
            compared = reconcile(settings, gateway, account, month=month)
            requests.serve_now(settings, account)
        except GatewayHalted as error:
            raise MeterlineExit(
                Exit.SETTINGS, f"Stripe refuses the key ({error}); set METERLINE_STRIPE_SECRET_KEY right"
            ) from error
        except GatewayError as error:
            raise MeterlineExit(Exit.UNREACHABLE, f"Stripe cannot be read ({error}); run again when it answers") from error
    if as_json:
        print_json(
            {
                "account": account_document(account),
                "by_verdict": counts(one.verdict for one in compared),
                "expected_quantity": sum_text(one.expected_quantity for one in compared),
                "stripe_quantity": sum_text(one.found_quantity for one in compared),
                "rows": [compared_document(one) for one in compared],
            }
        )
    else:
        compared_table(compared)
    return Exit.OK if all(one.verdict in ("equal", "waiting") for one in compared) else Exit.FAILED


@command.command(help="Take up again what Stripe refused, and try now what waits. The next run sends it.")
@click.option("--tenant", help="Of this tenant only.")
@click.option("--meter", help="Of this meter only.")
@_period
@_json
def retry(tenant: str | None, meter: str | None, month: tuple[int, int] | None, as_json: bool) -> None:
    with stage("export", os.environ) as (settings, _), postgres_answers(settings), ledger.connect(settings) as connection:
        account = _known_account(settings, connection)
        done = by_hand.retry(connection, account, who(), utc_now(), tenant=tenant, meter=meter, starts=starts_in(month))
    if as_json:
        print_json(
            {
                "account": account_document(account),
                "planned_anew": [row_document(row) for row in done.refused],
                "due_now": [row_document(row) for row in done.waiting],
            }
        )
        return
    rows_table("refused before, planned anew by the next run", done.refused)
    rows_table("due now", done.waiting)
    console_of().print(
        "run `meterline export run` now, or wait for the schedule"
        if done.refused or done.waiting
        else "nothing waits or was refused"
    )


@command.command()
@click.argument("number", type=click.IntRange(1))
@click.option("--as", "how", type=click.Choice(["arrived", "lost", "settled"]), required=True, help="What became of it.")
@click.option("--reason", required=True, help="How you know; kept with your name.")
@_json
def resolve(number: int, how: by_hand.How, reason: str, as_json: bool) -> int:
    """Say what became of an export that is `manual`; NUMBER is the first column of `export status`.

    \b
    arrived   Stripe has it: the summary is compared again
    lost      Stripe does not have it: the next run plans the total anew
    settled   it is billed otherwise: the period ends at this revision, what came later is in the next one
    """
    with stage("export", os.environ) as (settings, _), postgres_answers(settings), ledger.connect(settings) as connection:
        account = _known_account(settings, connection)
        try:
            row, state = by_hand.resolve(connection, account, number, how, reason, who(), utc_now())
        except by_hand.Unfit as error:
            raise MeterlineExit(Exit.FAILED, str(error)) from None
    if as_json:
        print_json(row_document(row) | {"state": state})
    else:
        rows_table(f"now {state}", [row])
    return Exit.OK


@command.command("schedule")
def schedule_command() -> None:
    """Close periods and export, at the times of METERLINE_EXPORT_CRON (UTC), until it is stopped.

    Two copies are safe: one runs, the other waits. A run that was missed is caught up at once. METERLINE_METRICS_PORT serves
    /health, /ready and /metrics.
    """
    with stage("exporter", os.environ) as (settings, stop):
        serve_schedule(settings, stop)


def _known_account(settings: Settings, connection: Any) -> Account:
    account = ledger.known_account(connection, key_digest(settings))
    connection.commit()
    if account is None:
        raise MeterlineExit(Exit.SETTINGS, "nothing was exported with this key yet: run `meterline export run` first")
    return account


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
