"""One run of the exporter, from the key to the report: settle what is unclear, take in final invoices, close periods, then
plan and send by rounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, timedelta

from billing_exporter import ledger, planning, requests
from billing_exporter.closing import close_due
from billing_exporter.gateway import Account, Gateway, GatewayAway, GatewayError, GatewayHalted
from billing_exporter.invoices import look
from billing_exporter.ledger import Row
from billing_exporter.planning import Line, Unmapped
from billing_exporter.reconciling import READ_STATES, reconcile
from billing_exporter.sending import Clock, Sender, Tally, utc_now
from billing_exporter.truth import OpenTotals
from metering.export_states import State
from runtime.exits import Exit, MeterlineExit
from runtime.settings import Settings
from store import reconcile_requests

PATIENCE_S = 30.0
"""How long a run waits for rows that Stripe asked to repeat."""

OPEN_STATES: tuple[State, ...] = ("planned", "sending", "retry_wait", "ambiguous", "rejected", "manual")
"""States that say why Stripe does not show a total yet."""

FINE = frozenset({"nothing", "keep"})


@dataclass
class RunReport:
    """What a run found and did."""

    account: Account
    planned: int = 0
    unchanged: int = 0
    problems: list[Line] = field(default_factory=list)
    """Pairs that planning left alone for a reason."""
    unmapped: list[Unmapped] = field(default_factory=list)
    states: Counter[State] = field(default_factory=Counter)
    """How many rows came to each state."""
    closed: int = 0
    """Periods that this run closed."""
    disagree: list[str] = field(default_factory=list)
    """Final invoices that bill what nobody sent."""
    refused: dict[str, str] = field(default_factory=dict)
    """Tenants whose period could not be closed, with the difference."""
    held: dict[str, str] = field(default_factory=dict)
    open_rows: list[Row] = field(default_factory=list)
    """Rows that are not at Stripe, each with its state and reason."""
    halted: str | None = None
    away: str | None = None
    """Why the run gave up on Stripe for now."""

    @property
    def ok(self) -> bool:
        """Whether everything that could be exported is at Stripe. A tenant without a customer could not."""
        if self.refused or self.disagree:
            return False
        return self.halted is None and not self.open_rows and all(line.action == "no_customer" for line in self.problems)


Progress = Callable[[str, int, int], None]
"""Told a step's name, how much of it is done, and of how much; 0 of 0 where that is not known."""


def _silent(_: str, __: int, ___: int) -> None:
    pass


SenderOf = Callable[[Account], Sender]
"""Makes the sender once the account is known."""


def run(
    settings: Settings,
    gateway: Gateway,
    sender_of: SenderOf,
    key_digest: bytes,
    totals: OpenTotals,
    *,
    month: tuple[int, int] | None = None,
    every: bool = False,
    since: date | None = None,
    now: Clock = utc_now,
    patience_s: float = PATIENCE_S,
    progress: Progress = _silent,
) -> RunReport:
    """Exports a selection of periods (see planning.rounds), oldest first. `progress` is told what it is at, from this thread.

    Raises MeterlineExit when the key is wrong before anything began or Stripe is away; TruthAway and psycopg.Error as
    sending does. A key that turns wrong in the middle ends the run with `halted` set and every row kept.
    """
    account = account_of(settings, gateway, key_digest)
    report = RunReport(account)
    sender, tally = sender_of(account), Tally()
    try:
        progress("settling what has no clear end", 0, 0)
        with ledger.connect(settings) as connection:
            # Stripe told of meter events that it could not use: then everything is compared, not the unclear alone.
            asked = reconcile_requests.waiting(connection)
        reconcile(settings, gateway, account, states=READ_STATES if asked else ("ambiguous",), now=now)
        with ledger.connect(settings) as connection:
            reconcile_requests.served(connection, asked)
        # what an earlier run began comes first: while it has no answer, nothing newer can be planned for its pair
        sender.drain(tally, 0, ledger.BEGUN)
        progress("reading final invoices", 0, 0)
        looked = look(settings, gateway, account, now())
    except GatewayError as error:
        raise _as_exit(error) from error
    report.disagree = looked.disagree
    progress("closing periods", 0, 0)
    with ledger.connect(settings) as connection:
        closing = close_due(connection, account, totals, now(), timedelta(seconds=settings.close_grace_s), looked.later)
        report.closed, report.refused = closing.closed, closing.refused
    with ledger.connect(settings) as connection:
        chosen = planning.rounds(connection, now().date(), month, every, since)
        if month is None and not every:
            chosen = [planning.starting_in(*asked) for asked in requests.wanted_months(connection)] + chosen
        for place, which in enumerate(chosen):
            if tally.over:
                break
            progress("planning and sending", place, len(chosen))
            for line in planning.plan(connection, account, which, now(), write=True):
                if line.action in ("insert", "supersede"):
                    report.planned += 1
                elif line.action in FINE:
                    report.unchanged += 1
                else:
                    report.problems.append(line)
            report.unmapped += planning.unmapped(connection, which)
            connection.commit()
            sender.drain(tally, patience_s)
        report.open_rows = ledger.in_states(connection, account, OPEN_STATES)
        requests.serve(connection, account, now())
    report.states, report.held, report.halted, report.away = tally.states, tally.held, tally.halted, tally.away
    return report


def account_of(settings: Settings, gateway: Gateway, key_digest: bytes) -> Account:
    """Whose key it is, asked of Stripe and remembered. Raises MeterlineExit with the remedy.

    A database whose totals went to a live account is not billed from a second one: its periods are closed once.
    """
    try:
        account = gateway.account()
    except GatewayError as error:
        raise _as_exit(error) from error
    with ledger.connect(settings) as connection:
        live = ledger.live_account(connection)
        if live is not None and live != account:
            raise MeterlineExit(
                Exit.SETTINGS,
                f"this database is billed by the live account {live.id}, and METERLINE_STRIPE_SECRET_KEY is"
                f" {'another live' if account.livemode else 'a test'} key, of {account.id}: take the live one's key, or a"
                " database of its own for tests. Nothing was sent",
            )
        ledger.remember_account(connection, key_digest, account)
    return account


def _as_exit(error: GatewayError) -> MeterlineExit:
    if isinstance(error, GatewayHalted):
        return MeterlineExit(
            Exit.SETTINGS,
            f"Stripe refuses the key ({error}); set METERLINE_STRIPE_SECRET_KEY right. Nothing was sent, rows are kept",
        )
    if isinstance(error, GatewayAway):
        return MeterlineExit(Exit.UNREACHABLE, f"Stripe does not answer ({error}); nothing was sent, run again when it does")
    return MeterlineExit(Exit.FAILED, f"Stripe refuses a question ({error}); rows are kept, run again when it is settled")
