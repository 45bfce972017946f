"""Reconcile: I1 to I6 on the live system, and the healing of what is derived.

Nothing that is merely on its way is told as drift: fences and counters are read in one snapshot, and the rows are those
below exactly these fences, which are durable and never change; positions are read in the order in which they grow.

Repair, in one transaction, and only where no key was admitted twice:

1. Lock every fence row, in order: nobody counts meanwhile.
2. Compare the rows below exactly these fences with the figures there. Where ClickHouse does not hold what was counted,
   the counters are not what is wrong: heal nothing.
3. Set counters and totals to the sums of the rows; keep in the audit trail what was changed.

Closed periods have their totals in `period_closes`, which is read by nobody here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg
from clickhouse_connect.driver.client import Client
from psycopg import Connection

from runtime import clickhouse, kafka, postgres
from runtime.exits import Exit, MeterlineExit
from runtime.settings import Settings
from store import audit, group, topic_state
from store.counter_drift import Healed, check_counters, heal
from store.epochs import Epoch, all_epochs
from store.fences import Fence, lock_fences, positions, read_fences
from store.findings import Check, Finding, all_findings
from store.invariants import check_figures, check_keys, check_rejects, epoch_beginnings
from store.log_order import check_order
from store.log_sample import check_content

STATEMENT_TIMEOUT_S = 900
"""A large table takes its time; a statement that is slower than this hangs."""

PATIENCE_S = 10.0
"""How long a position that looks wrong is looked at again: an idle owner puts a lowered offset right within 5 s."""

SAMPLE_ROWS = 500
_LOCK_TIMEOUT_S = 60


@dataclass(frozen=True)
class Report:
    """What was found, after a repair if there was one."""

    checks: tuple[Check, ...]
    healed: Healed | None
    refused: str | None = None
    """Why a repair changed nothing."""

    @property
    def ok(self) -> bool:
        return self.refused is None and all(check.ok for check in self.checks)

    @property
    def drift(self) -> list[Finding]:
        return all_findings(self.checks)

    def findings(self) -> dict[str, int]:
        """How many of each invariant."""
        return {check.invariant: check.findings_count for check in self.checks}

    def as_json(self) -> dict[str, Any]:
        document: dict[str, Any] = {
            "ok": self.ok,
            "checks": [check.as_json() for check in self.checks],
            "drift": [finding.as_json() for finding in self.drift],
        }
        if self.healed is not None or self.refused is not None:
            healed = self.healed or Healed()
            document["repair"] = {"counters": healed.counters, "totals": healed.totals, "refused": self.refused}
        return document


@dataclass(frozen=True)
class _Snapshot:
    """What Postgres said at one time."""

    epochs: list[Epoch]
    beginnings: dict[int, datetime]
    fences: list[Fence]
    counters: Check


def reconcile(
    settings: Settings,
    *,
    repair_as: str | None = None,
    sample: int = SAMPLE_ROWS,
    patience_s: float = PATIENCE_S,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Report:
    """Checks I1 to I6; with `repair_as`, a name for the audit trail, heals counters and totals first.

    Raises MeterlineExit with the remedy, psycopg.Error, KafkaException, or what an absent ClickHouse raises.
    """
    client = clickhouse.client(settings, timeout_s=max(settings.clickhouse_timeout_s, STATEMENT_TIMEOUT_S))
    try:
        healed, refused = _repair(settings, client, repair_as) if repair_as is not None else (None, None)
        return Report(_checks(settings, client, sample, patience_s, now()), healed, refused)
    finally:
        client.close()


def _connect(settings: Settings) -> Connection[Any]:
    options = (
        f"-c statement_timeout={STATEMENT_TIMEOUT_S * 1000} -c lock_timeout={_LOCK_TIMEOUT_S * 1000}"
        " -c idle_in_transaction_session_timeout=0 -c TimeZone=UTC"
    )
    return postgres.connect(settings, options=options)


def _checks(settings: Settings, client: Client, sample: int, patience_s: float, now: datetime) -> tuple[Check, ...]:
    seen = _snapshot(settings, client)
    current = seen.epochs[-1]
    admin = kafka.admin(settings)
    onlooker = group.onlooker(settings)
    try:
        order = check_order(lambda: _connect(settings), admin, onlooker, seen.epochs, patience_s)
    finally:
        onlooker.close()
    with _connect(settings) as connection:
        rows = connection.execute(
            "SELECT partition, from_offset, version FROM rules_from WHERE epoch = %s ORDER BY partition, from_offset",
            (current.epoch,),
        ).fetchall()
    rules: dict[int, list[tuple[int, int]]] = {}
    for partition, from_offset, version in rows:
        rules.setdefault(partition, []).append((from_offset, version))
    content = check_content(
        client,
        # An idle fetch of the partition read before would hold up the next one for half a second.
        lambda: kafka.consumer(settings, **{"group.id": f"{settings.consumer_group}-reconcile", "fetch.wait.max.ms": 10}),
        current.topic,
        [fence for fence in seen.fences if fence.epoch == current.epoch],
        lambda: topic_state.log_starts(admin, current.topic, current.partitions),
        rules,
        sample,
    )
    return (
        check_figures(client, seen.epochs, seen.fences),
        check_keys(client),
        content,
        seen.counters,
        order,
        check_rejects(client, seen.beginnings, seen.fences, settings.rejects_keep_days, now),
    )


def _snapshot(settings: Settings, client: Client) -> _Snapshot:
    """Fences and counters as of one time. The counters are compared while the snapshot is held."""
    with _connect(settings) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        epochs, beginnings, fences = all_epochs(connection), epoch_beginnings(connection), read_fences(connection)
        if not epochs:
            raise MeterlineExit(Exit.TOPIC_REPLACED, "no epoch is recorded: run `meterline topics apply` first")
        return _Snapshot(epochs, beginnings, fences, check_counters(connection, client, positions(fences)))


def _repair(settings: Settings, client: Client, who: str) -> tuple[Healed | None, str | None]:
    # Before the lock, for it takes long and its answer does not change: which of two rows counts is not ours to choose.
    keys = check_keys(client)
    if not keys.ok:
        return None, f"{keys.detail} (I2): what the counters should be is not known before that is put right"
    with _connect(settings) as connection:
        epochs = all_epochs(connection)
        # 1. From here on nobody counts. Every later statement sees what the last counter committed.
        try:
            fences = lock_fences(connection, [(fence.epoch, fence.partition) for fence in read_fences(connection)])
        except psycopg.errors.LockNotAvailable as error:
            raise MeterlineExit(
                Exit.FAILED, f"somebody has held the fences for {_LOCK_TIMEOUT_S} s, another repair perhaps; run again after it"
            ) from error
        # 2. Only against rows that are the ones counted.
        figures = check_figures(client, epochs, list(fences.values()))
        if not figures.ok:
            first = figures.findings[0]
            return None, (
                f"ClickHouse does not hold the rows that were counted ({first.what} in {first.where}: expected {first.expected}, "
                f"found {first.found}). Bring the rows back first; see docs/operations.md, 'Reconcile'"
            )
        # 3. Heal.
        healed, told = heal(connection, client, positions(fences.values()))
        if healed.counters or healed.totals:
            after = {"counters": healed.counters, "totals": healed.totals, "first": told}
            below = {f"{epoch}:{partition}": fence.next_offset for (epoch, partition), fence in sorted(fences.items())}
            audit.record(connection, who, [audit.Entry("counters.repaired", "usage_counters", {"fences": below}, after)])
    return healed, None
