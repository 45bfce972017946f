"""Rows of usage_events that ClickHouse makes by itself, for logs too long to be sent through Kafka."""

from __future__ import annotations

import time

from clickhouse_connect.driver.client import Client

_QUIET_WITHIN_S = 120.0
_ROWS_A_STATEMENT = 1_000_000


def fill(client: Client, rows: int) -> None:
    """Admitted rows of epoch 1, partition 0, offsets from 0 on, each with a key of its own.

    Blocks some 3 s a million, and until ClickHouse has merged what it began to merge.
    """
    for start in range(0, rows, _ROWS_A_STATEMENT):
        client.command(
            "INSERT INTO usage_events"
            " SELECT concat('tnt_', toString(number % 997)), concat('TYPE_', toString(number % 5)), 'worker', toString(number),"
            " toDecimal64('1.5', 6), 'usage', '', at, at, '', 1, 0, number, sipHash64(number), toUInt32(sipHash64(number, 2)),"
            " sipHash64(number, 1), 1, bitNot(bitOr(bitShiftLeft(toUInt64(1), 48), number))"
            " FROM (SELECT number, toDateTime64('2026-09-01 00:00:00', 3, 'UTC') + toIntervalMillisecond(number) AS at"
            f" FROM numbers({start}, {min(_ROWS_A_STATEMENT, rows - start)}))"
        )
    deadline = time.monotonic() + _QUIET_WITHIN_S
    while client.query("SELECT count() FROM system.merges").result_rows[0][0] and time.monotonic() < deadline:
        time.sleep(0.2)
