"""`meterline export statement`."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import click
from psycopg import IsolationLevel

from billing_exporter.statements.formats import as_csv, as_document, as_page
from billing_exporter.statements.statement import DoesNotAddUp, statement_of
from cli.stage import stage
from cli.stores import both_stores
from runtime.exits import Exit, MeterlineExit
from store.billed_lines import TooManyLines
from store.tenant_periods import UnknownTenant

Format = Literal["html", "csv", "json"]


@click.command()
@click.argument("tenant")
@click.option(
    "--period",
    "period",
    metavar="YYYY-MM",
    required=True,
    help="The tenant's billing period that starts in this month; a day (2026-10-15) names the period that it lies in.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["html", "csv", "json"]),
    default="html",
    show_default=True,
    help="A page to read and print, a row for each line, or one JSON document.",
)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Where to write it; without, to standard output.")
@click.option(
    "--base-url", default="", help="Where people reach the HTTP endpoint, such as https://usage.example.com, for links to events."
)
def statement(tenant: str, period: str, form: Format, output: Path | None, base_url: str) -> None:
    """Write what TENANT is billed for in a period, and every line behind it.

    By usage type, day and source service, corrections and what is carried forward shown as such. Of a closed period the
    totals are those of the close, for ever the same; of a running one they are what is counted now. The HTML page is made to
    be printed.
    """
    with (
        stage("statement", os.environ) as (settings, _),
        both_stores(settings) as (connection, client),
    ):
        # One snapshot, so that closes, fences and counters are of one instant.
        connection.isolation_level, connection.read_only = IsolationLevel.REPEATABLE_READ, True
        try:
            found = statement_of(connection, client, tenant, period, datetime.now(UTC))
        except ValueError as error:
            if isinstance(error, TooManyLines):
                raise MeterlineExit(Exit.FAILED, str(error)) from None
            raise click.BadParameter(str(error), param_hint="--period") from None
        except UnknownTenant as error:
            raise MeterlineExit(Exit.FAILED, f"{error}; `meterline plans show --json` lists them") from None
        except DoesNotAddUp as error:
            raise MeterlineExit(Exit.FAILED, str(error)) from None
    match form:
        case "html":
            text = as_page(found, base_url)
        case "csv":
            text = as_csv(found, base_url)
        case "json":
            text = json.dumps(as_document(found, base_url), ensure_ascii=False) + "\n"
    if output is None:
        click.echo(text, nl=False)
    else:
        output.write_text(text, encoding="utf-8", newline="")
        click.echo(f"written to {output}", err=True)
