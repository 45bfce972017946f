"""One run: crash points, random kills, an outage; then the faults end, the period closes, and every total is compared."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from billing_exporter.gateway import GatewayAway
from billing_exporter.stripe_gateway import StripeGateway
from runtime import postgres
from runtime.settings import Settings, variables
from tests.chaos.exports.child import AWAY
from tests.chaos.exports.usage import METERS, Usage
from tests.fakes.local_stripe_server import LocalStripeServer


def _month_after(moment: datetime) -> datetime:
    return (moment.replace(day=1) + timedelta(days=32)).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


START = _month_after(datetime.now(UTC))
"""The month of it all is the next one, for Stripe's clock goes forward only."""
END = _month_after(START)
BEGINS = START + timedelta(days=9, hours=12)
POINTS = ("exporter.before_sending", "exporter.posted", "exporter.before_accepted")
FAULTS = ("drop", "cut", "error", "rate_limit", "conflict", "slow", "reject")
RATE = 0.05
_SETTLE_TURNS_MAX = 30
_CHILD_WITHIN_S = 900.0
_QUIET_STATES = ("confirmed", "closed", "superseded", "carry_forward")


@dataclass(frozen=True)
class Order:
    """What is asked for."""

    tenants: int
    kills: int
    seed: int


class ExportChaos:
    """On servers that somebody else started. `run` blocks until every total is compared."""

    def __init__(self, settings: Settings, stripe: LocalStripeServer, order: Order, say: Callable[[str], None]) -> None:
        self._order, self._say = order, say
        self._stripe = stripe
        self._settings = settings.model_copy(update={"stripe_timeout_s": 2.0})
        self._random = random.Random(order.seed)
        self._usage = Usage(settings, order.tenants, order.seed)
        self._offset_s = int((BEGINS - datetime.now(UTC)).total_seconds())
        self._exits: Counter[str] = Counter()
        self._gateway = StripeGateway(stripe.key, api_base=stripe.url, timeout_s=20)

    def run(self) -> dict[str, Any]:
        """The figures of the last line."""
        began = time.monotonic()
        self._usage.prepare()
        self._stripe.admin("clock", {})
        self._stripe.admin("clock", {"advance": self._offset_s})
        self._customers()
        self._usage.add(1.0, BEGINS.date())
        self._faults(True)
        for point in POINTS:
            self._crash_at(point)
        self._random_kills(self._order.kills)
        self._outage()
        self._crash_at(POINTS[1])
        self._faults(False)
        self._say("the faults are over")
        self._settle()
        self._usage.fresh(END + timedelta(hours=2))
        self._move(int((END + timedelta(hours=2) - self._now()).total_seconds()))
        self._settle()
        return self._figures() | {"seconds": round(time.monotonic() - began, 1)}

    # -- the clock, Stripe, the exporters ------------------------------------------------------------------------------

    def _now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self._offset_s)

    def _move(self, seconds: int) -> None:
        """Stripe's clock and the exporters' next."""
        self._stripe.admin("clock", {"advance": seconds})
        self._offset_s += seconds

    def _faults(self, on: bool) -> None:
        rates = dict.fromkeys(FAULTS, RATE)
        wanted = {
            "rates": rates,
            "path": "/v1/billing/meter_events",
            "seed": self._order.seed,
            "slow_ms": 200,
            "aggregation_delay_s": 60,
        }
        self._stripe.admin("faults", wanted if on else {})

    def _customers(self) -> None:
        for meter, _, _ in METERS:
            self._gateway.create_meter(meter, meter, "last")
        with ThreadPoolExecutor(8) as pool:
            made = list(pool.map(lambda tenant: self._gateway.create_customer(tenant, tenant).id, self._usage.tenants))
        with postgres.connect(self._settings) as connection:
            connection.execute(
                "UPDATE tenants t SET stripe_customer_id = n.customer FROM unnest(%s::text[], %s::text[]) AS n (tenant, customer)"
                " WHERE t.tenant_id = n.tenant",
                (self._usage.tenants, made),
            )
        self._say(f"{len(made)} customers, {len(METERS)} meters")

    def _spawn(self, runs: int, crash_at: str = "") -> subprocess.Popen[bytes]:
        wanted = {"METERLINE_STRIPE_SECRET_KEY": self._stripe.key, "METERLINE_STRIPE_API_BASE": self._stripe.url}
        for field in ("postgres_url", "clickhouse_url", "clickhouse_user", "clickhouse_password", "stripe_timeout_s"):
            value = getattr(self._settings, field)
            wanted[variables()[field][0]] = str(value.get_secret_value() if hasattr(value, "get_secret_value") else value)
        if crash_at:
            wanted["METERLINE_CRASH_AT"] = crash_at
        return subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.exports.child", str(self._offset_s), str(runs)],
            cwd=Path(__file__).parents[3],
            env={"PATH": os.environ["PATH"], "METERLINE_LOG_LEVEL": "error"} | wanted,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _ended(self, child: subprocess.Popen[bytes], what: str) -> int:
        status = child.wait(timeout=_CHILD_WITHIN_S)
        self._exits[f"{what}: {'killed' if status == -signal.SIGKILL else status}"] += 1
        return status

    # -- the faults ----------------------------------------------------------------------------------------------------

    def _crash_at(self, point: str) -> None:
        self._usage.add(0.5, BEGINS.date())
        status = self._ended(self._spawn(1, f"{point}:{self._random.randint(1, 20)}"), point)
        if status != -signal.SIGKILL:
            raise AssertionError(f"the exporter did not die at {point} but left with {status}")
        self._say(f"died at {point}")
        self._move(300)

    def _random_kills(self, kills: int) -> None:
        """Two exporters at once, all the time; one of them dies, whatever it is at."""
        children = [self._spawn(1_000), self._spawn(1_000)]
        for number in range(kills):
            if number % 5 == 0:
                self._usage.add(0.3, BEGINS.date())
            time.sleep(self._random.uniform(0.3, 2.0))
            place = self._random.randrange(2)
            children[place].kill()
            self._ended(children[place], "random")
            self._move(self._random.randint(1, 120))
            children[place] = self._spawn(1_000)
        for child in children:
            child.kill()
            child.wait()
        self._say(f"{kills} random kills, two exporters at once")

    def _outage(self) -> None:
        """A day without Stripe, in the middle of sending."""
        self._usage.add(0.5, BEGINS.date())
        child = self._spawn(1_000)
        time.sleep(self._random.uniform(3.0, 5.0))
        self._stripe.stop(signal.SIGKILL)
        if self._ended(child, "outage") != AWAY:
            raise AssertionError("the exporter went on without Stripe")
        self._usage.add(0.2, BEGINS.date())
        self._ended(self._spawn(1), "outage")
        self._stripe.start()
        self._gateway = StripeGateway(self._stripe.key, api_base=self._stripe.url, timeout_s=20)
        self._move(24 * 3_600)
        self._faults(True)
        self._ended(self._spawn(1), "after the outage")
        self._say("a day without Stripe")

    # -- the end -------------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Runs, an hour apart, until nothing moves any more."""
        for _ in range(_SETTLE_TURNS_MAX):
            self._end_leases()
            self._ended(self._spawn(1), "settling")
            states = self._states()
            self._say(f"  {dict(sorted(states.items()))}")
            if not set(states) - {*_QUIET_STATES, "manual"}:
                return
            self._move(3_700)
        raise AssertionError(f"it does not come to rest: {self._states()}")

    def _end_leases(self) -> None:
        """All exporters are dead, so their leases may as well have run out; the database's clock is the machine's."""
        with postgres.connect(self._settings) as connection:
            connection.execute(
                "UPDATE export_ledger SET lease_until = clock_timestamp() - interval '1 second' WHERE lease_until IS NOT NULL"
            )

    def _states(self) -> Counter[str]:
        with postgres.connect(self._settings) as connection:
            return Counter(dict(connection.execute("SELECT state, count(*) FROM export_ledger GROUP BY 1").fetchall()))

    def _figures(self) -> dict[str, Any]:
        expected, shown = self._usage.expected(), self._shown()
        differ = [(key, total, shown[key]) for key, total in expected.items() if shown[key] != total]
        for key, total, found in differ[:10]:
            self._say(f"differs: {key} is {total} by ClickHouse, {found} at Stripe")
        with postgres.connect(self._settings) as connection:
            unexplained = connection.execute(
                "SELECT count(*) FROM export_ledger WHERE state <> ALL(%s) AND reason IS NULL", (list(_QUIET_STATES),)
            ).fetchone()
            tries = connection.execute("SELECT sum(attempts), count(*) FROM export_ledger").fetchone()
            ambiguous = connection.execute("SELECT count(*) FROM export_transitions WHERE to_state = 'ambiguous'").fetchone()
        assert unexplained
        assert tries
        assert ambiguous
        states = self._states()
        return {
            "ok": not differ and not unexplained[0] and not states["manual"],
            "seed": self._order.seed,
            "tenants": self._order.tenants,
            "totals": len(expected),
            "differ": len(differ),
            "revisions": tries[1],
            "calls": tries[0],
            "ambiguous": ambiguous[0],
            "states": dict(sorted(states.items())),
            "stuck_without_reason": unexplained[0],
            "exits": dict(sorted(self._exits.items())),
        }

    def _shown(self) -> dict[tuple[str, str], int]:
        """What Stripe would bill of the month, asked by the official client."""
        ids = {meter.meter: meter.id for meter in self._gateway.meters()}
        with postgres.connect(self._settings) as connection:
            customers = dict(connection.execute("SELECT tenant_id, stripe_customer_id FROM tenants").fetchall())
        keys = [(tenant, meter) for tenant in self._usage.tenants for meter, _, _ in METERS]

        def ask(key: tuple[str, str]) -> int:
            for _ in range(5):
                try:
                    return self._gateway.summary(ids[key[1]], customers[key[0]], START, END) or 0
                except GatewayAway:
                    continue
            raise AssertionError("the local Stripe does not answer")

        with ThreadPoolExecutor(8) as pool:
            return dict(zip(keys, pool.map(ask, keys), strict=True))
