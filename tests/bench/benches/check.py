"""Checks over HTTP, through credentials, limits and logs: against one SQL statement a request, at 1,000 and 100,000 tenants."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

from runtime.postgres import connect
from runtime.settings import Settings
from store.service_secrets import create
from tests.bench import naive_app
from tests.bench.figures import Figure, at_least, at_most, reported
from tests.bench.load import ROOT, Answered, Load, put
from tests.bench.place import Place
from tests.integration.serving import environment, serving

PATH = "/v1/billing/entitlements/check"
MANY, FEW = 100_000, 1_000
TYPES, DAYS = 5, 31
CONNECTIONS = 16
SLICE_S = 3.0
SLICES = 4
"""What is compared is measured in turns, so that a neighbour on the machine slows all of them."""
P99_LIMIT_MS = 10
FLAT = 0.8
"""A hundred times the tenants may cost this much of the rate: caches are colder, nothing else may grow."""

_FILL_WITHIN_S = 1_800


@dataclass(frozen=True)
class Side:
    """One of what is compared."""

    port: int
    path: str
    tenants: int
    headers: dict[str, str]

    def asked(self, seconds: float = SLICE_S, rate: float | None = None) -> Answered:
        item = '{"tenantId":"tnt_%d","usageType":"T3","quantity":1}'
        load = Load(self.port, self.path, item, self.headers, CONNECTIONS, seconds, 0.5, rate, modulo=self.tenants)
        return put(load).only(200)


def measure(place: Place) -> Generator[Sequence[Figure], None, None]:
    with (
        place.corner() as settings,
        place.corner() as fewer,
        product(place, settings, MANY) as many,
        product(place, fewer, FEW) as few,
        peer("tests.bench.naive_app", settings) as naive_port,
        peer("tests.bench.bare_app", settings, PATH) as bare_port,
    ):
        naive, bare = Side(naive_port, naive_app.PATH, MANY, {}), Side(bare_port, PATH, 1, {})
        while True:
            place.say("in turns: the bare framework, one statement a request, checks")
            taken = [[side.asked().rate for side in (bare, naive, many, few)] for _ in range(SLICES)]
            framework, statement, checks, of_few = (median(rates) for rates in zip(*taken, strict=True))
            place.say("paced at half of that rate")
            paced = many.asked(SLICES * SLICE_S, checks / 2)
            yield [
                reported("check.bare", framework, "requests/s", framework, "itself"),
                reported("check.naive", statement, "requests/s", framework, "the bare framework"),
                at_least("check", checks, "checks/s", 1.7, statement, "one SQL statement a request, 100,000 tenants"),
                reported("check.of_bare", checks, "checks/s", framework, "the bare framework"),
                at_most("check.p99", paced.p99_ms, "ms", P99_LIMIT_MS, "10 ms at half of the rate"),
                reported("check.p50", paced.p50_ms, "ms", P99_LIMIT_MS, "10 ms"),
                reported("check.tenants_1000", of_few, "checks/s", statement, "one SQL statement a request"),
                at_least("check.tenants_100000", checks, "checks/s", FLAT, of_few, "the same at 1,000 tenants"),
            ]


@contextmanager
def product(place: Place, settings: Settings, tenants: int) -> Iterator[Side]:
    """`meterline serve entitlements` over so many tenants, each with every type on each day of a month."""
    place.say(f"{tenants:,} tenants, {tenants * TYPES * DAYS:,} counters")
    secret = _fill(settings, tenants)
    with serving(settings, secret=secret) as running:
        yield Side(running.port, PATH, tenants, {"X-Service-Secret": secret})


@contextmanager
def peer(module: str, settings: Settings, *arguments: str) -> Iterator[int]:
    """The port of something to hold checks against, in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment(settings)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.terminate()
        process.wait(timeout=30)


def _fill(settings: Settings, tenants: int) -> str:
    with connect(settings, session=f"-c statement_timeout={_FILL_WITHIN_S}s", autocommit=True) as connection:
        connection.execute("INSERT INTO usage_types (usage_type) SELECT 'T' || n FROM generate_series(1, %s) n", (TYPES,))
        connection.execute("INSERT INTO plans (plan_id, name) VALUES ('pro', 'Pro')")
        connection.execute(
            "INSERT INTO plan_limits (plan_id, usage_type, quantity, hard, period)"
            " SELECT 'pro', usage_type, 1000, true, 'month' FROM usage_types"
        )
        connection.execute(
            "INSERT INTO tenants (tenant_id, plan_id) SELECT 'tnt_' || n, 'pro' FROM generate_series(0, %s - 1) n", (tenants,)
        )
        connection.execute(
            "INSERT INTO usage_counters SELECT 'tnt_' || n, usage_type, date_trunc('month', now())::date + d, 0.5, 1"
            " FROM generate_series(0, %s - 1) n, usage_types, generate_series(0, %s - 1) d",
            (tenants, DAYS),
        )
        connection.execute(
            # As in a server that has run for a while: half a million totals do not wait to be held against thresholds.
            "INSERT INTO usage_totals SELECT tenant_id, usage_type, sum(quantity), now() - interval '1 hour'"
            " FROM usage_counters GROUP BY 1, 2"
        )
        connection.execute("UPDATE alert_progress SET looked_until = now()")
        connection.execute("VACUUM ANALYZE")
        # What filling has left to be written would be written, and waited for, while checks are measured.
        connection.execute("CHECKPOINT")
        return create(connection, "bench", ["bench"])
