"""`meterline secrets create|list|retire|revoke`."""

from __future__ import annotations

import os
from datetime import timedelta

import click

from runtime.exits import Exit, MeterlineExit
from runtime.postgres import connect
from runtime.settings import load_settings
from store.remedies import postgres_answers
from store.service_secrets import TooManySecrets, create, retire, revoke

_LIST = """
SELECT name, source_services, created_at, expires_at FROM service_secrets
 WHERE expires_at IS NULL OR expires_at > now() ORDER BY name, created_at
"""


@click.group(help="Secrets of services: make, list, retire, revoke.")
def command() -> None:
    """What services send as X-Service-Secret. A service has two at most, so that one can replace the other."""


@command.command("create", help="Make a secret for the service NAME and print it: it cannot be read again.")
@click.argument("name")
@click.option("--emits-for", "sources", multiple=True, required=True, help="A source service it may emit for; * is every one.")
def create_(name: str, sources: tuple[str, ...]) -> None:
    settings = load_settings(dict(os.environ))
    try:
        with postgres_answers(settings), connect(settings) as connection:
            secret = create(connection, name, sources)
    except (TooManySecrets, ValueError) as error:
        raise MeterlineExit(Exit.FAILED, str(error)) from error
    click.echo(secret)


@command.command("list", help="The services and their valid secrets, which themselves are not kept.")
def list_() -> None:
    settings = load_settings(dict(os.environ))
    with postgres_answers(settings), connect(settings) as connection:
        for name, sources, created_at, expires_at in connection.execute(_LIST):
            until = "" if expires_at is None else f"  until {expires_at:%Y-%m-%d %H:%M:%SZ}"
            click.echo(f"{name}  emits for {', '.join(sources)}  since {created_at:%Y-%m-%d %H:%M:%SZ}{until}")


@command.command("retire", help="End every secret of NAME but the newest, after a time for the switch.")
@click.argument("name")
@click.option(
    "--after-hours", type=click.FloatRange(0, 24 * 30), default=0, show_default=True, help="How long the older ones stay valid."
)
def retire_(name: str, after_hours: float) -> None:
    settings = load_settings(dict(os.environ))
    with postgres_answers(settings), connect(settings) as connection:
        ended = retire(connection, name, timedelta(hours=after_hours))
    click.echo(f"{ended} ended" if after_hours == 0 else f"{ended} will end")


@command.command("revoke", help="End every secret of NAME now. Servers notice within seconds.")
@click.argument("name")
def revoke_(name: str) -> None:
    settings = load_settings(dict(os.environ))
    with postgres_answers(settings), connect(settings) as connection:
        ended = revoke(connection, name)
    click.echo(f"{ended} ended")
