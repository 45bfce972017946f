"""What a reservation of a usage type priced in credits does to its user's account: steps of its own transaction."""

from __future__ import annotations

import uuid

from entitlements.problems import Problem
from metering.credits import AMOUNT_MAX, ZERO, Insufficient
from metering.limits import Credits
from metering.rates import price_text
from meterline_schemas.quantity import format_quantity
from meterline_schemas.types import Micros
from store import credits, rates
from store.credits import By, Done, Owner
from store.holds import Work
from store.steps import Steps


def hold(work: Work, hold_id: uuid.UUID, quantity: Micros, price: int, by: By) -> Steps[Done]:
    """Holds what the quantity costs, under the reservation's id. Raises Problem 409: the credits are spent or held by others."""
    cost = _cost(quantity, price)
    try:
        return (
            yield from credits.hold(
                _owner(work), hold_id, cost, by=by, purpose="reservation", price=_price(work, price)
            )
        )  # fmt: skip
    except Insufficient as refused:
        detail = f"It costs {format_quantity(cost)} credits, and {format_quantity(refused.spendable)} can be spent."
        raise Problem(409, refused.code, detail) from None


def settle(work: Work, hold_id: uuid.UUID, quantity: Micros, price: int, by: By) -> Steps[Done]:
    """Charges what was used, as the tenant's plan says where that is more than was held; again, it answers what it answered."""
    overrun = yield from rates.overrun(work.tenant_id)
    return (yield from credits.settle(hold_id, _cost(quantity, price), by=by, overrun=overrun, price=_price(work, price)))


def _cost(quantity: Micros, price: int) -> Micros:
    cost = Credits(price, ZERO).cost(quantity)
    if cost > AMOUNT_MAX:
        raise Problem(400, "bad_quantity", f"It would cost more than {format_quantity(AMOUNT_MAX)} credits; split it.")
    return cost


def _owner(work: Work) -> Owner:
    assert work.user_id is not None, "a type priced in credits is reserved with its user"
    return Owner(work.tenant_id, work.user_id)


def _price(work: Work, price: int) -> dict[str, str]:
    return {"usageType": work.usage_type, "credits": price_text(price)}
