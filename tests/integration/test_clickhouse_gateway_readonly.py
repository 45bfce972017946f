"""What the read-only user may do, and everything that it may not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.clickhouse_gateway import READER, GatewayProcess, Reply


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with GatewayProcess(tmp_path_factory.mktemp("gateway")) as process:
        process.sql("CREATE TABLE t (a UInt64, b String) ENGINE = MergeTree ORDER BY a")
        process.sql("INSERT INTO t VALUES (1, 'x'), (2, 'outfile')")
        process.sql("CREATE VIEW v AS SELECT a FROM t SETTINGS max_threads = 1")
        yield process


def _read(gateway: GatewayProcess, text: str, **parameters: Any) -> Reply:
    return gateway.request("POST", "/", text.encode(), who=READER, **parameters)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT a FROM t",
        "WITH 1 AS x SELECT a + x FROM t",
        "FROM t SELECT a",
        "(SELECT a FROM t) UNION ALL (SELECT 2)",
        "SELECT * FROM t WHERE b = 'outfile' OR b = 'file(1)'",
        "SELECT number FROM numbers(3)",
        "SELECT name FROM system.tables",
        "SHOW TABLES",
        "SHOW CREATE TABLE t",
        "DESCRIBE TABLE t",
        "EXISTS t",
        "EXPLAIN SELECT a FROM t",
        "SELECT format('{}-{}', a, b) FROM t",
    ],
)
def test_it_may_read(gateway: GatewayProcess, text: str) -> None:
    reply = _read(gateway, text)
    assert reply.status == 200, reply.body
    assert reply.body


def test_views_with_settings_of_their_own_can_be_read(gateway: GatewayProcess) -> None:
    assert _read(gateway, "SELECT sum(a) FROM v").status == 200


def test_the_usual_client_works(gateway: GatewayProcess) -> None:
    with gateway.client(READER) as client:
        assert client.query("SELECT a FROM t ORDER BY a").result_rows == [(1,), (2,)]
        assert client.query_arrow("SELECT a FROM t").num_rows == 2


_WRITES = [
    "INSERT INTO t VALUES (9, 'z')",
    "INSERT INTO t SELECT 9, 'z'",
    "WITH 9 AS n INSERT INTO t SELECT n, 'z'",
    "INSERT INTO FUNCTION file('/tmp/out.csv') SELECT 1",
    "CREATE TABLE u (a Int8) ENGINE = Memory",
    "CREATE TEMPORARY TABLE u (a Int8)",
    "CREATE DATABASE d",
    "CREATE FUNCTION f AS x -> x",
    "CREATE USER u",
    "ALTER TABLE t DELETE WHERE 1",
    "DELETE FROM t WHERE 1",
    "UPDATE t SET b = '' WHERE 1",
    "TRUNCATE TABLE t",
    "DROP TABLE t",
    "DETACH TABLE t",
    "ATTACH TABLE u (a Int8)",
    "UNDROP TABLE t",
    "RENAME TABLE t TO u",
    "EXCHANGE TABLES t AND v",
    "OPTIMIZE TABLE t",
    "GRANT ALL ON *.* TO reader",
    "BACKUP TABLE t TO File('/tmp/b')",
    "RESTORE TABLE t FROM File('/tmp/b')",
    "SYSTEM FLUSH LOGS",
    "SYSTEM SHUTDOWN",
    "SYSTEM STOP MERGES",
    "KILL QUERY WHERE 1",
    "KILL MUTATION WHERE 1",
    "SET readonly = 0",
    "SET max_execution_time = 0",
    "SET ROLE x",
    "BEGIN TRANSACTION",
    "EXECUTE AS writer SELECT 1",
    "SELECT 1 SETTINGS readonly = 0",
    "SELECT 1 SETTINGS max_execution_time = 0",
    "SELECT 1 SETTINGS max_memory_usage = 0",
    "PARALLEL WITH DROP TABLE t",
    "DROP TABLE t PARALLEL WITH DROP TABLE v",
]

_READS_OF_OTHER_THINGS = [
    "SELECT * FROM file('/etc/passwd', 'LineAsString')",
    "SELECT file('/etc/passwd')",
    "SELECT FILE ('/etc/passwd')",
    "SELECT `file`('/etc/passwd')",
    "SELECT \"file\"('/etc/passwd')",
    "SELECT `f\\x69le`('/etc/passwd')",
    "SELECT file/* */('/etc/passwd')",
    "SELECT file -- \n('/etc/passwd')",
    "DESCRIBE TABLE file('/etc/passwd', 'LineAsString')",
    "EXPLAIN SELECT file('/etc/passwd')",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM `/etc/passwd`",
    "SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString', 'a String')",
    "DESCRIBE url('http://127.0.0.1:1/', 'LineAsString')",
    "SELECT * FROM s3('http://127.0.0.1:1/bucket/a', 'LineAsString', 'a String')",
    "SELECT * FROM executable('cat /etc/passwd', 'LineAsString', 'a String')",
    "SELECT * FROM remote('127.0.0.1', 'system.one')",
    "SELECT * FROM mysql('127.0.0.1:1', 'a', 'b', 'c', 'd')",
    "SELECT * FROM postgresql('127.0.0.1:1', 'a', 'b', 'c', 'd')",
    "SELECT * FROM sqlite('/tmp/x', 't')",
    "SELECT * FROM eval('SELECT 1')",
    "SELECT * FROM filesystem('/etc')",
    "SELECT * FROM icebergLocal('/etc')",
    "SELECT * FROM cluster('default', system.one)",
    "SELECT * FROM fileCluster('a', '/etc/passwd')",
    "SELECT * FROM merge('default', 't') WHERE a IN (SELECT length(file('/etc/passwd')))",
    "SELECT aiGenerate('x', 'y')",
    "SELECT addressToLine(1)",
    "COPY t FROM '/etc/passwd'",
]


@pytest.mark.parametrize("text", _WRITES + _READS_OF_OTHER_THINGS)
def test_it_may_not(gateway: GatewayProcess, text: str) -> None:
    reply = _read(gateway, text)
    assert reply.status >= 400, reply.body
    assert b"root:" not in reply.body
    assert reply.code in (62, 164, 446, 60, 36), reply.body


def test_python_objects_of_the_gateway_are_nobodys(gateway: GatewayProcess) -> None:
    for text in ("SELECT * FROM python(_BASE)", "SELECT * FROM `python`(os)", "SELECT * FROM Python(sys)"):
        assert _read(gateway, text).code in (164, 446)
        assert gateway.sql(text).code == 446


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1 INTO OUTFILE '{path}'",
        "SELECT 1 INTO/**/OUTFILE '{path}'",
        "SELECT 1 INTO -- x\n OUTFILE '{path}' TRUNCATE FORMAT CSV",
        "SELECT '\u2018' INTO OUTFILE '{path}'",
        "SELECT \u2018 ' \u2019 INTO OUTFILE '{path}' --'",
        "EXPLAIN SELECT 1 INTO OUTFILE '{path}'",
        "SHOW TABLES INTO OUTFILE '{path}'",
        "SELECT 1 UNION ALL SELECT 2 INTO OUTFILE '{path}'",
        "SELECT $$'$$ INTO OUTFILE '{path}' --'",
        "SELECT 1; SELECT 1 INTO OUTFILE '{path}'",
    ],
)
def test_no_file_is_ever_written(gateway: GatewayProcess, tmp_path: Path, text: str) -> None:
    target = tmp_path / "leak"
    for reply in (_read(gateway, text.format(path=target)), gateway.sql(text.format(path=target))):
        assert reply.status >= 400, reply.body
        assert not target.exists()


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("max_execution_time", "0", 452),
        ("max_execution_time", "100000", 452),
        ("max_execution_time", "nan", 452),
        ("max_memory_usage", "0", 452),
        ("max_memory_usage", "99999999999", 452),
        ("max_threads", "1000", 452),
        ("allow_introspection_functions", "1", 164),
        ("format_schema", "x", 164),
        ("format_template_resultset", "/etc/passwd", 164),
        ("allow_ddl", "1", 164),
        ("storage_file_read_method", "pread", 164),
    ],
)
def test_settings_beyond_its_bounds_are_refused(gateway: GatewayProcess, name: str, value: str, code: int) -> None:
    assert _read(gateway, "SELECT 1", **{name: value}).code == code


def test_readonly_cannot_be_switched_off(gateway: GatewayProcess) -> None:
    assert _read(gateway, "DROP TABLE t", readonly="0").code == 164
    assert _read(gateway, "SELECT getSetting('readonly')", readonly="0").body == b"1\n"


def test_settings_within_its_bounds_hold(gateway: GatewayProcess) -> None:
    assert _read(gateway, "SELECT getSetting('max_execution_time')", max_execution_time="5").body == b"5\n"
    assert _read(gateway, "SELECT getSetting('max_execution_time')").body == b"60\n"
    assert _read(gateway, "SELECT count() FROM numbers(1000000000000)", max_execution_time="1").code == 159


def test_a_session_does_not_lend_it_rights(gateway: GatewayProcess) -> None:
    gateway.sql("CREATE TEMPORARY TABLE mine (a Int8)", session_id="shared")
    assert _read(gateway, "SELECT * FROM mine", session_id="shared").code == 60
    assert _read(gateway, "INSERT INTO t VALUES (9, 'z')", session_id="shared").code == 164
    assert _read(gateway, "USE system", session_id="own").status == 200
    assert _read(gateway, "SELECT currentDatabase()", session_id="own").body == b"system\n"


def test_external_tables_cannot_smuggle_a_statement(gateway: GatewayProcess) -> None:
    for structure in (
        "a String) ENGINE = File(CSV, '/etc/passwd') --",
        "a String DEFAULT file('/etc/passwd')",
        "a String); DROP TABLE t; --",
    ):
        body = b'--B\r\nContent-Disposition: form-data; name="x"; filename="x"\r\n\r\n1\n\r\n--B--\r\n'
        headers = {"Content-Type": "multipart/form-data; boundary=B"}
        reply = gateway.request("POST", "/", body, who=READER, headers=headers, query="SELECT * FROM x", x_structure=structure)
        assert (reply.status, reply.code) == (400, 36), reply.body
    assert gateway.sql("EXISTS t").body == b"1\n"


def test_nothing_was_changed_by_any_of_it(gateway: GatewayProcess) -> None:
    assert gateway.sql("SELECT count(), sum(a) FROM t").body == b"2\t3\n"
