"""What the commands of the exporter share: its parts put together, a bar for people."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from billing_exporter.exporter import Progress, SenderOf
from billing_exporter.gateway import Account, Gateway
from billing_exporter.sending import Sender
from billing_exporter.truth import clickhouse_totals
from runtime.settings import Settings


def sender_of(settings: Settings, gateway: Gateway, stop: threading.Event) -> SenderOf:
    """Makes the sender once the account is known."""

    def made(account: Account) -> Sender:
        return Sender(settings, gateway, account, clickhouse_totals(settings), stop=stop)

    return made


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
