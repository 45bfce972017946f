"""Streaming sessions over HTTP: initialize and finalize pairs, on one account and on 10,000, against two plain requests."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any, Final

import httpx

from meterline_schemas.types import Micros
from runtime.postgres import connect
from runtime.settings import Settings
from store import credits
from store.credits import By, Owner
from store.steps import run
from tests.bench.figures import Figure, at_most, reported
from tests.bench.place import Place
from tests.fakes.credit_customers import ENDPOINT, MODEL, TENANT, with_catalog
from tests.fakes.tokens import user_token
from tests.integration.serving import serving

MANY: Final = 10_000
CLIENTS: Final = 8
SLICE_S: Final = 6.0
WARM_UP_S: Final = 1.0
P99_LIMIT_MS: Final = 250
"""Of a pair: two requests, two commits."""
TOKEN_LIVES_S: Final = 86_400
GRANTED: Final = 10**15


def measure(place: Place) -> Generator[Sequence[Figure], None, None]:
    with place.corner() as made:
        settings = with_catalog(made)
        place.say(f"{MANY:,} accounts with credits")
        owners = _fill(settings)
        with serving(settings, secret=None, role="control-plane") as running:
            numbers = count()
            while True:
                place.say("plain requests, then pairs on one account, then pairs on all, in turns")
                plain = _pairs(running.port, owners, numbers, plain=True)
                one = _pairs(running.port, owners[:1], numbers)
                many = _pairs(running.port, owners, numbers)
                yield [
                    reported("sessions.plain", plain.rate, "pairs/s", plain.rate, "two lists of one's own sessions, itself"),
                    reported("sessions.one_account", one.rate, "pairs/s", plain.rate, "two lists of one's own sessions"),
                    reported("sessions.accounts_10000", many.rate, "pairs/s", plain.rate, "two lists of one's own sessions"),
                    at_most("sessions.one_account.p99", one.p99_ms, "ms", P99_LIMIT_MS, f"{P99_LIMIT_MS} ms a pair"),
                    at_most("sessions.accounts_10000.p99", many.p99_ms, "ms", P99_LIMIT_MS, f"{P99_LIMIT_MS} ms a pair"),
                ]


class Taken:
    """Pairs that were answered after the warm-up."""

    def __init__(self, took: list[float], seconds: float) -> None:
        self.rate = len(took) / seconds
        self.p99_ms = sorted(took)[len(took) * 99 // 100] * 1e3


def _fill(settings: Settings) -> list[Owner]:
    owners = [Owner(TENANT, f"bench_{number}") for number in range(MANY)]
    with connect(settings) as connection:
        connection.execute(
            "INSERT INTO users (user_id, tenant_id, role) SELECT 'bench_' || n, %s, 'user' FROM generate_series(0, %s - 1) n",
            (TENANT, MANY),
        )
        for owner in owners:
            run(connection, credits.grant(owner, Micros(GRANTED), by=By("bench"), key="granted"))
    with connect(settings, autocommit=True) as connection:
        connection.execute("ANALYZE")
    return owners


def _pairs(port: int, owners: Sequence[Owner], numbers: count[int], *, plain: bool = False) -> Taken:
    """Closed: each client goes on when it was answered."""
    over, counting = threading.Event(), threading.Event()
    took: list[float] = []
    tokens: dict[str, str] = {}

    def client(_: int) -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20.0) as http:
            while not over.is_set():
                number = next(numbers)
                owner = owners[number % len(owners)]
                token = tokens.get(owner.user_id)
                if token is None:
                    said: dict[str, Any] = {"tenantId": owner.tenant_id, "email": None, "username": None}
                    token = tokens[owner.user_id] = user_token(owner.user_id, expires_s=TOKEN_LIVES_S, **said)
                headers = {"Authorization": f"Bearer {token}"}
                began = time.perf_counter()
                if plain:
                    for _again in range(2):
                        http.get(f"{ENDPOINT}/active", headers=headers).raise_for_status()
                else:
                    body = {"sessionId": f"s{number}", "modelId": MODEL, "estimatedTokens": 1_000}
                    http.post(f"{ENDPOINT}/initialize", json=body, headers=headers).raise_for_status()
                    ended = {"sessionId": f"s{number}", "actualTokens": 700}
                    http.post(f"{ENDPOINT}/finalize", json=ended, headers=headers).raise_for_status()
                if counting.is_set():
                    took.append(time.perf_counter() - began)

    with ThreadPoolExecutor(CLIENTS) as threads:
        work = [threads.submit(client, number) for number in range(CLIENTS)]
        time.sleep(WARM_UP_S)
        counting.set()
        began = time.perf_counter()
        time.sleep(SLICE_S)
        counting.clear()
        seconds = time.perf_counter() - began
        over.set()
        for done in work:
            done.result()
    return Taken(took, seconds)
