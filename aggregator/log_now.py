"""Where the log ends now: in the epoch that goes on, once nothing of the ended ones waits to be forwarded to it."""

from __future__ import annotations

from typing import Any

from confluent_kafka.admin import AdminClient
from psycopg import Connection

from store.epochs import all_epochs, forwarded, unretired
from store.topic_state import log_ends


def log_now(connection: Connection[Any], admin: AdminClient) -> tuple[int, list[int]] | None:
    """(epoch, ends): everything that any topic of ours held when this was called lies below them, or below an epoch's end.

    None while a late record in an ended epoch's topic is not forwarded: it lies below nobody's ends. The order matters: a
    record that is forwarded by the second step has its copy below the ends of the third.
    Raises KafkaException, psycopg.Error.
    """
    epochs = all_epochs(connection)
    ended = unretired(epochs)
    # 1. What producers have sent to ended epochs by now.
    late = {epoch.epoch: log_ends(admin, epoch.topic, epoch.partitions) for epoch in ended}
    # 2. What of it is acknowledged by a later topic.
    for epoch in ended:
        done = forwarded(connection, epoch.epoch)
        if any(at < end for at, end in zip(done, late[epoch.epoch], strict=True)):
            return None
    # 3. What that topic holds.
    current = epochs[-1]
    return current.epoch, log_ends(admin, current.topic, current.partitions)
