"""What the commands of the exporter share: its parts put together, a bar for people, and the process of the schedule."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg

from billing_exporter import requests
from billing_exporter.exporter import Progress, SenderOf, account_of, run
from billing_exporter.gateway import Account, Gateway
from billing_exporter.reconciling import reconcile
from billing_exporter.schedule import Ended, Schedule, Turn
from billing_exporter.sending import Sender
from billing_exporter.stripe_gateway import key_digest, open_gateway
from billing_exporter.truth import clickhouse_totals
from runtime import postgres
from runtime.life import serve_health
from runtime.settings import Settings


def sender_of(settings: Settings, gateway: Gateway, stop: threading.Event) -> SenderOf:
    """Makes the sender once the account is known."""

    def made(account: Account) -> Sender:
        return Sender(settings, gateway, account, clickhouse_totals(settings), stop=stop)

    return made


def serve_schedule(settings: Settings, stop: threading.Event) -> None:
    """Blocks until it is told to stop. Raises SettingsError for a key or a schedule that is none, before anything begins."""
    gateway = open_gateway(settings)

    def work(turn: Turn) -> Ended:
        report = run(
            settings,
            gateway,
            sender_of(settings, gateway, stop),
            key_digest(settings),
            clickhouse_totals(settings),
            since=turn.since,
        )
        if report.halted is not None:
            return Ended("failed", f"Stripe refuses the key: {report.halted}; every row is kept")
        if report.away is not None:
            return Ended("failed", f"Stripe does not answer: {report.away}; every row is kept")
        account = account_of(settings, gateway, key_digest(settings))
        compared = reconcile(settings, gateway, account)
        requests.serve_now(settings, account)
        verdicts: Counter[str] = Counter(one.verdict for one in compared)
        said = [f"{count} {name}" for name, count in sorted((report.states + verdicts).items())]
        if report.open_rows:
            said.append(f"{len(report.open_rows)} not at Stripe (`meterline export status`)")
        fine = report.ok and not verdicts["drift"] and not verdicts["manual"]
        return Ended("done" if fine else "open", ", ".join(said) or "nothing was due")

    schedule = Schedule(settings, work, stop)
    with serve_health(settings, {"postgres": _postgres(settings), "export": lambda: schedule.problem}):
        schedule.serve()


def _postgres(settings: Settings) -> Callable[[], str | None]:
    def check() -> str | None:
        try:
            with postgres.connect(settings) as connection:
                connection.execute("SELECT 1")
        except psycopg.Error as error:
            return str(error).splitlines()[0]
        return None

    return check


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """On a terminal a bar on standard error, elsewhere nothing."""
    if not sys.stderr.isatty():
        yield lambda name, done, of: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def tell(name: str, done: int, of: int) -> None:
            bar.update(task, description=name, completed=done, total=of or None)

        yield tell
