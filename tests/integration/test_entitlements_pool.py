"""How many connections one process holds, and what becomes of a request that finds none free."""

from __future__ import annotations

import asyncio

import pytest

from entitlements.store import Store, StoreAway
from runtime.settings import Settings

BUSY = b"SELECT pg_backend_pid(), pg_sleep(%(for_s)s)"


def test_a_process_holds_no_more_connections_than_it_may_and_the_others_wait_their_turn(settings: Settings) -> None:
    async def run() -> None:
        store = Store(settings.model_copy(update={"postgres_pool_max": 2, "postgres_timeout_s": 30.0}))
        await store.open()
        found = await asyncio.gather(*(store.rows("busy", BUSY, {"for_s": 0.05}) for _ in range(8)))
        assert 1 <= len({pid for rows in found for pid, _ in rows}) <= 2
        await store.close(5.0)

    asyncio.run(run())


def test_who_finds_no_free_connection_in_time_is_told_so_and_decided_nothing(settings: Settings) -> None:
    async def run() -> None:
        store = Store(settings.model_copy(update={"postgres_pool_max": 1, "postgres_timeout_s": 5.0}))
        await store.open()
        await store.rows("first", b"SELECT 1", {})
        async with store.pool.connection():
            store.timeout_s = 0.1
            with pytest.raises(StoreAway, match="nothing was decided"):
                await store.rows("waits", b"SELECT 1", {})
        await store.close(5.0)

    asyncio.run(run())
