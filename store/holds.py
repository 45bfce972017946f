"""The tables of reservations, and their atomic steps. The rules are `metering.holds`; what is held is the view `held`.

Statements run in the caller's transaction at READ COMMITTED; the caller commits. `lock` comes first, in a statement of its
own: a sum in the statement that waits for the lock would see what was there before it waited.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from psycopg import AsyncConnection

from metering.holds import Hold, HoldState, LogPosition, Settlement
from metering.rates import price_text, price_units
from meterline_schemas.quantity import MICRO, format_quantity
from meterline_schemas.types import Micros


@dataclass(frozen=True)
class Request:
    """An Idempotency-Key: whose, its text, and the digest of what was asked with it."""

    scope: str
    key: str
    digest: bytes


@dataclass(frozen=True)
class Work:
    """What a reservation is for."""

    tenant_id: str
    usage_type: str
    source_service: str
    source_entity_id: str
    user_id: str | None = None


@dataclass(frozen=True)
class Reserved:
    """A row of holds."""

    hold_id: uuid.UUID
    work: Work
    hold: Hold
    remaining: Micros | None
    reason: str
    created_at: datetime
    request_digest: bytes | None
    verdict: str | None
    held: Micros
    """As the view says it now."""
    read_at: datetime
    """The server's clock at the reading."""
    counted: bool
    """Settled, and the fence has passed it."""
    price: int | None
    """Of a unit in credits, in units of 10^-12, as it was when it was reserved; None: it is not priced in credits."""


_LOCK = (
    "INSERT INTO hold_locks (tenant_id, usage_type) VALUES (%s, %s) ON CONFLICT DO NOTHING",
    "SELECT FROM hold_locks WHERE tenant_id = %s AND usage_type = %s FOR UPDATE",
)

_COLUMNS = """
       h.hold_id, h.tenant_id, h.usage_type, h.source_service, h.source_entity_id, h.user_id, h.quantity, h.expires_at, h.state,
       h.settled_quantity, h.occurred_at, h.settle_digest, h.settled_late, h.epoch, h.partition, h.kafka_offset,
       h.remaining, h.reason, h.created_at, h.request_digest, h.verdict, h.credits,
       (SELECT v.quantity FROM held v WHERE v.hold_id = h.hold_id) AS held, clock_timestamp() AS read_at
"""
_OF_ID = f"SELECT {_COLUMNS} FROM holds h WHERE h.hold_id = %s"
_OF_ID_LOCKED = f"{_OF_ID} FOR NO KEY UPDATE OF h"
_OF_REQUEST = f"SELECT {_COLUMNS} FROM holds h WHERE h.request_scope = %s AND h.request_key = %s"

_INSERT = """
INSERT INTO holds (hold_id, tenant_id, usage_type, source_service, source_entity_id, user_id, quantity, remaining, reason,
                   created_at, expires_at, request_scope, request_key, request_digest, credits)
SELECT %s, %s, %s, %s, %s, %s, %s, %s, %s, at.now, at.now + %s, %s, %s, %s, %s FROM (SELECT clock_timestamp() AS now) at
RETURNING expires_at
"""

_SETTLE = """
UPDATE holds
   SET state = 'settled', settled_at = clock_timestamp(), settled_quantity = %s, occurred_at = %s, settled_late = %s,
       settle_digest = %s, outbox_id = %s, done_at = NULL
 WHERE hold_id = %s
"""

_RELEASE = "UPDATE holds SET state = 'released', done_at = coalesce(done_at, clock_timestamp()) WHERE hold_id = %s"


def decimal_of(micros: int) -> Decimal:
    """Millionths as the column has them."""
    return Decimal(format_quantity(micros))


def micros_of(quantity: Decimal) -> Micros:
    """And back, exactly: Decimal's own arithmetic would round a wide sum."""
    numerator, denominator = quantity.as_integer_ratio()
    return Micros(numerator * MICRO // denominator)


async def lock(connection: AsyncConnection[Any], tenant_id: str, usage_type: str) -> None:
    """Waits until nobody else reserves or settles of this tenant and usage type. Held until the transaction ends."""
    async with connection.pipeline():
        for statement in _LOCK:
            await connection.execute(statement, (tenant_id, usage_type))


async def of_request(connection: AsyncConnection[Any], request: Request) -> Reserved | None:
    """What the Idempotency-Key has reserved already."""
    cursor = await connection.execute(_OF_REQUEST, (request.scope, request.key))
    row = await cursor.fetchone()
    return None if row is None else _reserved(row)


async def of_id(connection: AsyncConnection[Any], hold_id: uuid.UUID, *, locked: bool = False) -> Reserved | None:
    """The reservation; `locked` until the transaction ends, and then read as it is once the lock is had."""
    cursor = await connection.execute(_OF_ID_LOCKED if locked else _OF_ID, (hold_id,))
    row = await cursor.fetchone()
    return None if row is None else _reserved(row)


async def insert(
    connection: AsyncConnection[Any],
    hold_id: uuid.UUID,
    work: Work,
    quantity: Micros,
    remaining: Micros | None,
    reason: str,
    ttl: timedelta,
    request: Request | None,
    price: int | None = None,
) -> datetime:
    """Holds the quantity from now on; answers until when. The credits of a `price` are held by the caller, under the same id.

    Raises psycopg.errors.UniqueViolation for a used request key.
    """
    cursor = await connection.execute(
        _INSERT,
        (
            hold_id,
            work.tenant_id,
            work.usage_type,
            work.source_service,
            work.source_entity_id,
            work.user_id,
            decimal_of(quantity),
            None if remaining is None else decimal_of(remaining),
            reason,
            ttl,
            request and request.scope,
            request and request.key,
            request and request.digest,
            None if price is None else price_text(price),
        ),
    )
    row = await cursor.fetchone()
    assert row is not None
    expires_at = row[0]
    assert isinstance(expires_at, datetime)
    return expires_at


async def settle(connection: AsyncConnection[Any], hold_id: uuid.UUID, settlement: Settlement, outbox_id: int) -> None:
    """Writes the settlement beside the outbox row of its event."""
    parameters = (decimal_of(settlement.quantity), settlement.occurred_at, settlement.late, settlement.digest, outbox_id, hold_id)
    await connection.execute(_SETTLE, parameters)


async def release(connection: AsyncConnection[Any], hold_id: uuid.UUID) -> None:
    """Gives back what it holds."""
    await connection.execute(_RELEASE, (hold_id,))


def _reserved(row: tuple[Any, ...]) -> Reserved:
    (
        hold_id, tenant_id, usage_type, source_service, source_entity_id, user_id, quantity, expires_at, state,
        settled_quantity, occurred_at, settle_digest, late, epoch, partition, offset,
        remaining, reason, created_at, request_digest, verdict, price, held, read_at,
    ) = row  # fmt: skip
    settlement = None
    if state == HoldState.SETTLED:
        settlement = Settlement(micros_of(settled_quantity), occurred_at, bytes(settle_digest), late)
    return Reserved(
        hold_id,
        Work(tenant_id, usage_type, source_service, source_entity_id, user_id),
        Hold(
            micros_of(quantity),
            expires_at,
            HoldState(state),
            settlement,
            None if offset is None else LogPosition(epoch, partition, offset),
        ),
        None if remaining is None else micros_of(remaining),
        reason,
        created_at,
        None if request_digest is None else bytes(request_digest),
        verdict,
        Micros(0) if held is None else micros_of(held),
        read_at,
        settlement is not None and held is None,
        None if price is None else price_units(price),
    )
