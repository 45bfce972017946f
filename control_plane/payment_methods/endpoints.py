"""Payment methods over HTTP. A member reads; billing and admin write."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import Query

from control_plane.http.calls import Call, Here
from control_plane.http.envelope import Answer, Listed, Success, listed, success
from control_plane.http.paging import Cursor, Limit, after_cursor, bad_cursor, cursor_of
from control_plane.http.routes import READERS, WRITERS, Routes
from control_plane.payment_methods import service
from control_plane.payment_methods.schemas import PaymentMethodAdd, PaymentMethodShown
from control_plane.payment_methods.service import MethodView

routes = Routes("payment methods")

Organization = Annotated[str | None, Query(max_length=256, description="For credentials that see every organization.")]


@routes.get("/api/payment-methods", READERS, shows=Listed[PaymentMethodShown])
def page(call: Here, organization_id: Organization = None, limit: Limit = 50, cursor: Cursor = "") -> Answer:
    """The organization's payment methods, oldest first."""
    tenant_id = call.tenant(organization_id)
    keys = after_cursor(cursor, str, str)
    try:
        after = None if keys is None else (datetime.fromisoformat(str(keys[0])), str(keys[1]))
    except ValueError:
        raise bad_cursor() from None
    with call.unit() as unit:
        found = service.page(unit, tenant_id, after, limit + 1)
    shown = found[:limit]
    goes_on = cursor_of(shown[-1].created_at.isoformat(), shown[-1].id) if len(found) > limit else None
    return listed([_shown(view) for view in shown], goes_on, limit)


@routes.post("/api/payment-methods", WRITERS, shows=Success[PaymentMethodShown], status=201)
def add(call: Here, body: PaymentMethodAdd) -> Answer:
    """Adds a method, which is what invoices are charged to unless it is said otherwise."""
    tenant_id = call.tenant(body.organization_id)

    def act() -> Answer:
        added = service.add(
            call.parts.units, call.parts.provider, tenant_id, body.payment_method_id,
            default=body.set_default, key=call.key_for("payment_method.add"), actor=call.actor,
        )  # fmt: skip
        return success(_shown(added), 201)

    return call.once(act)


@routes.delete("/api/payment-methods/{id}", WRITERS, shows=Success[PaymentMethodShown])
def remove(call: Here, id: str) -> Answer:
    """Takes the method away, for good; answers how it was."""

    def act() -> Answer:
        tenant_id = _owner(call, id)
        with call.unit() as unit:
            was = service.show(unit, call.parts.provider.name, tenant_id, id)
        key = call.key_for("payment_method.remove")
        service.remove(call.parts.units, call.parts.provider, tenant_id, id, key=key, actor=call.actor)
        return success(_shown(was))

    return call.once(act)


@routes.put("/api/payment-methods/{id}/default", WRITERS, shows=Success[PaymentMethodShown])
def set_default(call: Here, id: str) -> Answer:
    """What invoices are charged to from now on."""

    def act() -> Answer:
        tenant_id = _owner(call, id)
        key = call.key_for("payment_method.default")
        changed = service.set_default(call.parts.units, call.parts.provider, tenant_id, id, key=key, actor=call.actor)
        return success(_shown(changed))

    return call.once(act)


def _owner(call: Call, method_id: str) -> str:
    with call.unit() as unit:
        tenant_id = service.owner(unit, call.parts.provider.name, method_id)
    call.own(tenant_id, "payment method")
    return tenant_id


def _shown(view: MethodView) -> PaymentMethodShown:
    return PaymentMethodShown.model_validate(view, from_attributes=True)
