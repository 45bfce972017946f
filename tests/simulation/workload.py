"""What producers write: few keys, so that nearly every record meets an earlier one of its key.

Values are made once a process and reused by every schedule, so that the codec's work can be kept (see `seams`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from random import Random
from types import MappingProxyType
from typing import Final

from meterline_schemas.key import dedup_key, partition_of
from meterline_schemas.rules import RULES

FIRST_MS: Final = 1_790_100_000_000
DAY_MS: Final = 86_400_000

# A second version that differs in both directions: it takes schema version 2, and less metadata.
RULES_BY_VERSION: Final = MappingProxyType(
    {1: RULES[1], 2: replace(RULES[1], version=2, schema_versions=frozenset({1, 2}), metadata_bytes_max=16)}
)

Headers = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class Message:
    """A record before it has a position; `home` is the partition that its key leads to, `next_home` in epoch 2. None: any."""

    value: bytes | None
    headers: Headers
    home: int | None
    next_home: int | None = None


_SERVICE: Final = "worker"
_PLAIN: Final[Headers] = ()
_NEWER: Final[Headers] = (("schema-version", b"2"),)
_KEYS_A_PARTITION: Final = 4
_LARGEST: Final = "999999999999.999999"
_BURST: Final = 11
_SHORT: Final[dict[str, object]] = {"metadata": {"a": 1}}
_LONG: Final[dict[str, object]] = {"metadata": {"note": "longer than rules 2 take"}}


def _value(entity: str, quantity: str, *more: dict[str, object], tenant: str = "t1") -> bytes:
    event: dict[str, object] = {
        "tenantId": tenant,
        "sourceService": _SERVICE,
        "sourceEntityId": entity,
        "usageType": "PHOTO",
        "quantity": quantity,
    }
    for fields in more:
        event |= fields
    return json.dumps(event).encode()


def _of_one_key(entity: str, home: int, quantity: str) -> list[Message]:
    """Messages of one key, the usual ones several times: equal, equal in other bytes, in conflict, under newer rules."""
    dated: dict[str, object] = {"occurredAt": "2026-09-20T13:00:00Z"}
    correction: dict[str, object] = {
        "kind": "correction",
        "corrects": {"sourceService": _SERVICE, "sourceEntityId": "x", "usageType": "PHOTO"},
    }
    usual = Message(_value(entity, quantity, dated), _PLAIN, home)
    next_home = _next_home(entity)
    return [replace(message, next_home=next_home) for message in _messages(entity, home, quantity, dated, correction, usual)]


def _next_home(entity: str) -> int:
    return partition_of(dedup_key(_SERVICE, entity, "PHOTO"), NEXT_PARTITIONS)


def _messages(
    entity: str, home: int, quantity: str, dated: dict[str, object], correction: dict[str, object], usual: Message
) -> list[Message]:
    return [
        *[usual] * 8,
        *[Message(_value(entity, quantity), _PLAIN, home)] * 2,  # its day is the ingest's
        Message(_value(entity, quantity, dated, _SHORT), _PLAIN, home),
        Message(_value(entity, quantity, dated, _LONG), _PLAIN, home),
        Message(_value(entity, quantity, dated), _NEWER, home),
        Message(_value(entity, "7.5", dated), _PLAIN, home),
        Message(_value(entity, quantity, dated, tenant="t2"), _PLAIN, home),
        Message(_value(entity, "-2.25", dated, correction), _PLAIN, home),
    ]


def _pools(partitions: int) -> tuple[list[tuple[Message, ...]], list[tuple[Message, ...]]]:
    """For each partition what is written there, and a burst of keys that come once, with the largest quantity.

    Ten of the largest overflow an int64 of millionths, so one range must be able to hold more.
    """
    pools, bursts = [], []
    for home in range(partitions):
        names = (f"e{number}" for number in range(1000))
        keys = [name for name in names if partition_of(dedup_key(_SERVICE, name, "PHOTO"), partitions) == home]
        bursts.append(tuple(Message(_value(name, _LARGEST), _PLAIN, home, _next_home(name)) for name in keys[-_BURST:]))
        messages: list[Message] = []
        for index, name in enumerate(keys[:_KEYS_A_PARTITION]):
            messages += _of_one_key(name, home, _LARGEST if index == 0 else str(index))
        messages += [
            Message(None, _PLAIN, None),
            Message(b"{", _PLAIN, None),
            Message(_value("e0", "-1"), _PLAIN, None),
            Message(_value("", "1"), _PLAIN, None),
        ]
        pools.append(tuple(messages))
    return pools, bursts


PARTITIONS: Final = 2
NEXT_PARTITIONS: Final = 3
"""Of epoch 2, where there is one."""
PARTITIONS_OF: Final = MappingProxyType({1: PARTITIONS, 2: NEXT_PARTITIONS})
MESSAGES, BURSTS = _pools(PARTITIONS)


def draw(random: Random, epoch: int = 1) -> tuple[int, Message]:
    """A partition of an epoch's topic, and what is written to it; now and then what belongs to another."""
    if epoch > 1:
        pool = MESSAGES[int(random.random() * PARTITIONS)]
        message = pool[int(random.random() * len(pool))]
        if message.next_home is not None and random.random() < 0.94:
            return message.next_home, message
        return int(random.random() * NEXT_PARTITIONS), message
    partition = int(random.random() * PARTITIONS)
    home = partition if random.random() < 0.94 else int(random.random() * PARTITIONS)
    pool = MESSAGES[home]
    return partition, pool[int(random.random() * len(pool))]
