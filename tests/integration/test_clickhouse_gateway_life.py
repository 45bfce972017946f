"""How the gateway begins and ends: gracefully, by kill -9, with TLS, and when it cannot begin at all."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import clickhouse_connect
import pyarrow as pa
import pytest
import trustme
from clickhouse_connect.driver.exceptions import DatabaseError

from tests.integration.clickhouse_gateway import READER, WRITER, GatewayProcess


def test_every_acknowledged_row_is_there_after_kill_nine(tmp_path: Path) -> None:
    with GatewayProcess(tmp_path / "gateway") as gateway:
        gateway.sql("CREATE DATABASE d")
        gateway.sql(
            "CREATE TABLE d.t (worker UInt8, number UInt64, pad String) ENGINE = MergeTree ORDER BY (worker, number)"
            " SETTINGS fsync_after_insert = 1, fsync_part_directory = 1"
        )
        acknowledged = [0, 0]
        begun = threading.Barrier(3)

        def insert(worker: int) -> None:
            client = gateway.client(database="d", autogenerate_session_id=False)
            begun.wait(10)
            for batch in range(10_000):
                numbers = range(batch * 1000, (batch + 1) * 1000)
                table = pa.table(
                    {
                        "worker": pa.array([worker] * 1000, pa.uint8()),
                        "number": pa.array(numbers, pa.uint64()),
                        "pad": ["x" * 20] * 1000,
                    }
                )
                try:
                    client.insert_arrow("t", table)
                except (DatabaseError, OSError, clickhouse_connect.driver.exceptions.Error):
                    return
                acknowledged[worker] = batch + 1

        threads = [threading.Thread(target=insert, args=(worker,)) for worker in range(2)]
        for thread in threads:
            thread.start()
        begun.wait(10)
        deadline = time.monotonic() + 60
        while min(acknowledged) < 20 and time.monotonic() < deadline:
            time.sleep(0.01)
        gateway.kill()
        for thread in threads:
            thread.join(30)
        assert min(acknowledged) >= 20

        gateway.start()
        for worker in range(2):
            rows = acknowledged[worker] * 1000
            found = gateway.sql(f"SELECT count(), uniqExact(number) FROM d.t WHERE worker = {worker} AND number < {rows}").body
            assert found == b"%d\t%d\n" % (rows, rows)
            whole = int(gateway.sql(f"SELECT count() FROM d.t WHERE worker = {worker}").body)
            assert whole in (rows, rows + 1000), "a batch is there whole or not at all"


def test_it_ends_in_good_order_although_a_query_runs(tmp_path: Path) -> None:
    with GatewayProcess(tmp_path / "gateway") as gateway:
        gateway.sql("CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a")
        gateway.sql("INSERT INTO t VALUES (1)")
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(gateway.sql, "SELECT count() FROM numbers(1000000000000)")
            while gateway.sql("SELECT count() FROM system.processes").body != b"2\n":
                time.sleep(0.02)
            begun = time.monotonic()
            assert gateway.stop() == 0
            assert time.monotonic() - begun < 20
            assert running.result(20).code == 394
        gateway.start()
        assert gateway.sql("SELECT a FROM t").body == b"1\n"
        assert (tmp_path / "gateway" / "log").read_bytes() == b""


def test_a_folder_belongs_to_one_process(tmp_path: Path) -> None:
    with GatewayProcess(tmp_path / "gateway") as gateway:
        arguments = [
            "--data",
            str(gateway.folder / "data"),
            "--port",
            "0",
            "--user",
            "u",
            "--password-file",
            str(gateway.folder / WRITER[0]),
        ]
        second = subprocess.run(
            [sys.executable, "-m", "deploy.embedded.clickhouse", *arguments],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert second.returncode == 1
        assert "another process" in second.stderr
        taken = [*arguments[:1], str(tmp_path / "other"), "--port", str(gateway.port), *arguments[4:]]
        third = subprocess.run(
            [sys.executable, "-m", "deploy.embedded.clickhouse", *taken], capture_output=True, text=True, timeout=30, check=False
        )
        assert third.returncode == 1
        assert "--port" in third.stderr


def test_tls_is_spoken_when_a_certificate_is_given(tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    certificate, key, ca = tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "ca.pem"
    issued.cert_chain_pems[0].write_to_path(str(certificate))
    issued.private_key_pem.write_to_path(str(key))
    authority.cert_pem.write_to_path(str(ca))
    with GatewayProcess(tmp_path / "gateway", tls=(certificate, key)) as gateway:
        options: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": gateway.port,
            "interface": "https",
            "username": READER[0],
            "password": READER[1],
        }
        with clickhouse_connect.get_client(**options, ca_cert=str(ca)) as client:
            assert client.command("SELECT 42") == 42
        with pytest.raises((DatabaseError, OSError)):
            clickhouse_connect.get_client(**options, query_retries=0)
