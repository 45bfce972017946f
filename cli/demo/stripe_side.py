"""Stripe in the demonstration: set up and exported to by the commands a user would run, asked by its own summaries."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

from billing_exporter.stripe_gateway import StripeGateway
from metering.periods import Period, billing_period_starting_in, midnight, parse_month
from runtime import postgres
from runtime.exits import Exit, MeterlineExit
from runtime.settings import Settings

COMMAND_WITHIN_S = 120.0
AT_A_TIME = 4


def run_command(environment: Mapping[str, str], *words: str) -> str:
    """`meterline WORDS...` as a user runs it; its standard output. Raises MeterlineExit with its error otherwise."""
    done = subprocess.run(
        [sys.executable, "-m", "cli", *words],
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_WITHIN_S,
        check=False,
    )
    if done.returncode != 0:
        raise MeterlineExit(
            Exit.FAILED, f"`meterline {' '.join(words)}` ended with status {done.returncode}: {done.stderr[-2000:]}"
        )
    return done.stdout


def exported_quantity(settings: Settings, months: Sequence[str]) -> Decimal:
    """The sum of every customer's total on every meter over the months, as Stripe's summaries give it."""
    assert settings.stripe_secret_key is not None
    gateway = StripeGateway(
        settings.stripe_secret_key.get_secret_value(), api_base=settings.stripe_api_base, timeout_s=settings.stripe_timeout_s
    )
    with postgres.connect(settings) as connection:
        scales = {str(meter): int(scale) for meter, scale in connection.execute("SELECT meter, scale FROM meters")}
    meters = [(meter.id, scales[meter.meter]) for meter in gateway.meters() if meter.meter in scales]
    customers = [customer.id for customer in gateway.customers()]

    def total(asked: tuple[str, int, str, Period]) -> Decimal:
        meter_id, scale, customer, period = asked
        value = gateway.summary(meter_id, customer, midnight(period.start), midnight(period.end))
        return Decimal(value or 0) / scale

    periods = [billing_period_starting_in(*parse_month(text), anchor_day=1) for text in months]
    asked = [(meter_id, scale, customer, period) for period in periods for meter_id, scale in meters for customer in customers]
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        return sum(pool.map(total, asked), Decimal(0))
