"""Subscriptions over HTTP. A member reads; billing and admin write."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from control_plane.http.calls import Call, Here
from control_plane.http.envelope import Answer, Success, success
from control_plane.http.routes import READERS, WRITERS, Routes
from control_plane.subscriptions import service
from control_plane.subscriptions.schemas import (
    PreviewShown,
    SubscriptionCreate,
    SubscriptionPause,
    SubscriptionShown,
    SubscriptionUpdate,
)
from control_plane.subscriptions.service import Reach
from control_plane.subscriptions.views import SubscriptionView

routes = Routes("subscriptions")

AtPeriodEnd = Annotated[bool, Query(description="Goes on until the running period ends; false: ends now.")]
Prorate = Annotated[bool, Query(description="With at_period_end=false: what is unused of the period comes back.")]


@routes.get("/api/subscriptions/{organization_id}", READERS, shows=Success[SubscriptionShown])
def show(call: Here, organization_id: str) -> Answer:
    """The organization's subscription: the living one, else the last one."""
    call.require_tenant(organization_id)
    with call.unit() as unit:
        return _shown(service.show(unit, organization_id))


@routes.post("/api/subscriptions", WRITERS, shows=Success[SubscriptionShown], status=201)
def create(call: Here, body: SubscriptionCreate) -> Answer:
    """Subscribes an organization to a plan. A first payment that is outstanding leaves it `incomplete`."""
    tenant_id = call.tenant(body.organization_id)

    def act() -> Answer:
        return _shown(service.create(call.parts.units, call.parts.provider, tenant_id, body.order(), call.actor), 201)

    return call.once(act)


@routes.put("/api/subscriptions/{id}", WRITERS, shows=Success[SubscriptionShown])
def update(call: Here, id: str, body: SubscriptionUpdate) -> Answer:
    """Changes plan, cycle, seats, items, trial or payment method."""

    def act() -> Answer:
        return _shown(service.update(call.parts.units, call.parts.provider, id, body.order(), _reach(call), call.actor))

    return call.once(act)


@routes.post("/api/subscriptions/{id}/preview", READERS, shows=Success[PreviewShown])
def preview(call: Here, id: str, body: SubscriptionUpdate) -> Answer:
    """What a change would cost. Nothing is changed."""
    found = service.preview(call.parts.units, call.parts.provider, id, body.order(), _reach(call), call.actor)
    return success(PreviewShown.of(found))


@routes.delete("/api/subscriptions/{id}", WRITERS, shows=Success[SubscriptionShown])
def cancel(call: Here, id: str, at_period_end: AtPeriodEnd = True, prorate: Prorate = False) -> Answer:
    """Cancels: with the running period, or at once."""

    def act() -> Answer:
        return _shown(
            service.cancel(
                call.parts.units, call.parts.provider, id, _reach(call), call.actor,
                at_period_end=at_period_end, prorate=prorate,
            )
        )  # fmt: skip

    return call.once(act)


@routes.post("/api/subscriptions/{id}/reactivate", WRITERS, shows=Success[SubscriptionShown])
def reactivate(call: Here, id: str) -> Answer:
    """Takes a cancellation at the period's end back."""

    def act() -> Answer:
        return _shown(service.reactivate(call.parts.units, call.parts.provider, id, _reach(call), call.actor))

    return call.once(act)


@routes.post("/api/subscriptions/{id}/pause", WRITERS, shows=Success[SubscriptionShown])
def pause(call: Here, id: str, body: SubscriptionPause) -> Answer:
    """Pauses collection."""

    def act() -> Answer:
        return _shown(service.pause(call.parts.units, call.parts.provider, id, body.order(), _reach(call), call.actor))

    return call.once(act)


@routes.post("/api/subscriptions/{id}/resume", WRITERS, shows=Success[SubscriptionShown])
def resume(call: Here, id: str) -> Answer:
    """Ends a pause."""

    def act() -> Answer:
        return _shown(service.resume(call.parts.units, call.parts.provider, id, _reach(call), call.actor))

    return call.once(act)


def _reach(call: Call) -> Reach:
    return lambda tenant_id: call.own(tenant_id, "subscription")


def _shown(view: SubscriptionView, status: int = 200) -> Answer:
    return success(SubscriptionShown.of(view), status)
