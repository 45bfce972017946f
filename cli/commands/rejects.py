"""`meterline rejects list|show|replay`."""

from __future__ import annotations

import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import click
from clickhouse_connect.driver.client import Client
from psycopg import Connection

from cli.output import console, print_json, print_table, who
from cli.stores import both_stores, clickhouse_client
from metering.pseudonyms import OtherKey
from meterline_schemas.instants import parse_instant
from meterline_schemas.reasons import Reason
from meterline_schemas.rules import RULES, Rules
from meterline_schemas.types import Verdict
from runtime import kafka, postgres
from runtime.exits import Exit, MeterlineExit
from runtime.logs import configure_logging
from runtime.settings import Settings, load_settings
from store import rejects, replaying, topic_state
from store.epochs import Epoch, check_topic, current_epoch, rules_at
from store.explain import outcome
from store.forgotten import pseudonyms_of
from store.positions import Position, parse_position
from store.rejects import RawReject, Wanted
from store.remedies import kafka_answers, postgres_answers
from store.replaying import NewRecord, NotAcknowledged, ReplayRefused

BODY_BYTES_MAX = 1 << 20
_json = click.option("--json", "as_json", is_flag=True, help="One JSON line on standard output.")


class _Instant(click.ParamType):
    """A day, or an instant of the wire's form."""

    name = "when"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            at_ms = parse_instant(f"{value}T00:00:00Z" if len(value) == len("2026-11-21") else value)
        except ValueError:
            self.fail(f"{value!r} is neither a day (2026-11-21) nor an instant (2026-11-21T10:00:00Z)", param, ctx)
        return datetime.fromtimestamp(at_ms / 1000, UTC)


def _position(_context: click.Context, _parameter: click.Parameter, text: str) -> Position:
    try:
        return parse_position(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


_at = click.argument("position", metavar="EPOCH/PARTITION/OFFSET", callback=_position)


@click.group(help="Dead letters: list, show, send again after a fix.")
def command() -> None:
    """Invalid records, conflicts, and duplicates in other bytes."""


@command.command("list", help="List rejects, the newest first.")
@click.option("--verdict", type=click.Choice([v for v in get_args(Verdict) if v != "admitted"]), help="Only with this verdict.")
@click.option("--reason", type=click.Choice([str(reason) for reason in Reason]), help="Only for this reason.")
@click.option("--tenant", help="Only of this tenant.")
@click.option("--service", help="Only of this source service.")
@click.option("--since", type=_Instant(), help="Ingested at or after this day or instant (UTC).")
@click.option("--until", type=_Instant(), help="Ingested before this day or instant (UTC).")
@click.option("--limit", type=click.IntRange(1, rejects.PAGE_MAX), default=50, show_default=True, help="Most on one page.")
@click.option("--cursor", help="Go on where a page ended.")
@_json
def list_(
    verdict: str | None,
    reason: str | None,
    tenant: str | None,
    service: str | None,
    since: datetime | None,
    until: datetime | None,
    limit: int,
    cursor: str | None,
    as_json: bool,
) -> None:
    settings = load_settings(dict(os.environ))
    with clickhouse_client(settings) as client:
        try:
            found = rejects.page(client, Wanted(verdict, reason, tenant, service, since, until), limit, cursor)
        except ValueError as error:
            raise click.UsageError(str(error)) from None
    if as_json:
        print_json({"rejects": [reject.as_json() for reject in found.rejects], "cursor": found.cursor})
        return
    rows = [
        (r.position, r.as_json()["ingested_at"], r.verdict, r.reason, r.tenant_id, r.source_service, r.source_entity_id, r.detail)
        for r in found.rejects
    ]
    if not rows:
        console().print("none")
    print_table("rejects", ("position", "ingested", "verdict", "reason", "tenant", "service", "entity", "detail"), rows)
    if found.cursor is not None:
        console().print(f"more: --cursor {found.cursor}", markup=False, highlight=False)


@command.command(help="Show one reject with its bytes, and what became of its replays.")
@_at
@_json
def show(position: Position, as_json: bool) -> None:
    settings = load_settings(dict(os.environ))
    with both_stores(settings) as (connection, client):
        original = _read(client, position)
        sent = replaying.earlier(connection, position)
        outcomes = [None if one.new is None else outcome(connection, client, one.new) for one in sent]
    replays = [one.as_json() | {"verdict": told} for one, told in zip(sent, outcomes, strict=True)]
    reject = original.reject.as_json() | {"remedy": Reason(original.reject.reason).remedy}
    record = {
        "key": original.key.decode(errors="backslashreplace"),
        "headers": [[name, value.decode(errors="backslashreplace")] for name, value in original.headers],
        "value": original.value.decode(errors="backslashreplace"),
        "value_hex": original.value.hex(),
    }
    if as_json:
        print_json(reject | {"record": record, "replays": replays})
        return
    print_table("reject", ("", ""), reject.items())
    print_table("record", ("", ""), [(name, record[name]) for name in ("key", "headers", "value")])
    print_table(
        "replays", [name.replace("_", " ") for name in replays[0]] if replays else (), [list(r.values()) for r in replays]
    )


@command.command(help="Send a reject again, as a new record: misrouted ones as they are, conflicts under a new id.")
@_at
@click.option("--as-entity", metavar="NEWID", help="Send it under this sourceEntityId: a conflict can only be sent so.")
@click.option(
    "--body",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Send the JSON in this file instead of the original's.",
)
@click.option("--again", is_flag=True, help="Although it was replayed before.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_json
def replay(position: Position, as_entity: str | None, body: Path | None, again: bool, yes: bool, as_json: bool) -> None:
    settings = load_settings(dict(os.environ))
    configure_logging(settings, "rejects")
    with both_stores(settings) as (connection, client), kafka_answers(settings):
        original = _read(client, position)
        try:
            epoch, record = _judge(settings, connection, client, original, as_entity, _body(body))
            if replaying.earlier(connection, position) and not again:
                raise ReplayRefused(
                    f"it was replayed before; see `meterline rejects show {position}`. To send it once more: --again"
                )
        except ReplayRefused as error:
            raise MeterlineExit(Exit.FAILED, f"not replayed: {error}") from error
        connection.commit()
    if not yes:
        if as_json or not sys.stdin.isatty():
            raise click.UsageError("nobody can be asked here; look at `meterline rejects show`, then pass --yes")
        _ask(original, record)
    with postgres_answers(settings), kafka_answers(settings):
        try:
            sent = replaying.replay(
                lambda: postgres.connect(settings), kafka.producer(settings), epoch, original, record, who(), again
            )
        except ReplayRefused as error:
            raise MeterlineExit(Exit.FAILED, f"not replayed: {error}") from error
        except NotAcknowledged as error:
            raise MeterlineExit(
                Exit.UNREACHABLE,
                f"the record was not acknowledged ({error}); it may have been written all the same. Sending it again with "
                "--again is safe: its key is its identity",
            ) from error
    if as_json:
        print_json(sent.as_json())
    else:
        click.echo(f"{position} was sent again: it stands at {sent.new}. Its verdict: meterline rejects show {position}")


def _read(client: Client, position: Position) -> RawReject:
    original = rejects.read(client, position)
    if original is None:
        raise MeterlineExit(
            Exit.FAILED,
            f"there is no reject at {position}: its record was admitted, is an equal duplicate, is not decided yet, or was "
            "dropped after METERLINE_REJECTS_KEEP_DAYS; `meterline rejects list` has those that there are",
        )
    return original


def _body(path: Path | None) -> bytes | None:
    if path is None:
        return None
    if path.stat().st_size > BODY_BYTES_MAX:
        raise click.BadParameter(f"{path} is larger than an event can be", param_hint="--body")
    return path.read_bytes().strip()


def _judge(
    settings: Settings,
    connection: Connection[Any],
    client: Client,
    original: RawReject,
    as_entity: str | None,
    body: bytes | None,
) -> tuple[Epoch, NewRecord]:
    epoch = current_epoch(connection)
    if epoch is None:
        raise MeterlineExit(Exit.TOPIC_REPLACED, "no epoch is recorded: run `meterline topics apply` first")
    check_topic(topic_state.describe(kafka.admin(settings), [epoch.topic])[epoch.topic], epoch)
    record = replaying.judge(original, _rules(connection, epoch), time.time_ns() // 1_000_000, as_entity, body)
    try:
        replaying.refuse_taken_key(client, record, pseudonyms_of(settings))
    except OtherKey as error:
        raise MeterlineExit(Exit.SETTINGS, f"{error}; set METERLINE_FORGET_KEY to that key") from error
    return epoch, record


def _rules(connection: Connection[Any], epoch: Epoch) -> Rules:
    """The newest that are in force: a new record comes after every change so far."""
    version = max(rules_at(connection, epoch.epoch, partition)[-1][1] for partition in range(epoch.partitions))
    if version not in RULES:
        raise MeterlineExit(Exit.RULES_UNKNOWN, f"rules version {version} is in force, which this build lacks; run a newer one")
    return RULES[version]


def _ask(original: RawReject, record: NewRecord) -> None:
    before = original.reject
    print_table(
        "to be sent",
        ("", "original", "new record"),
        [
            ("tenant", before.tenant_id, record.event.tenant_id),
            ("service", before.source_service, record.event.source_service),
            ("entity", before.source_entity_id, record.event.source_entity_id),
            ("type", before.usage_type, record.event.usage_type),
            ("value", original.value.decode(errors="backslashreplace"), record.value.decode()),
        ],
    )
    click.confirm("Send it?", abort=True)
