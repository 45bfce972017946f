"""A process that runs the billing workflow, or serves its requests as the exporter does, and dies where it is told to.

    python -m tests.fakes.billing_worker postgres|temporal|exporter

Settings come from the environment. It runs until its standard input ends.
"""

from __future__ import annotations

import os
import sys
import threading
from datetime import UTC, datetime

from billing_exporter import ledger
from billing_exporter.gateway import Account
from billing_exporter.requests import serve
from control_plane.billing.invoices import MirroredInvoices
from control_plane.billing.runners import PostgresRunner, Runner
from control_plane.billing.steps import Workflow
from control_plane.unit import Units
from runtime import crash
from runtime.settings import Settings, load_settings


def runner_of(kind: str, settings: Settings, units: Units) -> Runner:
    """Quick ones: a look every tenth of a second, and a look that died with its worker is found lost after two."""
    workflow = Workflow(units, MirroredInvoices())
    if kind == "postgres":
        return PostgresRunner(workflow, 0.1)
    from control_plane.billing.temporal_runner import TemporalRunner

    assert settings.temporal_address is not None
    return TemporalRunner(workflow, settings.temporal_address, "default", 0.1, lost_after_s=2.0)


def main(kind: str) -> None:
    settings = load_settings(dict(os.environ))
    if spec := os.environ.get("METERLINE_CRASH_AT"):
        crash.arm(spec)
    if kind == "exporter":
        with ledger.connect(settings) as connection:
            serve(connection, Account("acct_fake", False), datetime.now(UTC))
        return
    stop = threading.Event()

    def until_the_end() -> None:
        sys.stdin.read()
        stop.set()

    threading.Thread(target=until_the_end, daemon=True).start()
    units = Units(settings)
    runner_of(kind, settings, units).run(stop)
    units.close()


if __name__ == "__main__":
    main(sys.argv[1])
