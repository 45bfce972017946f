"""The client of the HTTP endpoint: ask what a tenant may use, hold it, record it.

`Meter` for threads, `AsyncMeter` for asyncio: the same calls (`meterline.calls`), sent one way or the other.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Literal, TypeVar

import httpx

from meterline.answers import Check, Recorded, RecordedMany, Summary
from meterline.calls import Ask, Call, Calls, Pause, Quantity, Reply, Rules, Send
from meterline.reserving import AsyncReservation, Reservation, Reserving
from meterline_schemas.draft import EventDraft

T = TypeVar("T")
OnUnavailable = Literal["raise", "allow", "deny"]


def _headers(secret: str | None, api_key: str | None, token: str | None) -> dict[str, str]:
    given = [value for value in (secret, api_key, token) if value is not None]
    if len(given) > 1:
        raise ValueError("pass one of secret, api_key and token: a request is made by one principal")
    if secret is not None:
        return {"X-Service-Secret": secret}
    bearer = api_key if api_key is not None else token
    return {} if bearer is None else {"Authorization": f"Bearer {bearer}"}


def _rules(timeout_s: float, attempts_max: int, on_unavailable: OnUnavailable) -> Rules:
    if timeout_s <= 0:
        raise ValueError("timeout_s is more than zero: it bounds a whole call, every attempt included")
    if not 1 <= attempts_max <= 20:
        raise ValueError("attempts_max is from 1 to 20")
    if on_unavailable not in ("raise", "allow", "deny"):
        raise ValueError("on_unavailable is raise, allow or deny")
    return Rules(timeout_s, attempts_max, on_unavailable)


def _reply(response: httpx.Response) -> Reply:
    return Reply(response.status_code, response.content, response.headers.get("retry-after"))


def _kept_from_coming(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


class Meter:
    """Asks and tells the endpoint. Thread-safe; one a process is enough. Make it after forking, and close it.

    Every call may be made again: nothing is counted twice. `timeout_s` bounds a call, all attempts and pauses together; of a
    server that sends its answer in drops it bounds the wait for each drop.
    """

    def __init__(
        self,
        url: str,
        *,
        secret: str | None = None,
        api_key: str | None = None,
        token: str | None = None,
        timeout_s: float = 5.0,
        attempts_max: int = 4,
        on_unavailable: OnUnavailable = "raise",
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """`url` is where `/v1` begins, such as http://127.0.0.1:8080. `secret` is a service's, `api_key` an organization's,
        `token` a user's.

        `on_unavailable` says what a check answers when the endpoint does not: MeterUnavailable is raised, or the check comes
        back allowed or denied with the reason `client_unavailable`. Everything but a check raises.
        """
        self._calls = Calls(_rules(timeout_s, attempts_max, on_unavailable))
        self._http = httpx.Client(base_url=url, headers=_headers(secret, api_key, token), transport=transport)

    def check(self, tenant_id: str, usage_type: str, quantity: Quantity = 1, *, user_id: str | None = None) -> Check:
        """May the tenant use this much more? Raises MeterRefused; MeterUnavailable unless `on_unavailable` says otherwise."""
        return self._run(self._calls.check(Ask(tenant_id, usage_type, quantity, user_id)))

    def check_feature(self, tenant_id: str, feature: str) -> Check:
        """Does the tenant's plan switch this feature on?"""
        return self._run(self._calls.check_feature(tenant_id, feature))

    def check_many(self, asks: Sequence[Ask]) -> list[Check]:
        """One answer an ask, in their order; one request for each hundred."""
        return self._run(self._calls.check_many(asks))

    def reserve(
        self,
        tenant_id: str,
        usage_type: str,
        quantity: Quantity = 1,
        *,
        source_service: str,
        source_entity_id: str,
        ttl_s: int = 60,
        user_id: str | None = None,
    ) -> Reservation:
        """Holds the quantity, so that nobody else can use it, for `ttl_s` seconds at most.

            with meter.reserve("tnt_123", "TOKENS", 500, source_service="chat", source_entity_id="msg_1") as held:
                held.settle(work())

        Raises ReservationDenied when the limit does not hold it, MeterRefused, MeterUnavailable.
        """
        ask = Ask(tenant_id, usage_type, quantity, user_id)
        held = self._run(self._calls.reserve(ask, source_service, source_entity_id, ttl_s))
        return Reservation(held, self._calls, self._run)

    def record(self, draft: EventDraft, *, wait_counted_s: float | None = None) -> Recorded:
        """Records one piece of usage; idempotent by its service, entity and type.

        `wait_counted_s` waits until the counters hold it. Raises InvalidEvent before sending, MeterRefused, MeterUnavailable.
        """
        return self._run(self._calls.record(draft, wait_counted_s))

    def record_many(self, drafts: Sequence[EventDraft], *, wait_counted_s: float | None = None) -> RecordedMany:
        """One result a draft, in their order; one request for each thousand. Raises as `record` does."""
        return self._run(self._calls.record_many(drafts, wait_counted_s))

    def summary(self, tenant_id: str, period: str | None = None) -> Summary:
        """How the tenant stands, by usage type. `period` is YYYY-MM; the running month by default."""
        return self._run(self._calls.summary(tenant_id, period))

    def _run(self, call: Call[T]) -> T:
        answer: Reply | str | None = None
        while True:
            try:
                step = next(call) if answer is None else call.send(answer)
            except StopIteration as done:
                result: T = done.value
                return result
            if isinstance(step, Pause):
                time.sleep(step.seconds)
                answer = ""
            else:
                answer = self._send(step)

    def _send(self, step: Send) -> Reply | str:
        try:
            return _reply(
                self._http.request(step.method, step.path, content=step.body, headers=step.headers, timeout=step.within_s)
            )
        except httpx.TransportError as error:
            return _kept_from_coming(error)

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class AsyncMeter:
    """`Meter` for asyncio: the same calls, awaited. For one event loop."""

    def __init__(
        self,
        url: str,
        *,
        secret: str | None = None,
        api_key: str | None = None,
        token: str | None = None,
        timeout_s: float = 5.0,
        attempts_max: int = 4,
        on_unavailable: OnUnavailable = "raise",
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._calls = Calls(_rules(timeout_s, attempts_max, on_unavailable))
        self._http = httpx.AsyncClient(base_url=url, headers=_headers(secret, api_key, token), transport=transport)

    async def check(self, tenant_id: str, usage_type: str, quantity: Quantity = 1, *, user_id: str | None = None) -> Check:
        return await self._run(self._calls.check(Ask(tenant_id, usage_type, quantity, user_id)))

    async def check_feature(self, tenant_id: str, feature: str) -> Check:
        return await self._run(self._calls.check_feature(tenant_id, feature))

    async def check_many(self, asks: Sequence[Ask]) -> list[Check]:
        return await self._run(self._calls.check_many(asks))

    def reserve(
        self,
        tenant_id: str,
        usage_type: str,
        quantity: Quantity = 1,
        *,
        source_service: str,
        source_entity_id: str,
        ttl_s: int = 60,
        user_id: str | None = None,
    ) -> Reserving:
        """`async with` it, or `await` it for an AsyncReservation."""

        async def reserve() -> AsyncReservation:
            ask = Ask(tenant_id, usage_type, quantity, user_id)
            held = await self._run(self._calls.reserve(ask, source_service, source_entity_id, ttl_s))
            return AsyncReservation(held, self._calls, self._run)

        return Reserving(reserve)

    async def record(self, draft: EventDraft, *, wait_counted_s: float | None = None) -> Recorded:
        return await self._run(self._calls.record(draft, wait_counted_s))

    async def record_many(self, drafts: Sequence[EventDraft], *, wait_counted_s: float | None = None) -> RecordedMany:
        return await self._run(self._calls.record_many(drafts, wait_counted_s))

    async def summary(self, tenant_id: str, period: str | None = None) -> Summary:
        return await self._run(self._calls.summary(tenant_id, period))

    async def _run(self, call: Call[T]) -> T:
        answer: Reply | str | None = None
        while True:
            try:
                step = next(call) if answer is None else call.send(answer)
            except StopIteration as done:
                result: T = done.value
                return result
            if isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
                answer = ""
            else:
                answer = await self._send(step)

    async def _send(self, step: Send) -> Reply | str:
        try:
            # A timeout of httpx bounds each wait for the socket; this one bounds the attempt as a whole.
            async with asyncio.timeout(step.within_s):
                return _reply(
                    await self._http.request(
                        step.method, step.path, content=step.body, headers=step.headers, timeout=step.within_s
                    )
                )
        except (httpx.TransportError, AttributeError) as error:
            # AttributeError: under uvloop, httpx's for a server that closes as it is connected to.
            return _kept_from_coming(error)
        except TimeoutError:
            return f"no answer within {step.within_s:.3g} s"

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> AsyncMeter:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()
