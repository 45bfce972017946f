"""`meterline stripe setup`."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from billing_exporter.setup import MeterStep, SetupPlan, apply_setup, plan_setup
from billing_exporter.stripe_gateway import open_gateway
from cli.stage import stage
from runtime import postgres
from runtime.exits import Exit, MeterlineExit
from store.remedies import postgres_answers

SHOWN_MAX = 200


@click.group(help="Customers and meters at Stripe, made from the catalog.")
def command() -> None:
    """Test mode only."""


@command.command(help="Show what Stripe lacks, and create it: a meter for each of the catalog's, a customer for each tenant.")
@click.option("--yes", is_flag=True, help="Apply without asking; needed where nobody can be asked.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def setup(yes: bool, as_json: bool) -> None:
    with stage("stripe", os.environ) as (settings, _), postgres_answers(settings), postgres.connect(settings) as connection:
        gateway = open_gateway(settings)
        plan = plan_setup(connection, gateway)
        connection.rollback()  # nobody's snapshot waits while a person reads
        if not as_json:
            _show(plan)
        if plan.changes and not yes:
            if as_json or not sys.stdin.isatty():
                raise MeterlineExit(
                    Exit.USAGE, f"Stripe would change ({_counts(plan)}); nobody can be asked here: repeat with --yes"
                )
            if not click.confirm("Apply this?"):
                raise click.Abort
        if as_json:
            steps = {"meters": [asdict(step) for step in plan.meters], "customers": [asdict(step) for step in plan.customers]}
            click.echo(json.dumps(steps, ensure_ascii=False))
        apply_setup(connection, gateway, plan)
    if not as_json:
        click.echo(f"done: {_counts(plan)}" if plan.changes else "nothing to do")


def _counts(plan: SetupPlan) -> str:
    return "; ".join(
        f"{noun}: " + (", ".join(f"{count} {action}" for action, count in sorted(counts.items())) or "none")
        for noun, counts in plan.counts.items()
    )


def _show(plan: SetupPlan) -> None:
    steps = [step for step in plan.steps if step.action != "ok"]
    console = Console() if sys.stdout.isatty() else Console(width=160)
    if steps:
        table = Table("what", "name", "action", "at Stripe", "reason")
        for step in steps[:SHOWN_MAX]:
            if isinstance(step, MeterStep):
                cells = ("meter", step.meter, step.action, step.stripe_id or "", step.reason)
            else:
                cells = ("customer", step.tenant_id, step.action, step.customer_id or "", step.reason)
            table.add_row(*(escape(text) for text in cells))
        console.print(table)
        if len(steps) > SHOWN_MAX:
            console.print(f"and {len(steps) - SHOWN_MAX} more")
    console.print(_counts(plan), highlight=False)
