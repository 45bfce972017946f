"""How the client treats answers that do not come, or come as refusals: against a transport that follows a script."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from decimal import Decimal

import httpx
import pytest

from meterline import Ask, AsyncMeter, EventDraft, InvalidEvent, Meter, MeterRefused, MeterUnavailable, ReservationDenied
from meterline.calls import Calls, Pause, Reply, Rules, Send

CHECK = json.dumps({"allowed": True, "reason": "within_plan", "used": 1, "new": "field"}).encode()
PROBLEM = json.dumps({"code": "log_unavailable", "detail": "Try again.", "requestId": "r-1"}).encode()
OK = Reply(200, CHECK, None)


class Clock:
    """Moves when the call pauses."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def driven(answers: list[Reply | str], rules: Rules, clock: Clock) -> tuple[object, list[Send | Pause]]:
    """What a check comes to when the answers come in this order, and the steps that it took."""
    call = Calls(rules, clock, jitter=lambda: 1.0).check(Ask("t", "U", "2.5"))
    steps: list[Send | Pause] = []
    answer: Reply | str | None = None
    while True:
        try:
            step = next(call) if answer is None else call.send(answer)
        except StopIteration as done:
            return done.value, steps
        except (MeterRefused, MeterUnavailable) as error:
            return error, steps
        steps.append(step)
        if isinstance(step, Pause):
            clock.now += step.seconds
            answer = ""
        else:
            answer = answers.pop(0)


def rules(timeout_s: float = 5.0, attempts_max: int = 4, on_unavailable: str = "raise") -> Rules:
    return Rules(timeout_s, attempts_max, on_unavailable)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "passing", ["no connection", Reply(503, PROBLEM, None), Reply(429, b"", None), Reply(502, b"<html>", None)]
)
def test_what_may_pass_is_tried_again(passing: Reply | str) -> None:
    result, steps = driven([passing, passing, OK], rules(), Clock())
    assert getattr(result, "allowed", None) is True
    assert [type(step) for step in steps] == [Send, Pause, Send, Pause, Send]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422, 500])
def test_what_will_not_pass_is_told_at_once(status: int) -> None:
    result, steps = driven([Reply(status, PROBLEM, None)], rules(), Clock())
    assert isinstance(result, MeterRefused)
    assert (result.status, result.code, result.request_id) == (status, "log_unavailable", "r-1")
    assert len(steps) == 1


def test_pauses_grow_and_end_with_the_attempts() -> None:
    result, steps = driven(["cut"] * 4, rules(), Clock())
    assert isinstance(result, MeterUnavailable)
    assert "cut" in str(result)
    assert [step.seconds for step in steps if isinstance(step, Pause)] == [0.05, 0.1, 0.2]


def test_the_servers_own_retry_after_is_kept_to() -> None:
    _, steps = driven([Reply(429, PROBLEM, "2"), OK], rules(), Clock())
    assert [step.seconds for step in steps if isinstance(step, Pause)] == [2.05]


def test_no_attempt_begins_after_the_time_is_up() -> None:
    result, steps = driven([Reply(429, PROBLEM, "7")], rules(timeout_s=5), Clock())
    assert isinstance(result, MeterUnavailable)
    assert [type(step) for step in steps] == [Send]


def test_each_attempt_gets_the_time_that_is_left() -> None:
    _, steps = driven([Reply(503, PROBLEM, "2"), OK], rules(timeout_s=5), Clock())
    assert [step.within_s for step in steps if isinstance(step, Send)] == [5, pytest.approx(2.95)]


@pytest.mark.parametrize(("chosen", "allowed"), [("allow", True), ("deny", False)])
def test_a_check_without_an_answer_is_what_the_caller_chose(chosen: str, allowed: bool) -> None:
    result, _ = driven(["cut"] * 4, rules(on_unavailable=chosen), Clock())
    assert (getattr(result, "allowed", None), getattr(result, "reason", None)) == (allowed, "client_unavailable")


def test_a_page_of_something_else_is_not_taken_for_an_answer() -> None:
    result, _ = driven([Reply(200, b"<html>welcome</html>", None)], rules(), Clock())
    assert isinstance(result, MeterUnavailable)
    assert "is the address right?" in str(result)


def with_answers(answer: Callable[[httpx.Request], httpx.Response]) -> Meter:
    return Meter("http://endpoint", secret="s3", transport=httpx.MockTransport(answer))


def test_a_float_is_refused_before_anything_is_sent() -> None:
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, content=CHECK)

    meter = with_answers(answer)
    with pytest.raises(InvalidEvent, match="a float is not exact"):
        meter.check("t", "U", 0.1)  # type: ignore[arg-type]
    with pytest.raises(InvalidEvent, match="a float is not exact"):
        meter.record(EventDraft("t", "s", "e", "U", 0.1))  # type: ignore[arg-type]
    assert sent == []


def test_quantities_are_exact_both_ways() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert json.loads(request.content)["quantity"] == "999999999999.999999"
        return httpx.Response(200, content=b'{"allowed":true,"reason":"within_plan","used":320444.711651}')

    found = with_answers(answer).check("t", "U", Decimal("999999999999.999999"))
    assert found.used == Decimal("320444.711651")


def test_the_principal_travels_in_its_own_header() -> None:
    seen: list[httpx.Headers] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers)
        return httpx.Response(200, content=CHECK)

    transport = httpx.MockTransport(answer)
    Meter("http://endpoint", secret="s3", transport=transport).check("t", "U")
    Meter("http://endpoint", api_key="sk_1", transport=transport).check("t", "U")
    Meter("http://endpoint", token="ey", transport=transport).check("t", "U")
    assert [(one.get("x-service-secret"), one.get("authorization")) for one in seen] == [
        ("s3", None),
        (None, "Bearer sk_1"),
        (None, "Bearer ey"),
    ]
    with pytest.raises(ValueError, match="one principal"):
        Meter("http://endpoint", secret="s3", token="ey")


def test_every_attempt_of_a_reservation_has_the_same_idempotency_key_and_another_one_has_another() -> None:
    keys: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["idempotency-key"])
        if len(keys) == 1:
            return httpx.Response(503, content=PROBLEM, headers={"Retry-After": "0"})
        return httpx.Response(201, content=b'{"reservationId":"r","expiresAt":"2026-11-21T10:00:00Z","remaining":4.5}')

    meter = with_answers(answer)
    for entity in ("a", "b"):
        meter.reserve("t", "U", 1, source_service="s", source_entity_id=entity)
    assert keys[0] == keys[1] != keys[2]


def test_a_block_that_fails_releases_and_its_own_error_goes_on_even_when_releasing_fails() -> None:
    paths: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        paths.append(request.url.path)
        if request.url.path.endswith("/release"):
            return httpx.Response(404, content=PROBLEM)
        return httpx.Response(201, content=b'{"reservationId":"r/1","expiresAt":"2026-11-21T10:00:00Z","remaining":null}')

    with (
        pytest.raises(RuntimeError, match="the work failed"),
        with_answers(answer).reserve("t", "U", source_service="s", source_entity_id="e"),
    ):
        raise RuntimeError("the work failed")
    assert paths[-1].endswith("/release")


def test_a_denied_reservation_says_why() -> None:
    denial = json.dumps({"code": "limit_exceeded", "detail": "2 left.", "requestId": "r-2"}).encode()
    with pytest.raises(ReservationDenied) as denied:
        with_answers(lambda _: httpx.Response(409, content=denial)).reserve("t", "U", source_service="s", source_entity_id="e")
    assert denied.value.code == "limit_exceeded"


def test_many_checks_go_by_the_hundred_and_come_back_in_their_order() -> None:
    sizes: list[int] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked = json.loads(request.content)["checks"]
        sizes.append(len(asked))
        results = [{"allowed": True, "reason": one["usageType"]} for one in asked]
        return httpx.Response(200, content=json.dumps({"results": results}).encode())

    found = with_answers(answer).check_many([Ask("t", f"U{number}") for number in range(250)])
    assert [one.reason for one in found] == [f"U{number}" for number in range(250)]
    assert sizes == [100, 100, 50]


def test_a_slow_answer_is_given_up_by_the_asynchronous_client() -> None:
    async def hang(request: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError("the wait has no end")

    async def main() -> None:
        async with AsyncMeter("http://endpoint", timeout_s=0.2, transport=httpx.MockTransport(hang)) as meter:
            await meter.check("t", "U")

    with pytest.raises(MeterUnavailable, match="no answer within"):
        asyncio.run(main())


def test_an_endpoint_that_closes_as_it_is_connected_to_has_not_answered_the_asynchronous_client() -> None:
    async def gone(request: httpx.Request) -> httpx.Response:
        raise AttributeError("'NoneType' object has no attribute 'getpeername'")  # as httpx does then, under uvloop

    async def main() -> None:
        async with AsyncMeter("http://endpoint", timeout_s=0.5, attempts_max=2, transport=httpx.MockTransport(gone)) as meter:
            await meter.check("t", "U")

    with pytest.raises(MeterUnavailable, match="AttributeError"):
        asyncio.run(main())
