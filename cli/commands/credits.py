"""`meterline credits show|overdraft`."""

from __future__ import annotations

import os
import uuid
from datetime import datetime
from typing import Any

import click
from psycopg import Connection

from cli.output import console, print_json, print_table, who
from meterline_schemas.quantity import format_quantity, parse_quantity
from meterline_schemas.types import Micros
from runtime import postgres
from runtime.exits import Exit, MeterlineExit
from runtime.settings import load_settings
from store import credits, users
from store.credits import By, CreditsRefused, Owner
from store.remedies import postgres_answers
from store.steps import run

OPERATIONS_SHOWN = 20

_OPERATIONS = """
SELECT o.at, o.kind, o.amount::text, o.moved::text, o.shortfall::text, o.balance::text, o.who, o.note
  FROM credit_operations o JOIN credit_accounts a USING (account_id)
 WHERE a.tenant_id = %s AND a.user_id = %s
 ORDER BY o.operation_id DESC LIMIT %s
"""


@click.group(help="Credits of users: show an account and its ledger, allow one to owe.")
def command() -> None:
    """Allocating, setting, removing and adjusting are requests to the control plane."""


@command.command(help="What USER of TENANT has, by id or e-mail address: lots, holds, and the newest operations.")
@click.argument("tenant")
@click.argument("user")
@click.option("--json", "as_json", is_flag=True, help="One JSON line on standard output.")
def show(tenant: str, user: str, as_json: bool) -> None:
    settings = load_settings(dict(os.environ))
    with postgres_answers(settings), postgres.connect(settings) as connection:
        owner = _owner(connection, tenant, user)
        stands = run(connection, credits.balance(owner))
        rows = connection.execute(_OPERATIONS, (owner.tenant_id, owner.user_id, OPERATIONS_SHOWN)).fetchall()
    lots = [
        (
            str(lot.lot_id),
            format_quantity(lot.available),
            f"{lot.expires_at:%Y-%m-%d %H:%M:%SZ}" if lot.expires_at else "",
            lot.note,
        )
        for lot in stands.lots
    ]
    names = ("at", "kind", "amount", "moved", "shortfall", "balance", "who", "note")
    operations = [(_instant(row[0]), *row[1:]) for row in rows]
    figures = {
        "balance": format_quantity(stands.balance),
        "held": format_quantity(stands.held),
        "overdraft": format_quantity(stands.overdraft),
    }
    if as_json:
        document = {"tenant": owner.tenant_id, "user": owner.user_id, **figures}
        shown = [dict(zip(("lot", "credits", "expires_at", "note"), lot, strict=True)) for lot in lots]
        print_json({**document, "lots": shown, "operations": [dict(zip(names, row, strict=True)) for row in operations]})
        return
    said = ", ".join(f"{name} {figure}" for name, figure in figures.items())
    console().print(f"{owner.user_id} of {owner.tenant_id}: {said}", markup=False, highlight=False)
    print_table("lots, in the order in which they pay", ("lot", "credits", "expires", "note"), lots)
    print_table(f"the newest {OPERATIONS_SHOWN} operations", names, operations)


@command.command(help="Allow USER of TENANT to owe UP_TO credits; 0 allows it no more.")
@click.argument("tenant")
@click.argument("user")
@click.argument("up_to")
@click.option("--note", default="", help="Why; kept in the ledger.")
def overdraft(tenant: str, user: str, up_to: str, note: str) -> None:
    try:
        amount = parse_quantity(up_to)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="UP_TO") from None
    if amount < 0:
        raise click.BadParameter("what may be owed is not negative", param_hint="UP_TO")
    settings = load_settings(dict(os.environ))
    with postgres_answers(settings), postgres.connect(settings) as connection:
        owner = _owner(connection, tenant, user)
        try:
            run(connection, credits.allow_overdraft(owner, Micros(amount), by=By(who()), key=uuid.uuid4().hex, note=note))
        except CreditsRefused as refused:
            raise MeterlineExit(Exit.FAILED, str(refused)) from refused
    click.echo(f"{owner.user_id} of {owner.tenant_id} may owe {format_quantity(amount)} credits")


def _instant(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%SZ}"


def _owner(connection: Connection[Any], tenant: str, user: str) -> Owner:
    found = users.find(connection, tenant, user)
    if found is None:
        raise MeterlineExit(
            Exit.FAILED, f"{tenant} has no user {user}; say the id or the e-mail address of one that has signed in"
        )
    return Owner(tenant, found.user_id)
