"""Usage in other forms: what a CloudEvent becomes, what does not map, and lines of which one is broken."""

from __future__ import annotations

import json
from typing import Any

import pytest

from entitlements.formats import CLOUDEVENT, CLOUDEVENTS, NDJSON, form_of, many, one
from entitlements.problems import Problem
from meterline_schemas.event import Event, decode
from meterline_schemas.rules import NEWEST_RULES, RULES

NOW_MS = 1_795_255_200_000
CLOUD_EVENT: dict[str, Any] = {
    "specversion": "1.0",
    "id": "job_1",
    "source": "analysis-worker",
    "type": "DEEP",
    "subject": "tnt_123",
    "time": "2026-11-21T09:59:59.5Z",
    "datacontenttype": "application/json; charset=utf-8",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "data": {"quantity": 1.5, "metadata": {"deep": [1e3]}},
}


def sent(content_type: str, **attributes: str) -> list[tuple[bytes, bytes]]:
    made = [(b"content-type", content_type.encode())]
    return made + [(f"ce-{name}".encode(), value.encode()) for name, value in attributes.items()]


def event_of(value: bytes) -> Event:
    decoded = decode(value, None, NOW_MS, RULES[NEWEST_RULES])
    assert isinstance(decoded, Event), decoded
    return decoded


def refusal(headers: list[tuple[bytes, bytes]], body: bytes) -> tuple[int, str]:
    with pytest.raises(Problem) as refused:
        one(headers, body)
    return refused.value.status, refused.value.code


@pytest.mark.parametrize(
    ("content_type", "form"),
    [
        ("application/json", "json"),
        ("text/plain", "json"),
        ("application/x-ndjson; charset=utf-8", "ndjson"),
        ("Application/CloudEvents+JSON;charset=UTF-8", "cloudevent"),
        ("application/cloudevents-batch+json", "cloudevents"),
    ],
)
def test_the_content_type_says_what_the_body_is(content_type: str, form: str) -> None:
    assert form_of(sent(content_type)) == form
    assert form_of([]) == "json"


def test_a_structured_cloudevent_becomes_the_event_that_it_describes() -> None:
    event = event_of(one(sent(CLOUDEVENT), json.dumps(CLOUD_EVENT).encode()))
    assert (event.tenant_id, event.source_service, event.source_entity_id) == ("tnt_123", "analysis-worker", "job_1")
    assert (event.usage_type, event.quantity, event.kind) == ("DEEP", 1_500_000, "usage")
    assert event.occurred_at_ms == NOW_MS - 500
    assert json.loads(event.metadata) == {"deep": [1000.0]}


def test_a_binary_cloudevent_is_the_same_event() -> None:
    attributes = {name: text for name, text in CLOUD_EVENT.items() if isinstance(text, str) and name != "datacontenttype"}
    body = b'{"quantity": 1.5, "metadata": {"deep": [1000.0]}}'
    binary = event_of(one(sent("application/json", **attributes), body))
    assert binary == event_of(one(sent(CLOUDEVENT), json.dumps(CLOUD_EVENT).encode()))
    escaped = event_of(one(sent("application/json", **{**attributes, "id": "caf%C3%A9%20%25"}), body))
    assert escaped.source_entity_id == "café %"


def test_a_correction_comes_as_a_cloudevent_too() -> None:
    corrects = {"sourceService": "s", "sourceEntityId": "e", "usageType": "DEEP"}
    made = {**CLOUD_EVENT, "data": {"quantity": "-1", "kind": "correction", "corrects": corrects}}
    event = event_of(one(sent(CLOUDEVENT), json.dumps(made).encode()))
    assert (event.kind, event.quantity) == ("correction", -1_000_000)


@pytest.mark.parametrize(
    ("over", "code"),
    [
        ({"specversion": "0.3"}, "bad_cloudevent"),
        ({"specversion": None}, "bad_type"),
        ({"subject": ...}, "missing_field"),
        ({"id": 7}, "bad_type"),
        ({"data": ...}, "bad_cloudevent"),
        ({"data_base64": "e30="}, "bad_cloudevent"),
        ({"datacontenttype": "text/xml"}, "bad_cloudevent"),
        ({"data": [1]}, "bad_type"),
        ({"data": {"quantity": 1, "qty": 2}}, "unknown_field"),
    ],
)
def test_a_cloudevent_that_does_not_map_is_refused_with_what_is_wrong(over: dict[str, Any], code: str) -> None:
    made = {name: value for name, value in {**CLOUD_EVENT, **over}.items() if value is not ...}
    assert refusal(sent(CLOUDEVENT), json.dumps(made).encode()) == (400, code)


@pytest.mark.parametrize(
    ("headers", "body", "code"),
    [
        (sent(CLOUDEVENT), b"", "empty"),
        (sent(CLOUDEVENT), b"{", "malformed_json"),
        (sent(CLOUDEVENT), b'{"id":"\xff"}', "not_utf8"),
        (sent("application/json", specversion="1.0", id="%FF"), b"{}", "not_utf8"),
        ([*sent("application/json", id="a"), (b"ce-id", b"b")], b"{}", "bad_cloudevent"),
        (sent("application/json", specversion="1.0", id="\xe9"), b"{}", "not_utf8"),
    ],
)
def test_bytes_that_are_no_cloudevent_are_refused(headers: list[tuple[bytes, bytes]], body: bytes, code: str) -> None:
    assert refusal(headers, body) == (400, code)


def test_several_events_on_the_route_for_one_are_sent_to_the_other_and_the_other_way_round() -> None:
    assert refusal(sent(NDJSON), b"{}\n{}") == (415, "unsupported_media_type")
    assert refusal(sent(CLOUDEVENTS), b"[]") == (415, "unsupported_media_type")
    with pytest.raises(Problem, match="/v1/billing/usage\\."):
        many(sent(CLOUDEVENT), b"{}")


def test_a_batch_of_cloudevents_keeps_what_is_wrong_with_each_in_its_place() -> None:
    bodies = [CLOUD_EVENT, {**CLOUD_EVENT, "specversion": "2"}, {**CLOUD_EVENT, "id": "job_2"}]
    first, second, third = many(sent(CLOUDEVENTS), json.dumps(bodies).encode())
    assert isinstance(first, bytes)
    assert isinstance(second, Problem)
    assert isinstance(third, bytes)
    assert event_of(third).source_entity_id == "job_2"


def test_each_line_is_an_event_by_itself_whatever_stands_in_the_others() -> None:
    assert many(sent(NDJSON), b'{"a":1}\r\n\n \t\n\xff\xfe\n[1]') == [b'{"a":1}\r', b"\xff\xfe", b"[1]"]
    for body in (b"", b"\n \n", b"{}\n" * 1001):
        with pytest.raises(Problem) as refused:
            many(sent(NDJSON), body)
        assert (refused.value.status, refused.value.code) == (400, "bad_batch")
    assert len(many(sent(NDJSON), b"{}\n" * 1000)) == 1000
