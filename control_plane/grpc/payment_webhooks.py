"""PaymentService: webhooks of payment providers, received by somebody else for us."""

from __future__ import annotations

import time
from typing import Final, get_args

from control_plane.grpc.calls import RpcCall
from control_plane.grpc.fields import Fields
from control_plane.grpc.generated import payment_pb2 as pb
from control_plane.grpc.methods import SIGNED
from control_plane.grpc.payments import METHODS
from control_plane.webhooks import service as webhooks
from control_plane.webhooks.messages import Source

SOURCES: Final[tuple[Source, ...]] = get_args(Source)
SIGNATURE_OF: Final[dict[Source, str]] = {"stripe": "stripe-signature", "clerk": "svix-signature", "lago": "x-lago-signature"}
HEADERS_MAX: Final = 50


@METHODS.rpc(SIGNED)
def handle_webhook(call: RpcCall, request: pb.HandleWebhookRequest) -> pb.HandleWebhookResponse:
    fields = Fields(request)
    if request.provider not in SOURCES:
        fields.wrong("provider", f"want one of {', '.join(SOURCES)}")
    if len(request.headers) > HEADERS_MAX:
        fields.wrong("headers", f"want at most {HEADERS_MAX}")
    fields.check()
    source = next(one for one in SOURCES if one == request.provider)
    headers = {name.lower(): value for name, value in request.headers.items()}
    if request.signature:
        headers[SIGNATURE_OF[source]] = request.signature
    received = webhooks.receive(call.parts.units, call.parts.settings, source, headers, request.payload, time.time())
    return pb.HandleWebhookResponse(message_id=received.message_id, repeated=received.repeated)
