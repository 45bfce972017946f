"""What verifying may cost and how long an answer is believed: lookups, rates."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from access import lookups
from access.lookups import FRESH_S, READ_AGAIN_S, STALE_MAX_S, LookupAway, Lookups
from access.principals import AccessRefused, Principal
from access.rate_limits import BURST_S, RateLimits


class Table:
    """What can be looked up, the statements that did, and a clock."""

    def __init__(self, **rows: str) -> None:
        self.rows = rows
        self.statements: list[list[str]] = []
        self.away = False
        self.time_s = 100.0
        self.lookups = Lookups(self.read, lambda: self.time_s)

    async def read(self, keys: Sequence[str]) -> Mapping[str, str]:
        self.statements.append(sorted(keys))
        await asyncio.sleep(0)
        if self.away:
            raise LookupAway
        return {key: self.rows[key] for key in keys if key in self.rows}


def test_who_asks_at_the_same_time_shares_a_statement() -> None:
    async def run() -> None:
        table = Table(a="1", b="2")
        found = await asyncio.gather(*(table.lookups.get(key) for key in ["a", "b", "a", "c", "a"]))
        assert found == ["1", "2", "1", None, "1"]
        assert sum(len(statement) for statement in table.statements) == 3

    asyncio.run(run())


def test_what_was_found_is_believed_for_its_time_and_what_was_not_for_less() -> None:
    async def run() -> None:
        table = Table(a="1")
        assert [await table.lookups.get(key) for key in "ab"] == ["1", None]
        table.rows = {"b": "2"}
        table.time_s += READ_AGAIN_S
        assert [await table.lookups.get(key) for key in "ab"] == ["1", None]
        table.time_s += 0.1
        assert [await table.lookups.get(key) for key in "ab"] == ["1", "2"]
        table.time_s += FRESH_S
        assert await table.lookups.get("a") is None

    asyncio.run(run())


def test_while_the_store_is_away_what_is_known_serves_for_a_bounded_time_and_nothing_else_does() -> None:
    async def run() -> None:
        table = Table(a="1")
        await table.lookups.get("a")
        table.away = True
        table.time_s += STALE_MAX_S
        assert await table.lookups.get("a") == "1"
        for key in ("b", "a"):
            with pytest.raises(AccessRefused) as refused:
                await table.lookups.get(key)
            assert (refused.value.status, refused.value.code) == (503, "store_unavailable")
            table.time_s += 0.1
        table.away = False
        assert await table.lookups.get("a") == "1"

    asyncio.run(run())


def test_guesses_push_out_guesses_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookups, "KEPT_MAX", 3)

    async def run() -> None:
        table = Table(a="1")
        await table.lookups.get("a")
        for guess in range(10):
            await table.lookups.get(f"guess-{guess}")
        asked = len(table.statements)
        await table.lookups.get("a")
        assert len(table.statements) == asked
        assert len(table.lookups._missing) == 3

    asyncio.run(run())


def test_a_caller_that_goes_away_leaves_the_others_their_answer() -> None:
    async def run() -> None:
        table = Table(a="1")
        first = asyncio.create_task(table.lookups.get("a"))
        second = asyncio.create_task(table.lookups.get("a"))
        await asyncio.sleep(0)
        first.cancel()
        assert await second == "1"

    asyncio.run(run())


def user(name: str) -> Principal:
    return Principal("user", name, "t", role="user", user_id=name)


def test_a_principal_has_a_burst_and_then_its_rate() -> None:
    time_s = [0.0]
    limits = RateLimits({"user": 10}, lambda: time_s[0])
    for _ in range(int(10 * BURST_S)):
        limits.admit(user("a"))
    with pytest.raises(AccessRefused) as refused:
        limits.admit(user("a"))
    assert (refused.value.status, refused.value.code, refused.value.retry_after_s) == (429, "too_many_requests", 1)
    limits.admit(user("b"))
    time_s[0] += 0.1
    limits.admit(user("a"))
    with pytest.raises(AccessRefused):
        limits.admit(user("a"))


def test_a_rate_below_one_a_second_says_when_to_come_back() -> None:
    limits = RateLimits({"user": 0.1}, lambda: 0.0)
    limits.admit(user("a"))
    with pytest.raises(AccessRefused) as refused:
        limits.admit(user("a"))
    assert refused.value.retry_after_s == 10


def test_a_kind_without_a_rate_is_not_limited() -> None:
    limits = RateLimits({"user": 0.5, "service": 0}, lambda: 0.0)
    for _ in range(100):
        limits.admit(Principal("service", "photos"))
    limits.admit(user("a"))
    with pytest.raises(AccessRefused):  # the one with a rate is limited beside it
        limits.admit(user("a"))


def test_a_principal_of_one_kind_takes_nothing_from_its_namesake_of_another() -> None:
    limits = RateLimits({"user": 0.5, "key": 0.5}, lambda: 0.0)
    limits.admit(user("a"))
    limits.admit(Principal("key", "a", "t", role="key"))
    with pytest.raises(AccessRefused):
        limits.admit(user("a"))
