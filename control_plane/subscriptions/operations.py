"""What was asked to be done with a subscription, on record before the provider is asked, so that a crash forgets nothing.

An operation is open, then done; or, when the provider refused, it is undone and refused. One at a time for a tenant. Whoever
works on it holds a lease, so that a second process does not; a lease that has run out is anybody's.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

import msgspec
from sqlalchemy import Column, DateTime, Integer, Row, Table, Text, func, select, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import IntegrityError

from control_plane.metadata import METADATA
from control_plane.provider.values import PauseBehavior, Proration
from control_plane.refusals import Refusal
from control_plane.subscriptions.wanted import WantedPart
from control_plane.unit import Unit

Kind = Literal["create", "update", "cancel", "reactivate", "pause", "resume"]

LEASE = timedelta(minutes=3)
"""Longer than one step takes: looking, then a call with its repeats."""
WAIT_MAX = timedelta(minutes=10)
"""Between two tries of what the provider does not answer."""

OPERATIONS = Table(
    "subscription_operations",
    METADATA,
    Column("operation_id", Text, primary_key=True),
    Column("tenant_id", Text, nullable=False),
    Column("subscription_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("wanted", JSONB, nullable=False),
    Column("state", Text, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("round", Integer, nullable=False),
    Column("refusal", JSONB),
    Column("who", Text, nullable=False),
    Column("request_id", Text),
    Column("lease_until", DateTime(timezone=True), nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("changed_at", DateTime(timezone=True), nullable=False),
)


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that an operation needs to know, frozen when it was asked for."""

    parts: tuple[WantedPart, ...] = ()
    currency: str = ""
    anchor_day: int | None = None
    trial_end: datetime | None = None
    end_trial: bool = False
    payment_method_id: str | None = None
    promotion_code_id: str | None = None
    redemption_id: UUID | None = None
    """The use of a promo code that this operation took; given back when the provider refuses."""
    proration: Proration = "create_prorations"
    at_period_end: bool = True
    prorate: bool = False
    pause_behavior: PauseBehavior = "void"
    resumes_at: datetime | None = None


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """An operation as it stands."""

    id: str
    tenant_id: str
    subscription_id: str
    kind: Kind
    wanted: Wanted
    state: Literal["open", "undoing", "done", "refused"]
    tries: int
    round: int
    refusal: dict[str, str] | None
    who: str
    request_id: str | None

    def key(self, step: str) -> str:
        """The idempotency key of a step; another round is another call."""
        return f"{self.id}:{step}:{self.round}"


def begin(unit: Unit, tenant_id: str, subscription_id: str, kind: Kind, wanted: Wanted, *, free: bool = False) -> Operation:
    """Puts it on record, leased to the caller (`free`: to nobody). Raises Refusal while another of the tenant is under way."""
    operation_id = secrets.token_hex(12)
    try:
        with unit.sql.begin_nested():
            unit.sql.execute(
                OPERATIONS.insert().values(
                    operation_id=operation_id,
                    tenant_id=tenant_id,
                    subscription_id=subscription_id,
                    kind=kind,
                    wanted=msgspec.to_builtins(wanted),
                    state="open",
                    tries=0,
                    round=0,
                    who=unit.actor.who,
                    request_id=unit.actor.request_id,
                    lease_until=func.now() if free else func.now() + LEASE,
                )
            )
    except IntegrityError as error:
        raise Refusal(
            "conflict",
            "subscription_busy",
            "Another change of this organization's subscription is under way; ask again when it is done.",
        ) from error
    found = get(unit, operation_id)
    assert found is not None
    return found


def get(unit: Unit, operation_id: str) -> Operation | None:
    """The operation."""
    row = unit.sql.execute(select(OPERATIONS).where(OPERATIONS.c.operation_id == operation_id)).one_or_none()
    return None if row is None else _operation(row)


def is_of(unit: Unit, operation_id: str, subscription_id: str, tenant_id: str) -> bool:
    """Whether there is such an operation of this subscription and tenant."""
    found = get(unit, operation_id)
    return found is not None and (found.subscription_id, found.tenant_id) == (subscription_id, tenant_id)


def claim(unit: Unit, limit: int) -> list[Operation]:
    """Operations that nobody works on, leased to the caller; one that another process is taking just now is left to it."""
    free = (
        select(OPERATIONS.c.operation_id)
        .where(OPERATIONS.c.state.in_(("open", "undoing")), OPERATIONS.c.lease_until < func.now())
        .order_by(OPERATIONS.c.lease_until)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return _operations(
        unit.sql.execute(
            update(OPERATIONS)
            .where(OPERATIONS.c.operation_id.in_(free.scalar_subquery()))
            .values(lease_until=func.now() + LEASE, tries=OPERATIONS.c.tries + 1, changed_at=func.now())
            .returning(OPERATIONS)
        ).all()
    )


def take(unit: Unit, operation_id: str) -> Operation | None:
    """The one operation, leased to the caller if nobody works on it; None while somebody does, or it is over."""
    rows = unit.sql.execute(
        update(OPERATIONS)
        .where(
            OPERATIONS.c.operation_id == operation_id,
            OPERATIONS.c.state.in_(("open", "undoing")),
            OPERATIONS.c.lease_until < func.now(),
        )
        .values(lease_until=func.now() + LEASE, tries=OPERATIONS.c.tries + 1, changed_at=func.now())
        .returning(OPERATIONS)
    ).all()
    return next(iter(_operations(rows)), None)


def keep(unit: Unit, operation: Operation) -> None:
    """The lease begins anew: before each step."""
    _set(unit, operation, lease_until=func.now() + LEASE)


def finish(unit: Unit, operation: Operation) -> None:
    """All of it is done."""
    _set(unit, operation, state="done")


def undo(unit: Unit, operation: Operation, refusal: Refusal) -> Operation:
    """The provider refused: what was done of it is taken back next."""
    said = {"kind": refusal.kind, "code": refusal.code, "message": refusal.message}
    _set(unit, operation, state="undoing", refusal=said, lease_until=func.now() + LEASE)
    return msgspec.structs.replace(operation, state="undoing", refusal=said)


def refused(unit: Unit, operation: Operation) -> None:
    """Nothing of it is left."""
    _set(unit, operation, state="refused")


def wait(unit: Unit, operation: Operation, *, another_round: bool) -> None:
    """The provider did not say, or could not be asked: somebody tries again, later each time."""
    delay = min(timedelta(seconds=2 ** min(operation.tries, 10)), WAIT_MAX)
    _set(unit, operation, lease_until=func.now() + delay, round=operation.round + another_round)


def _set(unit: Unit, operation: Operation, **values: Any) -> None:
    unit.sql.execute(
        update(OPERATIONS)
        .where(OPERATIONS.c.operation_id == operation.id, OPERATIONS.c.state.in_(("open", "undoing")))
        .values(changed_at=func.now(), **values)
    )


def _operations(rows: Sequence[Row[Any]]) -> list[Operation]:
    return [_operation(row) for row in rows]


def _operation(row: Row[Any]) -> Operation:
    return Operation(
        id=row.operation_id,
        tenant_id=row.tenant_id,
        subscription_id=row.subscription_id,
        kind=row.kind,
        wanted=msgspec.convert(row.wanted, Wanted),
        state=row.state,
        tries=row.tries,
        round=row.round,
        refusal=row.refusal,
        who=row.who,
        request_id=row.request_id,
    )
