"""T1 of closes: a log with late events, a counter, two closers, a planner and a sender that crash, drawn from one seed.

The rules are the product's (`metering.closing`, `metering.export_states`, `billing_exporter.amounts`). Transactions are
generators: what they write is seen when they end, and between two of their statements everybody else may move. One
tenant, one partition, one meter: that closes of several tenants do not meet is what the tables' keys say.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from random import Random

from billing_exporter.amounts import Amount, amount_of
from billing_exporter.figures import Figures, MeterMapping, PeriodClose
from metering.closing import billed, difference, is_due, next_period
from metering.export_states import Latest, Wanted, decide, dominates
from metering.periods import FIRST_DAY, Period, billing_period, billing_periods
from tests.simulation.violation import Violation

GRACE = timedelta(hours=6)
SCALE = 1
BEGAN = datetime(2026, 10, 20, tzinfo=UTC)
_STEPS = 250
_REST_TURNS_MAX = 200
_MAPPING = MeterMapping("units", ("U",), SCALE, "floor", "last", True)
_KEY = ("t", "units")

Transaction = Generator[None, None, None]


@dataclass(frozen=True)
class Event:
    """An admitted event; its place in the log is its position."""

    day: date
    quantity: Decimal


@dataclass(frozen=True)
class Revision:
    """A row of the ledger."""

    period: Period
    number: int
    value: int
    positions: dict[str, int]
    state: str = "planned"


class ClosingWorld:
    """One seed's."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.now = BEGAN
        self.log: list[Event] = []
        self.samples: list[tuple[datetime, int]] = [(self.now, 0)]
        self.fence = 0
        self.locks = 0
        """Closers that hold the fence; counting waits for them."""
        self.closes: dict[date, PeriodClose] = {}
        self.closed: dict[date, PeriodClose] = {}
        """Those that were seen closed, as they were then."""
        self.ledger: list[Revision] = []
        self.carries: dict[date, tuple[int, Decimal]] = {}
        self.shown: dict[date, tuple[int, int]] = {}
        """Period to (revision, value) that Stripe shows."""
        self.running: dict[str, Transaction] = {}

    # -- what the statements see -------------------------------------------------------------------------------------

    def as_of(self) -> datetime | None:
        return max((at for at, end in self.samples if end <= self.fence), default=None)

    def counted(self, start: date, end: date) -> Decimal:
        return sum((one.quantity for one in self.log[: self.fence] if start <= one.day < end), Decimal(0))

    def copied_now(self, period: Period) -> PeriodClose:
        """Counters and fence of one moment."""
        totals = {"U": self.counted(FIRST_DAY, period.end)}
        return PeriodClose(period, "copied", {"1:0": self.fence}, totals, None, {})

    def before(self, period: Period) -> PeriodClose | None:
        found = [one for one in self.closes.values() if one.state == "closed" and one.period.end == period.start]
        return found[0] if found else None

    def truth(self, close: PeriodClose) -> dict[str, Decimal]:
        """What ClickHouse holds of a copied period and the one before it does not bill."""
        was = self.before(close.period)
        total = Decimal(0)
        for offset, one in enumerate(self.log[: close.positions["1:0"]]):
            before = was is not None and one.day < was.period.end and offset < was.positions["1:0"]
            if one.day < close.period.end and not before:
                total += one.quantity
        return {"U": total} if total else {}

    def figures(self, period: Period) -> Figures:
        """The one statement of planning."""
        found = Figures({"1:0": self.fence}, {}, {}, {}, {}, set())
        own, before = self.closes.get(period.start), self.before(period)
        if any(period.start <= one.day < period.end for one in self.log[: self.fence]):
            found.totals[_KEY] = self.counted(period.start, period.end)
        if own is not None:
            found.own["t"] = own
        if own is None and any(one.state == "closed" and one.period.start >= period.end for one in self.closes.values()):
            found.passed.add("t")
        if before is not None:
            found.before["t"] = before
            found.cumulative["t"] = {"U": self.counted(FIRST_DAY, period.end)}
        return found

    # -- who acts ----------------------------------------------------------------------------------------------------

    def emit(self) -> None:
        late = self.random.choice((0, 0, 0, 1, 3, 35))
        quantity = Decimal(self.random.randint(-400_000, 2_500_000)) / 1_000_000
        self.log.append(Event((self.now - timedelta(days=late)).date(), quantity))

    def count(self) -> None:
        if not self.locks:
            self.fence = min(len(self.log), self.fence + self.random.randint(1, 4))

    def due(self) -> Period | None:
        until = max((one.period.end for one in self.closes.values() if one.state == "closed"), default=None)
        first = min((one.day for one in self.log[: self.fence]), default=None)
        period = next_period(until, first, 1)
        return period if period is not None and is_due(period, self.as_of(), GRACE) else None

    def closing(self) -> Transaction:
        period = self.due()
        if period is None:
            return
        yield
        self.locks += 1
        try:
            yield
            copied = self.copied_now(period)
            if not is_due(period, self.as_of(), GRACE) or self.is_closed(period):
                return
            yield
        finally:
            self.locks -= 1
        if self.is_closed(period):
            return  # the database refuses to change it
        self.closes[period.start] = copied
        yield
        was = self.before(period)
        problem = difference(billed(copied.totals, {} if was is None else was.totals), self.truth(copied))
        yield
        now = self.closes[period.start]
        if now.state == "copied" and now.positions == copied.positions:
            if problem is not None:
                raise Violation("I4", f"the copy of {period} is torn: {problem}")
            self.closes[period.start] = replace(now, state="closed")
            self.carries[period.start] = (SCALE, self.amount(period).units(SCALE).remainder)

    def is_closed(self, period: Period) -> bool:
        return period.start in self.closes and self.closes[period.start].state == "closed"

    def planning(self, period: Period) -> Transaction:
        if "planner's lock" in self.running:
            return
        yield
        amount = self.amount(period)
        newest = max((one for one in self.ledger if one.period == period), key=lambda one: one.number, default=None)
        if amount.problem is not None:
            return
        sent = amount.units(SCALE)
        latest = None
        if newest is not None:
            sent_before = newest.state != "planned"
            state = newest.state
            latest = Latest(newest.number, state, "cus", newest.value, newest.positions, sent_before, "cus")  # type: ignore[arg-type]
        wanted = Wanted("cus", amount.total, sent.value, amount.positions)
        decision = decide(latest, wanted)
        if decision.action == "hold":
            raise Violation("I9", f"{period} is held: {decision.reason}")
        yield
        if decision.action in ("insert", "supersede") and (newest is None or newest == self.newest(period)):
            if decision.action == "supersede" and newest is not None:
                self.ledger.remove(newest)
            number = 1 if newest is None else newest.number + 1
            self.ledger.append(Revision(period, number, sent.value, dict(amount.positions)))

    def amount(self, period: Period) -> Amount:
        before = self.before(period)
        carry = self.carries.get(before.period.start) if before is not None else None
        return amount_of(self.figures(period), _KEY, _MAPPING, carry)

    def newest(self, period: Period) -> Revision | None:
        return max((one for one in self.ledger if one.period == period), key=lambda one: one.number, default=None)

    def sending(self) -> Transaction:
        waiting = [one for one in self.ledger if one.state in ("planned", "sending")]
        if not waiting:
            return
        row = waiting[0]
        place = self.ledger.index(row)
        self.ledger[place] = row = replace(row, state="sending")
        yield
        was = self.shown.get(row.period.start, (0, 0))
        self.shown[row.period.start] = max(was, (row.number, row.value))
        yield
        self.ledger[self.ledger.index(row)] = replace(row, state="accepted")

    # -- the schedule ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Raises Violation."""
        for _ in range(_STEPS):
            self.step()
            self.check()
        self.rest()

    def step(self) -> None:
        kind = self.random.choices(
            ("time", "emit", "count", "sample", "closer a", "closer b", "planner", "sender", "crash"),
            (3, 6, 4, 3, 3, 2, 3, 3, 1),
        )[0]
        if kind == "time":
            self.now += timedelta(hours=self.random.choice((1, 5, 30, 200)))
        elif kind == "emit":
            self.emit()
        elif kind == "count":
            self.count()
        elif kind == "sample":
            self.samples.append((self.now, len(self.log)))
        elif kind == "crash":
            self.crash()
        else:
            self.turn(kind)

    def crash(self) -> None:
        for name in list(self.running):
            self.running.pop(name).close()

    def turn(self, name: str) -> None:
        """The next statement of a transaction, or a new one."""
        if name not in self.running:
            made = {"closer": self.closing, "planner": self.plan_some, "sender": self.sending}[name.split()[0]]()
            self.running[name] = made
        try:
            next(self.running[name])
        except StopIteration:
            self.running.pop(name, None)

    def plan_some(self) -> Transaction:
        periods = list(billing_periods(BEGAN.date() - timedelta(days=40), self.now.date(), 1))
        return self.planning(self.random.choice(periods[-3:]))

    def rest(self) -> None:
        """Faults end: everything is counted, closed, planned and sent."""
        self.crash()
        self.now += timedelta(days=40)
        self.samples.append((self.now, len(self.log)))
        self.fence = len(self.log)
        self.settle()
        # After all that something comes late: for a closed period, and for days before the first one.
        for days in (35, 45, 400):
            self.log.append(Event((self.now - timedelta(days=days)).date(), Decimal("1.25")))
        self.fence = len(self.log)
        self.check_bills(self.settle())

    def settle(self) -> list[Period]:
        """Closes, plans and sends until nothing changes; returns every period there is."""
        periods = list(billing_periods(min((one.day for one in self.log), default=self.now.date()), self.now.date(), 1))
        for _ in range(_REST_TURNS_MAX):
            before = (len(self.closed), list(self.ledger))
            for transaction in (self.closing(), *(self.planning(period) for period in periods), self.sending()):
                for _ in transaction:
                    pass
                self.check()
            if before == (len(self.closed), list(self.ledger)):
                return periods
        raise Violation("rest", "closing, planning and sending do not come to an end")

    def check(self) -> None:
        """I8, at every moment."""
        for start, close in self.closes.items():
            if close.state == "closed":
                known = self.closed.setdefault(start, close)
                if known != close:
                    raise Violation("I8", f"the closed period from {start} changed")
                events = enumerate(self.log)
                total = sum(
                    (one.quantity for at, one in events if one.day < close.period.end and at < close.positions["1:0"]), Decimal(0)
                )
                if close.totals["U"] != total:
                    raise Violation("I8", f"{start}: {close.totals['U']} on record, {total} by the rows")
        for earlier, later in zip(self.ledger, self.ledger[1:], strict=False):
            if earlier.period == later.period and not dominates(later.positions, earlier.positions):
                raise Violation("I9", f"revision {later.number} of {later.period.start} counts less than the one before")

    def check_bills(self, periods: list[Period]) -> None:
        """Nothing is lost, nothing billed twice: the bills with what is left over are everything that was ever used."""
        if self.due() is not None:
            raise Violation("rest", f"{self.due()} was not closed")
        total, left, alone = Decimal(0), Decimal(0), Decimal(0)
        for period in sorted({*periods, *(close.period for close in self.closes.values())}):
            amount = self.amount(period)
            sent = amount.units(SCALE)
            shown = self.shown.get(period.start, (0, 0))[1]
            if shown != sent.value:
                raise Violation("I9", f"{period.start}: Stripe shows {shown}, the books say {sent.value}")
            total += shown
            if amount.follows is not None or amount.closed:
                left = sent.remainder
            else:
                # The period before it is not closed yet, so its fraction has not come here.
                alone += sent.remainder
        used = sum((one.quantity for one in self.log if one.day < billing_period(self.now.date(), 1).end), Decimal(0))
        left += alone
        if total + left != used * SCALE:
            raise Violation("I9", f"{total} billed and {left} left over, but {used} used")
