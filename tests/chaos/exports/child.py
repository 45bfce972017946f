"""One exporter, as a process to be killed: `python -m tests.chaos.exports.child OFFSET_S RUNS`.

It runs like `meterline export run` and `export reconcile`, RUNS times, on the machine's clock moved by OFFSET_S seconds.
METERLINE_CRASH_AT names a point at which it dies. Leaves with 3 when Stripe does not answer.
"""

from __future__ import annotations

import os
import sys
import threading
from datetime import UTC, datetime, timedelta

from billing_exporter.exporter import account_of, run
from billing_exporter.gateway import Account, GatewayError
from billing_exporter.reconciling import reconcile
from billing_exporter.sending import Sender
from billing_exporter.stripe_gateway import key_digest, open_gateway
from billing_exporter.truth import clickhouse_totals
from runtime import crash
from runtime.exits import MeterlineExit
from runtime.logs import configure_logging
from runtime.settings import load_settings

AWAY = 3
PATIENCE_S = 4.0


def main(offset_s: int, runs: int) -> int:
    settings = load_settings(dict(os.environ))
    configure_logging(settings, "export")
    if spec := os.environ.get("METERLINE_CRASH_AT"):
        crash.arm(spec)
    gateway, digest, totals = open_gateway(settings), key_digest(settings), clickhouse_totals(settings)
    stop = threading.Event()

    def now() -> datetime:
        return datetime.now(UTC) + timedelta(seconds=offset_s)

    def sender_of(account: Account) -> Sender:
        return Sender(settings, gateway, account, totals, now=now, stop=stop)

    for _ in range(runs):
        try:
            run(settings, gateway, sender_of, digest, totals, now=now, patience_s=PATIENCE_S)
            reconcile(settings, gateway, account_of(settings, gateway, digest), now=now)
        except (MeterlineExit, GatewayError):
            return AWAY
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
