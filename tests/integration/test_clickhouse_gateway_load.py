"""Many at once: no long query stops an insert or a quick look-up, large results cost little, and what nobody waits for ends."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.integration.clickhouse_gateway import GatewayProcess

_ENDLESS = "SELECT count() FROM numbers(1000000000000)"
_CREDENTIALS = "user=writer&password=writer-pass"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with GatewayProcess(tmp_path_factory.mktemp("gateway")) as process:
        process.sql("CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a SETTINGS fsync_after_insert = 1")
        yield process


def _running(gateway: GatewayProcess, pattern: str) -> int:
    # The pattern is put together by the engine, so that this look-up does not find itself.
    text = f"SELECT count() FROM system.processes WHERE query LIKE concat('%', '{pattern[:4]}', '{pattern[4:]}', '%')"
    return int(gateway.sql(text).body)


def _wait_until(condition: Callable[[], bool], most_s: float) -> bool:
    deadline = time.monotonic() + most_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def test_long_queries_stop_neither_inserts_nor_quick_look_ups(gateway: GatewayProcess) -> None:
    long_ones = 12  # more than there are quick places
    with ThreadPoolExecutor(long_ones) as pool:
        slow = [pool.submit(gateway.sql, _ENDLESS, max_execution_time=100, timeout_s=120) for _ in range(long_ones)]
        assert _wait_until(lambda: _running(gateway, "numbers(1000000000000") == long_ones, 20)
        inserts, look_ups = [], []
        for number in range(10):
            begun = time.monotonic()
            assert gateway.sql(f"INSERT INTO t VALUES ({number})").status == 200
            inserts.append(time.monotonic() - begun)
            begun = time.monotonic()
            assert gateway.sql(f"SELECT a FROM t WHERE a = {number}").body == b"%d\n" % number
            look_ups.append(time.monotonic() - begun)
        assert _running(gateway, "numbers(1000000000000") == long_ones, "the long ones must still have run at the end"
        gateway.sql("KILL QUERY WHERE query LIKE '%numbers(1000000000000)%'")
        assert {reply.result().code for reply in slow} == {394}
    # All of them while twelve long ones shared the processors; alone they take some milliseconds.
    assert max(inserts) < 5.0
    assert max(look_ups) < 5.0


def test_a_large_result_begins_early_and_costs_little_memory(gateway: GatewayProcess) -> None:
    gateway.sql("SELECT number, randomPrintableASCII(90) FROM numbers(100000)")
    before = gateway.rss_bytes()
    most = before
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)
    begun = time.monotonic()
    connection.request("POST", f"/?{_CREDENTIALS}", b"SELECT number, randomPrintableASCII(90) FROM numbers(4000000)")
    response = connection.getresponse()
    size = len(response.read(1000))
    first_byte_s = time.monotonic() - begun
    while data := response.read(1 << 20):
        size += len(data)
        most = max(most, gateway.rss_bytes())
    connection.close()
    assert response.status == 200
    assert size > 380_000_000
    assert first_byte_s < 5.0
    assert most - before < 200_000_000


@pytest.mark.parametrize("fmt", ["Native", "JSONEachRow", "ArrowStream", "CSVWithNames"])
def test_every_format_is_streamed_whole(gateway: GatewayProcess, fmt: str) -> None:
    streamed = gateway.sql(f"SELECT number, toString(number) AS s FROM numbers(300000) FORMAT {fmt}")
    waited = gateway.sql(f"SELECT number, toString(number) AS s FROM numbers(300000) FORMAT {fmt}", wait_end_of_query=1)
    assert streamed.status == waited.status == 200
    assert streamed.body == waited.body
    assert len(streamed.body) > 3_000_000


def test_a_late_error_has_its_status_when_the_end_is_waited_for(gateway: GatewayProcess) -> None:
    text = "SELECT throwIf(number = 3000000), number FROM numbers(5000000)"
    waited = gateway.sql(text, wait_end_of_query=1)
    assert (waited.status, waited.code) == (500, 395)
    with pytest.raises(http.client.IncompleteRead) as caught:
        gateway.sql(text)
    assert b"__exception__" in caught.value.partial
    assert b"Code: 395. DB::Exception" in caught.value.partial


def test_a_query_ends_when_its_client_goes_away(gateway: GatewayProcess) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
    connection.request("POST", f"/?{_CREDENTIALS}", b"SELECT count() FROM numbers(2000000000000)")
    assert _wait_until(lambda: _running(gateway, "numbers(2000000000000") == 1, 20)
    connection.close()
    assert _wait_until(lambda: _running(gateway, "numbers(2000000000000") == 0, 20)


def test_a_stream_ends_when_its_client_goes_away(gateway: GatewayProcess) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
    connection.request("POST", f"/?{_CREDENTIALS}", b"SELECT number FROM numbers(3000000000000)")
    response = connection.getresponse()
    assert response.read(10)
    assert _running(gateway, "numbers(3000000000000") == 1
    response.close()
    connection.close()
    assert _wait_until(lambda: _running(gateway, "numbers(3000000000000") == 0, 20)


def test_the_writer_can_kill_a_query_by_its_id(gateway: GatewayProcess) -> None:
    with ThreadPoolExecutor(1) as pool:
        victim = pool.submit(gateway.sql, "SELECT count() FROM numbers(4000000000000)", query_id="victim")
        assert _wait_until(lambda: _running(gateway, "numbers(4000000000000") == 1, 20)
        assert gateway.sql("KILL QUERY WHERE query_id = 'victim' SYNC").status == 200
        assert victim.result(10).code == 394


def test_many_small_statements_at_once_all_succeed(gateway: GatewayProcess) -> None:
    def work(worker: int) -> list[int]:
        with gateway.client(autogenerate_session_id=False) as client:
            return [int(str(client.command(f"SELECT {worker * 1000 + number}"))) for number in range(25)]

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(work, range(16), timeout=60))
    assert answers == [[worker * 1000 + number for number in range(25)] for worker in range(16)]


def test_the_servers_memory_is_capped(gateway: GatewayProcess) -> None:
    value = int(gateway.sql("SELECT value FROM system.server_settings WHERE name = 'max_server_memory_usage'").body)
    assert 0 < value <= 4_000_000_000
