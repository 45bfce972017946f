"""Invoices over HTTP. A member reads; billing and admin ask for one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import Query

from control_plane.http.calls import Here
from control_plane.http.envelope import Answer, Listed, Success, listed, success
from control_plane.http.paging import Cursor, Limit, after_cursor, bad_cursor, cursor_of
from control_plane.http.routes import READERS, WRITERS, Routes
from control_plane.invoices import service
from control_plane.invoices.preview import preview as preview_of
from control_plane.invoices.schemas import InvoiceGenerate, InvoicePreviewShown, InvoiceShown
from control_plane.invoices.service import InvoiceView

routes = Routes("invoices")

Organization = Annotated[str | None, Query(max_length=256, description="For credentials that see every organization.")]
Status = Annotated[Literal["draft", "open", "paid", "uncollectible", "void"] | None, Query()]


@routes.get("/api/invoices", READERS, shows=Listed[InvoiceShown])
def page(
    call: Here, organization_id: Organization = None, status: Status = None, limit: Limit = 50, cursor: Cursor = ""
) -> Answer:
    """The organization's invoices, newest first."""
    tenant_id = call.tenant(organization_id)
    keys = after_cursor(cursor, str, str)
    try:
        after = None if keys is None else (datetime.fromisoformat(str(keys[0])), str(keys[1]))
    except ValueError:
        raise bad_cursor() from None
    with call.unit() as unit:
        found = service.page(unit, tenant_id, status, after, limit + 1)
    shown = found[:limit]
    goes_on = cursor_of(shown[-1].created_at.isoformat(), shown[-1].id) if len(found) > limit else None
    return listed([_shown(view) for view in shown], goes_on, limit)


@routes.get("/api/invoices/preview", READERS, shows=Success[InvoicePreviewShown])
def preview(call: Here, organization_id: Organization = None) -> Answer:
    """What the running period's invoice would be by the usage so far."""
    tenant_id = call.tenant(organization_id)
    with call.unit() as unit:
        found = preview_of(unit, tenant_id, datetime.now(UTC).date())
    return success(InvoicePreviewShown.model_validate(found, from_attributes=True))


@routes.get("/api/invoices/{id}", READERS, shows=Success[InvoiceShown])
def show(call: Here, id: str) -> Answer:
    """One invoice with its lines."""
    with call.unit() as unit:
        return success(_shown(service.get(unit, id, lambda tenant_id: call.own(tenant_id, "invoice"))))


@routes.post("/api/invoices", WRITERS, shows=Success[InvoiceShown], status=201)
def generate(call: Here, body: InvoiceGenerate) -> Answer:
    """An invoice of what is pending, final. Usage is billed when its period ends."""
    tenant_id = call.tenant(body.organization_id)

    def act() -> Answer:
        made = service.generate(
            call.parts.units, call.parts.provider, tenant_id,
            description=body.description, key=call.key_for("invoice.generate"), actor=call.actor,
        )  # fmt: skip
        return success(_shown(made), 201)

    return call.once(act)


def _shown(view: InvoiceView) -> InvoiceShown:
    return InvoiceShown.model_validate(view, from_attributes=True)
