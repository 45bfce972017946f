"""After a backup of Postgres was restored: what the other two stores know that it does not.

Counters and fences of a backup are of one moment and agree. Everything between a fence and what the group has committed is
counted from ClickHouse by the aggregator, with the figures of the commit. What a backup cannot be healed from is what only
Postgres decides: an epoch that was begun since, and rules that were activated since.
"""

from __future__ import annotations

from dataclasses import dataclass

from runtime import clickhouse, postgres
from runtime.exits import Exit, MeterlineExit
from runtime.settings import Settings
from store import group
from store.epochs import all_epochs, rules_at
from store.event_log import recompute
from store.fences import read_fences
from store.findings import Check, partition_of_log


@dataclass(frozen=True)
class Behind:
    """A partition whose fence is below what the group has committed."""

    epoch: int
    partition: int
    fence: int
    committed: int


def look(settings: Settings) -> tuple[Check, list[Behind]]:
    """What has to be settled by hand, and what the aggregator will count by itself. Changes nothing.

    Raises MeterlineExit before there is an epoch, psycopg.Error, KafkaException, or what an absent ClickHouse raises.
    """
    check, behind = Check("restored"), list[Behind]()
    with postgres.connect(settings) as connection:
        epochs, fences = all_epochs(connection), read_fences(connection)
        if not epochs:
            raise MeterlineExit(Exit.TOPIC_REPLACED, "no epoch is recorded: this is no backup of a running system")
        current = epochs[-1]
        rules = {p: rules_at(connection, current.epoch, p) for p in range(current.partitions)}
    client, onlooker = clickhouse.client(settings), group.onlooker(settings)
    try:
        ((newest,),) = client.query("SELECT max(log_epoch) FROM usage_events").result_rows
        if newest > current.epoch:
            check.add("an epoch that Postgres does not know", {"epoch": int(newest)}, f"at most {current.epoch}", int(newest))
        for p, position in sorted(group.committed(onlooker, current.topic, current.epoch, current.partitions).items()):
            fence = next(fence for fence in fences if (fence.epoch, fence.partition) == (current.epoch, p))
            where = partition_of_log(current.epoch, p)
            check.checked += 1
            note = position.note
            if note is None or position.offset <= fence.next_offset:
                continue
            behind.append(Behind(current.epoch, p, fence.next_offset, position.offset))
            known = max(version for start, version in rules[p] if start < position.offset)
            if note.rules_version != known:
                check.add("rules that Postgres does not know", where, f"version {known}", f"version {note.rules_version} at work")
            found = recompute(client, current.epoch, p, fence.next_offset, position.offset)
            missing = note.figures.minus(fence.figures).admitted - found.events
            if missing:
                check.add("rows to count from", where, note.figures.admitted - fence.figures.admitted, found.events)
    finally:
        onlooker.close()
        client.close()
    return check, behind
