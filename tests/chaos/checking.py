"""I1 to I7 at rest, from the driver's own memory and a fresh reading of the log, and what `meterline reconcile` says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from runtime import clickhouse, postgres
from runtime.settings import Settings
from store import fences
from tests.chaos.acks import read_acks
from tests.chaos.log_truth import LogTruth
from tests.chaos.machine import ROOT

_SHOWN_MAX = 5


@dataclass
class Findings:
    """What is wrong, counted by kind; a few of each are shown."""

    lost: int = 0
    double: int = 0
    drift: int = 0
    said: list[str] = field(default_factory=list)

    def add(self, kind: str, what: str, cases: Iterable[object]) -> None:
        """`kind` is lost, double or drift."""
        found = list(cases)
        if found:
            setattr(self, kind, getattr(self, kind) + len(found))
            self.said.append(f"{kind}: {what}: {len(found)}, for one {found[:_SHOWN_MAX]}")

    @property
    def none(self) -> bool:
        return not self.said


def acknowledged(folder: Path, producers: int, truth: LogTruth, findings: Findings) -> int:
    """I7: each acknowledged record stands where it was said to. Returns how many were acknowledged."""
    count = 0
    missing: list[str] = []
    for producer in range(producers):
        for ack in read_acks(folder / f"acks-{producer}"):
            count += 1
            if truth.numbers.get((ack.partition, ack.offset)) != (producer, ack.number):
                missing.append(f"record {producer}:{ack.number} at {ack.partition}/{ack.offset}")
    findings.add("lost", "acknowledged, and the log does not have it there", missing)
    return count


def compare(settings: Settings, committed: list[int] | None, truth: LogTruth, findings: Findings) -> None:
    """Every store against the log."""
    findings.add("drift", "records whose bytes are not those that were sent", truth.damaged)
    _positions(settings, committed, truth, findings)
    client = clickhouse.client(settings, timeout_s=300.0)
    try:
        rows = client.query(
            "SELECT kafka_partition, kafka_offset, tenant_id, usage_type, source_entity_id, reinterpretAsInt64(quantity),"
            " toInt32(toDate(occurred_at, 'UTC')), row_hash, log_epoch FROM usage_events FINAL"
        ).result_rows
        _admitted(rows, truth, findings)
        twice = client.query(
            "SELECT source_service, source_entity_id, usage_type FROM usage_events GROUP BY ALL HAVING"
            " uniqExact(log_epoch, kafka_partition, kafka_offset) > 1"
        ).result_rows
        findings.add("double", "keys with two admitted positions", twice)
        rejects = client.query("SELECT kafka_partition, kafka_offset, verdict, row_hash FROM usage_rejects FINAL").result_rows
        stored = {(row[0], row[1]): (str(row[2]), row[3]) for row in rejects}
        findings.add("lost", "rejects that are not kept", truth.rejects.keys() - stored.keys())
        findings.add("double", "rejects that are none", stored.keys() - truth.rejects.keys())
        wrong = [at for at in stored.keys() & truth.rejects.keys() if stored[at] != truth.rejects[at]]
        findings.add("drift", "rejects that say otherwise", wrong)
        findings.add("double", "rejects that stand twice", range(len(rejects) - len(stored)))
    finally:
        client.close()
    _counters(settings, truth, findings)


def _positions(settings: Settings, committed: list[int] | None, truth: LogTruth, findings: Findings) -> None:
    with postgres.connect(settings) as connection:
        found = fences.read_fences(connection, 1)
    uneven = [(fence.partition, fence.next_offset) for fence in found if fence.next_offset != truth.ends[fence.partition]]
    findings.add("lost", f"fences that are not at the log's end {truth.ends}", uneven)
    if committed != truth.ends:
        findings.add("lost", f"committed offsets that are not at the log's end {truth.ends}", [committed])
    wrong = [(fence.partition, fence.figures) for fence in found if fence.figures != truth.figures[fence.partition]]
    findings.add("drift", f"figures that are not the log's {truth.figures}", wrong)


def _admitted(rows: Iterable[Any], truth: LogTruth, findings: Findings) -> None:
    stored: dict[tuple[int, int], Any] = {}
    again = []
    for row in rows:
        again += [(row[0], row[1])] if (row[0], row[1]) in stored else []
        stored[row[0], row[1]] = row
    findings.add("double", "rows that stand twice", again)
    findings.add("lost", "admitted by the log and not stored", truth.admitted.keys() - stored.keys())
    findings.add("double", "stored and not admitted by the log", stored.keys() - truth.admitted.keys())
    wrong = []
    for at in stored.keys() & truth.admitted.keys():
        claim = truth.admitted[at].claim
        expected = (claim.tenant, claim.usage_type, claim.entity, claim.quantity, claim.day, truth.admitted[at].value_hash, 1)
        if tuple(stored[at][2:]) != expected:
            wrong.append((stored[at], expected))
    findings.add("drift", "rows that are not their record's", wrong)


def _counters(settings: Settings, truth: LogTruth, findings: Findings) -> None:
    with postgres.connect(settings, options="-c statement_timeout=300000") as connection:
        counters = connection.execute(
            "SELECT tenant_id, usage_type, day - date '1970-01-01', quantity, events FROM usage_counters"
        ).fetchall()
        totals = connection.execute("SELECT tenant_id, usage_type, quantity FROM usage_totals").fetchall()
    expected = truth.counters()
    stored = {(row[0], row[1], row[2]): (_micros(row[3]), row[4]) for row in counters}
    wrong = [key for key in expected.keys() | stored.keys() if expected.get(key) != stored.get(key)]
    findings.add("drift", "counters that are not the sum of the log", wrong)
    sums: dict[tuple[str, str], int] = {}
    for (tenant, usage_type, _), (quantity, _) in expected.items():
        sums[tenant, usage_type] = sums.get((tenant, usage_type), 0) + quantity
    held = {(row[0], row[1]): _micros(row[2]) for row in totals}
    findings.add(
        "drift", "totals that are not the sum of the log", [k for k in sums.keys() | held.keys() if sums.get(k) != held.get(k)]
    )


def _micros(quantity: Decimal) -> int:
    return int(quantity.scaleb(6))


def repairs(settings: Settings) -> int:
    """Ranges that were counted from ClickHouse."""
    with postgres.connect(settings) as connection:
        row = connection.execute("SELECT count(*) FROM repairs").fetchone()
    assert row is not None
    return int(row[0])


def reconcile(environment: dict[str, str], findings: Findings) -> None:
    """The product's own answer to the same question."""
    command = [sys.executable, "-m", "cli", "reconcile", "--json", "--wait", "5"]
    ended = subprocess.run(
        command, env=os.environ | environment, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
    )
    if ended.returncode != 0:
        findings.add("drift", "`meterline reconcile` is not content", [(ended.stdout + ended.stderr)[-3_000:]])
