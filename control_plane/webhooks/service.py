"""Takes webhooks: whose it is, what it is about, and a row in the inbox before anybody hears that it was taken.

The same for every surface: HTTP's three endpoints and gRPC's HandleWebhook. Nothing is acted upon here; the worker does that.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from control_plane.refusals import Refusal
from control_plane.unit import Actor, Units
from control_plane.webhooks import signatures
from control_plane.webhooks.messages import (
    TEXT_CHARS_MAX,
    BadMessage,
    Message,
    Source,
    clerk_message,
    lago_message,
    stripe_message,
)
from control_plane.webhooks.signatures import BadSignature
from runtime import metrics
from runtime.settings import Settings
from store import inbox

logger = logging.getLogger(__name__)

SETTINGS_OF: Final[Mapping[Source, str]] = {
    "stripe": "METERLINE_STRIPE_WEBHOOK_SECRET",
    "clerk": "METERLINE_CLERK_WEBHOOK_SECRET",
    "lago": "METERLINE_LAGO_WEBHOOK_SECRET",
}


@dataclass(frozen=True, slots=True)
class Received:
    """It is kept, and will be worked off."""

    message_id: str
    repeated: bool
    """It was kept before; nothing was added."""


def receive(units: Units, settings: Settings, source: Source, headers: Mapping[str, str], body: bytes, now: float) -> Received:
    """Keeps a webhook, committed when this returns. `headers` by their names in lower case.

    Raises Refusal: `unavailable` where no secret is configured, `invalid` for a signature or a body that is not the
    sender's, or one of the other mode (live or test) than our key's.
    """
    try:
        message = _verified(settings, source, headers, body, now)
        _require_mode(settings, message)
    except BadSignature as bad:
        metrics.WEBHOOKS.labels(source, "refused").inc()
        raise Refusal("invalid", bad.code, str(bad)) from None
    except BadMessage as bad:
        metrics.WEBHOOKS.labels(source, "refused").inc()
        raise Refusal("invalid", "bad_webhook", f"It is signed, but {bad}; have it sent as {source.title()} makes it.") from None
    name = inbox.Name(source, message.account, message.livemode, message.id)
    with units.begin(Actor(f"webhook:{source}", message.id)) as unit:
        new = inbox.put(unit.pg, name, message.kind, message.subject, dict(message.kept))
    metrics.WEBHOOKS.labels(source, "received" if new else "repeated").inc()
    logger.info("webhook taken", extra={"source": source, "webhook": message.id, "kind": message.kind, "repeated": not new})
    return Received(message.id, not new)


def _verified(settings: Settings, source: Source, headers: Mapping[str, str], body: bytes, now: float) -> Message:
    secrets = settings.webhook_secrets(source)
    if not secrets:
        raise Refusal(
            "unavailable",
            "webhooks_not_configured",
            f"Webhooks of {source.title()} are not configured here; set {SETTINGS_OF[source]} to the endpoint's signing secret.",
        )
    match source:
        case "stripe":
            signatures.check_stripe(headers.get("stripe-signature"), body, secrets, now)
            return stripe_message(body)
        case "clerk":
            message_id = headers.get("svix-id")
            keys = [signatures.svix_key(secret) for secret in secrets]
            signatures.check_svix(message_id, headers.get("svix-timestamp"), headers.get("svix-signature"), body, keys, now)
            return clerk_message(body, _id("svix-id", message_id))
        case "lago":
            signatures.check_lago(headers.get("x-lago-signature-algorithm"), headers.get("x-lago-signature"), body, secrets)
            return lago_message(body, _id("X-Lago-Unique-Key", headers.get("x-lago-unique-key")))


def _id(header: str, value: str | None) -> str:
    if not value or len(value) > TEXT_CHARS_MAX or not value.isprintable():
        raise BadMessage(f"{header} is no id of 1 to {TEXT_CHARS_MAX} characters")
    return value


def _require_mode(settings: Settings, message: Message) -> None:
    """A live event at a test system, or the other way, is an endpoint that was set up in the wrong place."""
    if message.source == "stripe" and message.livemode != settings.stripe_livemode:
        ours, theirs = ("live", "test") if settings.stripe_livemode else ("test", "live")
        raise BadSignature(
            "wrong_livemode", f"It is a {theirs} event, and our Stripe key is a {ours} one; set the endpoint up in {ours} mode."
        )
