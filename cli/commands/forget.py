"""`meterline forget`. See docs/forgetting.md."""

from __future__ import annotations

import os
from typing import Any

import click
from clickhouse_connect.driver.client import Client
from psycopg import Connection

from cli.output import console, print_json, print_table, who
from cli.stores import clickhouse_answers
from metering.pseudonyms import Kind, Pseudonyms, key_id_of
from runtime import clickhouse, postgres
from runtime.exits import Exit, MeterlineExit
from runtime.logs import configure_logging
from runtime.settings import Settings, load_settings
from store import forgetting, forgotten
from store.forgetting import Forgotten, Somebody
from store.remedies import postgres_answers

STATEMENT_TIMEOUT_S = 3_600


@click.command(help="Forget a tenant or a user: ids become pseudonyms, bytes go, no number changes.")
@click.option("--tenant", metavar="ID", help="The tenant with all its usage.")
@click.option("--user", metavar="ID", help="What a user did, by the events' metadata, and the user.")
@click.option("--again", is_flag=True, help="Everybody who was forgotten and has come back with a restored backup.")
@click.option("--yes", is_flag=True, help="Do it; without this it is only shown. There is no way back.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line on standard output.")
def command(tenant: str | None, user: str | None, again: bool, yes: bool, as_json: bool) -> None:
    """Safe on a live system; counting waits meanwhile."""
    if (tenant is not None) + (user is not None) + again != 1:
        raise click.UsageError("name one of --tenant, --user, --again")
    settings = load_settings(dict(os.environ))
    configure_logging(settings, "forget")
    pseudonyms = forgotten.pseudonyms_of(settings)
    if pseudonyms is None:
        raise MeterlineExit(
            Exit.SETTINGS, "METERLINE_FORGET_KEY is not set: make one (`openssl rand -hex 32`), keep it for ever, never change it"
        )
    options = f"-c statement_timeout={STATEMENT_TIMEOUT_S * 1000} -c lock_timeout=60000 -c TimeZone=UTC"
    with postgres_answers(settings), clickhouse_answers(settings):
        client = clickhouse.client(settings, timeout_s=STATEMENT_TIMEOUT_S)
        try:
            with postgres.connect(settings, options=options) as connection:
                _refuse_other_key(connection, client, pseudonyms)
                if again:
                    register = forgotten.registered(connection, client)
                    whom = list(forgetting.came_back(client, register, pseudonyms, settings.forget_user_field))
                else:
                    kind: Kind = "tenant" if tenant is not None else "user"
                    whom = [Somebody(kind, str(tenant if tenant is not None else user), settings.forget_user_field)]
                reports = [_one(settings, connection, client, somebody, pseudonyms, yes) for somebody in whom]
        finally:
            client.close()
    if as_json:
        print_json({"done": yes, "forgotten": [report.as_json() for report in reports]})
    else:
        _print(reports, yes)


def _one(
    settings: Settings, connection: Connection[Any], client: Client, somebody: Somebody, pseudonyms: Pseudonyms, yes: bool
) -> Forgotten:
    if key_id_of(somebody.subject) is not None:
        raise click.UsageError(f"{somebody.subject} is a pseudonym already")
    if not yes:
        return forgetting.look(settings, connection, client, somebody, pseudonyms)
    _refuse_active(connection, somebody)
    return forgetting.forget(settings, connection, client, somebody, pseudonyms, who())


def _refuse_active(connection: Connection[Any], somebody: Somebody) -> None:
    """A tenant that goes on would be there again with its next event."""
    if somebody.kind != "tenant":
        return
    row = connection.execute("SELECT status FROM tenants WHERE tenant_id = %s", (somebody.subject,)).fetchone()
    if row is not None and row[0] == "active":
        raise MeterlineExit(
            Exit.FAILED, "the tenant is active: set its status to inactive (`meterline plans apply`), then forget it"
        )
    row = connection.execute(
        "SELECT count(*) FROM export_ledger WHERE tenant_id = %s AND state IN ('planned', 'sending', 'retry_wait', 'ambiguous')",
        (somebody.subject,),
    ).fetchone()
    if row is not None and row[0]:
        raise MeterlineExit(
            Exit.FAILED, f"{row[0]} exports of the tenant are on their way: let `meterline export run` end them first"
        )


def _refuse_other_key(connection: Connection[Any], client: Client, pseudonyms: Pseudonyms) -> None:
    for subject in forgotten.registered(connection, client):
        if key_id_of(subject.pseudonym) != pseudonyms.key_id:
            raise MeterlineExit(
                Exit.SETTINGS,
                f"METERLINE_FORGET_KEY is another than the one that others were forgotten with ({key_id_of(subject.pseudonym)}): "
                "set that one; with a new key their events would be taken for new ones",
            )


def _print(reports: list[Forgotten], yes: bool) -> None:
    if not reports:
        click.echo("nobody who was forgotten has come back")
    for report in reports:
        document = report.as_json()
        tables = ", ".join(f"{table} {rows}" for table, rows in report.postgres.items()) or "none"
        print_table(
            "forgotten" if yes else "would be forgotten",
            ("", ""),
            [(name, tables if name == "postgres" else value) for name, value in document.items()],
        )
        if report.left:
            console().print(f"{report.left} rows are on their way still: run it again when they are counted", highlight=False)
    if reports and not yes:
        click.echo("nothing was changed; --yes does it, and there is no way back")
