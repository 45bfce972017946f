"""`meterline migrate`."""

from __future__ import annotations

import json
import os

import click

from runtime.settings import load_settings
from store.migrate import migrate_clickhouse, migrate_postgres


@click.command(help="Bring Postgres and ClickHouse to this build's schema.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line on standard output; progress goes to standard error.")
def command(as_json: bool) -> None:
    """Both stores, each idempotent. There is no way down: the way back is a restored backup."""
    settings = load_settings(dict(os.environ))

    def progress(step: str) -> None:
        click.echo(step, err=True)

    postgres = migrate_postgres(settings, progress=progress)
    clickhouse = migrate_clickhouse(settings, progress=progress)
    if as_json:
        click.echo(json.dumps({"postgres": postgres, "clickhouse": clickhouse}))
    elif postgres or clickhouse:
        click.echo(f"done: {', '.join(postgres + clickhouse)}")
    else:
        click.echo("nothing to do: both stores are at this build's schema")
