"""POST /v1/billing/reservations, /{id}/settle, /{id}/release: hold a quantity while work runs, then say what it used.

Reserving and settling take the lock of the (tenant, usage type) first and read what is held in a later statement. Settling
takes it too, because it decides whether the hold had expired: a reservation that was granted what had expired and a
settlement in good time of that very hold must not both come true.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import psycopg
from msgspec import UNSET

from access.principals import Principal, require_source, require_tenant, sees_tenant
from entitlements import charging
from entitlements.bodies import asked_quantity, parse, readable, valid_name
from entitlements.keyed_turns import KeyedTurns, TooManyWait
from entitlements.models import Position, number, number_or_unlimited
from entitlements.problems import Problem
from entitlements.reservation_models import (
    TTL_MAX_S,
    ReleaseAnswer,
    ReservationAnswer,
    ReserveAnswer,
    ReserveRequest,
    SettleAnswer,
    SettledEvent,
    SettleRequest,
)
from entitlements.standings import Ask, Standings
from entitlements.store import Store
from metering.holds import HoldRefused, HoldState, Settlement
from metering.holds import release as released
from metering.holds import settle as settled
from metering.limits import Standing, decide, remaining
from meterline_schemas.draft import EncodedEvent, EventDraft, InvalidEvent, encode_event
from meterline_schemas.event import SCHEMA_VERSION_HEADER
from meterline_schemas.instants import format_instant, parse_instant
from meterline_schemas.quantity import format_quantity
from meterline_schemas.reasons import Reason
from meterline_schemas.types import Micros
from runtime import metrics
from store import credits, holds, outbox
from store.credits import By
from store.holds import Request, Reserved, Work
from store.steps import arun

logger = logging.getLogger(__name__)

SCHEMA_VERSION = "1"

_RESERVE = msgspec.json.Decoder(ReserveRequest)
_SETTLE = msgspec.json.Decoder(SettleRequest)
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A reservation that may be decided: valid, and within the principal's scope."""

    work: Work
    quantity: Micros
    ttl: timedelta
    request: Request | None


@dataclass(frozen=True, slots=True)
class _Used:
    """What a settlement says. `quantity` and `occurred_ms` are None where it leaves them to the reservation and the clock."""

    quantity: Micros | None
    occurred_ms: int | None
    metadata: bytes | None


class Reservations:
    """Raises Problem, AccessRefused or StoreAway. For one event loop.

    `promised` is called after a settlement was committed: its event waits in the outbox.
    """

    def __init__(self, store: Store, standings: Standings, topic: str, at_once_max: int, promised: Callable[[], None]) -> None:
        self._store = store
        self._standings = standings
        self._topic = topic
        self._turns = KeyedTurns(at_once_max)
        self._promised = promised

    async def reserve(self, body: bytes, principal: Principal, request_key: str | None) -> ReserveAnswer:
        """Holds it, or says why not. With a request key that was used with the same body: the answer that was given then."""
        asked = _asked(parse(_RESERVE, readable(body)), principal, request_key)
        hold_id = uuid.uuid4()
        try:
            async with self._turns.turn((asked.work.tenant_id, asked.work.usage_type)):
                answer = await self._reserve(hold_id, asked, _by(principal))
        except TooManyWait:
            raise _busy() from None
        except psycopg.errors.UniqueViolation:
            # The key was used at the same time, with another tenant or usage type: the lock did not keep them apart.
            raise _reused() from None
        except Problem:
            metrics.RESERVATIONS.labels("refused").inc()
            raise
        metrics.RESERVATIONS.labels("reserved").inc()
        logger.info("reserved", extra={"principal": principal.name, "reservation": answer.reservation_id})
        return answer

    async def _reserve(self, hold_id: uuid.UUID, asked: _Asked, by: By) -> ReserveAnswer:
        work = asked.work
        async with self._store.transaction("reserve") as connection:
            await holds.lock(connection, work.tenant_id, work.usage_type)
            if asked.request is not None:
                known = await holds.of_request(connection, asked.request)
                if known is not None:
                    if known.request_digest != asked.request.digest:
                        raise _reused()
                    return _reserve_answer(known.hold_id, known.hold.expires_at, known.remaining, known.reason)
            # A statement of its own, after the lock: it sees what those before this one have held.
            ask = Ask(work.tenant_id, work.usage_type, None, work.user_id)
            found = await self._standings.within(connection, ask)
            if found.standing.credits is not None and work.user_id is None:
                raise Problem(400, "user_required", "This usage type is priced in credits; send userId, whose credits would pay.")
            left, reason = _granted(found.standing, asked.quantity)
            price = None if found.standing.credits is None else found.standing.credits.price
            expires_at = await holds.insert(
                connection, hold_id, work, asked.quantity, left, reason, asked.ttl, asked.request, price
            )
            if price is not None:
                # Last, for whoever else spends the user's credits waits until the commit.
                await arun(connection, charging.hold(work, hold_id, asked.quantity, price, by))
        return _reserve_answer(hold_id, expires_at, left, reason)

    async def settle(self, hold_id: str, body: bytes, principal: Principal, traceparent: str) -> SettleAnswer:
        """Promises the event and holds what was used until it is counted. The same again gets the same answer."""
        used = _used(parse(_SETTLE, readable(body) if body.strip() else b"{}"))
        reserved = await self._of(hold_id, principal)
        work = reserved.work
        require_source(principal, work.source_service)
        try:
            async with (
                self._turns.turn((work.tenant_id, work.usage_type)),
                self._store.transaction("settle") as connection,
            ):
                await holds.lock(connection, work.tenant_id, work.usage_type)
                reserved = await self._locked(connection, reserved.hold_id)
                was_settled = reserved.hold.state is HoldState.SETTLED
                asked, encoded = _settlement(reserved, used)
                hold = settled(reserved.hold, asked, reserved.read_at)
                assert hold.settlement is not None
                if not was_settled:
                    headers = {SCHEMA_VERSION_HEADER: SCHEMA_VERSION, "traceparent": traceparent}
                    record = outbox.Record(self._topic, encoded.event.key, encoded.value, headers)
                    promised = await arun(connection, outbox.add(record))
                    await holds.settle(connection, reserved.hold_id, hold.settlement, promised)
                # Again, it answers what it answered the first time.
                charged = None
                if reserved.price is not None:
                    steps = charging.settle(work, reserved.hold_id, hold.settlement.quantity, reserved.price, _by(principal))
                    charged = await arun(connection, steps)
        except TooManyWait:
            raise _busy() from None
        except HoldRefused as refused:
            raise Problem(409, refused.code, str(refused)) from None
        if not was_settled:
            self._promised()
            metrics.RESERVATIONS.labels("settled_late" if hold.settlement.late else "settled").inc()
            logger.info("settled", extra={"principal": principal.name, "reservation": hold_id, "late": hold.settlement.late})
        at = format_instant((hold.settlement.occurred_at - _EPOCH) // _MS)
        return SettleAnswer(
            str(reserved.hold_id),
            "settled",
            number(hold.settlement.quantity),
            at,
            hold.settlement.late,
            UNSET if charged is None else number(charged.moved),
            UNSET if charged is None else number(charged.shortfall),
        )

    async def release(self, hold_id: str, principal: Principal) -> ReleaseAnswer:
        """Gives it back. Again, or after its time, it is given back already."""
        reserved = await self._of(hold_id, principal)
        require_source(principal, reserved.work.source_service)
        try:
            async with self._store.transaction("release") as connection:
                reserved = await self._locked(connection, reserved.hold_id)
                was_released = reserved.hold.state is HoldState.RELEASED
                released(reserved.hold)
                if not was_released:
                    await holds.release(connection, reserved.hold_id)
                    if reserved.price is not None:
                        await arun(connection, credits.release(reserved.hold_id, by=_by(principal)))
        except HoldRefused as refused:
            raise Problem(409, refused.code, str(refused)) from None
        if not was_released:
            metrics.RESERVATIONS.labels("released").inc()
            logger.info("released", extra={"principal": principal.name, "reservation": hold_id})
        return ReleaseAnswer(str(reserved.hold_id), "released")

    async def show(self, hold_id: str, principal: Principal) -> ReservationAnswer:
        """The reservation as it stands."""
        reserved = await self._of(hold_id, principal)
        work, hold = reserved.work, reserved.hold
        state = "expired" if hold.state is HoldState.OPEN and hold.expired(reserved.read_at) else hold.state.value
        event = None
        if hold.settlement is not None:
            event = SettledEvent(
                quantity=number(hold.settlement.quantity),
                occurred_at=format_instant((hold.settlement.occurred_at - _EPOCH) // _MS),
                expired=hold.settlement.late,
                counted=reserved.counted,
                position=UNSET if hold.position is None else Position(*hold.position),
                verdict=reserved.verdict or UNSET,  # type: ignore[arg-type]  # the table's own check names the four
            )
        return ReservationAnswer(
            reservation_id=str(reserved.hold_id),
            tenant_id=work.tenant_id,
            usage_type=work.usage_type,
            source_service=work.source_service,
            source_entity_id=work.source_entity_id,
            state=state,  # type: ignore[arg-type]  # one of HoldState
            quantity=number(hold.quantity),
            held=number(reserved.held),
            expires_at=_instant(hold.expires_at),
            settled=event,
        )

    async def _of(self, hold_id: str, principal: Principal) -> Reserved:
        """The reservation of that id, if it is in the principal's scope. Raises Problem 404, the same for both."""
        try:
            wanted = uuid.UUID(hold_id)
        except ValueError:
            raise _unknown() from None
        async with self._store.transaction("hold") as connection:
            reserved = await holds.of_id(connection, wanted)
        if reserved is None or not sees_tenant(principal, reserved.work.tenant_id):
            raise _unknown()
        return reserved

    async def _locked(self, connection: psycopg.AsyncConnection[Any], hold_id: uuid.UUID) -> Reserved:
        reserved = await holds.of_id(connection, hold_id, locked=True)
        if reserved is None:
            # Swept since it was looked up.
            raise _unknown()
        return reserved


def _by(principal: Principal) -> By:
    return By(f"{principal.kind}:{principal.name}")


def _asked(request: ReserveRequest, principal: Principal, request_key: str | None) -> _Asked:
    """Raises Problem 400 for what is not valid, AccessRefused for what is out of scope."""
    work = Work(
        valid_name("tenantId", request.tenant_id),
        valid_name("usageType", request.usage_type),
        valid_name("sourceService", request.source_service),
        valid_name("sourceEntityId", request.source_entity_id),
        None if request.user_id is UNSET else valid_name("userId", request.user_id),
    )
    quantity = asked_quantity(request.quantity)
    if not 1 <= request.ttl_seconds <= TTL_MAX_S:
        raise Problem(400, "bad_ttl", f"ttlSeconds is not within 1 to {TTL_MAX_S}; the work has to end within it.")
    require_tenant(principal, work.tenant_id)
    require_source(principal, work.source_service)
    if request_key is None:
        return _Asked(work, quantity, timedelta(seconds=request.ttl_seconds), None)
    if not _KEY.fullmatch(request_key):
        raise Problem(400, "bad_idempotency_key", "Idempotency-Key is not 1 to 255 visible ASCII characters; send a UUID, say.")
    said = [work.tenant_id, work.usage_type, work.source_service, work.source_entity_id, work.user_id]
    text = json.dumps([*said, format_quantity(quantity), request.ttl_seconds])
    digest = hashlib.sha256(text.encode()).digest()
    idempotency = Request(f"{principal.kind}:{principal.name}", request_key, digest)
    return _Asked(work, quantity, timedelta(seconds=request.ttl_seconds), idempotency)


def _granted(standing: Standing, quantity: Micros) -> tuple[Micros | None, str]:
    """(what is left after it, why it was granted), by the very rule of a check. Raises Problem 409."""
    decision = decide(standing, quantity)
    if not decision.allowed:
        left = 0 if decision.remaining is None else decision.remaining
        detail = f"{format_quantity(quantity)} cannot be reserved: {decision.reason.value}; {format_quantity(left)} is left."
        raise Problem(409, decision.reason.value, detail)
    limit = None if standing.limit is None else standing.limit.quantity
    return remaining(limit, standing.used, Micros(standing.reserved + quantity)), decision.reason.value


def _used(request: SettleRequest) -> _Used:
    """Raises Problem 400; what only the codec sees is looked at when the event is made."""
    quantity = None if request.quantity is UNSET else asked_quantity(request.quantity)
    occurred_ms = None
    if request.occurred_at is not UNSET:
        try:
            occurred_ms = parse_instant(request.occurred_at)
        except ValueError as error:
            raise Problem.of_reason(Reason.BAD_OCCURRED_AT, str(error)) from None
    return _Used(quantity, occurred_ms, None if request.metadata is UNSET else bytes(request.metadata))


def _settlement(reserved: Reserved, used: _Used) -> tuple[Settlement, EncodedEvent]:
    """The settlement, and its event as the log will hold it. Raises Problem for what the consumer would refuse."""
    work, hold = reserved.work, reserved.hold
    quantity = hold.quantity if used.quantity is None else used.quantity
    now_ms = (reserved.read_at - _EPOCH) // _MS
    occurred_ms = now_ms if used.occurred_ms is None else used.occurred_ms
    draft = EventDraft(
        tenant_id=work.tenant_id,
        source_service=work.source_service,
        source_entity_id=work.source_entity_id,
        usage_type=work.usage_type,
        quantity=format_quantity(quantity),
        occurred_at=format_instant(occurred_ms),
        metadata=used.metadata,
    )
    try:
        encoded = encode_event(draft, now_ms)
    except InvalidEvent as invalid:
        raise Problem.of_reason(invalid.reason, invalid.detail) from None
    # As it was said, not as it came out: a repeat that leaves the time to the clock again is the same request.
    said = b"%d;%s;%s" % (quantity, b"" if used.occurred_ms is None else b"%d" % used.occurred_ms, used.metadata or b"")
    return Settlement(quantity, _EPOCH + occurred_ms * _MS, hashlib.sha256(said).digest()), encoded


def _reserve_answer(hold_id: uuid.UUID, expires_at: datetime, left: Micros | None, reason: str) -> ReserveAnswer:
    return ReserveAnswer(str(hold_id), _instant(expires_at), number_or_unlimited(left), reason)


def _instant(at: datetime) -> str:
    return format_instant((at - _EPOCH) // _MS)


def _unknown() -> Problem:
    return Problem(404, "not_found", "There is no such reservation in your scope; finished ones are kept for a while only.")


def _busy() -> Problem:
    return Problem.try_again("busy", "Too many reservations wait; nothing was done. Try again shortly.")


def _reused() -> Problem:
    detail = "The Idempotency-Key was used with another body; send a new one with a new request."
    return Problem(422, "idempotency_key_reused", detail)
