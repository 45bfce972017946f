"""`meterline plans apply|show`."""

from __future__ import annotations

import getpass
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from runtime import postgres
from runtime.exits import Exit, MeterlineExit
from runtime.settings import load_settings
from store import catalog
from store.catalog import Change
from store.catalog_file import CatalogError, read_catalog
from store.remedies import postgres_answers

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
    try:
        wanted, text = read_catalog(file)
    except CatalogError as error:
        raise MeterlineExit(Exit.FAILED, f"{file} is not a catalog:\n{error}") from None
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
        version = catalog.apply(connection, wanted, by=_who(), source=text, expected=changes)
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
    types = Table("usage type", "unit", "feature", "meter")
    for usage_type, definition in standing.usage_types.items():
        types.add_row(*(escape(text or "") for text in (usage_type, definition.unit, definition.feature, definition.meter)))
    console.print(types)


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


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"  # a container may run as a user without a name
