"""Users' accounts from their tokens: found or made when one is first seen, on the real Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import psycopg
import pytest

from access.gates import gate_of
from access.principals import AccessRefused, Principal
from runtime.postgres import async_pool
from runtime.settings import Settings
from tests.fakes.tokens import USER_SECRET, user_token
from tests.integration.serving import execute

USERS = "SELECT user_id, tenant_id, username, email, role FROM users ORDER BY user_id"


@pytest.fixture(scope="module")
def configured(migrated: Settings) -> Settings:
    execute(migrated, [("INSERT INTO tenants (tenant_id) VALUES ('tnt_1'), ('tnt_2')", ())])
    return Settings.model_validate(dict(migrated) | {"jwt_access_secret": USER_SECRET})


@pytest.fixture(autouse=True)
def _nobody_seen_before(configured: Settings) -> None:
    execute(configured, [("DELETE FROM users", ())])


def users(settings: Settings) -> list[tuple[object, ...]]:
    with psycopg.connect(settings.postgres_url.get_secret_value()) as connection:
        return connection.execute(USERS).fetchall()


class Servers:
    """Gates of several servers, in one event loop."""

    def __init__(self, settings: Settings, count: int) -> None:
        self._pools = [async_pool(settings) for _ in range(count)]
        self._gates = [gate_of(settings, pool, makes_accounts=True) for pool in self._pools]

    @asynccontextmanager
    async def up(self) -> AsyncIterator[Servers]:
        for pool in self._pools:
            await pool.open()
        try:
            yield self
        finally:
            for pool in self._pools:
                await pool.close()

    async def see(self, token: str, server: int = 0) -> Principal:
        return await self._gates[server].principal([(b"authorization", f"Bearer {token}".encode())])


def seen(settings: Settings, tokens: Sequence[str], servers: int = 1) -> list[Principal]:
    """Shown one after the other, to the servers in turns."""

    async def show() -> list[Principal]:
        async with Servers(settings, servers).up() as up:
            return [await up.see(token, number % servers) for number, token in enumerate(tokens)]

    return asyncio.run(show())


def refusal(settings: Settings, token: str) -> tuple[int, str]:
    with pytest.raises(AccessRefused) as refused:
        seen(settings, [token])
    return refused.value.status, refused.value.code


def test_a_user_who_is_seen_has_an_account_as_the_token_says(configured: Settings) -> None:
    (principal,) = seen(configured, [user_token("u1", tenantId="tnt_1", role="supervisor")])
    assert (principal.user_id, principal.tenant_id, principal.role) == ("u1", "tnt_1", "supervisor")
    assert users(configured) == [("u1", "tnt_1", "ada", "ada@example.com", "supervisor")]


def test_many_first_requests_at_once_make_one_account(configured: Settings) -> None:
    async def show() -> list[Principal]:
        async with Servers(configured, 4).up() as up:
            tokens = [user_token("u1", tenantId="tnt_1", iat=number) for number in range(40)]
            return await asyncio.gather(*(up.see(token, number % 4) for number, token in enumerate(tokens)))

    assert {principal.tenant_id for principal in asyncio.run(show())} == {"tnt_1"}
    assert users(configured) == [("u1", "tnt_1", "ada", "ada@example.com", "user")]


def test_many_users_seen_crosswise_by_two_servers_keep_nobody_waiting(configured: Settings) -> None:
    async def show() -> None:
        async with Servers(configured, 2).up() as up:
            names = [f"u{number:02}" for number in range(50)]
            tokens = [user_token(name, tenantId="tnt_1", email=f"{name}@example.com") for name in names]
            await asyncio.gather(*(up.see(token, 0) for token in tokens), *(up.see(token, 1) for token in reversed(tokens)))

    asyncio.run(show())
    assert len(users(configured)) == 50


def test_a_role_that_changes_in_the_token_takes_effect_at_once(configured: Settings) -> None:
    tokens = [user_token("u1", tenantId="tnt_1", role=role) for role in ("admin", "user", "supervisor")]
    assert [principal.role for principal in seen(configured, tokens)] == ["admin", "user", "supervisor"]
    assert users(configured)[0][4] == "supervisor"


def test_what_a_token_leaves_out_stays_as_it_stands(configured: Settings) -> None:
    seen(configured, [user_token("u1", tenantId="tnt_1"), user_token("u1", email=None, username=None)])
    assert users(configured) == [("u1", "tnt_1", "ada", "ada@example.com", "user")]
    seen(configured, [user_token("u1", email="new@example.com", username="countess")])
    assert users(configured) == [("u1", "tnt_1", "countess", "new@example.com", "user")]


def test_without_a_tenant_that_there_is_the_account_waits_for_one(configured: Settings) -> None:
    assert refusal(configured, user_token("u1")) == (403, "no_tenant")
    assert refusal(configured, user_token("u1", tenantId="tnt_unknown")) == (403, "no_tenant")
    assert users(configured) == [("u1", None, "ada", "ada@example.com", "user")]
    (principal,) = seen(configured, [user_token("u1", tenantId="tnt_2")])
    assert principal.tenant_id == "tnt_2"
    (principal,) = seen(configured, [user_token("u1")])
    assert principal.tenant_id == "tnt_2"


def test_a_token_cannot_move_an_account_and_its_credits_to_another_tenant(configured: Settings) -> None:
    seen(configured, [user_token("u1", tenantId="tnt_1")])
    assert refusal(configured, user_token("u1", tenantId="tnt_2")) == (403, "another_tenant")
    assert users(configured)[0][1] == "tnt_1"


def test_an_address_means_one_person_of_a_tenant_and_the_first_one_who_has_it(configured: Settings) -> None:
    tokens = [
        user_token("u1", tenantId="tnt_1"),
        user_token("u2", tenantId="tnt_1", email="ADA@example.com"),
        user_token("u3", tenantId="tnt_2"),
    ]
    seen(configured, tokens)
    assert [row[3] for row in users(configured)] == ["ada@example.com", None, "ada@example.com"]
    # Once the first has given it up, the second one has it.
    seen(configured, [user_token("u1", email="lovelace@example.com"), user_token("u2", email="ADA@example.com")])
    assert [row[3] for row in users(configured)][:2] == ["lovelace@example.com", "ADA@example.com"]


def test_two_who_take_one_address_at_the_same_time_are_both_let_in_and_one_has_it(configured: Settings) -> None:
    async def show() -> None:
        async with Servers(configured, 4).up() as up:
            await asyncio.gather(*(up.see(user_token(f"u{number}", tenantId="tnt_1"), number % 4) for number in range(12)))

    asyncio.run(show())
    addresses = [row[3] for row in users(configured)]
    assert (len(addresses), addresses.count("ada@example.com"), addresses.count(None)) == (12, 1, 11)
