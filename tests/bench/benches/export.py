"""Exports to a Stripe that answers after 50 ms, against what the allowed calls at once allow; planning 100,000 tenants."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from billing_exporter import ledger, planning
from billing_exporter.gateway import Account
from billing_exporter.sending import Sender, Tally
from billing_exporter.stripe_gateway import StripeGateway
from billing_exporter.truth import clickhouse_totals
from runtime import postgres
from runtime.settings import Settings
from tests.bench.figures import Figure, at_least, at_most
from tests.bench.place import Place
from tests.chaos.exports.usage import METERS, Usage
from tests.fakes.local_stripe_server import LocalStripeServer

LATENCY_MS = 50
TENANTS = 400
PLANNED = 100_000
PLAN_S_MAX = 10.0
SHARE = 0.80


def measure(place: Place) -> Generator[Sequence[Figure], None, None]:
    """Each run exports a newer total of every pair, and plans the large catalog anew without writing."""
    with (
        place.corner() as settings,
        place.corner() as large,
        LocalStripeServer(place.folder / "stripe") as stripe,
    ):
        gateway = StripeGateway(stripe.key, api_base=stripe.url, timeout_s=20)
        usage, account = Usage(settings, TENANTS, 1), gateway.account()
        usage.prepare()
        _customers(settings, gateway, usage)
        place.say(f"{PLANNED:,} tenants to plan")
        _many(large)
        stripe.admin("faults", {"latency_ms": LATENCY_MS})
        while True:
            usage.add(1.0, datetime.now(UTC).date())
            sent_per_s = _export(settings, gateway, account)
            plan_s = _plan(large)
            possible = settings.stripe_concurrency / (LATENCY_MS / 1000)
            against = f"{settings.stripe_concurrency} calls at once / {LATENCY_MS} ms"
            yield [
                at_least("export", sent_per_s, "exports/s", SHARE, possible, against),
                at_most("export.planning-100k", plan_s, "s", PLAN_S_MAX, f"{PLAN_S_MAX:g} s for {PLANNED:,} tenants"),
            ]


def _customers(settings: Settings, gateway: StripeGateway, usage: Usage) -> None:
    for meter, _, _ in METERS:
        gateway.create_meter(meter, meter, "last")
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda tenant: gateway.create_customer(tenant, tenant).id, usage.tenants))
    with postgres.connect(settings) as connection:
        connection.execute(
            "UPDATE tenants t SET stripe_customer_id = n.customer FROM unnest(%s::text[], %s::text[]) AS n (tenant, customer)"
            " WHERE t.tenant_id = n.tenant",
            (usage.tenants, made),
        )


def _many(settings: Settings) -> None:
    """Tenants with one usage type that is counted this month, in Postgres only: planning reads nothing else."""
    Usage(settings, 0, 1).prepare()
    with postgres.connect(settings, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO tenants (tenant_id, stripe_customer_id) SELECT 't' || n, 'cus_' || n FROM generate_series(1, %s) AS n",
            (PLANNED,),
        )
        connection.execute(
            "INSERT INTO usage_counters SELECT 't' || n, 'CALL', %s, n, 1 FROM generate_series(1, %s) AS n",
            (datetime.now(UTC).date(), PLANNED),
        )
        connection.execute(
            "INSERT INTO usage_totals SELECT 't' || n, 'CALL', n, now() FROM generate_series(1, %s) AS n", (PLANNED,)
        )
        connection.execute("ANALYZE")


def _export(settings: Settings, gateway: StripeGateway, account: Account) -> float:
    now = datetime.now(UTC)
    with ledger.connect(settings) as connection:
        which = planning.rounds(connection, now.date(), (now.year, now.month), False)[0]
        planned = sum(line.action == "insert" for line in planning.plan(connection, account, which, now, write=True))
        connection.commit()
    tally, began = Tally(), time.perf_counter()
    Sender(settings, gateway, account, clickhouse_totals(settings)).drain(tally, 0)
    took_s = time.perf_counter() - began
    if tally.states["accepted"] != planned or planned < TENANTS:
        raise AssertionError(f"{planned} were planned, and {dict(tally.states)} came of it")
    return planned / took_s


def _plan(settings: Settings) -> float:
    now = datetime.now(UTC)
    began = time.perf_counter()
    with ledger.connect(settings) as connection:
        connection.read_only = True
        which = planning.rounds(connection, now.date(), (now.year, now.month), False)[0]
        account = Account("acct_local", False)
        lines = sum(1 for _ in planning.plan(connection, account, which, now, write=False))
    if lines != PLANNED:
        raise AssertionError(f"{lines} lines for {PLANNED} tenants")
    return time.perf_counter() - began
