"""The endpoint in memory, for the unit tests of a service that uses Meterline.

    from meterline.testing import MemoryMeterline

    meterline = MemoryMeterline({"tnt_123": {"PHOTO_ANALYSIS_DEEP": 15}})
    meter = meterline.meter()
    assert meter.check("tnt_123", "PHOTO_ANALYSIS_DEEP", 15).allowed

`meter()` is a genuine `Meter` whose requests end here instead of at a socket. What is recorded counts at once, so `as_of` is
always now. The tests of this package run one suite against it and against the real endpoint.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import unquote

import httpx
import msgspec

from meterline.meter import AsyncMeter, Meter
from meterline_schemas.draft import quantity_text
from meterline_schemas.event import Event, Invalid, claim_of, conflict_reason, decode
from meterline_schemas.instants import format_instant
from meterline_schemas.key import dedup_key
from meterline_schemas.quantity import format_quantity, parse_quantity
from meterline_schemas.rules import NEWEST_RULES, RULES

Granted = int | str | Decimal | None


@dataclass(frozen=True)
class Limit:
    """What a tenant is granted of a usage type. None is unlimited; a soft limit lets more pass as overage."""

    quantity: Granted
    hard: bool = True

    @property
    def micros(self) -> int | None:
        return None if self.quantity is None else parse_quantity(quantity_text(self.quantity))


@dataclass
class _Hold:
    tenant_id: str
    usage_type: str
    micros: int
    source_service: str
    source_entity_id: str
    expires_s: float
    state: str = "open"
    body: bytes = b""


class _Refused(Exception):
    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail


@dataclass
class MemoryMeterline(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Limits, features, holds and events of a few tenants. For one thread."""

    limits: Mapping[str, Mapping[str, Limit | Granted]]
    """Tenant -> usage type -> what it is granted. A tenant that is not named here is unknown."""
    features: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)
    """Tenant -> feature -> whether it is switched on."""
    now_s: Callable[[], float] = time.time
    events: list[Event] = field(default_factory=list)
    """What was admitted, in order: each once, however often it was recorded."""
    away: bool = False
    """Set: nothing answers, as when the network is cut."""

    def __post_init__(self) -> None:
        self._by_key: dict[bytes, Event] = {}
        self._holds: dict[str, _Hold] = {}
        self._reserved_by: dict[str, str] = {}

    def meter(self, **options: Any) -> Meter:
        """A `Meter` that talks to this; options as `Meter` takes them."""
        return Meter("http://memory", transport=self, **options)

    def async_meter(self, **options: Any) -> AsyncMeter:
        """An `AsyncMeter` that talks to this."""
        return AsyncMeter("http://memory", transport=self, **options)

    def used(self, tenant_id: str, usage_type: str) -> Decimal:
        """What was recorded of it."""
        return Decimal(format_quantity(self._used(tenant_id, usage_type)))

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if self.away:
            raise httpx.ConnectError("nothing answers: `away` is set", request=request)
        try:
            status, body = self._answer(request.method, request.url, request.read(), request.headers.get("idempotency-key"))
        except _Refused as refused:
            document = {"status": refused.status, "code": refused.code, "detail": refused.detail, "requestId": "memory"}
            return httpx.Response(refused.status, content=json.dumps(document).encode())
        return httpx.Response(status, content=body)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        return self.handle_request(request)

    def _answer(self, method: str, url: httpx.URL, body: bytes, idempotency_key: str | None) -> tuple[int, bytes]:
        path = [unquote(part) for part in url.raw_path.decode().partition("?")[0].split("/")[3:]]
        waits = "wait" in url.params
        if method == "POST" and path == ["entitlements", "check"]:
            return 200, self._check(json.loads(body))
        if method == "POST" and path == ["entitlements", "check", "batch"]:
            return 200, b'{"results":[' + b",".join(self._check(one) for one in json.loads(body)["checks"]) + b"]}"
        if method == "POST" and path == ["usage"]:
            return 202, json.dumps(self._record(body, waits)).encode()
        if method == "POST" and path == ["usage", "batch"]:
            return 202, json.dumps(self._record_many(body, waits)).encode()
        if method == "POST" and path == ["reservations"]:
            return self._reserve(json.loads(body), idempotency_key or uuid.uuid4().hex)
        if method == "POST" and len(path) == 3 and path[0] == "reservations":
            return 200, (self._settle if path[2] == "settle" else self._release)(path[1], body)
        if method == "GET" and len(path) == 2 and path[0] == "summaries":
            return 200, self._summary(path[1])
        raise _Refused(404, "not_found", f"{method} {url.path} is not answered in memory")

    # -- what is counted -------------------------------------------------------------------------------------------

    def _used(self, tenant_id: str, usage_type: str) -> int:
        return sum(event.quantity for event in self.events if (event.tenant_id, event.usage_type) == (tenant_id, usage_type))

    def _held(self, tenant_id: str, usage_type: str) -> int:
        now_s = self.now_s()
        return sum(
            hold.micros
            for hold in self._holds.values()
            if hold.state == "open" and hold.expires_s > now_s and (hold.tenant_id, hold.usage_type) == (tenant_id, usage_type)
        )

    def _limit(self, tenant_id: str, usage_type: str) -> Limit | None:
        granted = self.limits.get(tenant_id, {})
        if usage_type not in granted:
            return None
        limit = granted[usage_type]
        return limit if isinstance(limit, Limit) else Limit(limit)

    def _verdict(self, tenant_id: str, usage_type: str, micros: int) -> tuple[bool, str]:
        if tenant_id not in self.limits:
            return False, "unknown_tenant"
        limit = self._limit(tenant_id, usage_type)
        if limit is None:
            return False, "not_in_plan"
        if limit.micros is None:
            return True, "unlimited"
        if self._used(tenant_id, usage_type) + self._held(tenant_id, usage_type) + micros <= limit.micros:
            return True, "within_plan"
        return (False, "limit_exceeded") if limit.hard else (True, "overage")

    def _check(self, asked: dict[str, Any]) -> bytes:
        tenant_id = asked["tenantId"]
        if "feature" in asked:
            enabled = self.features.get(tenant_id, {}).get(asked["feature"])
            reason = {None: "not_in_plan", True: "within_plan", False: "feature_disabled"}[enabled]
            if tenant_id not in self.limits and tenant_id not in self.features:
                reason = "unknown_tenant"
            return _document({"allowed": reason == "within_plan", "reason": reason, "limit": None, "remaining": None})
        usage_type = asked["usageType"]
        allowed, reason = self._verdict(tenant_id, usage_type, _micros(asked.get("quantity", "1")))
        return _document({"allowed": allowed, "reason": reason, **self._standing(tenant_id, usage_type)})

    def _standing(self, tenant_id: str, usage_type: str) -> dict[str, Any]:
        limit = self._limit(tenant_id, usage_type) or Limit(0)
        used, held = self._used(tenant_id, usage_type), self._held(tenant_id, usage_type)
        left = None if limit.micros is None else max(limit.micros - used - held, 0)
        return {
            "used": format_quantity(used),
            "reserved": format_quantity(held),
            "limit": None if limit.micros is None else format_quantity(limit.micros),
            "remaining": None if left is None else format_quantity(left),
            "hardStop": limit.hard,
            "isExceeded": limit.micros is not None and used > limit.micros,
            "asOf": format_instant(int(self.now_s() * 1000)),
        }

    def _summary(self, tenant_id: str) -> bytes:
        if tenant_id not in self.limits:
            raise _Refused(404, "not_found", f"there is no tenant {tenant_id}")
        now = datetime.fromtimestamp(self.now_s(), UTC)
        lines = []
        for usage_type in sorted(self.limits[tenant_id]):
            standing = self._standing(tenant_id, usage_type)
            limit = self._limit(tenant_id, usage_type)
            over = 0 if limit is None or limit.micros is None else max(self._used(tenant_id, usage_type) - limit.micros, 0)
            period = {"start": None, "end": None}
            lines.append({"usageType": usage_type, "overage": format_quantity(over), "period": period, **standing})
        head = {"tenantId": tenant_id, "period": f"{now:%Y-%m}", "asOf": standing["asOf"] if lines else None, "nextCursor": None}
        return _document(head)[:-1] + b',"usage":[' + b",".join(_document(line) for line in lines) + b"]}"

    # -- what is told ----------------------------------------------------------------------------------------------

    def _event(self, body: bytes) -> Event:
        event = decode(body, None, int(self.now_s() * 1000), RULES[NEWEST_RULES])
        if isinstance(event, Invalid):
            raise _Refused(400, event.reason.value, f"{event.detail}. {event.reason.remedy}")
        if event.tenant_id not in self.limits:
            raise _Refused(422, "unknown_tenant", f"There is no tenant {event.tenant_id}.")
        return event

    def _record(self, body: bytes, waits: bool) -> dict[str, Any]:
        self._admit(self._event(body))
        position = {"epoch": 1, "partition": 0, "offset": len(self.events)}
        return {"state": "acked", "position": position} | ({"counted": True} if waits else {})

    def _admit(self, event: Event) -> None:
        """The first of a key counts; an equal one is a duplicate, another one a conflict: neither counts."""
        if event.key not in self._by_key:
            self._by_key[event.key] = event
            self.events.append(event)

    def _record_many(self, body: bytes, waits: bool) -> dict[str, Any]:
        results: list[dict[str, Any]] = []
        for index, one in enumerate(msgspec.json.decode(body, type=_Batch).events):
            try:
                results.append({"index": index, **self._record(bytes(one), waits)})
            except _Refused as refused:
                told = {"status": refused.status, "code": refused.code, "detail": refused.detail}
                results.append({"index": index, "state": "refused", **told})
        refusals = sum(result["state"] == "refused" for result in results)
        return {"accepted": len(results) - refusals, "refused": refusals, "results": results}

    def conflicts_with(self, event: Event) -> str | None:
        """Why the log would call `event` a conflict; None where it would not."""
        first = self._by_key.get(event.key)
        reason = None if first is None else conflict_reason(claim_of(first), claim_of(event))
        return None if reason is None else reason.value

    # -- what is held ----------------------------------------------------------------------------------------------

    def _reserve(self, asked: dict[str, Any], idempotency_key: str) -> tuple[int, bytes]:
        reservation_id = self._reserved_by.get(idempotency_key)
        if reservation_id is None:
            tenant_id, usage_type, micros = asked["tenantId"], asked["usageType"], _micros(asked["quantity"])
            allowed, reason = self._verdict(tenant_id, usage_type, micros)
            if not allowed:
                raise _Refused(409, reason, f"{asked['quantity']} of {usage_type} cannot be held for {tenant_id}")
            reservation_id = str(uuid.uuid4())
            self._reserved_by[idempotency_key] = reservation_id
            expires_s = self.now_s() + asked["ttlSeconds"]
            source = asked["sourceService"], asked["sourceEntityId"]
            self._holds[reservation_id] = _Hold(tenant_id, usage_type, micros, *source, expires_s)
        hold = self._holds[reservation_id]
        left = self._standing(hold.tenant_id, hold.usage_type)["remaining"]
        expires = format_instant(int(hold.expires_s * 1000))
        return 201, _document({"reservationId": reservation_id, "expiresAt": expires, "remaining": left})

    def _hold(self, reservation_id: str, body: bytes, state: str) -> tuple[_Hold, bool]:
        """The hold, and whether it was in `state` already by an equal request."""
        hold = self._holds.get(reservation_id)
        if hold is None:
            raise _Refused(404, "not_found", f"there is no reservation {reservation_id}")
        if hold.state not in ("open", state) or (hold.state == state and hold.body != body):
            raise _Refused(409, f"already_{hold.state}", f"reservation {reservation_id} is {hold.state}")
        return hold, hold.state == state

    def _settle(self, reservation_id: str, body: bytes) -> bytes:
        hold, again = self._hold(reservation_id, body, "settled")
        asked = json.loads(body)
        event: dict[str, Any] = {
            "tenantId": hold.tenant_id,
            "sourceService": hold.source_service,
            "sourceEntityId": hold.source_entity_id,
            "usageType": hold.usage_type,
            "quantity": asked.get("quantity", format_quantity(hold.micros)),
            **{name: asked[name] for name in ("occurredAt", "metadata") if name in asked},
        }
        if not again:
            admitted = self._event(json.dumps(event).encode())
            assert admitted.key == dedup_key(hold.source_service, hold.source_entity_id, hold.usage_type)
            self._admit(admitted)
            hold.state, hold.body = "settled", body
        expired = hold.expires_s <= self.now_s()
        return _document({"reservationId": reservation_id, "quantity": event["quantity"], "expired": expired})

    def _release(self, reservation_id: str, body: bytes) -> bytes:
        hold, _ = self._hold(reservation_id, body, "released")
        hold.state, hold.body = "released", body
        return json.dumps({"reservationId": reservation_id}).encode()


class _Batch(msgspec.Struct):
    """Each event as its own bytes, as the endpoint takes it."""

    events: list[msgspec.Raw]


def _micros(quantity: str) -> int:
    try:
        return parse_quantity(quantity)
    except ValueError as error:
        raise _Refused(400, "bad_quantity", str(error)) from None


_NUMBERS = ("used", "reserved", "limit", "remaining", "overage", "quantity")


def _document(fields: Mapping[str, Any]) -> bytes:
    """JSON in which quantities are exact numbers."""
    written = [
        f"{json.dumps(name)}:{value if name in _NUMBERS and value is not None else json.dumps(value)}"
        for name, value in fields.items()
    ]
    return ("{" + ",".join(written) + "}").encode()
