"""`usage_rejects` for people: pages of dead letters, and one with its bytes.

Copies of a row that have not collapsed yet are shown once. Raises clickhouse_connect's `ClickHouseError` family.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from clickhouse_connect.driver.client import Client

from meterline_schemas.instants import format_instant
from store.positions import Position, parse_position

PAGE_MAX = 1_000
OF_KEY_MAX = 100
_CURSOR = re.compile(r"(-?[0-9]{1,15})@(.+)")

_COLUMNS = (
    "log_epoch, kafka_partition, kafka_offset, verdict, reason, detail, tenant_id, source_service, source_entity_id, usage_type,"
    " toUnixTimestamp64Milli(ingested_at) AS ingested_ms, length(raw_value) AS bytes,"
    " admitted_epoch, admitted_partition, admitted_offset, rules_version"
)
_POSITION = "log_epoch, kafka_partition, kafka_offset"


@dataclass(frozen=True)
class Reject:
    """A dead letter without its bytes. `admitted` is where the row of its key stands, for a conflict or duplicate."""

    position: Position
    verdict: str
    reason: str
    detail: str
    tenant_id: str
    source_service: str
    source_entity_id: str
    usage_type: str
    ingested_ms: int
    bytes: int
    admitted: Position | None
    rules_version: int

    def as_json(self) -> dict[str, Any]:
        return {
            "position": str(self.position),
            "verdict": self.verdict,
            "reason": self.reason,
            "detail": self.detail,
            "tenant_id": self.tenant_id,
            "source_service": self.source_service,
            "source_entity_id": self.source_entity_id,
            "usage_type": self.usage_type,
            "ingested_at": format_instant(self.ingested_ms),
            "bytes": self.bytes,
            "admitted_position": None if self.admitted is None else str(self.admitted),
            "rules_version": self.rules_version,
        }


@dataclass(frozen=True)
class RawReject:
    """A dead letter with the record that it was."""

    reject: Reject
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...]
    row_hash: int


@dataclass(frozen=True)
class Wanted:
    """Which rejects; None is any. Times are ingest times: since <= time < until."""

    verdict: str | None = None
    reason: str | None = None
    tenant_id: str | None = None
    source_service: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class Page(NamedTuple):
    """Rejects, the newest first, and the cursor of the next page if there is more."""

    rejects: list[Reject]
    cursor: str | None


def page(client: Client, wanted: Wanted, limit: int, cursor: str | None = None) -> Page:
    """One page of at most `limit` rejects. Raises ValueError for a limit out of range or a cursor that is none."""
    if not 1 <= limit <= PAGE_MAX:
        raise ValueError(f"a page has 1 to {PAGE_MAX} rejects, not {limit}")
    conditions = ["1"]
    parameters: dict[str, Any] = {"limit": limit + 1}
    for column in ("verdict", "reason", "tenant_id", "source_service"):
        value = getattr(wanted, column)
        if value is not None:
            conditions.append(f"{column} = {{{column}:String}}")
            parameters[column] = value
    for name, sign, instant in (("since", ">=", wanted.since), ("until", "<", wanted.until)):
        if instant is not None:
            conditions.append(f"ingested_at {sign} fromUnixTimestamp64Milli({{{name}:Int64}}, 'UTC')")
            parameters[name] = round(instant.timestamp() * 1000)
    if cursor is not None:
        ingested_ms, at = _parse_cursor(cursor)
        conditions.append(
            f"(ingested_at, {_POSITION}) < (fromUnixTimestamp64Milli({{c_ms:Int64}}, 'UTC'),"
            " {c_e:UInt16}, {c_p:UInt32}, {c_o:UInt64})"
        )
        parameters |= {"c_ms": ingested_ms, "c_e": at.epoch, "c_p": at.partition, "c_o": at.offset}
    result = client.query(
        f"SELECT {_COLUMNS} FROM usage_rejects WHERE {' AND '.join(conditions)}"
        " ORDER BY ingested_at DESC, log_epoch DESC, kafka_partition DESC, kafka_offset DESC"
        f" LIMIT 1 BY {_POSITION} LIMIT {{limit:UInt32}}",
        parameters=parameters,
    )
    rejects = [_reject(row) for row in result.result_rows]
    more = len(rejects) > limit
    rejects = rejects[:limit]
    return Page(rejects, f"{rejects[-1].ingested_ms}@{rejects[-1].position}" if more else None)


def _parse_cursor(cursor: str) -> tuple[int, Position]:
    match = _CURSOR.fullmatch(cursor)
    if match is None:
        raise ValueError(f"{cursor[:64]!r} is no cursor; pass the one that the page before ended with")
    return int(match[1]), parse_position(match[2])


def of_key(client: Client, key: bytes, service: str, entity: str, usage_type: str) -> list[Reject]:
    """The rejects under a key, oldest first, at most OF_KEY_MAX: by what they say, or by the record key of unreadable ones."""
    # Two reads put together: with OR in one condition no index could pass anything over.
    result = client.query(
        f"SELECT * FROM (SELECT {_COLUMNS} FROM usage_rejects WHERE source_service = {{s:String}}"
        " AND source_entity_id = {i:String} AND usage_type = {t:String}"
        f" UNION ALL SELECT {_COLUMNS} FROM usage_rejects WHERE raw_key = {{k:String}})"
        f" ORDER BY {_POSITION} LIMIT 1 BY {_POSITION} LIMIT {OF_KEY_MAX}",
        parameters={"s": service, "i": entity, "t": usage_type, "k": key.decode()},
    )
    return [_reject(row) for row in result.result_rows]


def read(client: Client, position: Position) -> RawReject | None:
    """One reject with its record; None when the record there was not rejected, or its reject was dropped by age."""
    result = client.query(
        f"SELECT {_COLUMNS} FROM usage_rejects"
        " WHERE log_epoch = {e:UInt16} AND kafka_partition = {p:UInt32} AND kafka_offset = {o:UInt64} LIMIT 1",
        parameters=_at(position),
    )
    if not result.result_rows:
        return None
    raw = client.query(
        "SELECT raw_key, raw_value, arrayMap(h -> h.1, headers), arrayMap(h -> h.2, headers), toString(row_hash)"
        " FROM usage_rejects"
        " WHERE log_epoch = {e:UInt16} AND kafka_partition = {p:UInt32} AND kafka_offset = {o:UInt64} LIMIT 1",
        parameters=_at(position),
        query_formats={"String": "bytes"},
    )
    ((key, value, names, values, row_hash),) = raw.result_rows
    headers = tuple(
        (bytes(name).decode(errors="surrogateescape"), bytes(content)) for name, content in zip(names, values, strict=True)
    )
    return RawReject(_reject(result.result_rows[0]), bytes(key), bytes(value), headers, int(row_hash))


def _at(position: Position) -> dict[str, int]:
    return {"e": position.epoch, "p": position.partition, "o": position.offset}


def _reject(row: Sequence[Any]) -> Reject:
    epoch, partition, offset, verdict, reason, detail, tenant, service, entity, usage_type, at_ms, size, *rest = row
    admitted_epoch, admitted_partition, admitted_offset, rules_version = rest
    return Reject(
        Position(epoch, partition, offset),
        verdict,
        reason,
        detail,
        tenant,
        service,
        entity,
        usage_type,
        at_ms,
        size,
        Position(admitted_epoch, admitted_partition, admitted_offset) if admitted_epoch else None,
        rules_version,
    )
