"""The HTTP side: bounded reading, the key, idempotency, one call at a time per customer and meter, faults, Stripe's headers.

`/v1` speaks forms, `/v2` JSON. Admin paths begin with `/__local/` and speak JSON; `health` is open, the others want the key,
for a page in a browser can post to this port too.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import json
import re
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeAlias

from deploy.embedded.local_stripe import forms, idempotency, meter_event_fates, routes, timeline
from deploy.embedded.local_stripe.delivering import Delivering
from deploy.embedded.local_stripe.events import API_VERSION
from deploy.embedded.local_stripe.faults import HEADER, Faults
from deploy.embedded.local_stripe.identity import new_id
from deploy.embedded.local_stripe.problems import Answer, Problem, wrong
from deploy.embedded.local_stripe.state import Busy, Keeper, State, Work

BODY_BYTES_MAX = 1 << 20
BODY_WAIT_S = 30
CLOCK_MIN, CLOCK_MAX = 0, 253_402_300_799
METER_EVENTS = "/v1/billing/meter_events"

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_VERSION = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(\.[a-z]{1,40})?")


class LocalStripe:
    """The ASGI application."""

    def __init__(self, keeper: Keeper, key: str) -> None:
        self._keeper = keeper
        self._key = key.encode()
        self._faults = Faults()
        self._in_flight: set[tuple[str, ...]] = set()
        self._delivering: Delivering | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, whose answer always has Stripe's shape; or the life of the process, with webhooks beside it."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError(f"only http is served, not {scope['type']}")
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        request_id = new_id("req")
        fault: str | None = None
        try:
            if scope["method"] == "POST":
                fault = self._faults.drawn(str(scope["path"]), headers.get(HEADER))
            answer = await self._answer(scope, headers, receive, request_id, fault)
        except Problem as problem:
            answer = problem.answer()
        except Busy as busy:
            answer = Problem(str(busy), status=429, code="rate_limit").answer()
        if self._delivering is not None:
            self._delivering.wake()
        if fault == "drop":
            await _hang_up(scope, receive)
            return
        body = json.dumps(answer.body).encode()
        await send(
            {
                "type": "http.response.start",
                "status": answer.status,
                "headers": [
                    (b"content-type", b"application/json"),
                    (b"content-length", str(len(body)).encode()),
                    (b"request-id", request_id.encode()),
                    (b"stripe-version", headers.get("stripe-version", API_VERSION).encode("latin-1")[:60]),
                    *((name.lower().encode(), value.encode("latin-1")) for name, value in answer.headers),
                    *(
                        [(b"idempotency-key", headers["idempotency-key"].encode("latin-1"))]
                        if "idempotency-key" in headers
                        else []
                    ),
                ],
            }
        )
        if fault == "cut":
            await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
            await _hang_up(scope, receive)
            return
        await send({"type": "http.response.body", "body": body})

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        self._delivering = Delivering(self._keeper, lambda: self._faults)
        task = asyncio.create_task(self._delivering.run())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await send({"type": "lifespan.shutdown.complete"})

    async def _answer(
        self, scope: Scope, headers: dict[str, str], receive: Receive, request_id: str, fault: str | None
    ) -> Answer:
        method, path, query = str(scope["method"]), str(scope["path"]), bytes(scope["query_string"])
        if (method, path) == ("GET", "/__local/health"):
            return Answer(200, {"status": "ok"})
        self._authorize(headers.get("authorization", ""))
        body = await _read(receive, headers)
        if path.startswith("/__local/"):
            return await self._admin(method, path, body)
        call = routes.find(method, path)
        if call is None:
            raise Problem(f"Unrecognized request URL ({method}: {path[:200]}).", status=404)
        if _VERSION.fullmatch(headers.get("stripe-version", API_VERSION)) is None:
            raise Problem(f"Invalid Stripe API version: {headers['stripe-version'][:40]}")
        answers_at = asyncio.get_running_loop().time() + self._faults.latency_ms / 1000
        if method != "POST":
            # The SDK sends the parameters of a DELETE in the query as well.
            answer = await self._keeper.do(timeline.timely(call.work(forms.parse(query))))
            await _until(answers_at)
            return answer
        params = _params(path, headers, body)
        if fault == "rate_limit":
            raise Problem("Too many requests; this one was chosen to say so.", status=429, code="rate_limit")
        if fault == "conflict":
            raise Problem("Another request is changing this object.", status=409, code="lock_timeout")
        work = self._faulty(call.work(params), path, fault)
        key = headers.get("idempotency-key")
        if key is not None:
            if not 1 <= len(key) <= idempotency.KEY_CHARS_MAX:
                raise wrong("Idempotency-Key", f"want 1 to {idempotency.KEY_CHARS_MAX} characters")
            work = idempotency.once(work, key, idempotency.fingerprint(method, path, body), request_id)
        with self._alone(path, params, key):
            answer = await self._keeper.do(timeline.timely(work))
            await _until(answers_at)
            if fault == "slow":
                await asyncio.sleep(self._faults.slow_ms / 1000)
            return answer

    def _faulty(self, work: Work, path: str, fault: str | None) -> Work:
        """The work with what a fault makes of it."""
        if fault == "error":
            return _broken
        if path == METER_EVENTS:
            if fault == "reject":
                return meter_event_fates.found_wrong(work)
            if self._faults.aggregation_delay_s:
                return meter_event_fates.counts_later(work, self._faults.aggregation_delay_s)
        return work

    def _authorize(self, given: str) -> None:
        scheme, _, credential = given.partition(" ")
        key = credential.strip()
        if scheme.lower() == "basic":
            try:
                key = base64.b64decode(key, validate=True).decode().split(":", 1)[0]
            except (binascii.Error, UnicodeDecodeError):
                key = ""
        if not key:
            raise Problem(
                "You did not provide an API key: send it as a bearer token in the Authorization header.",
                status=401,
                should_retry=False,
            )
        if not hmac.compare_digest(key.encode(errors="replace"), self._key):
            shown = f"{key[:8]}{'*' * 8}{key[-4:]}" if len(key) > 16 else "*" * 8
            raise Problem(f"Invalid API Key provided: {shown}", status=401, should_retry=False)

    @contextmanager
    def _alone(self, path: str, params: forms.Params, key: str | None) -> Iterator[None]:
        """At most one request a key, and one meter event a customer and meter, at any time."""
        marks: list[tuple[str, ...]] = []
        if key is not None:
            mark = ("key", key)
            if mark in self._in_flight:
                raise Problem(
                    "Another request with this idempotency key is in progress.",
                    status=409,
                    code="idempotency_key_in_use",
                    should_retry=True,
                )
            marks.append(mark)
        if path == METER_EVENTS:
            payload = params.get("payload")
            customer = payload.get("stripe_customer_id") if isinstance(payload, dict) else None
            if isinstance(customer, str):
                pair = ("event", str(params.get("event_name")), customer)
                if pair in self._in_flight:
                    raise Problem(
                        "Another request for this customer and meter is in progress; send them one after the other.",
                        status=429,
                        code="lock_timeout",
                    )
                marks.append(pair)
        self._in_flight.update(marks)
        try:
            yield
        finally:
            self._in_flight.difference_update(marks)

    async def _admin(self, method: str, path: str, body: bytes) -> Answer:
        wanted = _json(body) if method == "POST" else {}
        if path == "/__local/clock" and method in ("GET", "POST"):
            return await self._keeper.do(partial(_set_clock, wanted=wanted, change=method == "POST"))
        if path == "/__local/faults" and method in ("GET", "POST"):
            if method == "POST":
                try:
                    self._faults = Faults.wanted(wanted)
                except ValueError as error:
                    raise Problem(str(error)) from None
            return Answer(200, self._faults.shown())
        if (method, path) == ("GET", "/__local/deliveries"):
            return await self._keeper.do(_deliveries)
        raise Problem(f"No admin URL {method} {path[:200]}; there are health, clock, faults and deliveries.", status=404)


def _set_clock(state: State, wanted: dict[str, object], change: bool) -> Answer:
    """POST {"now": seconds} stands still, {"advance": seconds} moves on, {} runs with the machine again."""
    if change:
        if set(wanted) - {"now", "advance"} or len(wanted) > 1:
            raise Problem('Want {"now": seconds}, {"advance": seconds} or {}.')
        value = next(iter(wanted.values()), 0)
        if not isinstance(value, int) or isinstance(value, bool) or not CLOCK_MIN <= value <= CLOCK_MAX:
            raise Problem(f"Want whole seconds from {CLOCK_MIN} to {CLOCK_MAX}.")
        if "now" in wanted:
            state.clock.stand_at(value)
        elif "advance" in wanted:
            state.clock.advance(value)
        else:
            state.clock.run()
    return Answer(200, {"now": state.clock.now()})


def _deliveries(state: State) -> Answer:
    """How many webhooks wait, are done, and were given up."""
    found = dict(state.database.execute("SELECT state, count(*) FROM deliveries GROUP BY state").fetchall())
    return Answer(200, {name: found.get(name, 0) for name in ("waiting", "done", "dead")})


def _broken(state: State) -> Answer:
    raise Problem("Something went wrong; this request was chosen for it.", status=500, kind="api_error")


def _params(path: str, headers: dict[str, str], body: bytes) -> forms.Params:
    kind = headers.get("content-type", "application/x-www-form-urlencoded").split(";")[0].strip().lower()
    wanted = "application/json" if path.startswith("/v2/") else "application/x-www-form-urlencoded"
    if kind != wanted:
        raise Problem(f"Invalid request: POST to {path[:3]} wants {wanted}, not {kind[:80]}")
    return forms.of_json(_json(body)) if path.startswith("/v2/") else forms.parse(body)


async def _until(at: float) -> None:
    """Waits for a time of the event loop."""
    await asyncio.sleep(max(0.0, at - asyncio.get_running_loop().time()))


async def _hang_up(scope: Scope, receive: Receive) -> None:
    """Closes the connection after what was sent so far, and waits until it is closed."""
    scope["hang_up"]()
    while (await receive())["type"] != "http.disconnect":
        pass


def _json(body: bytes) -> dict[str, object]:
    try:
        document = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        raise Problem("The body is no JSON.") from None
    if not isinstance(document, dict):
        raise Problem("The body is no JSON object.")
    return document


async def _read(receive: Receive, headers: dict[str, str]) -> bytes:
    """The body. Nothing beyond BODY_BYTES_MAX is kept, and a client that stalls is not waited for."""
    length = headers.get("content-length", "0")
    too_large = Problem(f"The request body is larger than {BODY_BYTES_MAX} bytes.", status=413)
    if not length.isdigit() or len(length) > 18 or int(length) > BODY_BYTES_MAX:
        raise too_large
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_WAIT_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Problem("The client went away.")
                part = message.get("body", b"")
                size += len(part)
                if size > BODY_BYTES_MAX:
                    raise too_large
                parts.append(part)
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        raise Problem(f"The request body did not arrive within {BODY_WAIT_S} s.", status=408) from None
