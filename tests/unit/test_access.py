"""Who may come in, whose events it may send, and how fresh that knowledge is."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from access.principals import AccessRefused, Principal, may_emit_for, require_source, require_tenant, sees_tenant
from access.service_secrets import FRESH_S, READ_AGAIN_S, STALE_MAX_S, SecretRow, SecretsAway, ServiceSecretVerifier
from access.verifiers import Gate
from store.service_secrets import secret_hash

START = datetime(2026, 11, 21, 10, tzinfo=UTC)


class Table:
    """The table of secrets and both clocks, in the test's hands."""

    def __init__(self, *rows: SecretRow) -> None:
        self.rows = list(rows)
        self.away = False
        self.reads = 0
        self.time_s = 1000.0

    async def read(self) -> Sequence[SecretRow]:
        self.reads += 1
        await asyncio.sleep(0)
        if self.away:
            raise SecretsAway("connection refused")
        return list(self.rows)

    def now(self) -> datetime:
        return START + timedelta(seconds=self.time_s - 1000.0)

    def verifier(self) -> ServiceSecretVerifier:
        return ServiceSecretVerifier(self.read, monotonic=lambda: self.time_s, now=self.now)


def row(
    secret: str, *, name: str = "photos", sources: tuple[str, ...] = ("analysis-worker",), expires_s: float | None = None
) -> SecretRow:
    expires = None if expires_s is None else START + timedelta(seconds=expires_s)
    return SecretRow(name, secret_hash(secret), frozenset(sources), expires)


def headers(secret: str) -> list[tuple[bytes, bytes]]:
    return [(b"host", b"x"), (b"x-service-secret", secret.encode())]


async def refusal(verifier: ServiceSecretVerifier | Gate, sent: list[tuple[bytes, bytes]]) -> tuple[int, str]:
    verify = verifier.principal if isinstance(verifier, Gate) else verifier.verify
    with pytest.raises(AccessRefused) as refused:
        await verify(sent)
    return refused.value.status, refused.value.code


def test_a_known_secret_names_its_service_and_sources() -> None:
    async def run() -> None:
        principal = await Table(row("s1")).verifier().verify(headers("s1"))
        assert principal == Principal("service", "photos", source_services=frozenset({"analysis-worker"}))

    asyncio.run(run())


@pytest.mark.parametrize("secret", ["", "s2", "S1", "s1 ", "s" * 513, "s\xe9"])
def test_any_other_secret_is_wrong(secret: str) -> None:
    async def run() -> None:
        assert await refusal(Table(row("s1")).verifier(), headers(secret)) == (401, "wrong_secret")

    asyncio.run(run())


def test_a_secret_sent_twice_is_refused() -> None:
    async def run() -> None:
        assert await refusal(Table(row("s1")).verifier(), headers("s1") * 2) == (401, "bad_credentials")

    asyncio.run(run())


def test_requests_cost_no_reading_while_the_last_one_is_fresh() -> None:
    async def run() -> None:
        table = Table(row("s1"))
        verifier = table.verifier()
        await asyncio.gather(*(verifier.verify(headers("s1")) for _ in range(50)))
        table.time_s += FRESH_S
        await verifier.verify(headers("s1"))
        assert table.reads == 1

    asyncio.run(run())


def test_a_revoked_secret_stops_within_the_stated_time() -> None:
    async def run() -> None:
        table = Table(row("s1"))
        verifier = table.verifier()
        await verifier.verify(headers("s1"))
        table.rows.clear()
        table.time_s += FRESH_S + 0.001
        assert await refusal(verifier, headers("s1")) == (401, "wrong_secret")

    asyncio.run(run())


def test_a_new_secret_is_seen_within_a_second_and_guessing_costs_one_reading_a_second() -> None:
    async def run() -> None:
        table = Table(row("s1"))
        verifier = table.verifier()
        await verifier.verify(headers("s1"))
        table.rows.append(row("s2", name="chat"))
        for _ in range(20):
            assert (await refusal(verifier, headers("guess")))[1] == "wrong_secret"
        assert table.reads == 1
        table.time_s += READ_AGAIN_S + 0.001
        principal = await verifier.verify(headers("s2"))
        assert principal is not None
        assert principal.name == "chat"
        assert table.reads == 2

    asyncio.run(run())


def test_a_secret_ends_at_its_expiry_without_another_reading() -> None:
    async def run() -> None:
        table = Table(row("s1", expires_s=2))
        verifier = table.verifier()
        assert await verifier.configured()
        await verifier.verify(headers("s1"))
        table.time_s += 2
        assert await refusal(verifier, headers("s1")) == (401, "expired_secret")
        assert not await verifier.configured()

    asyncio.run(run())


def test_while_the_store_is_away_the_last_reading_serves_for_a_bounded_time() -> None:
    async def run() -> None:
        table = Table(row("s1"))
        verifier = table.verifier()
        await verifier.verify(headers("s1"))
        table.away = True
        table.time_s += STALE_MAX_S
        assert await verifier.verify(headers("s1")) is not None
        table.time_s += 0.5
        assert await refusal(verifier, headers("s1")) == (503, "store_unavailable")
        table.away = False
        table.time_s += READ_AGAIN_S
        assert await verifier.verify(headers("s1")) is not None

    asyncio.run(run())


def test_a_store_that_was_never_reached_is_asked_once_a_second() -> None:
    async def run() -> None:
        table = Table()
        table.away = True
        verifier = table.verifier()
        for _ in range(10):
            assert await refusal(verifier, headers("s1")) == (503, "store_unavailable")
        assert table.reads == 1

    asyncio.run(run())


def test_no_credentials_are_told_what_to_send() -> None:
    async def run() -> None:
        with pytest.raises(AccessRefused, match="X-Service-Secret") as refused:
            await Gate([Table(row("s1")).verifier()]).principal([])
        assert (refused.value.status, refused.value.code) == (401, "no_credentials")

    asyncio.run(run())


def test_a_development_server_lets_in_who_shows_nothing_but_not_a_wrong_secret() -> None:
    async def run() -> None:
        gate = Gate([Table(row("s1")).verifier()], dev=True)
        anybody = await gate.principal([])
        assert may_emit_for(anybody, "any-service")
        assert await refusal(gate, headers("wrong")) == (401, "wrong_secret")
        assert (await gate.principal(headers("s1"))).name == "photos"

    asyncio.run(run())


def test_no_secret_at_all_means_not_configured() -> None:
    async def run() -> None:
        assert not await Gate([Table().verifier()]).configured()
        assert await Gate([Table(row("s1")).verifier()]).configured()
        assert await Gate([Table().verifier()], dev=True).configured()

    asyncio.run(run())


def test_a_service_emits_for_its_sources_only() -> None:
    photos = Principal("service", "photos", source_services=frozenset({"analysis-worker"}))
    assert may_emit_for(photos, "analysis-worker")
    with pytest.raises(AccessRefused) as refused:
        require_source(photos, "chat-proxy")
    assert (refused.value.status, refused.value.code) == (403, "source_not_allowed")
    require_source(Principal("service", "ops", source_services=frozenset({"*"})), "chat-proxy")
    assert not may_emit_for(Principal("service", "none"), "analysis-worker")


def test_another_tenant_is_answered_as_if_it_were_not_there() -> None:
    bound = Principal("service", "embedded", tenant_id="tnt_1")
    assert sees_tenant(bound, "tnt_1")
    require_tenant(Principal("service", "ours"), "tnt_2")
    with pytest.raises(AccessRefused) as refused:
        require_tenant(bound, "tnt_2")
    assert (refused.value.status, refused.value.code) == (404, "not_found")
