"""`meterline stripe setup`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import click
from psycopg import Connection
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from billing_exporter import finalization
from billing_exporter.gateway import GatewayError
from billing_exporter.price_setup import PricePlan, PriceStep, ProductStep, apply_prices, plan_prices
from billing_exporter.setup import CustomerStep, MeterStep, SetupPlan, apply_setup, as_exit, plan_setup
from billing_exporter.stripe_gateway import StripeGateway, open_gateway
from cli.stage import stage
from runtime import postgres
from runtime.exits import Exit, MeterlineExit
from runtime.settings import Settings
from store.remedies import postgres_answers

SHOWN_MAX = 200


@dataclass(frozen=True)
class _Plan:
    """Everything that Stripe lacks."""

    base: SetupPlan
    prices: PricePlan

    @property
    def changes(self) -> bool:
        return self.base.changes or self.prices.changes

    @property
    def told(self) -> str:
        """How many steps of each kind."""
        return "; ".join(
            f"{noun}: " + (", ".join(f"{count} {action}" for action, count in sorted(counts.items())) or "none")
            for noun, counts in (self.base.counts | self.prices.counts).items()
        )


@click.group(help="Customers, products, meters and prices at Stripe, made from the catalog.")
def command() -> None:
    """What Stripe needs before anything can be billed."""


@command.command()
@click.option("--live", is_flag=True, help="Work on the live account; needs a live key.")
@click.option("--yes", is_flag=True, help="Apply without asking; needed where nobody can be asked.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def setup(live: bool, yes: bool, as_json: bool) -> None:
    """Show what Stripe lacks, and create it.

    A customer for each tenant, a meter for each of the catalog's, a product for each plan and each usage type with an
    overage price, and their prices. Included quantity and overage price become one graduated price, so that Stripe bills
    the overage alone. What is there already is left as it is: repeat it after each change of the catalog.
    """
    with stage("stripe", os.environ) as (settings, _), postgres_answers(settings), postgres.connect(settings) as connection:
        gateway = open_gateway(settings)
        plan = _planned(settings, connection, gateway, live)
        connection.rollback()  # nobody's snapshot waits while a person reads
        if not as_json:
            _show(plan)
        if plan.changes and not yes:
            if as_json or not sys.stdin.isatty():
                raise MeterlineExit(Exit.USAGE, f"Stripe would change ({plan.told}); nobody can be asked here: repeat with --yes")
            if not click.confirm("Apply this to the LIVE account?" if live else "Apply this?"):
                raise click.Abort
        if as_json:
            click.echo(json.dumps(_document(plan), ensure_ascii=False))
        _apply(connection, gateway, plan)
    if not as_json:
        click.echo(f"done: {plan.told}" if plan.changes else "nothing to do")


def _planned(settings: Settings, connection: Connection[Any], gateway: StripeGateway, live: bool) -> _Plan:
    base = plan_setup(connection, gateway, live=live)
    with _stripe_answers():
        problem = finalization.problem(settings, gateway.finalization_grace_s())
        if problem is not None:
            raise MeterlineExit(Exit.SETTINGS, f"{problem.what}. Remedy: {problem.remedy}")
        return _Plan(base, plan_prices(connection, gateway))


def _apply(connection: Connection[Any], gateway: StripeGateway, plan: _Plan) -> None:
    """What is possible first; then what is wrong is told, all of it."""
    told = []
    try:
        apply_setup(connection, gateway, plan.base)
    except MeterlineExit as error:
        # One tenant's trouble, or one meter's, keeps no price from being made.
        if error.code != Exit.FAILED:
            raise
        told.append(str(error))
    with _stripe_answers():
        apply_prices(connection, gateway, plan.prices)
    told += [step.reason for step in plan.prices.wrong[:10]]
    if told:
        raise MeterlineExit(Exit.FAILED, "; ".join(told))


@contextmanager
def _stripe_answers() -> Iterator[None]:
    try:
        yield
    except GatewayError as error:
        raise as_exit(error) from error


def _document(plan: _Plan) -> dict[str, Any]:
    return {
        "account": asdict(plan.prices.account),
        "meters": [asdict(step) for step in plan.base.meters],
        "customers": [asdict(step) for step in plan.base.customers],
        "products": [asdict(step) for step in plan.prices.products],
        "prices": [
            asdict(step.slot)
            | {
                "action": step.action,
                "stripe_id": step.price_id,
                "figures": None if step.wanted is None else dict(step.wanted.figures),
                "reason": step.reason,
            }
            for step in plan.prices.prices
        ],
    }


def _show(plan: _Plan) -> None:
    steps = [step for step in (*plan.base.steps, *plan.prices.products, *plan.prices.prices) if step.action != "ok"]
    console = Console() if sys.stdout.isatty() else Console(width=160)
    if steps:
        table = Table("what", "name", "action", "at Stripe", "what it bills, or the reason")
        for step in steps[:SHOWN_MAX]:
            table.add_row(*(escape(text) for text in _cells(step)))
        console.print(table)
        if len(steps) > SHOWN_MAX:
            console.print(f"and {len(steps) - SHOWN_MAX} more; --json has them all")
    console.print(plan.told, highlight=False)


def _cells(step: MeterStep | CustomerStep | ProductStep | PriceStep) -> tuple[str, str, str, str, str]:
    match step:
        case MeterStep():
            return "meter", step.meter, step.action, step.stripe_id or "", step.reason
        case CustomerStep():
            return "customer", step.tenant_id, step.action, step.customer_id or "", step.reason
        case ProductStep():
            return "product", step.name, step.action, step.product_id, ""
        case PriceStep():
            return "price", step.name, step.action, step.price_id or "", step.reason or _bills(step)


def _bills(step: PriceStep) -> str:
    if step.wanted is None:
        return ""
    figures, currency = step.wanted.figures, step.slot.currency
    if "amount" in figures:
        return f"{figures['amount']} of the smallest unit of {currency}, {step.slot.cycle}"
    return f"{figures['included']} units free, then {figures['unit_amount']} of the smallest unit of {currency} each"
