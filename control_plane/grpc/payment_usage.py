"""PaymentService: usage."""

from __future__ import annotations

from datetime import date
from typing import Final

from control_plane.grpc.calls import RpcCall
from control_plane.grpc.fields import Fields, decimal_text
from control_plane.grpc.generated import payment_pb2 as pb
from control_plane.grpc.methods import ORGANIZATIONS
from control_plane.grpc.payments import METHODS
from control_plane.http.paging import after_cursor, cursor_of
from control_plane.usage_records import service
from control_plane.usage_records.schemas import UsageOrder

METADATA_MAX: Final = 50
METADATA_CHARACTERS_MAX: Final = 500


@METHODS.rpc(ORGANIZATIONS)
def record_usage(call: RpcCall, request: pb.RecordUsageRequest) -> pb.RecordUsageResponse:
    fields = Fields(request)
    asked = {
        "organization_id": fields.identifier("customer_id"),
        "usage_type": fields.identifier("usage_type"),
        "quantity": fields.quantity("quantity"),
        "source_service": fields.identifier("source_service"),
        "source_entity_id": fields.identifier("source_entity_id"),
        "occurred_at": fields.instant("occurred_time"),
        "metadata": dict(request.metadata) or None,
    }
    if len(request.metadata) > METADATA_MAX or any(len(value) > METADATA_CHARACTERS_MAX for value in request.metadata.values()):
        fields.wrong("metadata", f"want at most {METADATA_MAX} entries of at most {METADATA_CHARACTERS_MAX} characters")
    fields.check()
    order = UsageOrder.model_validate(asked)
    with call.unit() as unit:
        recorded = service.record(unit, call.principal, order, call.parts.settings.topic_events)
    return pb.RecordUsageResponse(state=recorded.state)


@METHODS.rpc(ORGANIZATIONS)
def get_usage(call: RpcCall, request: pb.GetUsageRequest) -> pb.GetUsageResponse:
    fields = Fields(request)
    customer_id = fields.identifier("customer_id")
    start, end = fields.day("start_day"), fields.day("end_day")
    usage_type = fields.identifier("usage_type", required=False)
    size, token = fields.page()
    fields.check()
    call.require_tenant(customer_id)
    after = after_cursor(token, int, str)
    place = None if after is None else (date.fromordinal(min(max(int(after[0]), 1), date.max.toordinal())), str(after[1]))
    with call.unit() as unit:
        found = service.usage(unit, customer_id, start, end, usage_type or None, place, size + 1)
    shown = found[:size]
    return pb.GetUsageResponse(
        lines=[
            pb.UsageLine(
                usage_type=line.usage_type, day=line.day.isoformat(), quantity=decimal_text(line.quantity), events=line.events
            )
            for line in shown
        ],
        next_page_token=cursor_of(shown[-1].day.toordinal(), shown[-1].usage_type) if len(found) > size else "",
    )
