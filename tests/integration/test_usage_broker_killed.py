"""Usage over HTTP while its broker is killed between a record and its acknowledgement: never a false 202."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from deploy.embedded.kafka import Kafka
from runtime.settings import Settings
from store.topics import apply
from tests.integration.entitlement_data import SERVICE, TENANT, put_catalog
from tests.integration.serving import Server, serving

CLIENTS = 8
BATCH = 50
WITHIN_S = 40.0


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """Of this file's own, because it is killed."""
    kafka = Kafka(tmp_path_factory.mktemp("kafka") / "kafka", log=print)
    kafka.start()
    yield kafka
    kafka.stop()


@pytest.fixture(scope="module")
def own(settings: Settings, broker: Kafka) -> Settings:
    from store.migrate import migrate_postgres

    migrate_postgres(settings)
    moved = settings.model_copy(update={"kafka_url": broker.address})
    apply(moved)
    return moved


def event(entity: str) -> dict[str, object]:
    return {"tenantId": TENANT, "usageType": "DEEP", "quantity": 1, "sourceService": SERVICE, "sourceEntityId": entity}


class Client(threading.Thread):
    """Sends batches one after the other, and keeps what it was told of each event."""

    def __init__(self, server: Server, number: int, over: threading.Event) -> None:
        super().__init__()
        self._server, self._number, self._over = server, number, over
        self.told: dict[str, dict[str, Any]] = {}
        self.refused = 0

    def run(self) -> None:
        for turn in itertools.count():
            if self._over.is_set():
                return
            entities = [f"c{self._number}-{turn}-{n}" for n in range(BATCH)]
            answer = self._server.ask("POST", "/v1/billing/usage/batch", [event(entity) for entity in entities])
            if answer.status == 503:
                self.refused += 1
                continue
            assert answer.status in (202, 207), answer.body
            for entity, result in zip(entities, answer.json["results"], strict=True):
                assert result["state"] in ("acked", "spooled") or result["status"] == 503, result
                if result["state"] != "refused":
                    self.told[entity] = result


def test_what_was_acknowledged_stands_where_it_was_said_and_what_was_spooled_reaches_the_log(
    own: Settings, broker: Kafka
) -> None:
    secret, _ = put_catalog(own)
    with serving(own, secret=secret) as server:
        wait_until(server, "ok")
        over = threading.Event()
        clients = [Client(server, number, over) for number in range(CLIENTS)]
        for client in clients:
            client.start()
        wait_for(lambda: all(client.told for client in clients))
        broker.kill()
        wait_for(lambda: any(result["state"] == "spooled" for client in clients for result in list(client.told.values())))
        over.set()
        for client in clients:
            client.join(WITHIN_S)
        told = {entity: result for client in clients for entity, result in client.told.items()}
        states = {result["state"] for result in told.values()}
        assert states == {"acked", "spooled"}
        # Spooled or not, everything else goes on.
        assert server.check(tenantId=TENANT, usageType="DEEP")["allowed"]
        broker.start()
        wait_until(server, "ok")
        wait_for(lambda: set(told) <= set(logged(own)))
    records = logged(own)
    for entity, result in told.items():
        if result["state"] == "acked":
            assert (result["position"]["partition"], result["position"]["offset"]) in records[entity], entity


def logged(settings: Settings) -> dict[str, set[tuple[int, int]]]:
    """Where each event stands, all its copies."""
    reader = Consumer({"bootstrap.servers": settings.kafka_url, "group.id": "reader"})
    try:
        ends = [log_end(reader, TopicPartition(settings.topic_events, part)) for part in range(settings.topic_partitions)]
        reader.assign([TopicPartition(settings.topic_events, partition, 0) for partition in range(len(ends))])
        found: dict[str, set[tuple[int, int]]] = {}
        read, deadline = 0, time.monotonic() + WITHIN_S
        while read < sum(ends):
            assert time.monotonic() < deadline
            for message in reader.consume(10_000, 0.5):
                if message.error() is None:
                    entity = json.loads(message.value() or b"")["sourceEntityId"]
                    place = message.partition(), message.offset()
                    assert place[0] is not None
                    assert place[1] is not None
                    found.setdefault(entity, set()).add((place[0], place[1]))
                    read += 1
        return found
    finally:
        reader.close()


def log_end(reader: Consumer, partition: TopicPartition) -> int:
    """A broker that was started a moment ago answers for a while that it leads nothing."""
    deadline = time.monotonic() + WITHIN_S
    while True:
        try:
            return int(reader.get_watermark_offsets(partition, timeout=15)[1])
        except KafkaException as error:
            if error.args[0].code() != KafkaError.NOT_LEADER_FOR_PARTITION or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def wait_until(server: Server, said: str) -> None:
    wait_for(lambda: server.ask("GET", "/ready", secret=None).json["checks"]["kafka"] == said)


def wait_for(look: Any) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.1)
