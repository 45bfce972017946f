"""A tenant whose November is to be billed on request: the exporter's world, an account, invoices, and workers to kill."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from billing_exporter import ledger
from billing_exporter.gateway import Account
from billing_exporter.requests import serve
from control_plane.billing import service
from control_plane.unit import Actor, Units
from metering.billing import MOVES
from runtime.settings import Settings
from tests.fakes.export_world import World, open_world

ACCOUNT = Account("acct_fake", False)
DECEMBER = datetime(2026, 12, 1, tzinfo=UTC)
ACTOR = Actor("test")
ENDS_WITHIN_S = 60.0

ALL_MOVES = [
    ("requested", "closed"),
    ("closed", "exported"),
    ("exported", "confirmed"),
    ("confirmed", "paid"),
    ("paid", "completed"),
]


@contextmanager
def open_billing_world(settings: Settings) -> Iterator[World]:
    """Tenant `a` has used something in November, it is the second of December, and all that is counted."""
    with open_world(settings) as opened:
        opened.sql("TRUNCATE billing_requests, billing_request_moves, accounts, invoices, audit RESTART IDENTITY CASCADE")
        # Its ids are not given out twice: a Temporal that outlives the test knows the earlier ones.
        opened.sql(f"ALTER TABLE billing_requests ALTER COLUMN id RESTART WITH {time.time_ns() // 1_000}")
        opened.sql("INSERT INTO accounts (app_id, tenant_id) VALUES ('app_a', 'a')")
        opened.now = DECEMBER + timedelta(days=2)
        opened.count("a", "DEEP", "2026-11-03", "1.5")
        opened.fresh(opened.now)
        yield opened


def ask(units: Units, period: str = "2026-11") -> service.Billing:
    with units.begin(ACTOR) as unit:
        return service.request_billing(unit, "app_a", period, DECEMBER + timedelta(days=2))


def status(units: Units) -> service.Billing:
    with units.begin(ACTOR) as unit:
        return service.billing_status(unit, "app_a", "2026-11")


def export(world: World, *, confirm: bool = True) -> None:
    """A run of the exporter, which serves requests at its end; and, to `confirm`, a comparison with Stripe's summaries."""
    assert world.run((2026, 11)).ok
    if confirm:
        world.reconcile()
        with ledger.connect(world.settings) as connection:
            serve(connection, ACCOUNT, world.now)


def invoice(world: World, state: str, invoice_id: str = "in_1") -> None:
    """As a webhook brings it."""
    world.sql(
        "INSERT INTO invoices (provider, invoice_id, tenant_id, status, currency, subtotal, discount, tax, total, amount_due,"
        " amount_paid, amount_remaining, lines, period_start, period_end, seen, created_at)"
        " VALUES ('stripe', %s, 'a', %s, 'usd', 1, 0, 0, 1, 1, 0, 1, '[]', '2026-11-01Z', '2026-12-01Z', 1, now())"
        " ON CONFLICT (provider, invoice_id) DO UPDATE SET status = excluded.status",
        invoice_id,
        state,
    )


def moves(world: World) -> list[tuple[str, str]]:
    found = world.sql("SELECT from_state, to_state FROM billing_request_moves")
    return sorted(((was, to) for was, to in found), key=lambda move: list(MOVES).index(move[0]))


def until(what: Callable[[], bool], told: Callable[[], object]) -> None:
    deadline = time.monotonic() + ENDS_WITHIN_S
    pause = threading.Event()
    while not what():
        assert time.monotonic() < deadline, told()
        pause.wait(0.05)


def worker(settings: Settings, kind: str, crash_at: str = "") -> subprocess.Popen[bytes]:
    environment = {
        "PATH": os.environ["PATH"],
        "METERLINE_POSTGRES_URL": settings.postgres_url.get_secret_value(),
        "METERLINE_TEMPORAL_ADDRESS": settings.temporal_address or "",
        "METERLINE_CRASH_AT": crash_at,
    }
    return subprocess.Popen([sys.executable, "-m", "tests.fakes.billing_worker", kind], env=environment, stdin=subprocess.PIPE)


def ends(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait(ENDS_WITHIN_S)
    finally:
        process.kill()
        process.wait()
        assert process.stdin is not None
        process.stdin.close()
