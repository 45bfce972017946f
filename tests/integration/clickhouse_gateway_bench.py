"""Measures the gateway: `python -m tests.integration.clickhouse_gateway_bench [--readers N] [--inserts N]`.

One client inserts Arrow tables of 100,000 rows into the shipped usage_events, N readers query it without pause, and one
client asks `SELECT 1` every 20 ms. All clients are threads of this one process, so the figures include their cost.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import threading
import time
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa

from tests.integration.clickhouse_gateway import GatewayProcess

ROWS = 100_000
_SQL = Path(__file__).parents[2] / "store" / "clickhouse" / "0001_usage_events.sql"
_QUERIES = (
    "SELECT tenant_id, sum(quantity) FROM usage_events FINAL WHERE tenant_id = 'tenant7' GROUP BY 1",
    "SELECT count(), sum(quantity) FROM usage_events WHERE log_epoch = 1 AND kafka_partition = 3",
)


def rows(batch: int) -> pa.Table:
    """Events of 50 tenants and 5 usage types, each with a key of its own."""
    offsets = np.arange(batch * ROWS, (batch + 1) * ROWS, dtype=np.uint64)
    times = pa.array(1_760_000_000_000 + offsets.astype(np.int64), pa.timestamp("ms", "UTC"))
    quantity = pa.array([Decimal("1.5")], pa.decimal128(18, 6)).take(pa.array(np.zeros(ROWS, np.int64)))
    return pa.table(
        {
            "tenant_id": [f"tenant{n % 50}" for n in range(ROWS)],
            "usage_type": [f"type{n % 5}" for n in range(ROWS)],
            "source_service": [f"service{n % 3}" for n in range(ROWS)],
            "source_entity_id": [f"entity-{batch}-{n}" for n in range(ROWS)],
            "quantity": quantity,
            "kind": ["usage"] * ROWS,
            "corrects": [""] * ROWS,
            "occurred_at": times,
            "ingested_at": times,
            "metadata": ['{"model":"m","region":"eu"}'] * ROWS,
            "log_epoch": pa.array(np.ones(ROWS, np.uint16)),
            "kafka_partition": pa.array(np.full(ROWS, batch % 8, np.uint32)),
            "kafka_offset": pa.array(offsets),
            "key_hash": pa.array(offsets * np.uint64(11_400_714_819_323_198_485)),
            "key_murmur2": pa.array(offsets.astype(np.uint32)),
            "row_hash": pa.array(offsets * np.uint64(7)),
            "rules_version": pa.array(np.ones(ROWS, np.uint16)),
            "row_version": pa.array(~((np.uint64(1) << np.uint64(48)) | offsets)),
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--readers", type=int, default=2)
    parser.add_argument("--inserts", type=int, default=20)
    options = parser.parse_args()
    tables = [rows(batch) for batch in range(options.inserts)]
    stop = threading.Event()
    reads: list[int] = [0] * options.readers
    tiny: list[float] = []
    with tempfile.TemporaryDirectory() as folder, GatewayProcess(Path(folder) / "gateway") as gateway:

        def read(reader: int) -> None:
            client = gateway.client(autogenerate_session_id=False, compress=False)
            while not stop.is_set():
                client.query(_QUERIES[reads[reader] % 2])
                reads[reader] += 1

        def ask() -> None:
            client = gateway.client(autogenerate_session_id=False, compress=False)
            while not stop.wait(0.02):
                begun = time.perf_counter()
                client.query("SELECT 1")
                tiny.append(time.perf_counter() - begun)

        client = gateway.client(autogenerate_session_id=False, compress=False)
        text = "\n".join(line for line in _SQL.read_text().splitlines() if not line.lstrip().startswith("--"))
        for statement in re.split(r";\s*$", text, flags=re.MULTILINE):
            if statement.strip():
                client.command(statement)
        threads = [threading.Thread(target=read, args=(reader,)) for reader in range(options.readers)] + [
            threading.Thread(target=ask)
        ]
        for thread in threads:
            thread.start()
        begun = time.perf_counter()
        for table in tables:
            client.insert_arrow("usage_events", table)
        seconds = time.perf_counter() - begun
        stop.set()
        for thread in threads:
            thread.join(60)
        stored = client.command("SELECT count() FROM usage_events FINAL")
        tiny.sort()
        sys.stdout.write(
            f"{len(tables) * ROWS / seconds:,.0f} rows/s ({stored:,} rows, {options.readers} readers did {sum(reads)} queries); "
            f"SELECT 1: median {tiny[len(tiny) // 2] * 1e3:.1f} ms, 99th percentile {tiny[int(len(tiny) * 0.99)] * 1e3:.1f} ms; "
            f"gateway {gateway.rss_bytes() / 1e6:,.0f} MB\n"
        )


if __name__ == "__main__":
    main()
