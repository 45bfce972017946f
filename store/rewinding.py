"""After a backup of ClickHouse was restored: the consumer group goes back to what ClickHouse holds, per partition.

Only the group's offset moves, never a fence. Deciding again from a lower position gives the same verdicts, for a verdict
is a function of the log below it; the rows that are stored again are identical; deltas below the fence are skipped, and
the one that reaches across it is counted from its rows. So no number changes, whatever was there already.

Where to go back to must be a position whose cumulative figures are known, for the next delta continues them: where the
group stands, the fence, the end of any range in the deltas topic, and the epoch's start, where they are nothing. Of those
the furthest is taken whose figures are exactly what ClickHouse holds below it: admitted rows, the sum of their hashes, and
the rejects. Rows above it, of a cycle that the backup caught in the middle, are stored again as they are.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from clickhouse_connect.driver.client import Client
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from psycopg import Connection

from meterline_schemas.delta import Delta, Figures, encode_commit
from runtime import clickhouse, kafka, postgres
from runtime.exits import Exit, MeterlineExit
from runtime.kafka import REQUEST_TIMEOUT_S
from runtime.settings import Settings
from store import audit, group, topic_state
from store.delta_log import DeltaLog, delta_log
from store.epochs import all_epochs, check_topic, rules_at
from store.event_log import rows_between
from store.fences import Fence, read_fences
from store.group import GroupPosition
from store.invariants import epoch_beginnings

STATEMENT_TIMEOUT_S = 900.0

MEMBERS_GONE_WITHIN_S = 12.0
"""A consumer that was killed, or that comes back as a static member, is missed by the broker only after 6 s."""

_IN_USE = frozenset({KafkaError.NON_EMPTY_GROUP, KafkaError.UNKNOWN_MEMBER_ID, KafkaError.REBALANCE_IN_PROGRESS})

Known = Literal["group", "fence", "delta", "epoch's start"]


@dataclass(frozen=True)
class Checkpoint:
    """A position with the rules and the cumulative figures there, and where they are known from."""

    offset: int
    rules_version: int
    figures: Figures
    known_from: Known


@dataclass(frozen=True)
class Standing:
    """One partition: where the group stands (None: nowhere), and how far ClickHouse holds what was decided."""

    epoch: int
    topic: str
    partition: int
    committed: int | None
    fence: int
    log_start: int
    held: Checkpoint

    @property
    def rewinds(self) -> bool:
        """Whether the group must go back. A group that stands nowhere starts from the fence by itself."""
        return self.held.offset < (self.fence if self.committed is None else self.committed)

    @property
    def lost(self) -> int:
        """Records that would have to be read again and that the log does not have any more."""
        return max(0, self.log_start - self.held.offset) if self.rewinds else 0

    def as_json(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "topic": self.topic,
            "partition": self.partition,
            "committed": self.committed,
            "fence": self.fence,
            "log_start": self.log_start,
            "held_below": self.held.offset,
            "known_from": self.held.known_from,
            "rewinds": self.rewinds,
            "lost": self.lost,
        }


def standings(settings: Settings, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> list[Standing]:
    """Every partition of every epoch whose topic goes on. Changes nothing.

    Raises MeterlineExit for a topic that is not its epoch's, psycopg.Error, KafkaException, or what an absent ClickHouse raises.
    """
    with postgres.connect(settings) as connection:
        epochs, fences, beginnings = all_epochs(connection), read_fences(connection), epoch_beginnings(connection)
        first_rules = {
            (epoch.epoch, p): rules_at(connection, epoch.epoch, p)[0][1] for epoch in epochs for p in range(epoch.partitions)
        }
    if not epochs:
        raise MeterlineExit(Exit.TOPIC_REPLACED, "no epoch is recorded: run `meterline topics apply` first")
    client = clickhouse.client(settings, timeout_s=max(settings.clickhouse_timeout_s, STATEMENT_TIMEOUT_S))
    admin, onlooker = kafka.admin(settings), group.onlooker(settings)
    found = []
    try:
        with delta_log(settings) as deltas:
            for epoch in epochs:
                state = topic_state.describe(admin, [epoch.topic])[epoch.topic]
                if state is None and epoch.ends is not None:
                    continue  # an older life of the log, gone for good: nothing can be read from it again
                check_topic(state, epoch)
                positions = group.committed(onlooker, epoch.topic, epoch.epoch, epoch.partitions)
                starts = topic_state.log_starts(admin, epoch.topic, epoch.partitions)
                aged = _aged(settings, beginnings[epoch.epoch], now())
                for fence in (fence for fence in fences if fence.epoch == epoch.epoch):
                    p = fence.partition
                    beginning = Checkpoint(epoch.starts[p], first_rules[epoch.epoch, p], Figures(), "epoch's start")
                    held = _furthest_held(client, deltas, fence, positions.get(p), beginning, aged)
                    committed = positions[p].offset if p in positions else None
                    found.append(Standing(epoch.epoch, epoch.topic, p, committed, fence.next_offset, starts[p], held))
    finally:
        onlooker.close()
        client.close()
    return found


def _aged(settings: Settings, began: datetime, now: datetime) -> bool:
    """Whether rejects of the epoch may have been dropped by age, so that fewer than the figures say are no sign of loss."""
    return settings.rejects_keep_days > 0 and now - began >= timedelta(days=settings.rejects_keep_days)


def _furthest_held(
    client: Client, deltas: DeltaLog, fence: Fence, position: GroupPosition | None, beginning: Checkpoint, aged: bool
) -> Checkpoint:
    epoch, partition = fence.epoch, fence.partition

    def held(offset: int, figures: Figures) -> bool:
        at = Fence(epoch, partition, offset, 0, figures)
        rows = rows_between(client, epoch, partition, beginning.offset, offset)
        return rows == (figures.admitted, figures.hash_sum) and (
            aged or _rejects_below(client, at) == (figures.invalid, figures.conflict)
        )

    def passed(delta: Delta) -> bool:
        return delta.epoch < epoch or (delta.epoch == epoch and held(delta.to_offset, delta.cumulative))

    # The two that need no search, the furthest first; most often nothing is wrong and the first one answers.
    for known in _known_positions(fence, position):
        if held(known.offset, known.figures):
            return known
    last, _ = deltas.halves(partition, passed)
    if last is not None and last.epoch == epoch:
        return Checkpoint(last.to_offset, last.rules_version, last.cumulative, "delta")
    return beginning


def _known_positions(fence: Fence, position: GroupPosition | None) -> Iterator[Checkpoint]:
    at_fence = Checkpoint(fence.next_offset, fence.rules_version, fence.figures, "fence")
    note = position.note if position is not None else None
    if note is not None and note.offset >= fence.next_offset:
        yield Checkpoint(note.offset, note.rules_version, note.figures, "group")
        yield at_fence
    elif note is not None:
        # Below the fence: rewound before, and not caught up. Beyond it the group decides by itself.
        yield Checkpoint(note.offset, note.rules_version, note.figures, "group")
    else:
        yield at_fence


def _rejects_below(client: Client, at: Fence) -> tuple[int, int]:
    result = client.query(
        "SELECT uniqExactIf(kafka_offset, verdict = 'invalid'), uniqExactIf(kafka_offset, verdict = 'conflict')"
        " FROM usage_rejects WHERE log_epoch = {e:UInt16} AND kafka_partition = {p:UInt32} AND kafka_offset < {o:UInt64}",
        parameters={"e": at.epoch, "p": at.partition, "o": at.next_offset},
    )
    ((invalid, conflict),) = result.result_rows
    return int(invalid), int(conflict)


def rewind(settings: Settings, who: str, found: Sequence[Standing]) -> list[Standing]:
    """Moves the group back where it must; returns where it did. Repeating it changes nothing.

    Raises MeterlineExit when a consumer still runs, or when the log no longer holds what would have to be read again;
    then nothing was moved.
    """
    wanted = [standing for standing in found if standing.rewinds]
    gone = next((standing for standing in wanted if standing.lost), None)
    if gone is not None:
        raise MeterlineExit(
            Exit.LOG_TRUNCATED,
            f"ClickHouse holds {gone.topic} partition {gone.partition} below {gone.held.offset}, and the log starts "
            f"at {gone.log_start}: {gone.lost} records would be missing for ever. Restore a younger backup of ClickHouse; "
            "nothing was moved",
        )
    if not wanted:
        return []
    _alter(kafka.admin(settings), settings.consumer_group, wanted)
    with postgres.connect(settings) as connection:
        _note(connection, who, wanted)
    return wanted


def _alter(admin: AdminClient, consumer_group: str, wanted: Sequence[Standing]) -> None:
    offsets = [
        TopicPartition(
            one.topic,
            one.partition,
            one.held.offset,
            encode_commit(one.epoch, one.held.offset, one.held.rules_version, one.held.figures),
        )
        for one in wanted
    ]
    request = ConsumerGroupTopicPartitions(consumer_group, offsets)
    deadline, pause = time.monotonic() + MEMBERS_GONE_WITHIN_S, threading.Event()
    while True:
        (future,) = admin.alter_consumer_group_offsets([request], request_timeout=REQUEST_TIMEOUT_S).values()
        try:
            problems = [part.error for part in topic_state.answer(future).topic_partitions if part.error is not None]
        except KafkaException as error:
            problems = [error.args[0]]
        if not problems:
            return
        if problems[0].code() not in _IN_USE:
            raise KafkaException(problems[0])
        if time.monotonic() > deadline:
            raise MeterlineExit(
                Exit.FAILED,
                f"group {consumer_group} has members ({problems[0].str()}): stop every `meterline consume`, then run this again",
            )
        pause.wait(0.5)


def _note(connection: Connection[Any], who: str, wanted: Sequence[Standing]) -> None:
    before = {f"{one.epoch}:{one.partition}": one.committed for one in wanted}
    after = {f"{one.epoch}:{one.partition}": one.held.offset for one in wanted}
    audit.record(connection, who, [audit.Entry("consumer_group.rewound", "usage.events", before, after)])
