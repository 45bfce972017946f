"""Signs webhooks as their senders do."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any


def stripe_header(body: bytes, secret: str, at: int) -> str:
    """`Stripe-Signature`."""
    return f"t={at},v1={hmac.new(secret.encode(), b'%d.%s' % (at, body), hashlib.sha256).hexdigest()}"


def clerk_headers(body: bytes, secret: str, at: int, message_id: str = "msg_1") -> dict[str, str]:
    """Svix's three."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    code = hmac.new(key, b"%s.%d.%s" % (message_id.encode(), at, body), hashlib.sha256).digest()
    return {"svix-id": message_id, "svix-timestamp": str(at), "svix-signature": f"v1,{base64.b64encode(code).decode()}"}


def stripe_event(event_id: str, kind: str, subject: dict[str, Any], **over: Any) -> bytes:
    """A snapshot event in test mode."""
    event = {"object": "event", "id": event_id, "type": kind, "livemode": False, "data": {"object": subject}, **over}
    return json.dumps(event).encode()
