"""`meterline plans apply|show|simulate|grant|grants|revoke|override`."""

from __future__ import annotations

import json
import os
import secrets
import sys
from dataclasses import asdict
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TypeVar

import click
from pydantic import BaseModel, ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cli.output import print_json, print_table, who
from cli.stores import clickhouse_client
from control_plane.plans import simulation, terms
from metering import periods
from metering.currencies import to_major
from runtime import postgres
from runtime.exits import Exit, MeterlineExit
from runtime.settings import load_settings
from store import catalog
from store.catalog import Catalog, Change
from store.catalog_file import CatalogError, read_catalog
from store.catalog_model import Grant, PlanLimit
from store.remedies import postgres_answers

_M = TypeVar("_M", bound=BaseModel)
_STYLE = {"added": "green", "changed": "yellow", "removed": "red"}


@click.group(help="The catalog as code.")
def command() -> None:
    """Plans, limits, usage types, meters, tenants."""


@command.command(help="Show what FILE changes, and apply it in one audited transaction.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--yes", is_flag=True, help="Apply without asking; needed where nobody can be asked.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line on standard output.")
def apply(file: Path, yes: bool, as_json: bool) -> None:
    settings = load_settings(dict(os.environ))
    wanted, text = _read(file)
    with postgres_answers(settings), postgres.connect(settings) as connection:
        changes = catalog.diff(connection, wanted)
        connection.rollback()  # nobody's lock waits while a person reads
        if not changes:
            version = catalog.current_version(connection)
            _answer(as_json, version, [], f"nothing to do: version {version} stands")
            return
        if not as_json:
            print_changes(changes)
        if not yes:
            if as_json or not sys.stdin.isatty():
                raise MeterlineExit(
                    Exit.USAGE, f"{len(changes)} entries would change; nobody can be asked here: repeat with --yes"
                )
            if not click.confirm(f"Apply these {len(changes)} changes?"):
                raise click.Abort
        version = catalog.apply(connection, wanted, by=who(), source=text, expected=changes)
    _answer(as_json, version, changes, f"version {version} stands: {len(changes)} entries changed")


@command.command(help="Show the catalog that stands.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line on standard output.")
def show(as_json: bool) -> None:
    settings = load_settings(dict(os.environ))
    with postgres_answers(settings), postgres.connect(settings) as connection:
        standing, version = catalog.load_catalog(connection), catalog.current_version(connection)
    if as_json:
        click.echo(json.dumps({"version": version, **standing.model_dump(mode="json")}, ensure_ascii=False))
        return
    console = _console()
    if version is None:
        console.print("no catalog was applied yet; see examples/plans.yaml")
        return
    console.print(f"version {version}: {len(standing.tenants)} tenants, {len(standing.meters)} meters")
    limits = Table("plan", "usage type", "limit", "beyond it", "period")
    for plan_id, plan in standing.plans.items():
        for usage_type, limit in plan.limits.items():
            shown = limit.model_dump(mode="json")
            beyond = (
                "" if limit.limit is None else "denied" if limit.hard else f"allowed at {shown['overage_price'] or 'no charge'}"
            )
            limits.add_row(escape(plan_id), escape(usage_type), shown["limit"] or "unlimited", beyond, limit.period)
    console.print(limits)
    prices = Table("plan", "currency", "monthly", "yearly")
    for plan_id, plan in standing.plans.items():
        for currency, price in plan.prices.items():
            shown_prices = ("" if one is None else str(to_major(one, currency)) for one in (price.monthly, price.yearly))
            prices.add_row(escape(plan_id), currency, *shown_prices)
    if prices.row_count:
        console.print(prices)
    types = Table("usage type", "unit", "feature", "meter")
    for usage_type, definition in standing.usage_types.items():
        types.add_row(*(escape(text or "") for text in (usage_type, definition.unit, definition.feature, definition.meter)))
    console.print(types)


@command.command(help="Say what FILE would have denied in a month that is over.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--over", required=True, metavar="MONTH", help="The month whose usage is played again, such as 2026-10.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line on standard output.")
def simulate(file: Path, over: str, as_json: bool) -> None:
    settings = load_settings(dict(os.environ))
    wanted, _ = _read(file)
    try:
        month = periods.month(date(*periods.parse_month(over), 1))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--over") from None
    with postgres_answers(settings), postgres.connect(settings) as connection, clickhouse_client(settings) as client:
        found = simulation.simulate(connection, client, wanted, month)
    denied = sum(max(0, effect.denied - effect.denied_now) for effect in found.effects)
    allowed = sum(max(0, effect.denied_now - effect.denied) for effect in found.effects)
    if as_json:
        click.echo(
            json.dumps(
                {
                    "period": over,
                    "checks": found.checks,
                    "newlyDenied": denied,
                    "newlyAllowed": allowed,
                    "effects": [
                        {
                            "tenantId": effect.tenant_id,
                            "usageType": effect.usage_type,
                            "checks": effect.checks,
                            "deniedNow": effect.denied_now,
                            "denied": effect.denied,
                            "reason": effect.reason,
                        }
                        for effect in found.effects
                    ],
                },
                ensure_ascii=False,
            )
        )
        return
    print_table(
        "What the change would have meant",
        ("tenant", "usage type", "checks", "denied now", "denied then", "reason"),
        [(one.tenant_id, one.usage_type, one.checks, one.denied_now, one.denied, one.reason) for one in found.effects],
    )
    tenants = len({effect.tenant_id for effect in found.effects if effect.denied > effect.denied_now})
    click.echo(
        f"of {found.checks} usage events of {over}, each taken for a check of its own: "
        f"{denied} more denied, of {tenants} tenants; {allowed} more allowed"
    )


@command.command(help="Give a tenant more of a usage type, once, until a day.")
@click.argument("tenant")
@click.argument("usage_type")
@click.argument("quantity")
@click.option("--expires", required=True, metavar="DAY", help="The first day on which it counts no more, such as 2026-12-31.")
@click.option("--from", "valid_from", metavar="DAY", help="The first day on which it counts; today by default.")
@click.option("--id", "grant_id", help="Its name: given twice with the same content it is made once. Made up by default.")
@click.option("--note", default="", help="Why, for the audit.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line on standard output.")
def grant(
    tenant: str,
    usage_type: str,
    quantity: str,
    expires: str,
    valid_from: str | None,
    grant_id: str | None,
    note: str,
    as_json: bool,
) -> None:
    settings = load_settings(dict(os.environ))
    name = grant_id or f"grant_{secrets.token_hex(6)}"
    made = _valid(
        Grant,
        usage_type=usage_type,
        quantity=quantity,
        valid_from=valid_from or str(_today()),
        expires_on=expires,
        note=note,
    )
    with postgres_answers(settings), postgres.connect(settings) as connection:
        change = terms.give(connection, tenant, name, made, who())
    _told(as_json, change, f"{tenant}: grant {name} stands, {quantity} of {usage_type} until {expires}", grant=name)


@command.command(help="List a tenant's grants.")
@click.argument("tenant")
@click.option("--json", "as_json", is_flag=True, help="One JSON line on standard output.")
def grants(tenant: str, as_json: bool) -> None:
    settings = load_settings(dict(os.environ))
    with postgres_answers(settings), postgres.connect(settings) as connection:
        found = catalog.load_catalog(connection, tenants=[tenant]).tenants.get(tenant)
    if found is None:
        raise MeterlineExit(Exit.FAILED, f"there is no tenant {tenant}")
    made = {name: one.model_dump(mode="json") for name, one in found.grants.items()}
    if as_json:
        print_json({"tenant": tenant, "grants": made})
        return
    fields = ("usage_type", "quantity", "valid_from", "expires_on", "note")
    print_table(
        f"Grants of {tenant}", ("grant", *fields), [(name, *(one[field] for field in fields)) for name, one in made.items()]
    )


@command.command(help="End a grant today; what it paid for stays paid for.")
@click.argument("tenant")
@click.argument("grant_id")
@click.option("--json", "as_json", is_flag=True, help="One JSON line on standard output.")
def revoke(tenant: str, grant_id: str, as_json: bool) -> None:
    settings = load_settings(dict(os.environ))
    with postgres_answers(settings), postgres.connect(settings) as connection:
        change = terms.revoke(connection, tenant, grant_id, _today(), who())
    _told(as_json, change, f"{tenant}: grant {grant_id} has ended", grant=grant_id)


@command.command(help="Set a limit of a tenant's own in place of its plan's.")
@click.argument("tenant")
@click.argument("usage_type")
@click.option("--limit", help="A quantity, or unlimited.")
@click.option("--period", type=click.Choice(["day", "month", "billing_period", "lifetime"]), help="What the limit counts.")
@click.option("--soft", is_flag=True, help="What goes beyond it is allowed, as overage.")
@click.option("--overage-price", help="What a unit beyond a soft limit costs.")
@click.option("--when-unavailable", type=click.Choice(["fail_open", "fail_closed"]), help="What an outage of Postgres answers.")
@click.option("--clear", is_flag=True, help="Take it away, so that the plan's stands again.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line on standard output.")
def override(
    tenant: str,
    usage_type: str,
    limit: str | None,
    period: str | None,
    soft: bool,
    overage_price: str | None,
    when_unavailable: str | None,
    clear: bool,
    as_json: bool,
) -> None:
    if clear == (limit is not None) or (limit is not None and period is None):
        raise click.UsageError("say --limit and --period, or --clear")
    settings = load_settings(dict(os.environ))
    asked: dict[str, object] = {"limit": limit, "period": period, "when_unavailable": when_unavailable}
    if soft:
        asked["enforce"] = "soft"
    if overage_price is not None:
        asked["overage_price"] = overage_price
    own = None if clear else _valid(PlanLimit, **asked)
    with postgres_answers(settings), postgres.connect(settings) as connection:
        change = terms.override(connection, tenant, usage_type, own, who())
    _told(
        as_json,
        change,
        f"{tenant}: " + (f"its own limit of {usage_type} is gone" if clear else f"{limit} of {usage_type} per {period}"),
    )


def _read(file: Path) -> tuple[Catalog, str]:
    try:
        return read_catalog(file)
    except CatalogError as error:
        raise MeterlineExit(Exit.FAILED, f"{file} is not a catalog:\n{error}") from None


def _valid(model: type[_M], **fields: object) -> _M:
    """The entry, by the rules of the file."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        told = "; ".join(
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg'].removeprefix('Value error, ')}".removeprefix(": ")
            for problem in error.errors()
        )
        raise click.UsageError(told) from None


def _today() -> date:
    return datetime.now(UTC).date()


def _told(as_json: bool, change: Change | None, text: str, **more: str) -> None:
    if as_json:
        print_json({"changed": change is not None, **more})
    else:
        click.echo(text if change is not None else f"nothing to do: {text}")


def print_changes(changes: list[Change]) -> None:
    """The diff as a table: one line a field, nothing cut off."""
    table = Table()
    for heading in ("entry", "change", "field", "before", "after"):
        table.add_column(heading, overflow="fold")
    for change in changes:
        for position, (field, before, after) in enumerate(change.fields() or [("", "", "")]):
            first = position == 0
            table.add_row(
                escape(f"{change.section}.{change.name}") if first else "",
                f"[{_STYLE[change.action]}]{change.action}[/]" if first else "",
                *(escape(text) for text in (field, before, after)),
            )
    _console().print(table)


def _console() -> Console:
    # A file or a pipe has no width to keep to.
    return Console() if sys.stdout.isatty() else Console(width=160)


def _answer(as_json: bool, version: int | None, changes: list[Change], text: str) -> None:
    if as_json:
        click.echo(json.dumps({"version": version, "changes": [asdict(change) for change in changes]}, ensure_ascii=False))
    else:
        click.echo(text)
