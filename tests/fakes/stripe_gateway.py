"""A gateway in memory. It passes the same contract tests as the real one; `fault` decides what goes wrong."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Literal

from billing_exporter.gateway import (
    Account,
    FinalUsage,
    GatewayError,
    GatewayHalted,
    MeterEvent,
    StripeCustomer,
    StripeMeter,
    outcome_of,
)
from metering.export_states import Delivered, Halted, Outcome, Unclear

Fault = Literal["none", "lose", "cut"] | Outcome
"""lose: no answer and nothing stored. cut: stored, and no answer. An Outcome: that answer, and nothing stored."""


class FakeGateway:
    """Stripe, as far as the exporter sees it."""

    def __init__(self, *, livemode: bool = False, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._livemode, self._now = livemode, now
        self.wrong_key = False
        self.fault: Callable[[MeterEvent], Fault] = lambda _: "none"
        self.calls: list[MeterEvent] = []
        self.busy_max = 0
        """Most calls that were under way at once."""
        self.overlaps = 0
        """Calls that met another one for the same customer and meter."""
        self.stored: list[tuple[MeterEvent, datetime]] = []
        self.finals: list[FinalUsage] = []
        self._meters: dict[str, StripeMeter] = {}
        self._customers: dict[str, StripeCustomer] = {}
        self._in_flight: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    @property
    def livemode(self) -> bool:
        return self._livemode

    def account(self) -> Account:
        self._authorize()
        return Account("acct_fake", self._livemode)

    def send(self, event: MeterEvent) -> Outcome:
        if self.wrong_key:
            return Halted("401: wrong key")
        pair = (event.customer_id, event.meter)
        with self._lock:
            self.calls.append(event)
            self.overlaps += pair in self._in_flight
            self._in_flight.add(pair)
            self.busy_max = max(self.busy_max, len(self._in_flight))
        fault = self.fault(event)
        try:
            if fault == "lose":
                return Unclear("no answer: connection lost")
            if fault not in ("none", "cut"):
                assert not isinstance(fault, str)
                return fault
            outcome = self._store(event)
            return Unclear("no answer: cut") if fault == "cut" else outcome
        finally:
            with self._lock:
                self._in_flight.discard(pair)

    def _store(self, event: MeterEvent) -> Outcome:
        now = self._now()
        with self._lock:
            if event.at < now - timedelta(days=35) or event.at > now + timedelta(minutes=5):
                return outcome_of(400, "the timestamp is out of range", None, event)
            meter = self._meters.get(event.meter)
            if meter is None or not meter.active:
                return outcome_of(400, f"no active meter {event.meter}", None, event)
            if event.customer_id not in self._customers:
                return outcome_of(400, f"No such customer: '{event.customer_id}'", "resource_missing", event)
            if any(kept.identifier == event.identifier and at > now - timedelta(hours=24) for kept, at in self.stored):
                return outcome_of(400, f"An event already exists with identifier {event.identifier}.", None, event)
            self.stored.append((event, now))
            return Delivered()

    def summary(self, meter_id: str, customer_id: str, start: datetime, end: datetime) -> int | None:
        self._authorize()
        with self._lock:
            meter = next((meter for meter in self._meters.values() if meter.id == meter_id), None)
            if meter is None:
                raise GatewayError(f"No such meter: '{meter_id}'")
            inside = [
                (event.at, number, event.value)
                for number, (event, _) in enumerate(self.stored)
                if event.meter == meter.meter and event.customer_id == customer_id and start <= event.at < end
            ]
            if not inside:
                return None
            return max(inside)[2] if meter.formula == "last" else sum(value for _, _, value in inside)

    def final_usage(self, made_since: datetime) -> Iterator[FinalUsage]:
        self._authorize()
        yield from [one for one in self.finals if one.finalized_at >= made_since]

    def finalize(self, meter: str, customer_id: str, start: datetime, end: datetime) -> FinalUsage:
        """An invoice of what the meter shows now becomes final."""
        meter_id = self._meters[meter].id
        quantity = max(self.summary(meter_id, customer_id, start, end) or 0, 0)
        made = FinalUsage(f"in_{len(self.finals)}", self._now(), customer_id, meter, start, end, quantity)
        self.finals.append(made)
        return made

    def meters(self) -> list[StripeMeter]:
        self._authorize()
        return list(self._meters.values())

    def create_meter(self, meter: str, display_name: str, formula: Literal["last", "sum"]) -> StripeMeter:
        self._authorize()
        return self._meters.setdefault(meter, StripeMeter(f"mtr_{len(self._meters)}", meter, formula, True))

    def deactivate(self, meter: str) -> None:
        """As a person would in the dashboard."""
        self._meters[meter] = replace(self._meters[meter], active=False)

    def reactivate_meter(self, meter_id: str) -> None:
        self._authorize()
        for name, meter in self._meters.items():
            if meter.id == meter_id:
                self._meters[name] = replace(meter, active=True)
                return
        raise GatewayError(f"No such meter: '{meter_id}'")

    def customers(self) -> Iterator[StripeCustomer]:
        self._authorize()
        yield from list(self._customers.values())

    def create_customer(self, tenant_id: str, name: str) -> StripeCustomer:
        self._authorize()
        for customer in self._customers.values():
            if customer.tenant_id == tenant_id:
                return customer
        made = StripeCustomer(f"cus_{tenant_id}", tenant_id)
        self._customers[made.id] = made
        return made

    def delete(self, customer_id: str) -> None:
        """As a person would in the dashboard."""
        del self._customers[customer_id]

    def _authorize(self) -> None:
        if self.wrong_key:
            raise GatewayHalted("401: wrong key")
