"""PaymentService: customers."""

from __future__ import annotations

from typing import Final

from control_plane.accounts.schemas import NAME_CHARACTERS_MAX
from control_plane.customers import service
from control_plane.customers.service import CustomerView
from control_plane.grpc.calls import RpcCall
from control_plane.grpc.fields import Fields, timestamp
from control_plane.grpc.generated import payment_pb2 as pb
from control_plane.grpc.methods import ORGANIZATIONS, SERVICES
from control_plane.grpc.payments import METHODS
from control_plane.http.paging import after_cursor, cursor_of

CHANGEABLE: Final = frozenset({"name", "email"})


@METHODS.rpc(SERVICES)
def create_customer(call: RpcCall, request: pb.CreateCustomerRequest) -> pb.CreateCustomerResponse:
    fields = Fields(request)
    customer_id = fields.identifier("customer_id")
    name, email = fields.text("name", NAME_CHARACTERS_MAX), fields.email("email")
    fields.check()
    view = service.create(call.parts.units, call.parts.provider, customer_id, name=name or None, email=email, actor=call.actor)
    return pb.CreateCustomerResponse(customer=_customer(view))


@METHODS.rpc(SERVICES)
def update_customer(call: RpcCall, request: pb.UpdateCustomerRequest) -> pb.UpdateCustomerResponse:
    fields, inner = Fields(request), Fields(request.customer)
    changed = fields.mask("update_mask", CHANGEABLE)
    customer_id = inner.identifier("customer_id")
    name, email = inner.text("name", NAME_CHARACTERS_MAX, required="name" in changed), inner.email("email")
    fields.check()
    inner.check()
    view = service.change(
        call.parts.units,
        call.parts.provider,
        customer_id,
        name=name if "name" in changed else None,
        email=(email or "") if "email" in changed else None,
        key=call.key_for("update customer"),
        actor=call.actor,
    )
    return pb.UpdateCustomerResponse(customer=_customer(view))


@METHODS.rpc(ORGANIZATIONS)
def get_customer(call: RpcCall, request: pb.GetCustomerRequest) -> pb.GetCustomerResponse:
    fields = Fields(request)
    customer_id = fields.identifier("customer_id")
    fields.check()
    call.require_tenant(customer_id)
    with call.unit() as unit:
        return pb.GetCustomerResponse(customer=_customer(service.show(unit, customer_id)))


@METHODS.rpc(SERVICES)
def list_customers(call: RpcCall, request: pb.ListCustomersRequest) -> pb.ListCustomersResponse:
    fields = Fields(request)
    size, token = fields.page()
    fields.check()
    after = after_cursor(token, str)
    with call.unit() as unit:
        found = service.page(unit, None if after is None else str(after[0]), size + 1)
    shown = found[:size]
    more = cursor_of(shown[-1].tenant_id) if len(found) > size else ""
    return pb.ListCustomersResponse(customers=[_customer(view) for view in shown], next_page_token=more)


def _customer(view: CustomerView) -> pb.Customer:
    return pb.Customer(
        customer_id=view.tenant_id,
        name=view.name,
        email=view.email or "",
        provider=view.provider,
        provider_customer_id=view.provider_customer_id or "",
        currency=view.currency or "",
        default_payment_method_id=view.default_payment_method_id or "",
        create_time=timestamp(view.created_at),
    )
