"""What plain HTTP sees: statuses, headers, malformed input, and a server that goes on after all of it."""

from __future__ import annotations

import gzip
import http.client
import json
import shutil
import socket
import subprocess
import zlib
from collections.abc import Iterator

import lz4.frame  # type: ignore[import-untyped]
import pytest

from tests.integration.clickhouse_gateway import READER, WRITER, GatewayProcess


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with GatewayProcess(tmp_path_factory.mktemp("gateway")) as process:
        process.sql("CREATE TABLE t (a UInt64, b String) ENGINE = MergeTree ORDER BY a")
        yield process


@pytest.fixture(autouse=True)
def _still_alive(gateway: GatewayProcess) -> Iterator[None]:
    yield
    assert gateway.sql("SELECT 1").body == b"1\n"


@pytest.mark.parametrize("path", ["/ping", "/replicas_status", "/"])
def test_health_needs_no_password(gateway: GatewayProcess, path: str) -> None:
    reply = gateway.request("GET", path, who=None)
    assert (reply.status, reply.body) == (200, b"Ok.\n")
    assert gateway.request("HEAD", path, who=None).body == b""


def test_an_unknown_path_is_not_found(gateway: GatewayProcess) -> None:
    assert gateway.request("GET", "/play").status == 404


@pytest.mark.parametrize("who", [("writer", "wrong"), ("nobody", "writer-pass"), ("writer", ""), ("default", "")])
def test_wrong_credentials_are_516_and_403(gateway: GatewayProcess, who: tuple[str, str]) -> None:
    reply = gateway.request("POST", "/", b"SELECT 1", who=who)
    assert (reply.status, reply.code) == (403, 516)
    assert reply.body.startswith(b"Code: 516. DB::Exception: ")


def test_no_credentials_ask_for_them(gateway: GatewayProcess) -> None:
    reply = gateway.request("POST", "/", b"SELECT 1", who=None)
    assert reply.status == 401
    assert reply.headers["www-authenticate"].startswith("Basic")


def test_credentials_may_come_as_headers_or_parameters(gateway: GatewayProcess) -> None:
    headers = {"X-ClickHouse-User": WRITER[0], "X-ClickHouse-Key": WRITER[1]}
    assert gateway.request("POST", "/", b"SELECT 1", who=None, headers=headers).body == b"1\n"
    assert gateway.request("GET", "/", who=None, user=WRITER[0], password=WRITER[1], query="SELECT 1").body == b"1\n"
    wrong = gateway.request("GET", "/", who=WRITER, headers={"X-ClickHouse-User": "x", "X-ClickHouse-Key": "y"}, query="SELECT 1")
    assert wrong.status == 403


@pytest.mark.parametrize(
    ("text", "status", "code"),
    [
        ("SELECT * FROM nope", 404, 60),
        ("SELECT nope()", 404, 46),
        ("SELECT nope", 404, 47),
        ("SELECT 1 FORMAT Nope", 404, 73),
        ("USE nope", 404, 81),
        ("SELEC 1", 400, 62),
        ("", 400, 62),
        ("   -- nothing\n", 400, 62),
        ("SELECT 1; SELECT 2", 400, 62),
        ("SELECT toUInt8('x')", 400, 6),
        ("SELECT throwIf(1)", 500, 395),
        ("SELECT 1 INTO OUTFILE '/tmp/x'", 500, 358),
        ("INSERT INTO t FROM INFILE '/etc/passwd' FORMAT TSV", 404, 78),
        ("SELECT * FROM python(x)", 500, 446),
    ],
)
def test_errors_have_the_servers_status_and_code(gateway: GatewayProcess, text: str, status: int, code: int) -> None:
    reply = gateway.sql(text)
    assert (reply.status, reply.code) == (status, code), reply.body
    assert reply.body.startswith(b"Code: %d. DB::Exception: " % code)
    assert reply.body.count(b"DB::Exception") == 1


@pytest.mark.parametrize(
    ("settings", "text", "status", "code"),
    [
        ({"max_execution_time": "0.3"}, "SELECT count() FROM numbers(1000000000000)", 408, 159),
        ({"max_memory_usage": "10000000"}, "SELECT groupArray(number) FROM numbers(100000000)", 500, 241),
        ({"max_result_rows": "10"}, "SELECT number FROM numbers(1000)", 500, 396),
        ({"max_rows_to_read": "10"}, "SELECT number FROM numbers(1000)", 500, 158),
        ({"no_such_setting": "1"}, "SELECT 1", 404, 115),
        ({"max_threads = 1, readonly": "1"}, "SELECT 1", 404, 115),
        ({"max_threads": "1, readonly = 1"}, "SELECT 1", 400, None),
        ({"max_threads": "1'; DROP TABLE t; --"}, "SELECT 1", 400, None),
        ({"database": "no`such"}, "SELECT 1", 404, 81),
        ({"compress": "1"}, "SELECT 1", 501, 48),
        ({"session_id": "s", "session_timeout": "9999999"}, "SELECT 1", 500, 374),
        ({"session_id": "never seen", "session_check": "1"}, "SELECT 1", 500, 372),
        ({"query_id": "line\nbreak"}, "SELECT 1", 400, 36),
        ({"default_format": "TSV SETTINGS x"}, "SELECT 1", 404, 73),
    ],
)
def test_settings_hold_and_cannot_become_sql(
    gateway: GatewayProcess, settings: dict[str, str], text: str, status: int, code: int | None
) -> None:
    reply = gateway.sql(text, **settings)
    assert reply.status == status, reply.body
    assert code is None or reply.code == code
    assert gateway.sql("EXISTS t").body == b"1\n"


def test_a_get_cannot_change_anything(gateway: GatewayProcess) -> None:
    for text in (
        "DROP TABLE t",
        "INSERT INTO t VALUES (1, 'x')",
        "CREATE TABLE u (a Int8) ENGINE = Memory",
        "KILL QUERY WHERE 1",
    ):
        reply = gateway.request("GET", query=text)
        assert (reply.status, reply.code) == (500, 164)
    assert gateway.request("GET", query="SELECT count() FROM t WHERE a = 1").body == b"0\n"


def test_answers_say_what_they_are(gateway: GatewayProcess) -> None:
    reply = gateway.sql("SELECT 1 AS a FORMAT JSONEachRow", query_id="mine-1")
    assert reply.body == b'{"a":1}\n'
    assert reply.headers["x-clickhouse-query-id"] == "mine-1"
    assert reply.headers["x-clickhouse-format"] == "JSONEachRow"
    assert reply.headers["content-type"].startswith("application/x-ndjson")
    assert reply.headers["x-clickhouse-timezone"]
    assert reply.headers["x-clickhouse-server-display-name"]
    assert json.loads(reply.headers["x-clickhouse-summary"])["result_rows"] == "1"
    assert gateway.sql("SELECT 1 AS a", default_format="CSVWithNames").body == b'"a"\n1\n'
    assert gateway.request("POST", "/", b"SELECT 1 AS a", headers={"X-ClickHouse-Format": "JSONEachRow"}).body == b'{"a":1}\n'


@pytest.mark.parametrize(
    "text",
    ["SELECT 1 AS a FORMAT CSV SETTINGS max_threads = 1", "SELECT 1 AS a SETTINGS max_threads = 1 FORMAT CSV", "SELECT 1;"],
)
def test_clauses_may_stand_in_any_order(gateway: GatewayProcess, text: str) -> None:
    assert gateway.sql(text).body == b"1\n"


def test_the_statement_may_be_split_between_address_and_body(gateway: GatewayProcess) -> None:
    assert gateway.sql("number FROM numbers(3)", query="SELECT").body == b"0\n1\n2\n"


@pytest.mark.parametrize(
    ("query", "body"),
    [
        ("INSERT INTO t FORMAT TSV", b"901\tx\n902\ty\n"),
        ("INSERT INTO t (a, b) VALUES", b"(901, 'x'), (902, 'y')"),
        (None, b"INSERT INTO t FORMAT TSV\n901\tx\n902\ty"),
        (None, b"INSERT INTO t SETTINGS max_threads = 1 FORMAT CSV\r\n901,x\n902,y"),
        (None, b"insert into t values (901, 'x'), (900 + 2, ';y')"),
        (None, b'INSERT INTO t FORMAT JSONEachRow {"a":901,"b":"x"}{"a":902,"b":"FORMAT"}'),
        ("INSERT INTO t SELECT a + 900, b FROM input('a UInt64, b String') FORMAT CSV", b"1,x\n2,y\n"),
        ("INSERT INTO t SELECT number + 901, 'x' FROM numbers(2)", b""),
    ],
)
def test_rows_come_in_by_every_way(gateway: GatewayProcess, query: str | None, body: bytes) -> None:
    gateway.sql("TRUNCATE TABLE t")
    reply = gateway.request("POST", "/", body, query=query or "")
    assert reply.status == 200, reply.body
    assert json.loads(reply.headers["x-clickhouse-summary"])["written_rows"] == "2"
    assert gateway.sql("SELECT a FROM t ORDER BY a").body == b"901\n902\n"


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("lz4", lz4.frame.compress)])
def test_content_encodings_are_unpacked(gateway: GatewayProcess, encoding: str, pack: object) -> None:
    gateway.sql("TRUNCATE TABLE t")
    rows = b"".join(b"%d\tx\n" % n for n in range(50_000))
    body = pack(rows)  # type: ignore[operator]
    reply = gateway.request("POST", "/", body, headers={"Content-Encoding": encoding}, query="INSERT INTO t FORMAT TSV")
    assert reply.status == 200, reply.body
    assert gateway.sql("SELECT count() FROM t").body == b"50000\n"


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("zstd", b"garbage", 500),
        ("lz4", b"\x04\x22\x4d\x18 cut", 500),
        ("gzip", gzip.compress(b"1\tx\n", mtime=0)[:-6], 500),
        ("snappy", b"x", 415),
    ],
)
def test_bodies_that_cannot_be_unpacked_store_nothing(gateway: GatewayProcess, encoding: str, body: bytes, status: int) -> None:
    gateway.sql("TRUNCATE TABLE t")
    reply = gateway.request("POST", "/", body, headers={"Content-Encoding": encoding}, query="INSERT INTO t FORMAT TSV")
    assert reply.status == status, reply.body
    assert gateway.sql("SELECT count() FROM t").body == b"0\n"


@pytest.mark.parametrize(
    ("fmt", "rows"),
    [
        ("TSV", b"1\tx\nnot a number\ty\n"),
        ("Native", b"\x01\x02\x03"),
        ("Arrow", b"junk"),
        ("JSONEachRow", b'{"a":1,"b":"x"}\n{"a":'),
        ("Nope", b"1"),
    ],
)
def test_rows_that_cannot_be_read_store_nothing(gateway: GatewayProcess, fmt: str, rows: bytes) -> None:
    gateway.sql("TRUNCATE TABLE t")
    reply = gateway.request("POST", "/", rows, query=f"INSERT INTO t FORMAT {fmt}")
    assert reply.status >= 400
    assert reply.code > 0
    assert gateway.sql("SELECT count() FROM t").body == b"0\n"


@pytest.mark.parametrize(
    "body",
    [
        b"\x00",
        b"SELECT \x00 1",
        b"\xff\xfe\xfd",
        b"'",
        b"/*",
        b"SELECT '",
        b"SELECT 1 /*",
        b"CREATE TABLE q (a Int8) ENGINE = Memory COMMENT 'open",
        b"INSERT INTO t (a /* VALUES (1)",
        b"(" * 5000,
        bytes(range(256)) * 40_000,
    ],
)
def test_nonsense_gets_a_clean_error(gateway: GatewayProcess, body: bytes) -> None:
    reply = gateway.request("POST", "/", body)
    assert reply.status in (400, 500)
    assert reply.body.startswith(b"Code: ")


def test_strings_may_hold_any_bytes(gateway: GatewayProcess) -> None:
    assert gateway.sql(b"SELECT '\xff\xfe' FORMAT RowBinary").body == b"\x02\xff\xfe"
    assert gateway.request("GET", "/?query=SELECT%20%27%FF%27%20FORMAT%20RowBinary").body == b"\x01\xff"


def test_a_broken_request_line_and_a_half_sent_body_do_no_harm(gateway: GatewayProcess) -> None:
    for sent in (
        b"\x16\x03\x01 not http\r\n\r\n",
        b"POST /?query=INSERT+INTO+t+FORMAT+TSV HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\n1\tx\n",
    ):
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as raw:
            raw.sendall(sent)
        assert gateway.sql("SELECT 1").body == b"1\n"


def test_one_session_serves_one_request_at_a_time(gateway: GatewayProcess) -> None:
    slow = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
    slow.request("GET", "/?session_id=busy&user=writer&password=writer-pass&query=SELECT+sleep(2)")
    try:
        replies = [gateway.sql("SELECT 1", session_id="busy") for _ in range(20)]
        assert (500, 373) in {(reply.status, reply.code) for reply in replies}
        assert slow.getresponse().read() == b"0\n"
    finally:
        slow.close()
    assert gateway.sql("SELECT 1", session_id="busy").body == b"1\n"


def test_two_statements_cannot_share_a_query_id(gateway: GatewayProcess) -> None:
    first = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
    first.request("GET", "/?user=writer&password=writer-pass&query_id=twin&query=SELECT+sleep(2)")
    try:
        codes = set()
        for _ in range(20):
            codes.add(gateway.sql("SELECT 1", query_id="twin").code)
        assert 216 in codes
    finally:
        first.getresponse().read()
        first.close()


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_answers_are_packed_only_when_asked_for(gateway: GatewayProcess, encoding: str) -> None:
    asked = {"Accept-Encoding": encoding}
    plain = gateway.request("POST", "/", b"SELECT number FROM numbers(100000)", headers=asked)
    packed = gateway.request("POST", "/", b"SELECT number FROM numbers(100000)", headers=asked, enable_http_compression=1)
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == encoding
    assert zlib.decompressobj(47 if encoding == "gzip" else 15).decompress(packed.body) == plain.body


@pytest.mark.parametrize("name", [WRITER, READER])
def test_curl_works(gateway: GatewayProcess, name: tuple[str, str]) -> None:
    curl = shutil.which("curl")
    assert curl is not None, "curl is needed to show that curl works"
    command = [curl, "-sS", "-u", ":".join(name), f"http://127.0.0.1:{gateway.port}/", "-d", "SELECT 1 + 1 FORMAT CSV"]
    assert subprocess.run(command, capture_output=True, timeout=20, check=True).stdout == b"2\n"
