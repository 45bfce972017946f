"""The parts of the endpoint that decide without a server: sharing statements, names, waits, bodies, errors."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

import msgspec
import pytest
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from access.principals import Principal
from entitlements import bodies
from entitlements.bodies import asked_quantity, parse, parse_items, read_body, readable
from entitlements.counted import Fences, timeout_of
from entitlements.edge import refuses
from entitlements.freshness import NEWEST, Freshness
from entitlements.log_epochs import LogEpochs
from entitlements.models import CheckBatchRequest, CheckRequest, Position, number
from entitlements.names import KNOWN_FOR_S, KnownNames
from entitlements.problems import Problem
from entitlements.standings import HALVED_FROM, TOGETHER_MAX, Ask, Standings, Windows
from entitlements.store import Store, StoreAway
from entitlements.usage import Recorder
from entitlements.waiting import Waiting
from runtime.http_edge import Edge
from runtime.settings import Settings
from tests.fakes.usage_sink import MemorySink

START = datetime(2026, 11, 1, tzinfo=UTC)


def _texts(array: str) -> list[str]:
    """The texts of an array that holds nothing that had to be escaped."""
    return [text.strip('"') for text in array.strip("{}").split(",")]


class FakeStore(Store):
    """Answers from memory; counts what it is asked."""

    def __init__(self) -> None:
        super().__init__(Settings())
        self.asked: list[tuple[str, Mapping[str, Any]]] = []
        self.away = False
        self.tenants = {"tnt_1"}
        self.types = {"DEEP"}
        self.fences = {(1, 0): 0}
        self.samples: list[tuple[int, datetime, datetime, bool]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def rows(self, name: str, sql: bytes, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        self.asked.append((name, parameters))
        try:
            async with asyncio.timeout(self.timeout_s):
                await self.gate.wait()
        except TimeoutError:
            raise StoreAway("late") from None
        if self.away:
            raise StoreAway("away")
        match name:
            case "standings":
                # The limit tells whose row it is, so that a test sees who got which answer.
                limits = [tenant.removeprefix("tnt_") + "000000" for tenant in _texts(parameters["tenants"])]
                return [(True, True, "active", None, None, True, limit, True, "0", None, "0", *[None] * 7) for limit in limits]
            case "names":
                known = [(True, tenant) for tenant in parameters["tenants"] if tenant in self.tenants]
                return known + [(False, usage_type) for usage_type in parameters["types"] if usage_type in self.types]
            case "fences":
                return [(*key, at) for key, at in self.fences.items()]
            case "samples":
                begun = [sample for sample in self.samples if sample[1] <= parameters["until"]]
                return sorted(begun, key=lambda sample: sample[1], reverse=True)[: parameters["count"]]
            case "oldest_sample":
                return [(min(sample[1] for sample in self.samples),)] if self.samples else []
            case _:
                raise AssertionError(name)

    def count(self, name: str) -> int:
        return sum(asked == name for asked, _ in self.asked)


def test_checks_that_wait_together_share_statements_and_each_gets_its_own_answer() -> None:
    async def run() -> None:
        store = FakeStore()
        standings = Standings(store)
        alone = await standings.one(Ask("tnt_5", "DEEP"))
        assert alone.standing.limit is not None
        assert store.count("standings") == 1
        store.gate.clear()
        waiting = [asyncio.create_task(standings.one(Ask(f"tnt_{n}", "DEEP"))) for n in range(200)]
        await asyncio.sleep(0)
        store.gate.set()
        found = await asyncio.gather(*waiting)
        limits = [answer.standing.limit.quantity for answer in found if answer.standing.limit is not None]
        assert limits == [n * 1_000_000 for n in range(200)]
        statements = [len(_texts(parameters["tenants"])) for name, parameters in store.asked if name == "standings"][1:]
        assert sum(statements) == 200
        assert max(statements) <= TOGETHER_MAX
        # While one half is looked up, the other is answered; the last few go together.
        left = 200
        for taken in statements:
            assert taken == min(TOGETHER_MAX, left if left < HALVED_FROM else (left + 1) // 2)
            left -= taken

    asyncio.run(run())


def test_a_statement_that_fails_fails_those_who_waited_for_it_and_no_later_one() -> None:
    async def run() -> None:
        store = FakeStore()
        standings = Standings(store)
        store.away = True
        answers = await asyncio.gather(*(standings.one(Ask("tnt_1", "DEEP")) for _ in range(70)), return_exceptions=True)
        assert {type(answer) for answer in answers} == {StoreAway}
        store.away = False
        assert (await standings.one(Ask("tnt_3", "DEEP"))).standing.tenant_known

    asyncio.run(run())


def test_a_check_that_arrives_just_as_the_last_statement_ends_is_answered() -> None:
    async def run() -> None:
        standings = Standings(FakeStore())
        for steps in range(12):
            first = asyncio.create_task(standings.one(Ask("tnt_1", "DEEP")))
            # The second arrives after each number of steps of the event loop, one of which is the worker's last.
            for _ in range(steps):
                await asyncio.sleep(0)
            async with asyncio.timeout(5):
                second = await standings.one(Ask("tnt_2", "DEEP"))
                assert [(await first).standing.tenant_known, second.standing.tenant_known] == [True, True]

    asyncio.run(run())


def test_who_goes_away_while_waiting_disturbs_nobody() -> None:
    async def run() -> None:
        store = FakeStore()
        standings = Standings(store)
        store.gate.clear()
        leaving = asyncio.create_task(standings.one(Ask("tnt_1", "DEEP")))
        staying = asyncio.create_task(standings.one(Ask("tnt_2", "DEEP")))
        await asyncio.sleep(0)
        leaving.cancel()
        store.gate.set()
        assert (await staying).standing.tenant_known

    asyncio.run(run())


def test_no_check_waits_longer_than_the_time_limit_behind_a_store_that_hangs() -> None:
    async def run() -> None:
        store = FakeStore()
        store.timeout_s = 0.05
        standings = Standings(store)
        store.gate.clear()
        answers = await asyncio.gather(*(standings.one(Ask("tnt_1", "DEEP")) for _ in range(300)), return_exceptions=True)
        assert {type(answer) for answer in answers} == {StoreAway}
        store.gate.set()
        assert (await standings.one(Ask("tnt_1", "DEEP"))).standing.tenant_known

    asyncio.run(run())


def test_the_running_periods_follow_the_clock() -> None:
    async def run() -> None:
        store = FakeStore()
        clock = [datetime(2026, 11, 30, 23, 59, 59, 999999, tzinfo=UTC)]
        standings = Standings(store, lambda: clock[0])
        await standings.many([Ask("tnt_1", "DEEP")])
        clock[0] += timedelta(microseconds=1)
        await standings.many([Ask("tnt_1", "DEEP")])
        starts = [parameters["month_start"] for _, parameters in store.asked]
        assert starts == [date(2026, 11, 1), date(2026, 12, 1)]

    asyncio.run(run())


def test_there_is_a_window_for_each_anchor_day() -> None:
    windows = Windows.of(date(2026, 2, 28)).parameters
    starts, ends = ([date.fromisoformat(day) for day in _texts(windows[name])] for name in ("billing_starts", "billing_ends"))
    assert len(starts) == len(ends) == 31
    assert all(start <= date(2026, 2, 28) < end for start, end in zip(starts, ends, strict=True))
    assert starts[30] == date(2026, 2, 28)


def test_known_names_cost_no_statement_and_unknown_ones_are_never_remembered() -> None:
    async def run() -> None:
        store = FakeStore()
        now_s = [0.0]
        names = KnownNames(store, lambda: now_s[0])
        assert await names.unknown(["tnt_1"], ["DEEP"]) == (set(), set())
        assert await names.unknown(["tnt_1", "tnt_1"], ["DEEP"]) == (set(), set())
        assert store.count("names") == 1
        assert await names.unknown(["tnt_1", "tnt_2"], ["SOFT"]) == ({"tnt_2"}, {"SOFT"})
        store.tenants.add("tnt_2")
        assert await names.unknown(["tnt_2"], ["DEEP"]) == (set(), set())
        store.tenants.clear()
        now_s[0] += KNOWN_FOR_S + 1
        assert await names.unknown(["tnt_1"], ["DEEP"]) == ({"tnt_1"}, set())

    asyncio.run(run())


def test_while_the_store_is_away_names_that_passed_before_go_on() -> None:
    async def run() -> None:
        store = FakeStore()
        now_s = [0.0]
        names = KnownNames(store, lambda: now_s[0])
        await names.unknown(["tnt_1"], ["DEEP"])
        store.away = True
        now_s[0] += 10 * KNOWN_FOR_S
        assert await names.unknown(["tnt_1"], ["DEEP"]) == (set(), set())
        with pytest.raises(StoreAway):
            await names.unknown(["tnt_2"], ["DEEP"])

    asyncio.run(run())


def test_as_of_stands_while_the_store_is_away_and_never_goes_back() -> None:
    async def run() -> None:
        store = FakeStore()
        freshness = Freshness(store)
        second = timedelta(seconds=1)
        store.samples = [(1, START + n * second, START + n * second + second / 2, n < 50) for n in range(100)]
        assert await freshness.refresh()
        assert freshness.as_of == "2026-11-01T00:00:49.500Z"
        store.away = True
        with pytest.raises(StoreAway):
            await freshness.refresh()
        assert freshness.as_of == "2026-11-01T00:00:49.500Z"

    asyncio.run(run())


@pytest.mark.parametrize("reached", [0, 1, 2, 50, 100 - NEWEST - 1, 100 - NEWEST, 99, 100])
def test_as_of_finds_the_border_between_reached_and_not(reached: int) -> None:
    async def run() -> None:
        store = FakeStore()
        freshness = Freshness(store)
        second = timedelta(seconds=1)
        store.samples = [(1, START + n * second, START + n * second, n < reached) for n in range(100)]
        await freshness.refresh()
        border = (START + (reached - 1) * second).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        assert freshness.as_of == (border if reached else None)

    asyncio.run(run())


def test_waiting_ends_with_the_fence_or_with_the_time() -> None:
    async def run() -> None:
        store = FakeStore()
        fences = Fences(store)
        positions = [Position(1, 0, 4), Position(1, 0, 5)]
        store.fences[(1, 0)] = 5
        assert await fences.counted(positions, 0.05) == [True, False]
        waiting = asyncio.create_task(fences.counted(positions, 5))
        await asyncio.sleep(0.03)
        assert not waiting.done()
        store.fences[(1, 0)] = 6
        assert await asyncio.wait_for(waiting, 1) == [True, True]
        reads = store.count("fences")
        await asyncio.sleep(0.1)
        # Nobody waits any more, so nobody reads: one more may have been under way.
        assert store.count("fences") <= reads + 1

    asyncio.run(run())


@pytest.mark.parametrize(("text", "seconds"), [(None, 2.0), ("2s", 2.0), ("500ms", 0.5), ("0", 0.0), ("10", 10.0)])
def test_a_timeout_is_read(text: str | None, seconds: float) -> None:
    assert timeout_of(text) == seconds


@pytest.mark.parametrize("text", ["", "2m", "-1", "1.5s", "10001ms", "\u0662s", "9" * 40])
def test_a_timeout_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(Problem) as refused:
        timeout_of(text)
    assert refused.value.code == "bad_timeout"


def request_of(chunks: list[bytes], *, stall: bool = False, headers: list[tuple[bytes, bytes]] | None = None) -> Request:
    left = list(chunks)

    async def receive() -> Message:
        if not left and stall:
            await asyncio.Event().wait()
        body = left.pop(0) if left else b""
        return {"type": "http.request", "body": body, "more_body": bool(left) or stall}

    return Request({"type": "http", "method": "POST", "path": "/", "headers": headers or []}, receive)


def test_a_body_is_read_whole_and_cut_at_the_limit() -> None:
    assert asyncio.run(read_body(request_of([b"ab", b"", b"c"]), 3)) == b"abc"
    with pytest.raises(Problem) as refused:
        asyncio.run(read_body(request_of([b"ab", b"cd"], stall=True), 3))
    assert refused.value.status == 413


def test_a_body_that_does_not_arrive_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "READ_WITHIN_S", 0.05)
    with pytest.raises(Problem) as refused:
        asyncio.run(read_body(request_of([b"{"], stall=True), 100))
    assert refused.value.status == 408


@pytest.mark.parametrize(
    ("text", "micros"), [(b"0.1", 100_000), (b'"0.1"', 100_000), (b"0", 0), (b"999999999999.999999", 10**18 - 1)]
)
def test_a_checks_quantity_is_exact(text: bytes, micros: int) -> None:
    decoder = msgspec.json.Decoder(CheckRequest)
    request = parse(decoder, readable(b'{"tenantId":"a","usageType":"b","quantity":%s}' % text))
    assert asked_quantity(request.quantity) == micros
    assert bytes(number(micros)) == text.strip(b'"')


def test_a_batch_is_an_object_or_the_bare_array() -> None:
    decoder = msgspec.json.Decoder(CheckBatchRequest)
    assert parse_items(decoder, "checks", 2, b'{"checks":[1, {} ]}') == [b"1", b"{}"]
    assert parse_items(decoder, "checks", 2, b" [1,{}]") == [b"1", b"{}"]


def test_a_defect_is_answered_with_an_id_and_without_its_cause(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise KeyError("the secret cause")

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError("nobody reads")

    scope: Scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"x-request-id", b"r-1")], "state": {}}
    asyncio.run(Edge(broken, refuses)(scope, receive, send))
    said = msgspec.json.decode(sent[1]["body"])
    assert (sent[0]["status"], said["code"], said["requestId"]) == (500, "internal", "r-1")
    assert b"secret" not in sent[1]["body"]
    assert "the secret cause" in caplog.text


def test_a_sink_that_is_away_is_503_and_one_that_spools_says_so() -> None:
    async def run() -> None:
        store = FakeStore()
        sink = MemorySink()
        recorder = Recorder(sink, KnownNames(store), Waiting(Fences(store), LogEpochs(store), sink))
        anybody = Principal("service", "test", source_services=frozenset({"*"}))
        body = b'{"tenantId":"tnt_1","usageType":"DEEP","quantity":1,"sourceService":"s","sourceEntityId":"e"}'
        sink.away = True
        with pytest.raises(Problem) as refused:
            await recorder.one([], body, anybody, "", None)
        assert (refused.value.status, refused.value.headers["Retry-After"]) == (503, "1")
        assert sink.taken == []
        sink.away, sink.spooling = False, True
        answer = await recorder.one([], body, anybody, "", 1.0)
        assert (answer.state, answer.position, answer.counted) == ("spooled", msgspec.UNSET, False)
        # Nothing to wait for: no fence was read.
        assert store.count("fences") == 0

    asyncio.run(run())


def test_another_tenants_usage_is_answered_as_not_found_before_it_is_looked_up() -> None:
    async def run() -> None:
        store = FakeStore()
        sink = MemorySink()
        recorder = Recorder(sink, KnownNames(store), Waiting(Fences(store), LogEpochs(store), sink))
        bound = Principal("service", "bound", tenant_id="tnt_9", source_services=frozenset({"*"}))
        item = b'{"tenantId":"tnt_1","usageType":"DEEP","quantity":1,"sourceService":"s","sourceEntityId":"e"}'
        answer = await recorder.batch([], b"[" + item + b"]", bound, "", None)
        assert [(result.state, result.status, result.code) for result in answer.results] == [("refused", 404, "not_found")]
        assert sink.taken == []
        assert store.asked == []

    asyncio.run(run())
