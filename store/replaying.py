"""Sending a reject again, after a fix: what may be sent, and the link from the reject to the new record.

A replay is a new record with a verdict of its own; the original keeps its bytes and its verdict. Steps of `replay`:

1. Judge: a record that would be turned away again is not sent.
2. Write the row of `replays`, and commit. A second replay of the same reject stops here.
3. Send, and wait for the acknowledgement of all replicas.
4. Write the new position and the audit trail, and commit.

A crash between 2 and 4 leaves a row without a position: the record may have been written. Sending it again is safe, for
its key is its identity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
from clickhouse_connect.driver.client import Client
from confluent_kafka import KafkaError, KafkaException, Message, Producer
from psycopg import Connection

from metering.pseudonyms import Asked, Pseudonyms, recognised
from meterline_schemas.event import SCHEMA_VERSION_HEADER, Claim, Event, Invalid, claim_of, conflict_reason, decode
from meterline_schemas.instants import format_instant
from meterline_schemas.key import key_hash, parse_key, partition_of, row_hash
from meterline_schemas.reasons import Reason
from meterline_schemas.rules import Rules
from store import audit, event_log
from store.epochs import Epoch
from store.forgetting import MARK
from store.positions import Position
from store.rejects import RawReject

REPLAY_HEADER: Final = "meterline-replay-of"
ACK_WITHIN_S: Final = 35.0

_FIELDS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ENCODER: Final = msgspec.json.Encoder()


class ReplayRefused(Exception):
    """Nothing was sent. The message says why, and what could be sent instead."""


class NotAcknowledged(Exception):
    """The record was sent and not acknowledged: it may have been written. Sending it again is safe."""


@dataclass(frozen=True)
class NewRecord:
    """What is sent in place of a reject."""

    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...]
    event: Event


@dataclass(frozen=True)
class Replay:
    """One row of `replays`. `new` is None until the record was acknowledged."""

    original: Position
    attempt: int
    key: bytes
    value_hash: int
    who: str
    at: str
    new: Position | None

    def as_json(self) -> dict[str, Any]:
        service, entity, usage_type = parse_key(self.key)
        return {
            "position": str(self.original),
            "attempt": self.attempt,
            "source_service": service,
            "source_entity_id": entity,
            "usage_type": usage_type,
            "who": self.who,
            "at": self.at,
            "new_position": None if self.new is None else str(self.new),
        }


def judge(original: RawReject, rules: Rules, now_ms: int, as_entity: str | None = None, body: bytes | None = None) -> NewRecord:
    """The record to send for a reject. Pure.

    `as_entity` gives it another sourceEntityId, `body` another value. An absent occurredAt becomes the time at which the log
    took the original: that is when the work was done, and it must not move to the day of the replay.
    Raises ReplayRefused when the record would be turned away again.
    """
    reject = original.reject
    if reject.detail == MARK and not original.value:
        raise ReplayRefused(f"{reject.position} was forgotten: its bytes are gone for good")
    if reject.verdict in ("conflict", "duplicate") and as_entity is None:
        raise ReplayRefused(
            f"{reject.position} is a {reject.verdict}: the key belongs to the row admitted at {reject.admitted}, for ever. "
            "If this is work of its own, replay it with --as-entity NEWID"
        )
    if as_entity is not None and as_entity == reject.source_entity_id and reject.verdict != "invalid":
        raise ReplayRefused(f"{as_entity!r} is the sourceEntityId that it had; it needs a new one")
    headers = original.headers if body is None else tuple(h for h in original.headers if h[0] != SCHEMA_VERSION_HEADER)
    headers = tuple(header for header in headers if header[0] != REPLAY_HEADER)
    value = original.value if body is None else body
    first = decode(value, headers, now_ms, rules)
    if isinstance(first, Invalid) and (as_entity is None or not _may_be_renamed(first)):
        raise ReplayRefused(_still_invalid(original, first))
    changes: dict[str, str] = {}
    if as_entity is not None:
        changes["sourceEntityId"] = as_entity
    fields = _FIELDS.decode(value)
    if "occurredAt" not in fields:
        changes["occurredAt"] = format_instant(reject.ingested_ms)
    if changes:
        try:
            value = _ENCODER.encode(fields | {name: msgspec.Raw(_ENCODER.encode(text)) for name, text in changes.items()})
        except UnicodeEncodeError:
            raise ReplayRefused("the new sourceEntityId is not UTF-8") from None
    event = decode(value, headers, now_ms, rules)
    if isinstance(event, Invalid):
        raise ReplayRefused(_still_invalid(original, event))
    return NewRecord(event.key, value, (*headers, (REPLAY_HEADER, str(reject.position).encode())), event)


def _may_be_renamed(invalid: Invalid) -> bool:
    """Whether another sourceEntityId could be what it lacks; its bytes are known to be a JSON object then."""
    return invalid.reason in (Reason.BAD_ID, Reason.MISSING_FIELD)


def _still_invalid(original: RawReject, invalid: Invalid) -> str:
    return (
        f"{original.reject.position} would be invalid again ({invalid.reason}: {invalid.detail}). {invalid.reason.remedy} "
        "Correct it with --body FILE, or correct the sender and let it send the event"
    )


def refuse_taken_key(client: Client, record: NewRecord, pseudonyms: Pseudonyms | None) -> None:
    """Raises ReplayRefused when the new record's key has an admitted row: it would be a duplicate or conflict.

    Raises OtherKey for a row that was forgotten with another key than that of `pseudonyms`.
    """
    claims = event_log.confirm(client, np.array([key_hash(record.key)], dtype=np.uint64))
    asked = Asked(record.key, record.event.tenant_id, record.event.corrects)
    held = recognised(claims, [asked], pseudonyms).get(record.key)
    if held is None:
        return
    at = Position(held.epoch, held.partition, held.offset)
    row = Claim(held.tenant_id, held.quantity, "correction" if held.kind == "correction" else "usage", held.corrects)
    differs = conflict_reason(row, claim_of(record.event))
    what = "is counted already" if differs is None else f"is taken by other usage ({differs})"
    raise ReplayRefused(f"its key {what}: a row stands at {at}. Nothing to replay, unless under a new id with --as-entity NEWID")


def earlier(connection: Connection[Any], original: Position) -> list[Replay]:
    """The replays of a reject, oldest first."""
    rows = connection.execute(
        "SELECT attempt, record_key, value_hash, who, at, new_epoch, new_partition, new_offset FROM replays"
        " WHERE epoch = %s AND partition = %s AND kafka_offset = %s ORDER BY attempt",
        original,
    )
    return [
        Replay(
            original, attempt, bytes(key), int(value_hash), who, at.isoformat().replace("+00:00", "Z"),
            None if acked[0] is None else Position(*acked),
        )
        for attempt, key, value_hash, who, at, *acked in rows
    ]  # fmt: skip


def replay(
    connect: Callable[[], Connection[Any]],
    producer: Producer,
    epoch: Epoch,
    original: RawReject,
    record: NewRecord,
    who: str,
    again: bool,
) -> Replay:
    """Sends a judged record and links it. `epoch` is the one that goes on.

    Raises ReplayRefused when the reject was replayed before and `again` is not set, NotAcknowledged, psycopg.Error.
    """
    position = original.reject.position
    with connect() as connection:
        before = earlier(connection, position)
        if before and not again:
            raise ReplayRefused(_replayed_before(before[-1]))
        attempt = len(before) + 1
        begun = connection.execute(
            "INSERT INTO replays (epoch, partition, kafka_offset, attempt, verdict, reason, record_key, value_hash, who)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
            (*position, attempt, original.reject.verdict, original.reject.reason, record.key, row_hash(record.value), who),
        )
        if begun.rowcount != 1:
            raise ReplayRefused(f"somebody else is replaying {position} right now; see `meterline rejects show {position}`")
    new = _send(producer, epoch, record)
    with connect() as connection:
        connection.execute(
            "UPDATE replays SET new_epoch = %s, new_partition = %s, new_offset = %s, acked_at = now()"
            " WHERE epoch = %s AND partition = %s AND kafka_offset = %s AND attempt = %s",
            (*new, *position, attempt),
        )
        reject = original.reject
        entry = audit.Entry(
            "reject.replayed",
            str(position),
            {"verdict": reject.verdict, "reason": reject.reason, "source_entity_id": reject.source_entity_id},
            {"position": str(new), "attempt": attempt, "tenant_id": record.event.tenant_id,
             "source_entity_id": record.event.source_entity_id},
        )  # fmt: skip
        audit.record(connection, who, [entry])
        return earlier(connection, position)[attempt - 1]


def _replayed_before(last: Replay) -> str:
    if last.new is None:
        return (
            f"{last.original} was replayed by {last.who} at {last.at}, and not acknowledged: it may have been written. "
            "Sending the same again is safe: --again"
        )
    return f"{last.original} was replayed by {last.who} at {last.at}: it stands at {last.new}. To send it once more: --again"


def _send(producer: Producer, epoch: Epoch, record: NewRecord) -> Position:
    """Writes the record to the partition that its key leads to; returns its position once all replicas have it."""
    answers: list[tuple[KafkaError | None, Message]] = []
    try:
        producer.produce(
            epoch.topic,
            value=record.value,
            key=record.key,
            partition=partition_of(record.key, epoch.partitions),
            headers=[(name, value) for name, value in record.headers],
            on_delivery=lambda error, message: answers.append((error, message)),
        )
        producer.flush(ACK_WITHIN_S)
    except (BufferError, KafkaException) as error:
        raise NotAcknowledged(str(error)) from error
    if not answers:
        raise NotAcknowledged(f"no answer within {ACK_WITHIN_S:g} s")
    problem, message = answers[0]
    if problem is not None:
        raise NotAcknowledged(problem.str())
    partition, offset = message.partition(), message.offset()
    if partition is None or offset is None:
        raise NotAcknowledged("acknowledged without a position")
    return Position(epoch.epoch, partition, offset)
