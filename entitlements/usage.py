"""POST /v1/billing/usage and /usage/batch: record what was used.

An event is taken in this order: its rules (the codec that the consumer applies), whose it is (scope), whether its tenant and
usage type exist, the log. The answer comes after the broker's ack, or says that the event was spooled.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence, Set

import msgspec
from msgspec import UNSET

from access.principals import AccessRefused, Principal, require_source, require_tenant
from entitlements.bodies import parse_items, readable
from entitlements.models import EVENTS_MAX, Position, UsageAnswer, UsageBatchAnswer, UsageBatchRequest, UsageResult
from entitlements.names import KnownNames
from entitlements.problems import Problem
from entitlements.sink import SinkAway, SinkRefused, Usage, UsageSink
from entitlements.waiting import Waiting
from meterline_schemas.event import Event, Invalid, decode
from meterline_schemas.rules import NEWEST_RULES, RULES
from runtime import metrics

logger = logging.getLogger(__name__)

_BATCH = msgspec.json.Decoder(UsageBatchRequest)
_RULES = RULES[NEWEST_RULES]


class _Dated(msgspec.Struct, rename="camel"):
    """All that `Event` does not tell: whether the time was sent, and how it was written."""

    occurred_at: str | msgspec.UnsetType = UNSET


_DATED = msgspec.json.Decoder(_Dated)


def _occurred_at(value: bytes) -> str | None:
    """The text of occurredAt in a valid event."""
    text = _DATED.decode(value).occurred_at
    return None if text is UNSET else text


def _event(value: bytes, now_ms: int, principal: Principal) -> Event:
    """The event in `value`, if the principal may send it. Raises Problem 400 or 413, AccessRefused 403 or 404."""
    decoded = decode(value, None, now_ms, _RULES)
    if isinstance(decoded, Invalid):
        raise Problem.of_reason(decoded.reason, decoded.detail)
    require_tenant(principal, decoded.tenant_id)
    require_source(principal, decoded.source_service)
    return decoded


Unknown = tuple[Set[str], Set[str]]
"""Tenants and usage types that do not exist."""


def _require_known(event: Event, unknown: Unknown) -> None:
    """Raises Problem 422 for a name that the catalog lacks. The log would admit it, and nobody would pay for it."""
    tenants, types = unknown
    if event.tenant_id in tenants:
        remedy = "check tenantId, or add the tenant first"
        raise Problem(422, "unknown_tenant", f"There is no tenant {event.tenant_id[:64]!a}; {remedy}.")
    if event.usage_type in types:
        remedy = "check usageType, or add it to the plans and apply them"
        raise Problem(422, "unknown_usage_type", f"There is no usage type {event.usage_type[:64]!a}; {remedy}.")


class Recorder:
    """Takes usage. Raises Problem, AccessRefused or StoreAway; what it raises for was not recorded."""

    def __init__(
        self,
        sink: UsageSink,
        names: KnownNames,
        waiting: Waiting,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._sink = sink
        self._names = names
        self._waiting = waiting
        self._now_ms = now_ms

    async def one(self, body: bytes, principal: Principal, traceparent: str, wait_s: float | None) -> UsageAnswer:
        try:
            # Not `readable`: decode looks at the same things itself, with the limits of an event.
            event = _event(body, self._now_ms(), principal)
            _require_known(event, await self._names.unknown((event.tenant_id,), (event.usage_type,)))
        except (Problem, AccessRefused):
            metrics.USAGE_TAKEN.labels("refused").inc()
            raise
        usage = Usage(event, _occurred_at(body), traceparent)
        try:
            position = await self._sink.publish(usage)
        except SinkRefused as refused:
            metrics.USAGE_TAKEN.labels("refused").inc()
            raise Problem.of_reason(refused.reason, str(refused)) from refused
        except SinkAway as away:
            metrics.USAGE_TAKEN.labels("unavailable").inc()
            raise Problem.try_again("log_unavailable", str(away)) from away
        answer = UsageAnswer("spooled" if position is None else "acked")
        metrics.USAGE_TAKEN.labels(answer.state).inc()
        if position is not None:
            answer.position = position
        if wait_s is not None:
            answer.counted = False
            if position is not None:
                ((answer.position, answer.counted),) = await self._waiting.counted([(usage, position)], wait_s)
        extra = {"principal": principal.name, "source_entity_id": event.source_entity_id, "state": answer.state}
        logger.info("usage taken", extra=extra)
        return answer

    async def batch(self, body: bytes, principal: Principal, traceparent: str, wait_s: float | None) -> UsageBatchAnswer:
        """Each event by itself; only a body that is no batch at all is refused as a whole."""
        items = parse_items(_BATCH, "events", EVENTS_MAX, readable(body))
        now_ms = self._now_ms()
        taken: list[Event | Problem] = []
        for item in items:
            try:
                taken.append(_event(item, now_ms, principal))
            except Problem as problem:
                taken.append(problem)
            except AccessRefused as access:
                taken.append(Problem.of_access(access))
        events = [event for event in taken if isinstance(event, Event)]
        unknown = await self._names.unknown((event.tenant_id for event in events), (event.usage_type for event in events))
        results = await asyncio.gather(
            *(
                self._item(index, event, item, traceparent, unknown)
                for index, (event, item) in enumerate(zip(taken, items, strict=True))
            )
        )
        if wait_s is not None:
            await self._note_counted(results, taken, items, traceparent, wait_s)
        if all(result.status == 503 for result in results):
            # Not one was taken, and for our reasons: the whole batch may be sent again as it is.
            raise Problem.try_again("log_unavailable", str(results[0].detail))
        refused = sum(result.state == "refused" for result in results)
        logger.info("usage batch taken", extra={"principal": principal.name, "events": len(items), "refused": refused})
        return UsageBatchAnswer(len(results) - refused, refused, list(results))

    async def _item(self, index: int, item: Event | Problem, value: bytes, traceparent: str, unknown: Unknown) -> UsageResult:
        """What becomes of one event of a batch; never raises for what is wrong with it."""
        try:
            if isinstance(item, Problem):
                raise item
            _require_known(item, unknown)
            try:
                position = await self._sink.publish(Usage(item, _occurred_at(value), traceparent))
            except SinkRefused as refused:
                raise Problem.of_reason(refused.reason, str(refused)) from refused
        except Problem as problem:
            metrics.USAGE_TAKEN.labels("refused").inc()
            return UsageResult(index, "refused", status=problem.status, code=problem.code, detail=problem.detail)
        except SinkAway as away:
            metrics.USAGE_TAKEN.labels("unavailable").inc()
            return UsageResult(index, "refused", status=503, code="log_unavailable", detail=str(away))
        if position is None:
            metrics.USAGE_TAKEN.labels("spooled").inc()
            return UsageResult(index, "spooled")
        metrics.USAGE_TAKEN.labels("acked").inc()
        return UsageResult(index, "acked", position=position)

    async def _note_counted(
        self,
        results: Sequence[UsageResult],
        taken: Sequence[Event | Problem],
        values: Sequence[bytes],
        traceparent: str,
        wait_s: float,
    ) -> None:
        acked: list[UsageResult] = []
        published: list[tuple[Usage, Position]] = []
        for result, event, value in zip(results, taken, values, strict=True):
            if isinstance(event, Event) and isinstance(result.position, Position):
                acked.append(result)
                published.append((Usage(event, _occurred_at(value), traceparent), result.position))
            elif result.state == "spooled":
                result.counted = False
        for result, (position, counted) in zip(acked, await self._waiting.counted(published, wait_s), strict=True):
            result.position, result.counted = position, counted
