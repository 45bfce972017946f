"""`meterline webhooks list|replay`."""

from __future__ import annotations

import os
from typing import Any

import click

from cli.output import print_json, print_table, who
from meterline_schemas.instants import format_instant
from runtime.exits import Exit, MeterlineExit
from runtime.postgres import connect
from runtime.settings import load_settings
from store import audit, inbox
from store.inbox import Row, State
from store.remedies import postgres_answers

ROWS_MAX = 1_000
SOURCES = ["stripe", "clerk", "lago"]


@click.group(help="Webhooks of Stripe, Clerk and Lago: list what came in, work on it again.")
def command() -> None:
    """What was received, and what became of it."""


@command.command("list", help="List webhooks, the newest first.")
@click.option("--source", type=click.Choice(SOURCES), help="Of this sender only.")
@click.option("--state", type=click.Choice(["waiting", "done", "dead"]), help="Dead: tries are used up, it waits for a replay.")
@click.option("--limit", "rows_max", type=click.IntRange(1, ROWS_MAX), default=100, show_default=True, help="Most shown.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def list_(source: str | None, state: State | None, rows_max: int, as_json: bool) -> None:
    settings = load_settings(dict(os.environ))
    with postgres_answers(settings), connect(settings) as connection:
        found = inbox.listed(connection, source, state, rows_max)
    if as_json:
        print_json({"webhooks": [_shown(one) for one in found]})
        return
    headings = ("received", "sender", "webhook", "kind", "about", "state", "tries", "last error")
    print_table(
        "Webhooks",
        headings,
        [
            (
                _at(one.received_at),
                one.name.source,
                one.name.message_id,
                one.kind,
                one.subject,
                one.state,
                one.attempts,
                one.last_error,
            )
            for one in found
        ],
    )
    if not found:
        click.echo("no webhooks")


@command.command("replay", help="Work on a webhook again, or on all of a sender that are dead. Doing it twice changes nothing.")
@click.argument("source", type=click.Choice(SOURCES))
@click.argument("webhook_id", required=False)
@click.option("--dead", is_flag=True, help="Every one of the sender whose tries are used up.")
def replay(source: str, webhook_id: str | None, dead: bool) -> None:
    if (webhook_id is None) is not dead:
        raise click.UsageError("name one webhook, or --dead for all whose tries are used up")
    settings = load_settings(dict(os.environ))
    with postgres_answers(settings), connect(settings) as connection:
        again = inbox.replay(connection, source, webhook_id)
        if again:
            subject = f"{source}: {webhook_id or 'all that were dead'}"
            audit.record(connection, who(), [audit.Entry("webhooks.replayed", subject, after={"webhooks": again})])
    if not again and webhook_id is not None:
        raise MeterlineExit(
            Exit.FAILED,
            f"there is no webhook {webhook_id} of {source} that is not waiting already; `meterline webhooks list` has them",
        )
    click.echo(f"{again} to be worked on again by `meterline serve control-plane`")


def _shown(row: Row) -> dict[str, Any]:
    return {
        "source": row.name.source,
        "account": row.name.account,
        "livemode": row.name.livemode,
        "id": row.name.message_id,
        "kind": row.kind,
        "about": row.subject,
        "state": row.state,
        "attempts": row.attempts,
        "receivedAt": _at(row.received_at),
        "nextTryAt": None if row.next_try_at is None else _at(row.next_try_at),
        "lastError": row.last_error,
    }


def _at(at: Any) -> str:
    return format_instant(round(at.timestamp() * 1000))
