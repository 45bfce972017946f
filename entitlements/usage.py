"""POST /v1/billing/usage and /usage/batch: record what was used.

An event is taken in this order: its rules (the codec that the consumer applies), whose it is (scope), whether its tenant and
usage type exist, the log. The bytes that were judged are the bytes that the log gets. The answer comes after the broker's ack,
or says that the event was spooled.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence, Set

from access.principals import AccessRefused, Principal, require_source, require_tenant
from entitlements import formats
from entitlements.formats import Headers, Item
from entitlements.models import Position, UsageAnswer, UsageBatchAnswer, UsageResult
from entitlements.names import KnownNames
from entitlements.problems import Problem
from entitlements.sink import Published, SinkAway, UsageSink
from entitlements.waiting import Waiting
from meterline_schemas.draft import EncodedEvent
from meterline_schemas.event import Event, Invalid, decode
from meterline_schemas.rules import NEWEST_RULES, RULES
from runtime import metrics

logger = logging.getLogger(__name__)

_RULES = RULES[NEWEST_RULES]


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

    async def one(
        self, headers: Headers, body: bytes, principal: Principal, traceparent: str, wait_s: float | None
    ) -> UsageAnswer:
        try:
            # Not `readable`: decode looks at the same things itself, with the limits of an event.
            value = formats.one(headers, body)
            event = _event(value, self._now_ms(), principal)
            if not self._names.known(event.tenant_id, event.usage_type):
                _require_known(event, await self._names.unknown((event.tenant_id,), (event.usage_type,)))
        except (Problem, AccessRefused):
            metrics.USAGE_TAKEN.labels("refused").inc()
            raise
        published: Published
        try:
            (published,) = await self._sink.publish([EncodedEvent(value, event)], traceparent)
        except SinkAway as away:
            published = away
        if isinstance(published, SinkAway):
            metrics.USAGE_TAKEN.labels("unavailable").inc()
            raise Problem.try_again("log_unavailable", str(published)) from published
        answer = UsageAnswer("spooled") if published is None else UsageAnswer("acked", published)
        metrics.USAGE_TAKEN.labels(answer.state).inc()
        if wait_s is not None:
            answer.counted = False
            if published is not None:
                waited = await self._waiting.counted([(EncodedEvent(value, event), published)], traceparent, wait_s)
                ((answer.position, answer.counted),) = waited
        # Not at info, as with checks: a line a request costs too much of the rate. `explain` finds an event without it.
        if logger.isEnabledFor(logging.DEBUG):
            extra = {"principal": principal.name, "source_entity_id": event.source_entity_id, "state": answer.state}
            logger.debug("usage taken", extra=extra)
        return answer

    async def batch(
        self, headers: Headers, body: bytes, principal: Principal, traceparent: str, wait_s: float | None
    ) -> UsageBatchAnswer:
        """Each event by itself; only a body that is no batch at all is refused as a whole."""
        judged = await self._judged(formats.many(headers, body), principal)
        events = [item for item in judged if isinstance(item, EncodedEvent)]
        published = iter(await self._published(events, traceparent))
        results = [
            _refused(index, item) if isinstance(item, Problem) else _taken(index, next(published))
            for index, item in enumerate(judged)
        ]
        if wait_s is not None:
            await self._note_counted(results, judged, traceparent, wait_s)
        outcomes = Counter("unavailable" if result.status == 503 else result.state for result in results)
        for outcome, count in outcomes.items():
            metrics.USAGE_TAKEN.labels(outcome).inc(count)
        if outcomes["unavailable"] == len(results):
            # Not one was taken, and for our reasons: the whole batch may be sent again as it is.
            raise Problem.try_again("log_unavailable", str(results[0].detail))
        refused = outcomes["unavailable"] + outcomes["refused"]
        logger.info("usage batch taken", extra={"principal": principal.name, "events": len(results), "refused": refused})
        return UsageBatchAnswer(len(results) - refused, refused, results)

    async def _judged(self, items: list[Item], principal: Principal) -> list[EncodedEvent | Problem]:
        """What may go to the log, and why the rest may not."""
        now_ms = self._now_ms()
        judged: list[EncodedEvent | Problem] = []
        pairs: set[tuple[str, str]] = set()
        for item in items:
            if isinstance(item, Problem):
                judged.append(item)
                continue
            try:
                event = _event(item, now_ms, principal)
            except Problem as problem:
                judged.append(problem)
            except AccessRefused as access:
                judged.append(Problem.of_access(access))
            else:
                pairs.add((event.tenant_id, event.usage_type))
                judged.append(EncodedEvent(item, event))
        if all(self._names.known(*pair) for pair in pairs):
            return judged
        unknown = await self._names.unknown({tenant for tenant, _ in pairs}, {usage_type for _, usage_type in pairs})
        for index, judgement in enumerate(judged):
            if isinstance(judgement, EncodedEvent):
                try:
                    _require_known(judgement.event, unknown)
                except Problem as problem:
                    judged[index] = problem
        return judged

    async def _published(self, events: list[EncodedEvent], traceparent: str) -> list[Published]:
        if not events:
            return []
        try:
            return await self._sink.publish(events, traceparent)
        except SinkAway as away:
            return [away] * len(events)

    async def _note_counted(
        self, results: Sequence[UsageResult], judged: Sequence[EncodedEvent | Problem], traceparent: str, wait_s: float
    ) -> None:
        acked: list[UsageResult] = []
        published: list[tuple[EncodedEvent, Position]] = []
        for result, event in zip(results, judged, strict=True):
            if isinstance(event, EncodedEvent) and isinstance(result.position, Position):
                acked.append(result)
                published.append((event, result.position))
            elif result.state == "spooled":
                result.counted = False
        waited = await self._waiting.counted(published, traceparent, wait_s)
        for result, (position, counted) in zip(acked, waited, strict=True):
            result.position, result.counted = position, counted


def _refused(index: int, problem: Problem) -> UsageResult:
    return UsageResult(index, "refused", status=problem.status, code=problem.code, detail=problem.detail)


def _taken(index: int, published: Published) -> UsageResult:
    if isinstance(published, Position):
        return UsageResult(index, "acked", published)
    if published is None:
        return UsageResult(index, "spooled")
    return UsageResult(index, "refused", status=503, code="log_unavailable", detail=str(published))
