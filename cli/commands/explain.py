"""`meterline explain SERVICE ENTITY TYPE`."""

from __future__ import annotations

import logging
import os

import click
from confluent_kafka import KafkaException

from cli.output import console, plain, print_json, print_table
from cli.stores import both_stores
from runtime import kafka
from runtime.exits import Exit, MeterlineExit
from runtime.logs import configure_logging
from runtime.settings import Settings, load_settings
from store import topic_state
from store.delta_log import DeltaRange, delta_log
from store.epoch_lives import waiting
from store.epochs import Epoch, current_epoch
from store.explain import Explanation, explain
from store.forgotten import pseudonyms_of
from store.positions import Position

logger = logging.getLogger(__name__)

KAFKA_WITHIN_S = 3.0
"""How long the answer waits for a broker, without which it says a little less."""


@click.command(help="Show where an event is: position, verdict, row, delta, counter, exports. Exit status 1 when it is unknown.")
@click.argument("service")
@click.argument("entity")
@click.argument("usage_type", metavar="TYPE")
@click.option("--json", "as_json", is_flag=True, help="One JSON line on standard output.")
def command(service: str, entity: str, usage_type: str, as_json: bool) -> int:
    """SERVICE, ENTITY and TYPE are sourceService, sourceEntityId and usageType as the sender wrote them."""
    settings = load_settings(dict(os.environ))
    configure_logging(settings, "explain")
    for name, text in (("SERVICE", service), ("ENTITY", entity), ("TYPE", usage_type)):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise click.BadParameter("is not UTF-8, and so in no event that was admitted", param_hint=name) from None
    with both_stores(settings) as (connection, client):
        epoch = current_epoch(connection)
        if epoch is None:
            raise MeterlineExit(Exit.TOPIC_REPLACED, "no epoch is recorded: run `meterline topics apply` first")
        # Before the fences are read: see store/explain.py.
        earlier = waiting(connection, kafka.admin(settings))
        ends = _log_ends(settings, epoch)

        def range_of(at: Position) -> DeltaRange | None:
            return _range_of(settings, at) if ends else None

        pseudonyms = pseudonyms_of(settings)
        found = explain(connection, client, service, entity, usage_type, ends, range_of, pseudonyms, earlier)
    if as_json:
        print_json(found.as_json())
    else:
        _print(found)
    return Exit.OK if found.known else Exit.FAILED


def _log_ends(settings: Settings, epoch: Epoch) -> dict[int, int]:
    """By partition; none when Kafka does not answer, for the stores alone can tell most."""
    admin = kafka.admin(settings)
    try:
        admin.list_topics(epoch.topic, timeout=KAFKA_WITHIN_S)
        return dict(enumerate(topic_state.log_ends(admin, epoch.topic, epoch.partitions)))
    except KafkaException as error:
        logger.warning("kafka does not say where the log ends", extra={"problem": str(error)})
        return {}


def _range_of(settings: Settings, at: Position) -> DeltaRange | None:
    try:
        with delta_log(settings) as log:
            return log.range_of(at)
    except KafkaException as error:
        logger.warning("kafka does not say in which delta the row was announced", extra={"problem": str(error)})
        return None


def _print(found: Explanation) -> None:
    console().print(plain(found.verdict), highlight=False, soft_wrap=True)
    lane = found.lane
    as_of = "never yet" if found.as_of is None else f"{found.as_of:%Y-%m-%d %H:%M:%S.%f}"[:-3] + "Z"
    print_table(
        "looked for",
        ("key", "epoch", "partition", "counted up to", "log end", "counters as of"),
        [(found.key.decode(), lane.epoch, lane.partition, lane.next_offset, _or_unknown(lane.log_end), as_of)],
    )
    rows = [row.as_json() for row in found.rows]
    print_table("admitted", _headings(rows), [list(row.values()) for row in rows])
    turned_away = [(r.position, r.verdict, r.reason, r.detail, r.tenant_id, r.admitted) for r in found.rejects]
    print_table("rejects", ("position", "verdict", "reason", "detail", "tenant", "admitted row"), turned_away)
    if found.delta is not None:
        print_table("announced in", _headings([found.delta.as_json()]), [list(found.delta.as_json().values())])
    if found.counter is not None:
        print_table("counter", _headings([found.counter.as_json()]), [list(found.counter.as_json().values())])
    exports = [line.as_json() for line in found.exports]
    print_table("exports", _headings(exports), [list(line.values()) for line in exports])


def _headings(rows: list[dict[str, object]]) -> list[str]:
    return [name.replace("_", " ") for name in rows[0]] if rows else []


def _or_unknown(offset: int | None) -> str:
    return "Kafka does not answer" if offset is None else str(offset)
