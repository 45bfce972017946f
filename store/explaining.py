"""An explanation with all that it needs gathered, in the order in which it must be: Kafka first, then the stores."""

from __future__ import annotations

import logging
from typing import Any

from clickhouse_connect.driver.client import Client
from confluent_kafka import KafkaException
from psycopg import Connection

from runtime import kafka
from runtime.settings import Settings
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


def explained(
    settings: Settings, connection: Connection[Any], client: Client, source_service: str, source_entity_id: str, usage_type: str
) -> Explanation:
    """Where the event is. Blocks for seconds while Kafka is away.

    Raises LookupError before there is an epoch, UnicodeEncodeError for names that no record can hold, psycopg.Error, and what
    an absent ClickHouse raises.
    """
    epoch = current_epoch(connection)
    if epoch is None:
        raise LookupError("no epoch is recorded: run `meterline topics apply` first")
    # Before the fences are read: see store/explain.py.
    earlier = waiting(connection, kafka.admin(settings))
    ends = _log_ends(settings, epoch)

    def range_of(at: Position) -> DeltaRange | None:
        return _range_of(settings, at) if ends else None

    pseudonyms = pseudonyms_of(settings)
    return explain(connection, client, source_service, source_entity_id, usage_type, ends, range_of, pseudonyms, earlier)


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
