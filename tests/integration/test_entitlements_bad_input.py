"""Every bad input on every route gets a clear problem, never a 500, and nothing is recorded."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator

import pytest
from confluent_kafka import TopicPartition

from runtime.kafka import consumer
from runtime.settings import Settings
from tests.integration.entitlement_data import SERVICE, TENANT, put_catalog
from tests.integration.serving import Answer, Server, serving

CHECK = {"tenantId": TENANT, "usageType": "DEEP", "quantity": 1}
EVENT = {**CHECK, "sourceService": SERVICE, "sourceEntityId": "bad"}
POSTS = {
    "/v1/billing/entitlements/check": CHECK,
    "/v1/billing/entitlements/check/batch": CHECK,
    "/v1/billing/usage": EVENT,
    "/v1/billing/usage/batch": EVENT,
}


@pytest.fixture(scope="module")
def server(migrated: Settings) -> Iterator[Server]:
    secret, _ = put_catalog(migrated)
    with serving(migrated, secret=secret) as running:
        yield running
        assert not [line for line in running.logged() if line["level"] == "error"]
    assert_nothing_was_recorded(migrated)


def assert_nothing_was_recorded(settings: Settings) -> None:
    reader = consumer(settings, **{"group.id": "test-counts"})
    try:
        for partition in range(settings.topic_partitions):
            assert reader.get_watermark_offsets(TopicPartition(settings.topic_events, partition), timeout=10) == (0, 0)
    finally:
        reader.close()


def with_quantity(base: dict[str, object], text: bytes) -> bytes:
    """The body with this very text as its quantity."""
    return json.dumps({**base, "quantity": "@"}).encode().replace(b'"@"', text)


QUANTITIES = {
    "NaN": (b"NaN", "malformed_json"),
    "Infinity": (b"-Infinity", "malformed_json"),
    "1e400": (b"1e400", "bad_quantity"),
    "1e3": (b"1e3", "bad_quantity"),
    "19 digits": (b"1234567890123456789", "bad_quantity"),
    "13 digits": (b"1234567890123", "bad_quantity"),
    "7 decimals": (b"1.0000001", "bad_quantity"),
    "7 decimals as text": (b'"1.0000001"', "bad_quantity"),
    "a plus sign": (b'"+1"', "bad_quantity"),
    "leading zero": (b'"01"', "bad_quantity"),
    "a blank": (b'" 1"', "bad_quantity"),
    "nothing": (b'""', "bad_quantity"),
    "other digits": ('"\u0661"'.encode(), "bad_quantity"),
    "true": (b"true", "bad_type"),
    "null": (b"null", "bad_type"),
    "a list": (b"[1]", "bad_type"),
    "an object": (b'{"a":1}', "bad_type"),
    "bare point": (b".5", "malformed_json"),
}
IDS = {
    "empty": ("", "bad_id"),
    "a null character": ("a\u0000b", "bad_id"),
    "a line break": ("a\nb", "bad_id"),
    "a C1 control": ("a\u0085b", "bad_id"),
    "257 bytes": ("x" * 257, "bad_id"),
    "258 bytes in 129 letters": ("\u00e9" * 129, "bad_id"),
    "a number": (7, "bad_type"),
    "null": (None, "bad_type"),
}


def wrapped(path: str, item: bytes) -> bytes:
    """As the route takes one."""
    return b"[" + item + b"]" if path.endswith("/batch") else item


def cases() -> Iterator[tuple[str, str, bytes, int, str]]:
    """(path, what is wrong, body, status, code)."""
    for path, base in POSTS.items():
        batch = path.endswith("/batch")
        item = json.dumps(base).encode()
        plain = b"[" + item + b"]" if batch else item
        whole = [
            ("empty", b"", 400, "empty"),
            ("blanks", b" \r\n\t ", 400, ""),
            ("null bytes", b"\x00" * 64, 400, "malformed_json"),
            ("a null byte behind it", plain + b"\x00", 400, "malformed_json"),
            ("no JSON", b"tenantId=tnt_123", 400, "malformed_json"),
            ("cut", plain[:-1], 400, "malformed_json"),
            ("two values", plain + plain, 400, "malformed_json"),
            ("a comment", b"/* */" + plain, 400, "malformed_json"),
            ("no UTF-8", plain.replace(b"tnt_123", b"tnt_\xff123"), 400, "not_utf8"),
            ("overlong UTF-8", plain.replace(b"tnt_123", b"tnt_\xc0\xaf"), 400, "not_utf8"),
            ("a surrogate in UTF-8", plain.replace(b"tnt_123", b"\xed\xa0\x80"), 400, "not_utf8"),
            ("deep nesting", b"[" * 60_000, 400, "too_deep"),
            # A batch of usage is only cut into its items, so its first wrong name is met before its depth.
            ("deep nesting of objects", b'{"a":' * 9_000 + b"1" + b"}" * 9_000, 400, "" if "usage/batch" in path else "too_deep"),
            ("deep nesting within the batch", b'{"events":' + b"[" * 60_000, 400, "" if not batch else "too_deep"),
            ("2 MB", b" " * (2 << 20), 413, "too_large"),
        ]
        if not batch:
            whole += [("a list", b"[]", 400, "bad_type" if "check" in path else "not_an_object"), ("null", b"null", 400, "")]
        else:
            whole += [
                ("no items", b"[]", 400, "bad_batch"),
                ("no list", b'{"checks":7,"events":7}', 400, ""),
                ("an unknown field", b'{"checks":[],"events":[]}', 400, "unknown_field"),
                ("neither", b"{}", 400, "missing_field"),
                ("null", b"null", 400, "bad_type"),
            ]
        for what, body, status, code in whole:
            yield path, what, body, status, code
        for what, (text, code) in QUANTITIES.items():
            yield path, f"quantity: {what}", wrapped(path, with_quantity(base, text)), 400, code
        negative = "negative_quantity" if "check" in path else "negative_usage"
        yield path, "quantity: negative", wrapped(path, with_quantity(base, b"-1")), 400, negative
        for field in [name for name in base if name != "quantity"]:
            for what, (value, code) in IDS.items():
                yield path, f"{field}: {what}", wrapped(path, json.dumps({**base, field: value}).encode()), 400, code
            # A check without usageType lacks usageType or feature; every other field is missing by its name.
            missing = {name: value for name, value in base.items() if name != field}
            yield path, f"{field}: missing", wrapped(path, json.dumps(missing).encode()), 400, "missing_field"
        yield path, "an extra field", wrapped(path, json.dumps({**base, "quantitty": 1}).encode()), 400, "unknown_field"
        yield path, "a lone surrogate", wrapped(path, item.replace(b"tnt_123", b"\\ud800")), 400, "malformed_json"
        if "usage" in path:
            for what, at, code in (
                ("far past", "1970-01-01T00:00:00Z", "too_old"),
                ("far future", "9999-12-31T23:59:59Z", "too_far_ahead"),
                ("no zone", "2026-11-21T10:00:00", "bad_occurred_at"),
                ("30 February", "2026-02-30T10:00:00Z", "bad_occurred_at"),
                ("a leap second", "2026-06-30T23:59:60Z", "bad_occurred_at"),
            ):
                yield path, f"occurredAt: {what}", wrapped(path, json.dumps({**base, "occurredAt": at}).encode()), 400, code
            for what, more, code in (
                ("kind", {"kind": "refund"}, "bad_kind"),
                ("corrects without kind", {"corrects": {}}, "bad_corrects"),
                ("kind without corrects", {"kind": "correction"}, "bad_corrects"),
                ("metadata as a list", {"metadata": []}, "bad_metadata"),
                ("metadata of 40 KB", {"metadata": {"a": "x" * 40_000}}, "metadata_too_large"),
            ):
                yield path, what, wrapped(path, json.dumps({**base, **more}).encode()), 400, code
            yield path, "100 KB", wrapped(path, json.dumps({**base, "metadata": {"a": "x" * 100_000}}).encode()), 413, "too_large"
        else:
            both = json.dumps({**base, "feature": "analysis"}).encode()
            yield path, "usageType and feature", wrapped(path, both), 400, "unknown_field"


def problem_of(answer: Answer, item_expected: bool) -> tuple[int, str, str]:
    """(status, code, detail) of the whole answer, or of the one item of a batch that was read."""
    if answer.status == 207 and item_expected:
        (result,) = answer.json["results"]
        assert result["state"] == "refused"
        return result["status"], result["code"], result["detail"]
    assert answer.headers["content-type"] == "application/problem+json"
    said = answer.json
    assert said["status"] == answer.status
    assert said["requestId"] == answer.headers["x-request-id"] == "test-1"
    assert said["type"] == f"urn:meterline:problem:{said['code']}"
    return answer.status, said["code"], said["detail"]


@pytest.mark.parametrize("path", POSTS)
def test_every_bad_body_is_refused_with_its_code(server: Server, path: str) -> None:
    tried = 0
    for where, what, body, status, code in cases():
        if where != path:
            continue
        answer = server.ask("POST", path, body)
        found_status, found_code, detail = problem_of(answer, path == "/v1/billing/usage/batch")
        assert (found_status, found_code) == (status, code or found_code), f"{what}: {answer.status} {answer.body[:300]!r}"
        assert detail, what
        tried += 1
    assert tried > 50


def test_ten_megabytes_are_refused_without_being_read(server: Server) -> None:
    for path in POSTS:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        connection.putrequest("POST", path)
        connection.putheader("X-Service-Secret", server.secret or "")
        connection.putheader("Content-Length", str(10 << 20))
        connection.endheaders()
        # Not a byte of the body is sent: the answer comes all the same.
        answer = connection.getresponse()
        assert answer.status == 413
        assert json.loads(answer.read())["code"] == "too_large"
        connection.close()


def test_a_body_without_a_length_is_cut_where_it_gets_too_large(server: Server) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(160):
            yield b" " * 65_536

    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    # The server may have answered and closed while we still wrote.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.request("POST", "/v1/billing/usage", pieces(), {"X-Service-Secret": server.secret or ""}, encode_chunked=True)
    answer = connection.getresponse()
    assert answer.status == 413
    connection.close()


def test_an_encoded_body_is_not_guessed_at(server: Server) -> None:
    answer = server.ask("POST", "/v1/billing/usage", b"\x1f\x8b\x08", headers={"Content-Encoding": "gzip"})
    assert (answer.status, answer.json["code"]) == (415, "unsupported_encoding")


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        (f"/v1/billing/summaries/{TENANT}?period=2026-13", 400, "bad_period"),
        (f"/v1/billing/summaries/{TENANT}?period=november", 400, "bad_period"),
        (f"/v1/billing/summaries/{TENANT}?limit=0", 400, "bad_page_size"),
        (f"/v1/billing/summaries/{TENANT}?limit=1001", 400, "bad_page_size"),
        (f"/v1/billing/summaries/{TENANT}?cursor=%00", 400, "bad_id"),
        ("/v1/billing/summaries/nobody", 404, "unknown_tenant"),
        ("/v1/billing/summaries/a%00b", 400, "bad_id"),
        ("/v1/billing/summaries/" + "x" * 300, 400, "bad_id"),
        ("/v1/billing/summaries/%FF", 404, "unknown_tenant"),
        ("/v1/billing/summaries/a%2Fb", 404, "unknown_tenant"),
        ("/v1/billing/summaries/", 400, "bad_id"),
        ("/v1/billing/nothing", 404, "no_such_route"),
        ("/v1/billing/usage", 405, "method_not_allowed"),
        ("/v1/billing/usage/", 400, "bad_id"),
        ("/v1/billing/usage/a%2Fb", 404, "unknown_tenant"),
    ],
)
def test_bad_paths_and_queries_are_problems_too(server: Server, path: str, status: int, code: str) -> None:
    answer = server.ask("GET", path)
    assert problem_of(answer, False)[:2] == (status, code)


def test_an_insane_request_id_is_replaced(server: Server) -> None:
    for insane in ("a b", "x" * 65, "{}", "caf\xe9"):
        answer = server.ask("GET", "/health", headers={"X-Request-Id": insane})
        assert answer.headers["x-request-id"] != insane
        assert len(answer.headers["x-request-id"]) == 32


def test_what_is_no_http_at_all_does_not_stop_the_server(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100 + b"\r\n\r\n")
        assert b"400" in connection.recv(4096)
    assert server.ask("GET", "/health").status == 200
