"""The loops of `serve entitlements`: each a thread with a connection of its own, beside the event loop that answers."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from entitlements.relay import Relay
from entitlements.sweeping import Sweeper
from entitlements.thresholds import Thresholds
from entitlements.webhooks import Webhooks
from runtime import clickhouse, postgres
from runtime.settings import Settings

logger = logging.getLogger(__name__)

STOP_SHARE = 0.5
"""Of `stop_within_s`: a relay that waits for the broker's acknowledgements ends with them."""


@contextmanager
def running(settings: Settings) -> Iterator[Relay]:
    """They run while the block runs. Nothing here waits for a connection; what is away is waited for by its loop."""
    stop = threading.Event()

    def connect() -> psycopg.Connection[Any]:
        return postgres.connect(settings, autocommit=True)

    relay = Relay(settings, connect)
    loops: dict[str, Callable[[threading.Event], None]] = {
        "outbox-relay": relay.run_until,
        "hold-sweeper": Sweeper(connect, lambda: clickhouse.client(settings)).run_until,
        "thresholds": Thresholds(settings, connect, relay.promised).run_until,
    }
    webhooks = Webhooks.configured(settings, connect)
    if webhooks is not None:
        loops["webhooks"] = webhooks.run_until
    threads = [threading.Thread(target=run, args=(stop,), name=name, daemon=True) for name, run in loops.items()]
    for thread in threads:
        thread.start()
    try:
        yield relay
    finally:
        stop.set()
        relay.promised()
        for thread in threads:
            thread.join(settings.stop_within_s * STOP_SHARE / len(threads))
            if thread.is_alive():
                logger.warning("a loop did not end in time; what it was doing will be done again", extra={"loop": thread.name})
