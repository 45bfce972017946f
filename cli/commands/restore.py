"""`meterline restore clickhouse`: what an operator runs after a backup was restored. See docs/restore.md."""

from __future__ import annotations

import os

import click

from cli.output import print_json, print_table, who
from cli.stores import clickhouse_answers
from runtime.exits import Exit
from runtime.logs import configure_logging
from runtime.settings import Settings, load_settings
from store import after_postgres, kafka_lost, rewinding
from store.remedies import kafka_answers, postgres_answers
from store.rewinding import Standing

_yes = click.option("--yes", is_flag=True, help="Do it; without this it is only shown.")
_json = click.option("--json", "as_json", is_flag=True, help="One JSON line on standard output.")


@click.group(help="Go on after a restored backup, or after the loss of a store.")
def command() -> None:
    """Each shows first what it would do."""


@command.command("clickhouse", help="Set the consumer group back to what a restored ClickHouse holds.")
@_yes
@_json
def clickhouse_(yes: bool, as_json: bool) -> None:
    settings = _settings()
    with postgres_answers(settings), clickhouse_answers(settings), kafka_answers(settings):
        found = rewinding.standings(settings)
        moved = rewinding.rewind(settings, who(), found) if yes else []
    behind = [standing for standing in found if standing.rewinds]
    if as_json:
        print_json({"done": yes, "moved": len(moved), "partitions": [standing.as_json() for standing in found]})
        return
    print_table(
        "partitions",
        ("epoch", "partition", "group", "fence", "log starts", "held below", "known from", ""),
        [_row(standing) for standing in found],
    )
    if not behind:
        click.echo("ClickHouse holds everything that was decided: nothing to do")
    elif yes:
        click.echo(f"{len(moved)} partitions were set back: start the consumers; they decide again what is missing")
    else:
        click.echo(f"{len(behind)} partitions are to be set back: stop the consumers, then run this with --yes")


@command.command("postgres", help="Show what a restored Postgres cannot know. Exit status 1 when it must be settled by hand.")
@_json
def postgres_(as_json: bool) -> int:
    settings = _settings()
    with postgres_answers(settings), clickhouse_answers(settings), kafka_answers(settings):
        check, behind = after_postgres.look(settings)
    if as_json:
        print_json(
            {
                "ok": check.ok,
                "behind": [dict(vars(one)) for one in behind],
                "unknown": [finding.as_json() for finding in check.findings],
            }
        )
        return Exit.OK if check.ok else Exit.FAILED
    print_table(
        "counted by the aggregator once it runs",
        ("epoch", "partition", "fence", "committed"),
        [(one.epoch, one.partition, one.fence, one.committed) for one in behind],
    )
    print_table(
        "to be settled by hand",
        ("what", "where", "in Postgres", "elsewhere"),
        [(one.what, one.where, one.expected, one.found) for one in check.findings],
    )
    click.echo("go on: nothing has to be settled by hand" if check.ok else "do not go on: see docs/restore.md")
    return Exit.OK if check.ok else Exit.FAILED


@command.command("kafka", help="End a log that is lost with its cluster, and begin the next epoch in this one.")
@_yes
@_json
def kafka_(yes: bool, as_json: bool) -> None:
    settings = _settings()
    with postgres_answers(settings), clickhouse_answers(settings), kafka_answers(settings):
        loss = kafka_lost.begin_anew(settings, who()) if yes else kafka_lost.plan(settings)
    if as_json:
        print_json({"done": yes, **loss.as_json()})
        return
    endings = [ending.as_json() for ending in loss.endings]
    print_table("the lost log", [name.replace("_", " ") for name in endings[0]], [list(ending.values()) for ending in endings])
    if yes:
        click.echo(
            f"epoch {loss.epoch} has begun: {loss.topic}. Start everything, and let the senders repeat what they are unsure of"
        )
    else:
        click.echo(f"epoch {loss.epoch} would begin in topic {loss.topic}; stop everything, then run this with --yes")


def _row(standing: Standing) -> tuple[object, ...]:
    told = "" if not standing.rewinds else f"{standing.lost} records are gone" if standing.lost else "set back"
    return (
        standing.epoch, standing.partition, "none" if standing.committed is None else standing.committed, standing.fence,
        standing.log_start, standing.held.offset, standing.held.known_from, told,
    )  # fmt: skip


def _settings() -> Settings:
    settings = load_settings(dict(os.environ))
    configure_logging(settings, "restore")
    return settings
