"""What the deciding thread reads from Postgres, ClickHouse and the broker, waiting for each as long as `patience` goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import psycopg
from clickhouse_connect.driver.client import Client
from confluent_kafka import Consumer, KafkaException
from confluent_kafka.admin import AdminClient

from consumers.deciding import Lacking, RulesChanges
from consumers.patience import Patience, Retriable
from consumers.ports import CLICKHOUSE_AWAY, GroupOffsets
from metering.index import Hashes
from metering.ranges import Claim
from runtime import clickhouse, kafka, postgres
from runtime.exits import Exit, MeterlineExit
from runtime.settings import Settings
from store import event_log, fences, topic_state
from store.epochs import Epoch, all_epochs, check_topic, rules_changes

T = TypeVar("T")

RECORD_OVERHEAD_BYTES = 512
"""Of the batch round a delta, with its header."""


class Reads:
    """One connection to each store, opened at the first read and again after a failure; for one thread.

    Every method blocks while its store is away, and raises MeterlineExit when patience ends.
    """

    def __init__(self, settings: Settings, consumer: Consumer, patience: Patience) -> None:
        self._settings, self._consumer, self._patience = settings, consumer, patience
        self._postgres: psycopg.Connection[Any] | None = None
        self._clickhouse: Client | None = None
        self._admin: AdminClient = kafka.admin(settings)

    def close(self) -> None:
        if self._postgres is not None:
            self._postgres.close()

    # -- Postgres ------------------------------------------------------------------------------------------------

    def epochs(self) -> list[Epoch]:
        """Every epoch, oldest first."""
        found = self._patiently(all_epochs)
        if not found:
            raise MeterlineExit(Exit.TOPIC_REPLACED, "no epoch is recorded: run `meterline topics apply` first")
        return found

    def rules(self, epoch: Epoch) -> RulesChanges:
        return self._patiently(lambda connection: rules_changes(connection, epoch.epoch))

    def fences(self, epoch: Epoch) -> list[fences.Fence]:
        return self._patiently(lambda connection: fences.read_fences(connection, epoch.epoch))

    def _patiently(self, read: Callable[[psycopg.Connection[Any]], T]) -> T:
        """One transaction of reads."""

        def once() -> T:
            if self._postgres is None or self._postgres.closed:
                self._postgres = postgres.connect(self._settings)
            try:
                with self._postgres.transaction():
                    return read(self._postgres)
            except psycopg.OperationalError:
                self._postgres.close()
                raise

        return self._patience.until_done("postgres", once, (psycopg.OperationalError,))

    # -- the broker ----------------------------------------------------------------------------------------------

    def check_topic(self, epoch: Epoch) -> None:
        """Raises MeterlineExit when the topic is no longer the one of the epoch."""
        self._patience.until_done("kafka", lambda: self.check_topic_once(epoch), (KafkaException,))

    def check_topic_once(self, epoch: Epoch) -> None:
        """The same without waiting: raises KafkaException while the broker is away."""
        check_topic(topic_state.describe(self._admin, [epoch.topic])[epoch.topic], epoch)

    def committed(self, epoch: Epoch) -> dict[int, tuple[int, str]]:
        """The group's (offset, metadata) by partition."""
        offsets = GroupOffsets(self._consumer, epoch.topic)
        return self._patience.until_done("kafka", lambda: offsets.committed_notes(range(epoch.partitions)), ())

    def log_starts(self, epoch: Epoch) -> list[int]:
        """The log's start of each partition, asked once. Raises Retriable."""
        try:
            return topic_state.log_starts(self._admin, epoch.topic, epoch.partitions)
        except KafkaException as error:
            raise Retriable(str(error)) from error

    def delta_bytes_max(self, settings: Settings) -> int:
        """The largest delta that the deltas topic takes, as far as the settings allow: a range is cut to it, or it would be
        stored and never announced."""

        def ask() -> int:
            state = topic_state.describe(self._admin, [settings.topic_deltas])[settings.topic_deltas]
            if state is None:
                return settings.delta_bytes_max
            return min(settings.delta_bytes_max, int(state.config["max.message.bytes"]) - RECORD_OVERHEAD_BYTES)

        found: int = self._patience.until_done("kafka", ask, (KafkaException,))
        return found

    # -- ClickHouse ----------------------------------------------------------------------------------------------

    def confirm(self, hashes: Hashes, lacking: Lacking) -> dict[bytes, Claim]:
        """The admitted rows of suspected keys. A row that C counts and ClickHouse does not show is a lagging read."""

        def fetch() -> dict[bytes, Claim]:
            try:
                if self._clickhouse is None:
                    self._clickhouse = clickhouse.client(self._settings)
                claims = event_log.confirm(self._clickhouse, hashes)
            except CLICKHOUSE_AWAY:
                self._clickhouse = None
                raise
            missing = lacking(claims)
            if missing:
                raise Retriable(
                    f"ClickHouse does not show all rows that it acknowledged: {len(missing)} lack, key_hash {missing[0]} for one"
                )
            return claims

        return self._patience.until_done("clickhouse", fetch, CLICKHOUSE_AWAY)
