"""Epochs: one life of the events topic each, and the rules in force from position to position."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from psycopg import Connection
from psycopg.rows import class_row

from runtime.exits import Exit, MeterlineExit
from runtime.locks import AdvisoryLock
from store.topic_state import TopicState

ENDED: Final = 0
"""In the place of a rules version: from this offset on nothing is decided, for the epoch has ended there."""

SHARE_RULES = f"SELECT pg_advisory_xact_lock_shared({AdvisoryLock.RULES.value})"
"""Run it after the range was fetched, then read what holds, in one transaction; deciding comes after."""

CHANGE_RULES = f"SELECT pg_advisory_xact_lock({AdvisoryLock.RULES.value})"
"""Run it before the log's ends are read from which on something else holds: whoever decided without knowing of the change
had fetched what it decided before this lock was granted, so it lies below these ends."""

NEEDED_CONFIG = {
    "message.timestamp.type": "LogAppendTime",
    "cleanup.policy": "delete",
    "unclean.leader.election.enable": "false",
}
"""Without these a verdict would not be a function of the log."""


@dataclass(frozen=True)
class Epoch:
    """One row of epochs. `ends` is set when a repartitioning has closed it; `retired` when its topic takes no more records."""

    epoch: int
    topic: str
    cluster_id: str
    topic_id: str
    partitions: int
    starts: tuple[int, ...]
    ends: tuple[int, ...] | None
    retired: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "starts", tuple(self.starts))
        object.__setattr__(self, "ends", None if self.ends is None else tuple(self.ends))


_COLUMNS = "epoch, topic, cluster_id, topic_id, partitions, starts, ends, retired_at IS NOT NULL AS retired"


def all_epochs(connection: Connection[Any]) -> list[Epoch]:
    """Every epoch, oldest first."""
    with connection.cursor(row_factory=class_row(Epoch)) as cursor:
        return cursor.execute(f"SELECT {_COLUMNS} FROM epochs ORDER BY epoch").fetchall()


def current_epoch(connection: Connection[Any]) -> Epoch | None:
    """The newest epoch; None before `meterline topics apply`."""
    with connection.cursor(row_factory=class_row(Epoch)) as cursor:
        return cursor.execute(f"SELECT {_COLUMNS} FROM epochs ORDER BY epoch DESC LIMIT 1").fetchone()


def rules_at(connection: Connection[Any], epoch: int, partition: int) -> list[tuple[int, int]]:
    """(from_offset, version) of a partition, ascending: each holds from its offset up to the next one's."""
    rows = connection.execute(
        "SELECT from_offset, version FROM rules_from WHERE epoch = %s AND partition = %s ORDER BY from_offset, version",
        (epoch, partition),
    )
    return [(int(from_offset), int(version)) for from_offset, version in rows]


def begin_epoch(connection: Connection[Any], epoch: Epoch, rules_version: int) -> None:
    """Writes an epoch, all its fence rows, and the rules from its starts on, in the caller's transaction."""
    connection.execute(
        "INSERT INTO epochs (epoch, topic, cluster_id, topic_id, partitions, starts) VALUES (%s, %s, %s, %s, %s, %s)",
        (epoch.epoch, epoch.topic, epoch.cluster_id, epoch.topic_id, epoch.partitions, list(epoch.starts)),
    )
    partitions = list(range(epoch.partitions))
    starts: Sequence[int] = list(epoch.starts)
    connection.execute(
        "INSERT INTO delta_fences (epoch, partition, next_offset, rules_version)"
        " SELECT %s, p, s, %s FROM unnest(%s::int[], %s::bigint[]) AS t(p, s)",
        (epoch.epoch, rules_version, partitions, starts),
    )
    connection.execute(
        "INSERT INTO rules_from (epoch, partition, from_offset, version)"
        " SELECT %s, p, s, %s FROM unnest(%s::int[], %s::bigint[]) AS t(p, s)",
        (epoch.epoch, rules_version, partitions, starts),
    )


def check_topic(state: TopicState | None, epoch: Epoch) -> None:
    """Raises MeterlineExit with the remedy unless this is the topic of the epoch, set up so that a log decides."""
    if state is None:
        raise MeterlineExit(
            Exit.TOPIC_REPLACED,
            f"topic {epoch.topic} of epoch {epoch.epoch} is gone. Its positions are counted in Postgres, so a new topic under "
            "that name would be counted wrong: bring the topic back from its backup, or check METERLINE_KAFKA_URL "
            f"(cluster {epoch.cluster_id} is the right one). On a development machine, drop both databases and start anew",
        )
    if state.cluster_id != epoch.cluster_id:
        raise MeterlineExit(
            Exit.TOPIC_REPLACED,
            f"this is Kafka cluster {state.cluster_id}; epoch {epoch.epoch} lives in cluster {epoch.cluster_id}: "
            "set METERLINE_KAFKA_URL to that one, or METERLINE_POSTGRES_URL to the database of this one",
        )
    if state.topic_id != epoch.topic_id:
        raise MeterlineExit(
            Exit.TOPIC_REPLACED,
            f"topic {epoch.topic} was made anew: its id is {state.topic_id}, that of epoch {epoch.epoch} is {epoch.topic_id}. "
            "Its offsets start over, so they may not be counted on: delete it and bring the old one back from its backup. "
            "On a development machine, drop both databases and start anew",
        )
    if state.partitions != epoch.partitions:
        raise MeterlineExit(
            Exit.TOPIC_REPLACED,
            f"topic {epoch.topic} has {state.partitions} partitions, epoch {epoch.epoch} has {epoch.partitions}: partitions were "
            "added by hand, and equal keys may now lie in two. Stop the producers and go over to a topic with the wanted "
            "partitions as a new epoch (`meterline topics repartition`)",
        )
    wrong = {name: state.config.get(name, "unset") for name, value in NEEDED_CONFIG.items() if state.config.get(name) != value}
    if wrong:
        found = ", ".join(f"{name}={value} (want {NEEDED_CONFIG[name]})" for name, value in sorted(wrong.items()))
        raise MeterlineExit(
            Exit.TOPIC_SETTINGS, f"topic {epoch.topic} is not set up to be counted from: {found}; run `meterline topics apply`"
        )


def rules_changes(connection: Connection[Any], epoch: int) -> dict[int, list[tuple[int, int]]]:
    """Partition -> (from_offset, version), ascending, read under the shared lock until the caller's transaction ends.

    Where the epoch has ended, its end stands among them with ENDED for a version.
    """
    connection.execute(SHARE_RULES)
    changes: dict[int, list[tuple[int, int]]] = {}
    rows = connection.execute(
        "SELECT partition, from_offset, version FROM rules_from WHERE epoch = %(epoch)s"
        " UNION ALL SELECT p - 1, ends[p], %(ended)s FROM epochs, generate_subscripts(ends, 1) AS p WHERE epoch = %(epoch)s"
        " ORDER BY 1, 2, 3",
        {"epoch": epoch, "ended": ENDED},
    )
    for partition, from_offset, version in rows:
        changes.setdefault(partition, []).append((from_offset, version))
    return changes


def end_epoch(connection: Connection[Any], epoch: int, ends: Sequence[int]) -> None:
    """Closes an epoch at `ends`, and writes from where on its topic is forwarded, in the caller's transaction."""
    connection.execute("UPDATE epochs SET ends = %s WHERE epoch = %s", (list(ends), epoch))
    connection.execute(
        "INSERT INTO forwarding (epoch, partition, next_offset) SELECT %s, p - 1, e FROM unnest(%s::bigint[])"
        " WITH ORDINALITY AS t(e, p)",
        (epoch, list(ends)),
    )


def forwarded(connection: Connection[Any], epoch: int) -> list[int]:
    """Of each partition of an ended epoch, the offset up to which a later epoch's topic has what came past the end."""
    rows = connection.execute("SELECT next_offset FROM forwarding WHERE epoch = %s ORDER BY partition", (epoch,))
    return [int(next_offset) for (next_offset,) in rows]


def note_forwarded(connection: Connection[Any], epoch: int, moved: Mapping[int, tuple[int, int]]) -> None:
    """Moves partitions to (next offset, records sent since); never back."""
    partitions = sorted(moved)
    connection.execute(
        "UPDATE forwarding f SET next_offset = m.at, forwarded = f.forwarded + m.sent, moved_at = clock_timestamp()"
        " FROM unnest(%s::int[], %s::bigint[], %s::bigint[]) AS m (partition, at, sent)"
        " WHERE f.epoch = %s AND f.partition = m.partition AND m.at > f.next_offset",
        (partitions, [moved[p][0] for p in partitions], [moved[p][1] for p in partitions], epoch),
    )


def unretired(epochs: Iterable[Epoch]) -> list[Epoch]:
    """The ended epochs whose topics may still get records, oldest first."""
    return [epoch for epoch in epochs if epoch.ends is not None and not epoch.retired]
