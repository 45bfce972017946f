"""Usage over the real socket into the real log."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from confluent_kafka import Message, TopicPartition

from meterline_schemas.event import Event, decode
from meterline_schemas.key import partition_of
from meterline_schemas.rules import NEWEST_RULES, RULES
from runtime.kafka import consumer
from runtime.settings import Settings
from tests.integration.entitlement_data import SERVICE, TENANT, put_catalog
from tests.integration.serving import Answer, Server, execute, serving

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture(scope="module")
def server(migrated: Settings) -> Iterator[Server]:
    secret, _ = put_catalog(migrated)
    with serving(migrated, secret=secret, over={"METERLINE_LOG_LEVEL": "debug"}) as running:
        yield running


def event(entity: str, **over: object) -> dict[str, object]:
    return {"tenantId": TENANT, "usageType": "DEEP", "quantity": 1, "sourceService": SERVICE, "sourceEntityId": entity, **over}


def record_at(settings: Settings, position: dict[str, int]) -> Message:
    """The record that stands at a position."""
    reader = consumer(settings, **{"group.id": "test-reads"})
    try:
        reader.assign([TopicPartition(settings.topic_events, position["partition"], position["offset"])])
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            message = reader.poll(1.0)
            if message is not None and message.error() is None:
                return message
    finally:
        reader.close()
    pytest.fail(f"no record at {position}")


def post(server: Server, body: object, query: str = "", **more: Any) -> Answer:
    return server.ask("POST", "/v1/billing/usage" + query, body, **more)


def read(settings: Settings, answer: Answer) -> tuple[Message, Event]:
    assert answer.status == 202, answer.body
    assert answer.json["state"] == "acked"
    message = record_at(settings, answer.json["position"])
    value = message.value()
    assert isinstance(value, bytes)
    headers = message.headers() or []
    assert isinstance(headers, list)
    sent = [(name, text if isinstance(text, bytes) else None) for name, text in headers]
    decoded = decode(value, sent, message.timestamp()[1], RULES[NEWEST_RULES])
    assert isinstance(decoded, Event)
    return message, decoded


def test_the_seeds_body_is_acknowledged_with_the_position_where_it_stands(server: Server, migrated: Settings) -> None:
    answer = post(server, event("job_abc_123"), headers={"traceparent": TRACE})
    message, decoded = read(migrated, answer)
    assert answer.json["position"] == {"epoch": 1, "partition": message.partition(), "offset": message.offset()}
    assert (decoded.tenant_id, decoded.usage_type, decoded.quantity) == (TENANT, "DEEP", 1_000_000)
    assert message.key() == decoded.key
    assert message.partition() == partition_of(decoded.key, migrated.topic_partitions)
    headers = dict(message.headers() or ())
    assert headers["schema-version"] == b"1"
    # The same trace, under a span of the server's own.
    sent_on = headers["traceparent"]
    assert isinstance(sent_on, bytes)
    assert sent_on.decode().split("-")[1] == TRACE.split("-")[1]
    assert sent_on.decode() != TRACE
    logged = [line for line in server.logged() if line["message"] == "usage taken" and line["source_entity_id"] == "job_abc_123"]
    assert [line["traceparent"] for line in logged] == [sent_on.decode()]


def test_an_absent_time_stays_absent_and_a_sent_one_stays_as_written(server: Server, migrated: Settings) -> None:
    message, decoded = read(migrated, post(server, event("undated")))
    assert "occurredAt" not in json.loads(message.value() or b"")
    assert decoded.occurred_at_ms == message.timestamp()[1]
    written = time.strftime("%Y-%m-%dT%H:%M:%S.123456+00:00", time.gmtime())
    message, _ = read(migrated, post(server, event("dated", occurredAt=written)))
    assert json.loads(message.value() or b"")["occurredAt"] == written


def test_numbers_strings_metadata_and_corrections_arrive_as_they_were_meant(server: Server, migrated: Settings) -> None:
    body = (
        b'{"tenantId":"%s","usageType":"DEEP","quantity":0.1,"sourceService":"%s","sourceEntityId":"caf\\u00e9 \xe2\x98\x95",'
        b'"metadata":{"deep":[1e400,{"a":  0.10}]}}' % (TENANT.encode(), SERVICE.encode())
    )
    _, decoded = read(migrated, post(server, body))
    assert (decoded.quantity, decoded.source_entity_id) == (100_000, "café ☕")
    assert decoded.metadata == b'{"deep":[1e400,{"a":  0.10}]}'
    corrects = {"sourceService": SERVICE, "sourceEntityId": "undated", "usageType": "DEEP"}
    _, decoded = read(migrated, post(server, event("back", quantity="-0.5", kind="correction", corrects=corrects)))
    assert (decoded.kind, decoded.quantity) == ("correction", -500_000)


def test_recording_twice_is_two_records_of_one_key(server: Server, migrated: Settings) -> None:
    first, _ = read(migrated, post(server, event("twice")))
    second, _ = read(migrated, post(server, event("twice")))
    assert first.key() == second.key()
    assert first.partition() == second.partition()
    assert first.offset() != second.offset()


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (event("x", tenantId="nobody"), 422, "unknown_tenant"),
        (event("x", usageType="NO_SUCH_TYPE"), 422, "unknown_usage_type"),
        (event("x", sourceService="chat-proxy"), 403, "source_not_allowed"),
        # The scope comes before what exists: it must not tell who may not ask.
        (event("x", sourceService="chat-proxy", tenantId="nobody"), 403, "source_not_allowed"),
    ],
)
def test_what_the_edge_does_not_take_is_said_and_not_logged(server: Server, body: object, status: int, code: str) -> None:
    answer = post(server, body)
    assert (answer.status, answer.json["code"]) == (status, code)
    batch = server.ask("POST", "/v1/billing/usage/batch", [body])
    assert batch.status == 207
    (result,) = batch.json["results"]
    assert (result["state"], result["status"], result["code"]) == ("refused", status, code)


def test_each_event_of_a_batch_has_its_own_result(server: Server, migrated: Settings) -> None:
    events = [event("b1"), event("b2", quantity="1e3"), event("b3", extra=1), event("b4", quantity="0.25"), 7]
    answer = server.ask("POST", "/v1/billing/usage/batch", {"events": events})
    assert answer.status == 207
    assert (answer.json["accepted"], answer.json["refused"]) == (2, 3)
    results = answer.json["results"]
    assert [result["index"] for result in results] == [0, 1, 2, 3, 4]
    assert [result.get("code") for result in results] == [None, "bad_quantity", "unknown_field", None, "not_an_object"]
    assert "extra" in results[2]["detail"]
    value = record_at(migrated, results[3]["position"]).value()
    assert json.loads(value or b"")["sourceEntityId"] == "b4"


def test_a_batch_of_a_thousand_is_acknowledged_whole(server: Server) -> None:
    answer = server.ask("POST", "/v1/billing/usage/batch", {"events": [event(f"k{n}") for n in range(1000)]})
    assert answer.status == 202
    positions = {(result["position"]["partition"], result["position"]["offset"]) for result in answer.json["results"]}
    assert len(positions) == 1000
    over = server.ask("POST", "/v1/billing/usage/batch", {"events": [event("k")] * 1001})
    assert (over.status, over.json["code"]) == (400, "bad_batch")


def test_waiting_for_the_count_ends_when_the_fence_passes(server: Server, migrated: Settings) -> None:
    answer = post(server, event("w1"), "?wait=counted&timeout=100ms")
    assert (answer.status, answer.json["state"], answer.json["counted"]) == (202, "acked", False)
    # The key decides the partition, so the next record of it stands one further at least.
    partition = answer.json["position"]["partition"]
    done: list[Answer] = []
    asking = threading.Thread(target=lambda: done.append(post(server, event("w1"), "?wait=counted&timeout=10s")))
    began = time.monotonic()
    asking.start()
    to = answer.json["position"]["offset"] + 1000
    move = "UPDATE delta_fences SET next_offset = %(to)s, void = %(to)s WHERE partition = %(partition)s"
    execute(migrated, [(move, {"to": to, "partition": partition})])
    asking.join(15)
    assert done[0].json["counted"] is True
    assert time.monotonic() - began < 5
    batch = server.ask("POST", "/v1/billing/usage/batch?wait=counted&timeout=200ms", [event("w1"), event("w1", quantity="x")])
    assert [result.get("counted") for result in batch.json["results"]] == [True, None]


@pytest.mark.parametrize(
    "query", ["wait=", "wait=stored", "wait=counted&timeout=2h", "wait=counted&timeout=-1s", "wait=counted&timeout=11s"]
)
def test_a_wait_that_means_nothing_is_refused_before_anything_is_recorded(server: Server, query: str) -> None:
    answer = post(server, event("never"), f"?{query}")
    assert (answer.status, answer.json["code"]) in ((400, "bad_wait"), (400, "bad_timeout"))


def test_many_clients_at_once_each_get_their_own_position(server: Server) -> None:
    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(lambda n: post(server, event(f"c{n}")), range(200)))
    assert {answer.status for answer in answers} == {202}
    positions = {(answer.json["position"]["partition"], answer.json["position"]["offset"]) for answer in answers}
    assert len(positions) == 200
