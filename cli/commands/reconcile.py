"""`meterline reconcile [--repair]`."""

from __future__ import annotations

import os
from dataclasses import replace

import click
import psycopg

from billing_exporter.exporter import account_of
from billing_exporter.gateway import GatewayError
from billing_exporter.proving import check_billed
from billing_exporter.stripe_gateway import key_digest, open_gateway
from billing_exporter.truth import TruthAway, clickhouse_totals
from cli.output import console, print_json, print_table, who
from cli.stores import clickhouse_answers
from runtime import postgres
from runtime.exits import Exit, MeterlineExit
from runtime.logs import configure_logging
from runtime.settings import Settings, load_settings
from store import reconcile_runs
from store.credit_checks import check_credits
from store.findings import Check
from store.log_sample import SAMPLE_MAX
from store.reconcile import PATIENCE_S, SAMPLE_ROWS, STATEMENT_TIMEOUT_S, Report, reconcile
from store.remedies import kafka_answers, one_line, postgres_answers

_MEANS = {
    "I1": "every offset has one verdict",
    "I2": "a key is admitted once",
    "I3": "rows are what the log says",
    "I4": "counters are the sums of rows",
    "I5": "fence <= committed <= log end",
    "I6": "rejects are kept",
    "I9": "Stripe = ledger = ClickHouse",
    "I10": "credits are what their ledger says",
}


@click.command(help="Check that every number is what the log says. Exit status 1 on drift.")
@click.option("--repair", is_flag=True, help="First set counters and totals to the sums of the rows; counting waits meanwhile.")
@click.option(
    "--sample",
    type=click.IntRange(0, SAMPLE_MAX),
    default=SAMPLE_ROWS,
    show_default=True,
    help="Offsets of the log to compare with their rows.",
)
@click.option(
    "--wait",
    "patience_s",
    type=click.FloatRange(0, 600),
    default=PATIENCE_S,
    show_default=True,
    help="Seconds to look again at a position that seems wrong.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON line on standard output.")
def command(repair: bool, sample: int, patience_s: float, as_json: bool) -> int:
    """Safe on a live system: what is merely on its way is no drift."""
    settings = load_settings(dict(os.environ))
    configure_logging(settings, "reconcile")
    with postgres_answers(settings), clickhouse_answers(settings), kafka_answers(settings):
        report = reconcile(settings, repair_as=who() if repair else None, sample=sample, patience_s=patience_s)
        report = replace(report, checks=(*report.checks, _billed(settings), _credits(settings)))
        with postgres.connect(settings) as connection:
            reconcile_runs.record(connection, who(), report.ok, report.findings())
    if as_json:
        print_json(report.as_json())
    else:
        _print(report)
    return Exit.OK if report.ok else Exit.FAILED


def _billed(settings: Settings) -> Check:
    """I9. A Stripe that cannot be asked is a finding: what was not compared is not proved."""
    check = Check("I9")
    if settings.stripe_secret_key is None:
        check.detail = "not looked at: METERLINE_STRIPE_SECRET_KEY is not set, so nothing is billed from here"
        return check
    try:
        gateway = open_gateway(settings)
        return check_billed(settings, gateway, account_of(settings, gateway, key_digest(settings)), clickhouse_totals(settings))
    except (GatewayError, TruthAway, MeterlineExit) as error:
        check.add("billed totals", {}, "an answer of Stripe and ClickHouse", one_line(error))
        check.detail = "could not be compared"
        return check


def _credits(settings: Settings) -> Check:
    """I10, of one snapshot."""
    with postgres.connect(settings, options=f"-c statement_timeout={STATEMENT_TIMEOUT_S * 1000} -c TimeZone=UTC") as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        return check_credits(connection)


def _print(report: Report) -> None:
    if report.refused is not None:
        console().print(f"nothing was repaired: {report.refused}", markup=False, highlight=False, soft_wrap=True)
    elif report.healed is not None:
        console().print(f"repaired: {report.healed.counters} counters, {report.healed.totals} totals", highlight=False)
    print_table(
        "invariants",
        ("", "must hold", "", "what was seen"),
        [(one.invariant, _MEANS[one.invariant], "ok" if one.ok else "DRIFT", one.detail) for one in report.checks],
    )
    print_table(
        "drift",
        ("", "what", "where", "expected", "found"),
        [
            (one.invariant, one.what, ", ".join(f"{name} {value}" for name, value in one.where.items()), one.expected, one.found)
            for one in report.drift
        ],
    )
    more = sum(check.findings_count for check in report.checks) - len(report.drift)
    if more:
        console().print(f"and {more} more", highlight=False)
