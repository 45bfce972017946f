"""PaymentService: invoices and payment methods."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final, cast

from control_plane.grpc.calls import RpcCall
from control_plane.grpc.fields import Fields, decimal_text, timestamp
from control_plane.grpc.generated import payment_pb2 as pb
from control_plane.grpc.methods import ORGANIZATIONS, SERVICES
from control_plane.grpc.payments import METHODS
from control_plane.http.paging import after_cursor, cursor_of
from control_plane.invoices import service as invoices
from control_plane.invoices.service import InvoiceView
from control_plane.payment_methods import service as methods
from control_plane.payment_methods.service import MethodView
from control_plane.provider.values import InvoiceStatus

DESCRIPTION_CHARACTERS_MAX: Final = 500
_STATUS: Final = "INVOICE_STATUS_"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


@METHODS.rpc(SERVICES)
def generate_invoice(call: RpcCall, request: pb.GenerateInvoiceRequest) -> pb.GenerateInvoiceResponse:
    fields = Fields(request)
    customer_id = fields.identifier("customer_id")
    description = fields.text("description", DESCRIPTION_CHARACTERS_MAX)
    fields.check()

    def act() -> pb.GenerateInvoiceResponse:
        made = invoices.generate(
            call.parts.units,
            call.parts.provider,
            customer_id,
            description=description,
            key=call.key_for("generate invoice"),
            actor=call.actor,
        )
        return pb.GenerateInvoiceResponse(invoice=_invoice(made))

    return call.once_as(pb.GenerateInvoiceResponse, act)


@METHODS.rpc(ORGANIZATIONS)
def get_invoice(call: RpcCall, request: pb.GetInvoiceRequest) -> pb.GetInvoiceResponse:
    fields = Fields(request)
    invoice_id = fields.identifier("invoice_id")
    fields.check()
    with call.unit() as unit:
        view = invoices.get(unit, invoice_id, lambda tenant_id: call.own(tenant_id, "invoice"))
    return pb.GetInvoiceResponse(invoice=_invoice(view))


@METHODS.rpc(ORGANIZATIONS)
def list_invoices(call: RpcCall, request: pb.ListInvoicesRequest) -> pb.ListInvoicesResponse:
    fields = Fields(request)
    customer_id = fields.identifier("customer_id")
    if request.status not in pb.InvoiceStatus.values():
        fields.wrong("status", "want one of the values of InvoiceStatus")
    size, token = fields.page()
    fields.check()
    call.require_tenant(customer_id)
    status = None
    if request.status:
        status = cast(InvoiceStatus, pb.InvoiceStatus.Name(request.status).removeprefix(_STATUS).lower())
    after = after_cursor(token, int, str)
    place = None if after is None else (_EPOCH + int(after[0]) % 10**17 * _MICROSECOND, str(after[1]))
    with call.unit() as unit:
        found = invoices.page(unit, customer_id, status, place, size + 1)
    shown = found[:size]
    more = cursor_of((shown[-1].created_at - _EPOCH) // _MICROSECOND, shown[-1].id) if len(found) > size else ""
    return pb.ListInvoicesResponse(invoices=[_invoice(view, lines=False) for view in shown], next_page_token=more)


@METHODS.rpc(SERVICES)
def add_payment_method(call: RpcCall, request: pb.AddPaymentMethodRequest) -> pb.AddPaymentMethodResponse:
    fields = Fields(request)
    customer_id, token = fields.identifier("customer_id"), fields.identifier("payment_method_id")
    fields.check()

    def act() -> pb.AddPaymentMethodResponse:
        made = methods.add(
            call.parts.units,
            call.parts.provider,
            customer_id,
            token,
            default=request.set_default,
            key=call.key_for("add payment method"),
            actor=call.actor,
        )
        return pb.AddPaymentMethodResponse(payment_method=_method(made))

    return call.once_as(pb.AddPaymentMethodResponse, act)


@METHODS.rpc(SERVICES)
def remove_payment_method(call: RpcCall, request: pb.RemovePaymentMethodRequest) -> pb.RemovePaymentMethodResponse:
    fields = Fields(request)
    method_id = fields.identifier("payment_method_id")
    fields.check()
    provider = call.parts.provider
    with call.unit() as unit:
        tenant_id = methods.owner(unit, provider.name, method_id)
    call.own(tenant_id, "payment method")
    methods.remove(call.parts.units, provider, tenant_id, method_id, key=call.key_for("remove payment method"), actor=call.actor)
    return pb.RemovePaymentMethodResponse()


@METHODS.rpc(SERVICES)
def set_default_payment_method(call: RpcCall, request: pb.SetDefaultPaymentMethodRequest) -> pb.SetDefaultPaymentMethodResponse:
    fields = Fields(request)
    customer_id, method_id = fields.identifier("customer_id"), fields.identifier("payment_method_id")
    fields.check()
    call.require_tenant(customer_id)
    made = methods.set_default(
        call.parts.units,
        call.parts.provider,
        customer_id,
        method_id,
        key=call.key_for("set default payment method"),
        actor=call.actor,
    )
    return pb.SetDefaultPaymentMethodResponse(payment_method=_method(made))


def _invoice(view: InvoiceView, *, lines: bool = True) -> pb.Invoice:
    return pb.Invoice(
        invoice_id=view.id,
        customer_id=view.organization_id,
        status=_STATUS + view.status.upper(),
        number=view.number or "",
        currency=view.currency,
        subtotal=view.subtotal,
        discount=view.discount,
        tax=view.tax,
        total=view.total,
        amount_due=view.amount_due,
        amount_paid=view.amount_paid,
        period_start=timestamp(view.period_start),
        period_end=timestamp(view.period_end),
        create_time=timestamp(view.created_at),
        paid_time=timestamp(view.paid_at),
        lines=[
            pb.InvoiceLine(
                description=line.description,
                amount=line.amount,
                quantity="" if line.quantity is None else decimal_text(line.quantity),
                period_start=timestamp(line.period_start),
                period_end=timestamp(line.period_end),
            )
            for line in (view.lines if lines else ())
        ],
    )


def _method(view: MethodView) -> pb.PaymentMethod:
    return pb.PaymentMethod(
        payment_method_id=view.id,
        customer_id=view.organization_id,
        kind=view.type,
        last4=view.last4 or "",
        is_default=view.is_default,
        create_time=timestamp(view.created_at),
    )
