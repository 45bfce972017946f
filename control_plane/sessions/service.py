"""Streaming sessions: begin, prolong, end, sweep. Each is one transaction, which its caller commits.

What a session holds, pays and gives back stands in the ledger of credits; what it used leaves as an event through the outbox.
Both are written in the transaction that ends the session, so credits, counters, the warehouse and invoices cannot differ:

1. lock the session, and decide by the rules;
2. settle the hold in the ledger, which locks the account;
3. promise the event, whose quantity is what was charged; write the end.

A session that was swept and is ended after all is charged what the sweeper did not charge, as an event of its own.
"""

from __future__ import annotations

import logging
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from psycopg import Connection

from control_plane.credit_events import CHARGED, promise
from control_plane.credits.refusing import refused
from control_plane.refusals import Refusal, not_found
from control_plane.sessions import repository
from control_plane.sessions.repository import Agreed, Paid, Row
from control_plane.unit import Unit
from metering.credits import AMOUNT_MAX, Insufficient
from metering.rates import Tokens
from metering.sessions import Ended, Ending, SessionRefused, SessionState, beat, still_due
from metering.sessions import end as ended
from meterline_schemas.draft import EventDraft
from meterline_schemas.quantity import format_quantity
from meterline_schemas.types import Micros
from runtime import metrics
from store import credits
from store.credits import By, CreditsRefused, Done, Owner
from store.rates import RateRefused, model_price, overrun_of
from store.steps import run

logger = logging.getLogger(__name__)

SOURCE_SERVICE: Final = "streaming-sessions"
"""Of the events of all sessions."""
OPERATION: Final = "stream"
SWEEPER: Final = By("loop:session-sweeper")
_LATE: Final = "late"


@dataclass(frozen=True)
class Order:
    """What a session is to be."""

    session_id: str
    model_id: str
    estimated: Tokens
    ttl: timedelta


@dataclass(frozen=True)
class Outcome:
    """A session as it stands after an operation, and the owner's balance then."""

    row: Row
    balance: Micros
    repeated: bool = False
    """It stood so before."""


def initialize(unit: Unit, owner: Owner, order: Order, today: datetime) -> Outcome:
    """Begins the session and holds what its estimate costs. The same again is the same session, with nothing more held.

    Raises Refusal: the model is unknown, the credits do not suffice, the name is another session's or of one that has ended.
    """
    try:
        price = model_price(unit.pg, order.model_id, today.date())
        held = within_bounds(price.cost(order.estimated))
        agreed = Agreed(
            owner,
            order.session_id,
            order.model_id,
            price,
            overrun_of(unit.pg, owner.tenant_id),
            order.estimated,
            held,
            order.ttl,
        )
        row = repository.insert(unit.pg, uuid.uuid4(), agreed)
        if row is None:
            return _begun(unit, owner, order)
        done = run(unit.pg, credits.hold(owner, row.id, held, by=_by(unit), purpose="session", price=price.as_json()))
    except (CreditsRefused, Insufficient, RateRefused) as error:
        raise refused(error) from None
    metrics.SESSIONS.labels("initialized").inc()
    return Outcome(row, done.balance)


def _begun(unit: Unit, owner: Owner, order: Order) -> Outcome:
    row = repository.named(unit.pg, owner, order.session_id)
    assert row is not None, "a session is never removed while its owner begins it"
    agreed = row.agreed
    if (agreed.model_id, agreed.estimated, agreed.ttl) != (order.model_id, order.estimated, order.ttl):
        raise Refusal(
            "conflict", "session_exists", "You have a session of that sessionId with other figures; name the new one anew."
        )
    if row.session.state is not SessionState.ACTIVE:
        # Were it answered as begun, a stream would run with nothing held for it.
        raise Refusal(
            "conflict",
            "session_ended",
            f"Your session of that sessionId is {row.session.state.value}; name the new one anew.",
            {"state": row.session.state.value},
        )
    return Outcome(row, run(unit.pg, credits.balance(owner)).balance, repeated=True)


def heartbeat(unit: Unit, owner: Owner, session_id: str, tokens: Tokens) -> Outcome:
    """Prolongs it by the time that it was begun for, and notes how far the stream is. Raises Refusal."""
    row = _locked(unit, owner, session_id)
    try:
        session = beat(row.session, row.read_at, row.agreed.ttl, tokens)
    except SessionRefused as error:
        raise _refused(error, row) from None
    return Outcome(repository.prolong(unit.pg, row, session), run(unit.pg, credits.balance(owner)).balance)


def end(unit: Unit, owner: Owner, session_id: str, state: Ended, tokens: Tokens, topic: str) -> Outcome:
    """Finalizes or aborts it: charges what it used, gives the rest back, promises its event. The same again changes nothing.

    Raises Refusal: it was ended otherwise before.
    """
    row = _locked(unit, owner, session_id)
    try:
        after = ended(row.session, Ending(state, tokens))
    except SessionRefused as error:
        raise _refused(error, row) from None
    if after is row.session:
        return Outcome(row, run(unit.pg, credits.balance(owner)).balance, repeated=True)
    if after.late:
        outcome = _settle_late(unit, row, tokens, topic, state)
    else:
        outcome = _settle(unit.pg, row, tokens, topic, state, _by(unit))
    metrics.SESSIONS.labels(f"{state.value}_late" if after.late else state.value).inc()
    return outcome


def sweep(connection: Connection[Any], rows_max: int, topic: str) -> int:
    """Ends orphans, a batch in the caller's transaction: each is charged what its heartbeats reported. How many were ended.

    One that cannot be ended keeps nobody else waiting: it is told of in the log, and tried again with the next batch.
    """
    swept = 0
    for row in repository.due(connection, rows_max):
        try:
            with connection.transaction():
                _settle(connection, row, row.session.reported, topic, SessionState.EXPIRED, SWEEPER)
            swept += 1
        except (CreditsRefused, Refusal):
            logger.exception("a session cannot be swept", extra={"session": str(row.id)})
    return swept


def _settle(connection: Connection[Any], row: Row, tokens: Tokens, topic: str, state: SessionState, by: By) -> Outcome:
    agreed = row.agreed
    price = agreed.price.as_json()
    cost = _cost(agreed, tokens)
    done = run(connection, credits.settle(row.id, cost, by=by, overrun=agreed.overrun, price=price, note=state.value))
    paid = Paid(done.moved, done.refunded, done.shortfall, tokens)
    promise(connection, _draft(row, str(row.id), paid, done, state), topic)
    return Outcome(repository.end(connection, row, state, paid), done.balance)


def _settle_late(unit: Unit, row: Row, tokens: Tokens, topic: str, state: Ended) -> Outcome:
    """Its hold has ended, so what is due is charged through another one, of nothing: as far as the balance goes."""
    assert row.paid is not None
    agreed, by = row.agreed, _by(unit)
    price = agreed.price.as_json()
    cost = _cost(agreed, tokens)
    more = still_due(cost, agreed.held, row.paid.charged, agreed.overrun)
    late = uuid.uuid5(row.id, _LATE)
    run(unit.pg, credits.hold(agreed.owner, late, Micros(0), by=by, purpose="session", price=price))
    done = run(unit.pg, credits.settle(late, more, by=by, overrun="balance", price=price, note=f"{state.value}, late"))
    charged = Micros(row.paid.charged + done.moved)
    paid = Paid(charged, row.paid.refunded, Micros(max(0, cost - charged)), tokens)
    promise(unit.pg, _draft(row, f"{row.id}:{_LATE}", paid, done, state), topic)
    return Outcome(repository.end(unit.pg, row, state, paid), done.balance)


def _cost(agreed: Agreed, tokens: Tokens) -> Micros:
    return within_bounds(agreed.price.cost(tokens))


def within_bounds(cost: Micros) -> Micros:
    """The cost itself. Raises Refusal for one that no account could bear."""
    if cost > AMOUNT_MAX:
        raise Refusal("invalid", "too_many_tokens", "So many tokens cost more than an account can hold; check the figure.")
    return cost


def _draft(row: Row, entity: str, paid: Paid, done: Done, state: SessionState) -> EventDraft:
    """The event of a settlement: its quantity is what the ledger charged in it."""
    agreed = row.agreed
    used = paid.used
    return EventDraft(
        tenant_id=agreed.owner.tenant_id,
        source_service=SOURCE_SERVICE,
        source_entity_id=entity,
        usage_type=CHARGED,
        quantity=format_quantity(done.moved),
        occurred_at=done.at,
        metadata={
            "userId": agreed.owner.user_id,
            "operation": OPERATION,
            "modelId": agreed.model_id,
            "sessionId": agreed.session_id,
            "outcome": state.value,
            "tokens": {"input": used.input, "output": used.output, "cached": used.cached},
            "uncollected": format_quantity(paid.uncollected),
        },
    )


def _locked(unit: Unit, owner: Owner, session_id: str) -> Row:
    row = repository.named(unit.pg, owner, session_id, locked=True)
    if row is None:
        raise not_found("session")
    return row


def _refused(error: SessionRefused, row: Row) -> Refusal:
    details: dict[str, object] = {"sessionId": row.agreed.session_id, "state": row.session.state.value}
    if row.paid is not None:
        details["chargedCredits"] = format_quantity(row.paid.charged)
    return Refusal("conflict", error.code, str(error), details)


def _by(unit: Unit) -> By:
    return By(unit.actor.who, unit.actor.request_id)
