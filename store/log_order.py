"""I5: fence <= committed <= log end, each with figures that fit.

The three are read in that order, and each only grows, so a system under load never looks wrong. A late commit of an old
owner may lower the group's offset until the new one, once idle, commits again; what looks wrong is therefore looked at
again for a while before it is told.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import Consumer
from confluent_kafka.admin import AdminClient
from psycopg import Connection

from store import group, topic_state
from store.epoch_lives import late_waiting
from store.epochs import Epoch, check_topic
from store.fences import Fence, read_fences
from store.findings import Check, partition_of_log
from store.group import GroupPosition

LOOK_AGAIN_S = 1.0


def check_order(
    connect: Callable[[], Connection[Any]], admin: AdminClient, onlooker: Consumer, epochs: Sequence[Epoch], patience_s: float
) -> Check:
    """I5 of every epoch; repeated for up to `patience_s` while something looks wrong. Raises KafkaException, psycopg.Error."""
    deadline, pause = time.monotonic() + patience_s, threading.Event()
    while True:
        check = _look(connect, admin, onlooker, epochs)
        if check.ok or time.monotonic() >= deadline:
            return check
        pause.wait(LOOK_AGAIN_S)


def _look(connect: Callable[[], Connection[Any]], admin: AdminClient, onlooker: Consumer, epochs: Sequence[Epoch]) -> Check:
    check = Check("I5")
    with connect() as connection:
        fences, late = read_fences(connection), late_waiting(connection, admin)
    current = epochs[-1]
    check_topic(topic_state.describe(admin, [current.topic])[current.topic], current)
    committed = group.committed(onlooker, current.topic, current.epoch, current.partitions)
    ends = topic_state.log_ends(admin, current.topic, current.partitions)
    starts = topic_state.log_starts(admin, current.topic, current.partitions)
    waiting = uncounted = 0
    for fence in fences:
        check.checked += 1
        if fence.epoch == current.epoch and fence.partition < current.partitions:
            p = fence.partition
            position = committed.get(p)
            look_at_partition(check, fence, position, current.starts[p], starts[p], ends[p])
            reached = position.offset if position is not None else fence.next_offset
            waiting += max(0, ends[p] - reached)
            uncounted += max(0, reached - fence.next_offset)
        else:
            uncounted += _look_at_ended(check, fence, epochs)
    if not check.ok:
        check.detail = f"positions disagree in {check.findings_count} places"
    elif waiting or uncounted or late:
        check.detail = f"in order; on their way: {waiting} records to decide, {uncounted} to count"
        check.detail += f", {late} late ones to forward" if late else ""
    else:
        check.detail = "at rest: fence = committed = log end everywhere"
    return check


def look_at_partition(
    check: Check, fence: Fence, position: GroupPosition | None, start: int, log_start: int, log_end: int
) -> None:
    """One partition of the epoch that goes on. Pure. `start` is the epoch's, `log_start` what the log still has."""
    where = partition_of_log(fence.epoch, fence.partition)
    if position is None:
        if fence.next_offset > start:
            check.add("no committed offset", where, f"at least the fence, {fence.next_offset}", "none")
        reached = fence.next_offset
    else:
        reached = position.offset
        if position.offset < fence.next_offset:
            check.add("committed offset below the fence", where, f"at least {fence.next_offset}", position.offset)
        _look_at_note(check, where, fence, position, start)
    if reached > log_end:
        check.add("position behind the log's end", where, f"at most {log_end}", reached)
    if reached < log_start:
        check.add("records deleted before they were decided", where, f"a log from {reached} on", f"a log from {log_start} on")


def _look_at_note(check: Check, where: dict[str, Any], fence: Fence, position: GroupPosition, start: int) -> None:
    note = position.note
    if note is None:
        expected = f"a note of epoch {fence.epoch} and offset {position.offset}"
        check.add("commit metadata", where, expected, repr(position.metadata[:200]))
        return
    if note.figures.offsets != position.offset - start:
        check.add("figures in the commit", where, f"{position.offset - start} verdicts", f"{note.figures.offsets} verdicts")
    if position.offset == fence.next_offset and note.figures != fence.figures:
        check.add("figures in the commit", where, fence.figures, note.figures)
    elif position.offset > fence.next_offset:
        try:
            note.figures.minus(fence.figures)
        except ValueError as error:
            check.add("figures in the commit", where, "figures that grew since the fence", error)


def _look_at_ended(check: Check, fence: Fence, epochs: Sequence[Epoch]) -> int:
    """An epoch that was closed: its fences stop at its ends. Returns what is still to count."""
    where = partition_of_log(fence.epoch, fence.partition)
    epoch = next((one for one in epochs if one.epoch == fence.epoch and fence.partition < one.partitions), None)
    if epoch is None or epoch.ends is None:
        check.add("a fence of no epoch", where, "an epoch that goes on, or has ended", f"next_offset {fence.next_offset}")
        return 0
    end = epoch.ends[fence.partition]
    if fence.next_offset > end:
        check.add("fence behind the epoch's end", where, f"at most {end}", fence.next_offset)
    return max(0, end - fence.next_offset)
