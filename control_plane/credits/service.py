"""What is done with users' credits at somebody's request, in a unit of work: the ledger does it, the audit says who."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from control_plane.credits.refusing import refused
from control_plane.unit import Unit
from metering.credits import Insufficient
from metering.rates import ModelPrice, OperationPrice, Tokens
from meterline_schemas.quantity import format_quantity
from meterline_schemas.types import Micros
from store import credits, rates
from store.audit import Entry
from store.credits import Balance, By, CreditsRefused, Done, Owner
from store.rates import RateRefused
from store.steps import Steps, run

_WHAT: Final = {
    "grant": "credits.allocated",
    "set": "credits.set",
    "remove": "credits.removed",
    "adjust": "credits.adjusted",
}


def by(unit: Unit) -> By:
    """The unit's actor, as the ledger names one."""
    return By(unit.actor.who, unit.actor.request_id)


def balance(unit: Unit, owner: Owner) -> Balance:
    """What the user has."""
    return run(unit.pg, credits.balance(owner))


def change(unit: Unit, owner: Owner, steps: Steps[Done]) -> Done:
    """Does it to the account and audits it; nothing is audited twice. Raises Refusal."""
    try:
        done = run(unit.pg, steps)
    except (CreditsRefused, Insufficient) as error:
        raise refused(error) from None
    if not done.repeated:
        after = {
            "credits": format_quantity(done.amount),
            "balance": format_quantity(done.balance),
            "operation": done.operation_id,
        }
        unit.audit(Entry(_WHAT[done.kind], owner.user_id, None, after))
    return done


def cost_of_tokens(unit: Unit, model_id: str, tokens: Tokens) -> tuple[Micros, ModelPrice]:
    """What the tokens cost today, and the price. Raises Refusal."""
    try:
        price = rates.model_price(unit.pg, model_id, datetime.now(UTC).date())
    except RateRefused as error:
        raise refused(error) from None
    return price.cost(tokens), price


def cost_of_operation(unit: Unit, operation: str, times: int) -> tuple[Micros, OperationPrice]:
    """What it costs today so many times, and the price. Raises Refusal."""
    try:
        price = rates.operation_price(unit.pg, operation, datetime.now(UTC).date())
    except RateRefused as error:
        raise refused(error) from None
    return price.cost(times), price
