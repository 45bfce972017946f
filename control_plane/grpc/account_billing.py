"""AccountService: monthly billing."""

from __future__ import annotations

from control_plane.billing import service as billing
from control_plane.grpc.accounts import METHODS
from control_plane.grpc.calls import RpcCall
from control_plane.grpc.fields import Fields, decimal_text, timestamp
from control_plane.grpc.generated import account_pb2 as pb
from control_plane.grpc.methods import SERVICES


@METHODS.rpc(SERVICES)
def monthly_billing(call: RpcCall, request: pb.MonthlyBillingRequest) -> pb.MonthlyBillingResponse:
    fields = Fields(request)
    app_id = fields.identifier("app_id")
    fields.check()
    with call.unit() as unit:
        return pb.MonthlyBillingResponse(cycle=_cycle(billing.request_billing(unit, app_id, request.period)))


@METHODS.rpc(SERVICES)
def update_billing_status(call: RpcCall, request: pb.UpdateBillingStatusRequest) -> pb.UpdateBillingStatusResponse:
    fields = Fields(request)
    app_id = fields.identifier("app_id")
    if request.state != pb.BILLING_STATE_COMPLETED:
        fields.wrong("state", "want BILLING_STATE_COMPLETED; a cycle reaches every other state by itself")
    fields.check()
    with call.unit() as unit:
        return pb.UpdateBillingStatusResponse(cycle=_cycle(billing.update_status(unit, app_id, request.period, "completed")))


def _cycle(cycle: billing.Billing) -> pb.BillingCycle:
    return pb.BillingCycle(
        app_id=cycle.app_id,
        organization_id=cycle.tenant_id,
        period=f"{cycle.period_start:%Y-%m}",
        period_start=cycle.period_start.isoformat(),
        period_end=cycle.period_end.isoformat(),
        state=f"BILLING_STATE_{cycle.state.upper()}",
        reason=cycle.reason or "",
        invoice_id=cycle.invoice_id or "",
        lines=[pb.BillingLine(usage_type=name, quantity=decimal_text(used)) for name, used in sorted(cycle.usage.items())],
        request_time=timestamp(cycle.requested_at),
        change_time=timestamp(cycle.changed_at),
    )
