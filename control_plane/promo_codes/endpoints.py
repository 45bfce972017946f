"""/api/promo-codes. An operator makes and ends codes; a tenant's people try and redeem them."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from access.principals import Who
from control_plane.http.calls import Here
from control_plane.http.envelope import Answer, Listed, Success, listed, success
from control_plane.http.paging import Cursor, Limit, after_cursor, cursor_of
from control_plane.http.routes import READERS, WRITERS, Routes
from control_plane.promo_codes import service
from control_plane.promo_codes.schemas import PromoCode, PromoCodeOrder, RedeemCode, Redemption, ValidateCode, Validity
from control_plane.provider.errors import ProviderError
from control_plane.provider.refusing import refusal_of
from control_plane.refusals import not_found
from control_plane.subscriptions import service as subscriptions
from control_plane.subscriptions.views import UpdateOrder

OPERATORS: Final[frozenset[Who]] = frozenset({"service"})

routes = Routes("promo codes")


@routes.post("/api/promo-codes", OPERATORS, shows=Success[PromoCode], status=201)
def create(call: Here, order: PromoCodeOrder) -> Answer:
    """Makes a code, here and at the payment provider."""

    def act() -> Answer:
        try:
            made = service.create(call.parts.units, call.parts.provider, call.actor, order)
        except ProviderError as error:
            raise refusal_of(error) from None
        return success(made, 201)

    return call.once(act)


@routes.get("/api/promo-codes", OPERATORS, shows=Listed[PromoCode])
def list_(call: Here, limit: Limit = 50, cursor: Cursor = "") -> Answer:
    """Every code, the newest first."""
    after = after_cursor(cursor, str, str)
    with call.unit() as unit:
        found = service.listed(unit, service.place_of(after), limit)
    shown, more = found[:limit], len(found) > limit
    last = cursor_of(shown[-1].created_at.isoformat(), str(shown[-1].id)) if more else None
    return listed(shown, last, limit)


@routes.post("/api/promo-codes/validate", READERS, shows=Success[Validity])
def validate(call: Here, asked: ValidateCode) -> Answer:
    """Whether an organization may redeem a code now, for a plan and in a currency. Takes nothing."""
    call.require_tenant(asked.organization_id)
    with call.unit() as unit:
        return success(service.validate(unit, asked.organization_id, asked.code, asked.plan_id, asked.currency))


@routes.post("/api/promo-codes/redeem", WRITERS, shows=Success[Redemption], status=201)
def redeem(call: Here, asked: RedeemCode) -> Answer:
    """Redeems a code for a subscription that there is; asked again, it answers the same redemption."""
    call.require_tenant(asked.organization_id)

    def reach(tenant_id: str) -> None:
        if tenant_id != asked.organization_id:
            raise not_found("subscription")

    def act() -> Answer:
        order = UpdateOrder(promo_code=asked.code)
        subscriptions.update(call.parts.units, call.parts.provider, asked.subscription_id, order, reach, call.actor)
        with call.unit() as unit:
            return success(service.redemption(unit, asked.code, asked.subscription_id), 201)

    return call.once(act)


@routes.get("/api/promo-codes/{id}", OPERATORS, shows=Success[PromoCode])
def show(call: Here, id: UUID) -> Answer:
    """One code, with how often it was redeemed."""
    with call.unit() as unit:
        return success(service.show(unit, id))


@routes.delete("/api/promo-codes/{id}", OPERATORS, shows=Success[PromoCode])
def deactivate(call: Here, id: UUID) -> Answer:
    """Ends a code: nobody gets it any more; who has it keeps it."""
    try:
        return success(service.deactivate(call.parts.units, call.parts.provider, call.actor, id))
    except ProviderError as error:
        raise refusal_of(error) from None
