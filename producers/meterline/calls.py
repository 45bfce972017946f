"""The calls to the endpoint, without a socket: each is a generator that asks for requests to be sent and pauses to be made.

`Meter` and `AsyncMeter` drive the same generators, so that there is one set of rules for both.

Every call may be repeated: a check reads, an event is identified by its key, a reservation by its Idempotency-Key, and
settling and releasing by the reservation. So whatever does not answer, or answers 429, 502, 503 or 504, is tried again
with growing, jittered pauses (or the server's own Retry-After) until the attempts or the time are used up.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Literal, NamedTuple, TypeVar
from urllib.parse import quote

import msgspec

from meterline.answers import Check, Held, Recorded, RecordedMany, Settled, Summary, SummaryLine
from meterline.errors import MeterRefused, MeterUnavailable, ReservationDenied
from meterline_schemas.draft import EventDraft, InvalidEvent, encode_event, instant_text, metadata_text, quantity_text
from meterline_schemas.reasons import Reason

Quantity = str | int | Decimal
"""Whole units, exact: never a float."""

CHECKS_MAX: Final = 100
"""Most checks in one request."""
EVENTS_MAX: Final = 1_000
"""Most events in one request."""
PAGES_MAX: Final = 1_000
"""Most pages of a summary that are fetched."""

_PASSES: Final = frozenset({429, 502, 503, 504})
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 2.0

T = TypeVar("T")


class Ask(NamedTuple):
    """One check of a batch."""

    tenant_id: str
    usage_type: str
    quantity: Quantity = 1
    user_id: str | None = None


@dataclass(frozen=True, slots=True)
class Send:
    """To be sent; the generator is resumed with a Reply, or with the text of what kept it from coming."""

    method: str
    path: str
    body: bytes | None
    headers: dict[str, str]
    within_s: float


@dataclass(frozen=True, slots=True)
class Pause:
    """To be waited; the generator is resumed with an empty text."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Reply:
    """What the server answered."""

    status: int
    body: bytes
    retry_after: str | None


Call = Generator[Send | Pause, Reply | str, T]


@dataclass(frozen=True, slots=True)
class Rules:
    """How long and how often a call is tried, and what a check answers when nothing comes back."""

    timeout_s: float
    attempts_max: int
    on_unavailable: Literal["raise", "allow", "deny"]


class Calls:
    """Makes the calls."""

    def __init__(
        self,
        rules: Rules,
        monotonic: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._rules = rules
        allow = {"allow": True, "deny": False, "raise": None}[rules.on_unavailable]
        # What a check answers when the endpoint does not; None: the caller wants the exception.
        self._without_answer = None if allow is None else Check(allow, "client_unavailable")
        self._monotonic = monotonic
        self._jitter = jitter
        self._now_ms = now_ms

    def check(self, ask: Ask) -> Call[Check]:
        """Raises MeterRefused, or MeterUnavailable where the rules say so."""
        return (yield from self._checked(_asked(ask)))

    def check_feature(self, tenant_id: str, feature: str) -> Call[Check]:
        """The same, for a feature alone."""
        return (yield from self._checked({"tenantId": tenant_id, "feature": feature}))

    def check_many(self, asks: Sequence[Ask]) -> Call[list[Check]]:
        """Any number, in requests of at most 100; each request is answered as of one moment."""
        found: list[Check] = []
        for start in range(0, len(asks), CHECKS_MAX):
            some = asks[start : start + CHECKS_MAX]
            try:
                reply = yield from self._post("/v1/billing/entitlements/check/batch", {"checks": [_asked(ask) for ask in some]})
            except MeterUnavailable:
                if self._without_answer is None:
                    raise
                found += [self._without_answer for _ in some]
                continue
            found += _read(reply, _Checks).results
        return found

    def record(self, draft: EventDraft, wait_counted_s: float | None) -> Call[Recorded]:
        """Raises InvalidEvent before anything is sent, MeterRefused, MeterUnavailable."""
        body = encode_event(draft, self._now_ms()).value
        wait = None if wait_counted_s is None else f"wait=counted&timeout={_seconds(wait_counted_s)}"
        reply = yield from self._sent("POST", "/v1/billing/usage", body, wait, wait_counted_s or 0)
        return _read(reply, Recorded)

    def record_many(self, drafts: Sequence[EventDraft], wait_counted_s: float | None) -> Call[RecordedMany]:
        """Any number, in requests of at most 1,000. Raises InvalidEvent for a draft that breaks a rule, before any is sent."""
        now_ms = self._now_ms()
        bodies = [encode_event(draft, now_ms).value for draft in drafts]
        wait = None if wait_counted_s is None else f"wait=counted&timeout={_seconds(wait_counted_s)}"
        accepted = refused = 0
        results: list[Any] = []
        for start in range(0, len(bodies), EVENTS_MAX):
            body = b'{"events":[' + b",".join(bodies[start : start + EVENTS_MAX]) + b"]}"
            reply = yield from self._sent("POST", "/v1/billing/usage/batch", body, wait, wait_counted_s or 0)
            some = _read(reply, RecordedMany)
            accepted, refused = accepted + some.accepted, refused + some.refused
            results += [msgspec.structs.replace(one, index=one.index + start) for one in some.results]
        return RecordedMany(accepted, refused, tuple(results))

    def reserve(self, ask: Ask, source_service: str, source_entity_id: str, ttl_s: int) -> Call[Held]:
        """Raises ReservationDenied when the limit does not hold it, MeterRefused, MeterUnavailable."""
        body = _asked(ask) | {"sourceService": source_service, "sourceEntityId": source_entity_id, "ttlSeconds": ttl_s}
        key = {"Idempotency-Key": str(uuid.uuid4())}
        try:
            reply = yield from self._post("/v1/billing/reservations", body, key)
        except MeterRefused as refused:
            if refused.status == 409:
                raise ReservationDenied(refused.status, refused.code, refused.detail, refused.request_id) from None
            raise
        return _read(reply, Held)

    def settle(
        self,
        reservation_id: str,
        quantity: Quantity | None,
        occurred_at: datetime | str | None,
        metadata: Mapping[str, Any] | bytes | None,
    ) -> Call[Settled]:
        body: dict[str, Any] = {}
        if quantity is not None:
            body["quantity"] = quantity_text(quantity)
        if occurred_at is not None:
            body["occurredAt"] = instant_text(occurred_at)
        if metadata is not None:
            body["metadata"] = msgspec.Raw(metadata_text(metadata))
        reply = yield from self._post(f"/v1/billing/reservations/{quote(reservation_id, safe='')}/settle", body)
        return _read(reply, Settled)

    def release(self, reservation_id: str) -> Call[None]:
        yield from self._post(f"/v1/billing/reservations/{quote(reservation_id, safe='')}/release", {})

    def summary(self, tenant_id: str, period: str | None) -> Call[Summary]:
        """All pages of it."""
        path = f"/v1/billing/summaries/{quote(tenant_id, safe='')}"
        lines: list[SummaryLine] = []
        cursor: str | None = None
        for _ in range(PAGES_MAX):
            asked = {"period": period, "cursor": cursor}
            query = "&".join(f"{name}={quote(value, safe='')}" for name, value in asked.items() if value is not None)
            page = _read((yield from self._sent("GET", path, None, query or None)), _SummaryPage)
            lines += page.usage
            cursor = page.next_cursor
            if cursor is None:
                return Summary(page.tenant_id, page.period, page.as_of, tuple(lines))
        raise MeterUnavailable(f"the summary of {tenant_id} has more than {PAGES_MAX} pages")

    # -- how a call is made ----------------------------------------------------------------------------------------

    def _checked(self, body: dict[str, Any]) -> Call[Check]:
        try:
            reply = yield from self._post("/v1/billing/entitlements/check", body)
        except MeterUnavailable:
            if self._without_answer is None:
                raise
            return self._without_answer
        return _read(reply, Check)

    def _post(self, path: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> Call[Reply]:
        return (yield from self._sent("POST", path, _encoded(body), None, 0, headers))

    def _sent(
        self,
        method: str,
        path: str,
        body: bytes | None,
        query: str | None,
        longer_s: float = 0,
        headers: dict[str, str] | None = None,
    ) -> Call[Reply]:
        """A 2xx reply. Raises MeterRefused for an answer that trying again would not change, MeterUnavailable otherwise."""
        until = self._monotonic() + self._rules.timeout_s + longer_s
        target = path if query is None else f"{path}?{query}"
        pause_s = _FIRST_PAUSE_S
        problem = "no attempt was made"
        for attempt in range(1, self._rules.attempts_max + 1):
            left_s = until - self._monotonic()
            if left_s <= 0:
                break
            reply = yield Send(method, target, body, {"Content-Type": "application/json", **(headers or {})}, left_s)
            if isinstance(reply, Reply) and 200 <= reply.status < 300:
                return reply
            if isinstance(reply, Reply) and reply.status not in _PASSES:
                raise _refused(reply)
            asked_s = None
            if isinstance(reply, Reply):
                problem = str(_refused(reply))
                asked_s = _whole_seconds(reply.retry_after)
            else:
                problem = reply
            # Half of the pause is drawn, so that callers who failed together do not come back together.
            wait_s = pause_s * (0.5 + self._jitter() / 2) if asked_s is None else asked_s + pause_s * self._jitter()
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
            if attempt == self._rules.attempts_max or self._monotonic() + wait_s >= until:
                break
            yield Pause(wait_s)
        raise MeterUnavailable(f"{method} {path} got no usable answer in {self._rules.timeout_s + longer_s:g} s: {problem}")


class _Checks(msgspec.Struct, rename="camel"):
    results: list[Check]


class _SummaryPage(msgspec.Struct, rename="camel"):
    tenant_id: str
    period: str
    as_of: datetime | None
    usage: list[SummaryLine]
    next_cursor: str | None


class _Problem(msgspec.Struct, rename="camel"):
    code: str = "unknown"
    detail: str = ""
    request_id: str = ""


def _asked(ask: Ask) -> dict[str, Any]:
    body = {"tenantId": ask.tenant_id, "usageType": ask.usage_type, "quantity": quantity_text(ask.quantity)}
    return body if ask.user_id is None else body | {"userId": ask.user_id}


def _encoded(body: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError as error:
        raise InvalidEvent(Reason.NOT_UTF8, f"a text holds a lone surrogate at {error.start}") from None


def _read(reply: Reply, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(reply.body, type=kind)
    except msgspec.DecodeError as error:
        raise MeterUnavailable(f"the answer is not what this endpoint answers ({error}); is the address right?") from None


def _refused(reply: Reply) -> MeterRefused:
    try:
        problem = msgspec.json.decode(reply.body, type=_Problem)
    except msgspec.DecodeError:
        problem = _Problem(detail=f"status {reply.status}, and no problem document; is the address right?")
    return MeterRefused(reply.status, problem.code, problem.detail, problem.request_id)


def _whole_seconds(retry_after: str | None) -> float | None:
    """The seconds of a Retry-After header; a date in it is passed over."""
    return float(retry_after) if retry_after is not None and retry_after.isascii() and retry_after.isdigit() else None


def _seconds(wait_s: float) -> str:
    return f"{max(1, round(wait_s * 1000))}ms"
