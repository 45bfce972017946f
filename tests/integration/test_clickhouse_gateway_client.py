"""The unmodified clickhouse-connect client works against the gateway as against a server."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError, StreamFailureError

from tests.integration.clickhouse_gateway import GatewayProcess

_SQL = Path(__file__).parents[2] / "store" / "clickhouse"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with GatewayProcess(tmp_path_factory.mktemp("gateway")) as process:
        yield process


@pytest.fixture
def client(gateway: GatewayProcess, request: pytest.FixtureRequest) -> Iterator[Client]:
    name = "d_" + re.sub(r"\W", "_", request.node.name)
    with gateway.client() as admin:
        admin.command(f"CREATE DATABASE {name}")
    with gateway.client(database=name) as client:
        yield client


def test_values_of_many_types_come_back_as_they_were_sent(client: Client) -> None:
    client.command(
        "CREATE TABLE t (a UInt64, b Nullable(String), c Decimal(18, 6), d DateTime64(3, 'UTC'), e Array(Tuple(String, String)),"
        " f LowCardinality(String)) ENGINE = MergeTree ORDER BY a"
    )
    moment = dt.datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=dt.UTC)
    rows: list[list[Any]] = [
        [2**64 - 1, None, Decimal("1.500001"), moment, [("k", "v\0\n'")], "x"],
        [0, "", Decimal("-0.000001"), moment, [], "\u00e9"],
    ]
    summary = client.insert("t", rows, column_names=list("abcdef"))
    assert summary.written_rows == 2
    found = client.query("SELECT * FROM t ORDER BY a DESC", tz_mode="aware").result_rows
    assert [list(row) for row in found] == rows


def test_an_arrow_table_goes_in_and_out_whole(client: Client) -> None:
    client.command("CREATE TABLE t (a UInt64, b String) ENGINE = MergeTree ORDER BY a")
    table = pa.table({"a": pa.array(range(150_000), pa.uint64()), "b": [str(n) for n in range(150_000)]})
    assert client.insert_arrow("t", table).written_rows == 150_000
    assert client.command("SELECT count() FROM system.parts WHERE table = 't' AND database = currentDatabase() AND active") == 1
    back = client.query_arrow("SELECT a, b FROM t ORDER BY a", use_strings=True)
    assert back.column("a").to_pylist() == table.column("a").to_pylist()
    assert back.column("b").to_pylist() == table.column("b").to_pylist()
    with client.query_arrow_stream("SELECT a FROM t") as stream:
        assert sum(batch.num_rows for batch in stream) == 150_000


@pytest.mark.parametrize("compress", [False, "lz4", "zstd", "gzip"])
def test_bodies_are_compressed_both_ways(gateway: GatewayProcess, client: Client, compress: str | bool) -> None:
    client.command("CREATE TABLE t (a UInt64, b String) ENGINE = MergeTree ORDER BY a")
    with gateway.client(database=str(client.database), compress=compress) as packed:
        packed.insert("t", [[n, "z" * 50] for n in range(20_000)], column_names=["a", "b"])
        assert len(packed.query("SELECT * FROM t").result_rows) == 20_000


def test_parameters_are_bound_by_the_engine(client: Client) -> None:
    text = "it's \\ a \t tab \n and \u00e9"
    row = client.query(
        "SELECT {n:UInt8} + 1, {s:String}, {a:Array(UInt8)}", parameters={"n": 41, "s": text, "a": [1, 2]}
    ).result_rows[0]
    assert row == (42, text, [1, 2])


def test_long_parameters_go_as_a_form(client: Client) -> None:
    text = "x" * 100_000
    assert client.query("SELECT length({s:String})", parameters={"s": text}).result_rows == [(100_000,)]


def test_an_empty_result_still_names_its_columns(client: Client) -> None:
    result = client.query("SELECT number AS n, 'x' AS s FROM numbers(10) WHERE n > 100")
    assert result.column_names == ("n", "s")
    assert result.result_rows == []


def test_an_external_table_lives_for_one_query(client: Client) -> None:
    from clickhouse_connect.driver.external import ExternalData

    rows = ExternalData(file_name="ids.csv", data=b"1,a\n2,b\n", fmt="CSV", structure=["id UInt32", "s String"])
    assert client.query("SELECT sum(id) FROM ids", external_data=rows).result_rows == [(3,)]
    with pytest.raises(DatabaseError) as caught:
        client.query("SELECT sum(id) FROM ids")
    assert caught.value.code == 60


def test_a_session_keeps_its_temporary_table_and_its_settings(gateway: GatewayProcess) -> None:
    with gateway.client(session_id="one") as one, gateway.client(session_id="two") as two:
        one.command("CREATE TEMPORARY TABLE mine (a UInt8)")
        one.insert("mine", [[7]], column_names=["a"])
        one.command("SET max_block_size = 1234")
        assert one.command("SELECT a FROM mine") == 7
        assert one.command("SELECT getSetting('max_block_size')") == 1234
        assert one.query("SELECT getSetting('max_block_size')", settings={"max_block_size": 99}).result_rows == [(99,)]
        assert one.command("SELECT getSetting('max_block_size')") == 1234
        with pytest.raises(DatabaseError) as caught:
            two.command("SELECT a FROM mine")
        assert caught.value.code == 60
        assert two.command("SELECT getSetting('max_block_size')") != 1234


def test_settings_of_one_request_do_not_reach_the_next(client: Client) -> None:
    assert client.query("SELECT getSetting('max_block_size')", settings={"max_block_size": 77}).result_rows == [(77,)]
    assert client.query("SELECT getSetting('max_block_size')").result_rows != [(77,)]
    assert client.command("SELECT getSetting('async_insert')") in (0, "false")


@pytest.mark.parametrize(
    ("text", "code"),
    [("SELECT * FROM nope", 60), ("SELEC 1", 62), ("SELECT toUInt8('x')", 6), ("SELECT nope", 47), ("SELECT throwIf(1)", 395)],
)
def test_errors_carry_clickhouses_code(client: Client, text: str, code: int) -> None:
    with pytest.raises(DatabaseError) as caught:
        client.query(text)
    assert caught.value.code == code


def test_an_insert_that_the_table_refuses_is_an_error_and_stores_nothing(client: Client) -> None:
    client.command("CREATE TABLE t (a UInt64, CONSTRAINT small CHECK a < 10) ENGINE = MergeTree ORDER BY a")
    inserts: tuple[Callable[[], object], ...] = (
        lambda: client.insert("t", [[1], [50]], column_names=["a"]),
        lambda: client.insert_arrow("t", pa.table({"a": pa.array([1, 50], pa.uint64())})),
        lambda: client.command("INSERT INTO t VALUES (1), (50)"),
        lambda: client.raw_insert("t", insert_block=b"1\n50\n", fmt="TSV"),
    )
    for insert in inserts:
        with pytest.raises(DatabaseError) as caught:
            insert()
        assert caught.value.code == 469
    assert client.command("SELECT count() FROM t") == 0


def test_a_failure_in_the_middle_of_a_stream_is_told(client: Client) -> None:
    def drain() -> int:
        with client.query_row_block_stream("SELECT throwIf(number = 3000000), number FROM numbers(5000000)") as stream:
            return sum(len(block) for block in stream)

    with pytest.raises((StreamFailureError, DatabaseError), match="throwIf"):
        drain()


def test_the_shipped_tables_work_as_they_are(client: Client) -> None:
    for path in sorted(_SQL.glob("*.sql")):
        lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("--")]
        for statement in re.split(r";\s*$", "\n".join(lines), flags=re.MULTILINE):
            if statement.strip():
                client.command(statement)
    moment = pa.array([1_760_000_000_000] * 3, pa.timestamp("ms", "UTC"))
    offsets = [5, 6, 7]
    columns = {
        "tenant_id": ["t1"] * 3, "usage_type": ["api"] * 3, "source_service": ["svc"] * 3,
        "source_entity_id": ["same", "same", "other"],
        "quantity": pa.array([Decimal("1.5"), Decimal("2.5"), Decimal("4")], pa.decimal128(18, 6)), "kind": ["usage"] * 3,
        "corrects": [""] * 3, "occurred_at": moment, "ingested_at": moment, "metadata": [""] * 3,
        "log_epoch": pa.array([1] * 3, pa.uint16()), "kafka_partition": pa.array([3] * 3, pa.uint32()),
        "kafka_offset": pa.array(offsets, pa.uint64()), "key_hash": pa.array([11, 11, 12], pa.uint64()),
        "key_murmur2": pa.array([1] * 3, pa.uint32()), "row_hash": pa.array([1] * 3, pa.uint64()),
        "rules_version": pa.array([1] * 3, pa.uint16()),
        "row_version": pa.array([2**64 - 1 - (1 << 48 | offset) for offset in offsets], pa.uint64()),
    }  # fmt: skip
    table = pa.table(columns)
    client.insert_arrow("usage_events", table)
    client.insert_arrow("usage_events", table)
    assert client.query("SELECT count(), sum(quantity) FROM usage_events FINAL").result_rows == [(2, Decimal("5.5"))]
    assert client.query("SELECT source_entity_id, quantity FROM usage ORDER BY 1").result_rows == [
        ("other", Decimal("4")),
        ("same", Decimal("1.5")),
    ]
    assert client.query("SELECT quantity, events FROM usage_daily").result_rows == [(Decimal("5.5"), 2)]
    assert client.query("SELECT quantity FROM usage_by_tenant_month").result_rows == [(Decimal("5.5"),)]
    client.command("OPTIMIZE TABLE usage_events FINAL")  # the first merge makes the projections
    for where, projection in (
        ("key_hash IN (11)", "by_key"),
        ("log_epoch = 1 AND kafka_partition = 3 AND kafka_offset >= 5", "by_position"),
    ):
        plan = client.query(f"EXPLAIN projections = 1 SELECT key_hash, kafka_offset FROM usage_events WHERE {where}").result_rows
        assert any(projection in line for (line,) in plan), plan
