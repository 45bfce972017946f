"""Recording usage: an event through the outbox, and where the service is one that deducts, a charge, in one transaction."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from control_plane.credit_events import CHARGED, REPORTED, promise
from control_plane.credits.refusing import refused
from control_plane.refusals import Refusal
from control_plane.sessions.service import SOURCE_SERVICE
from control_plane.unit import Unit
from control_plane.usage import repository
from control_plane.usage.repository import Record
from metering.credits import Insufficient
from meterline_schemas.draft import EventDraft
from meterline_schemas.key import dedup_key
from meterline_schemas.quantity import format_quantity
from meterline_schemas.types import Micros
from store import credits
from store.credits import By, CreditsRefused, Owner
from store.steps import run

EVERY_SERVICE: Final = "*"
MODEL_FIELDS: Final = ("modelId", "model")
"""Of the metadata: either names the model, for the statistics."""

RESERVED: Final = frozenset({SOURCE_SERVICE})
"""Source services whose events only this server makes."""

_ENCODER: Final = msgspec.json.Encoder(decimal_format="number", order="sorted")


@dataclass(frozen=True)
class Order:
    """What is to be recorded."""

    service: str
    operation: str
    credits: Micros
    metadata: Mapping[str, Any]


@dataclass(frozen=True)
class Recorded:
    """What stands recorded, and the user's balance now."""

    record: Record
    balance: Micros
    repeated: bool


def record(unit: Unit, owner: Owner, key: str, order: Order, *, deducting: str, topic: str) -> Recorded:
    """Records it under the key, once. `deducting` names the services whose records are charged, or every one.

    Raises Refusal: the credits do not suffice, and nothing is recorded; the key is another request's.
    """
    if order.service in RESERVED:
        raise Refusal("invalid", "reserved_service", f"{order.service} is this server's own; send the name of your service.")
    services = {name.strip() for name in deducting.split(",")}
    deducted = EVERY_SERVICE in services or order.service in services
    usage_type = CHARGED if deducted else REPORTED
    said = [owner.tenant_id, owner.user_id, order.service, order.operation, str(order.credits), order.metadata]
    digest = hashlib.sha256(_ENCODER.encode(said)).digest()
    asked = Record(order.service, key, usage_type, owner, order.operation, order.credits, deducted, digest)
    at = repository.insert(unit.pg, asked)
    if at is None:
        return _again(unit, asked)
    if deducted:
        # The key of the event is the charge's, too: one piece of work is charged once.
        event_key = hashlib.sha256(dedup_key(order.service, key, usage_type)).hexdigest()
        by = By(unit.actor.who, unit.actor.request_id)
        note = f"{order.service}: {order.operation}"
        try:
            balance = run(unit.pg, credits.charge(owner, order.credits, by=by, key=f"usage:{event_key}", note=note)).balance
        except (CreditsRefused, Insufficient) as error:
            raise refused(error) from None
    else:
        balance = run(unit.pg, credits.balance(owner)).balance
    draft = EventDraft(
        tenant_id=owner.tenant_id,
        source_service=order.service,
        source_entity_id=key,
        usage_type=usage_type,
        quantity=format_quantity(order.credits),
        occurred_at=at,
        metadata=_ENCODER.encode(_metadata(owner, order)),
    )
    promise(unit.pg, draft, topic)
    return Recorded(asked, balance, repeated=False)


def _again(unit: Unit, asked: Record) -> Recorded:
    stands = repository.found(unit.pg, asked.source_service, asked.key)
    assert stands is not None, "what is recorded is never removed"
    if stands.owner != asked.owner:
        # An event's key holds no tenant: both would be one piece of work to the log.
        raise Refusal(
            "conflict",
            "idempotency_key_taken",
            "The Idempotency-Key names another piece of work of this service; send one that no other has, as a UUID is.",
        )
    if stands.digest != asked.digest:
        raise Refusal(
            "unprocessable",
            "idempotency_key_reused",
            "The Idempotency-Key was sent with another body; send each piece of work under a key of its own.",
        )
    return Recorded(stands, run(unit.pg, credits.balance(asked.owner)).balance, repeated=True)


def _metadata(owner: Owner, order: Order) -> dict[str, Any]:
    said: dict[str, Any] = {"userId": owner.user_id, "operation": order.operation}
    model = next((order.metadata[name] for name in MODEL_FIELDS if isinstance(order.metadata.get(name), str)), None)
    if model is not None:
        said["modelId"] = model
    if order.metadata:
        said["metadata"] = order.metadata
    return said
