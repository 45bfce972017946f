"""Tells an operator's server of alerts: signed, at least once, with growing waits, until it says 2xx or a day has gone by.

The form is that of Standard Webhooks: `webhook-id`, `webhook-timestamp`, `webhook-signature`. The id is the alert's and the
same at every try, so that a receiver knows a repeat. Each secret that is configured signs: while one replaces the other,
receivers that know either of them are content.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import msgspec
import psycopg

from metering.alerts import wait_s
from meterline_schemas.alert import encode_alert
from meterline_schemas.instants import format_instant
from runtime import metrics
from runtime.repeating import repeat_until
from runtime.settings import Settings
from store import alerts
from store.alerts import Telling

logger = logging.getLogger(__name__)

BATCH_MAX = 8
TIMEOUT_S = 5.0
"""For connecting, sending and the head of the answer, each; a batch ends well before its lease."""
IDLE_S = 1.0
EVENT_TYPE = "usage.threshold_reached"
GONE = 410


def signature(secrets: Sequence[bytes], message_id: str, timestamp: int, body: bytes) -> str:
    """The header's value: one signature a secret, separated by spaces."""
    signed = b"%s.%d.%s" % (message_id.encode(), timestamp, body)
    codes = (base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode() for secret in secrets)
    return " ".join(f"v1,{code}" for code in codes)


def body_of(telling: Telling) -> bytes:
    """The same bytes at every try."""
    raised_at = format_instant(telling.alert.raised_at_ms)
    return msgspec.json.encode({"type": EVENT_TYPE, "timestamp": raised_at, "data": msgspec.Raw(encode_alert(telling.alert))})


class Webhooks:
    """For one thread. Safe beside other copies: what one has taken, the others leave alone until its lease is over."""

    def __init__(
        self,
        url: str,
        secrets: Sequence[bytes],
        connect: Callable[[], psycopg.Connection[Any]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._url = url
        self._secrets = tuple(secrets)
        self._connect = connect
        self._clock = clock

    @classmethod
    def configured(cls, settings: Settings, connect: Callable[[], psycopg.Connection[Any]]) -> Webhooks | None:
        """None where no address is set."""
        if settings.alert_webhook_url is None:
            return None
        return cls(settings.alert_webhook_url, settings.alert_webhook_keys, connect)

    def run_until(self, stop: threading.Event) -> None:
        """Blocks until `stop` is set, one try at most after it. Outlives an absent Postgres and an absent receiver."""
        with self.client() as client:

            def turn(connection: psycopg.Connection[Any]) -> float:
                return 0.0 if self.turn(connection, client, stop) == BATCH_MAX else IDLE_S

            repeat_until(stop, "entitlements", "webhooks", self._connect, turn)

    def client(self) -> httpx.Client:
        """Follows no redirect, and takes no proxy from the environment: it talks to the configured address alone."""
        return httpx.Client(
            timeout=TIMEOUT_S,
            follow_redirects=False,
            trust_env=False,
            verify=ssl.create_default_context(),
            headers={"user-agent": "meterline", "content-type": "application/json"},
            limits=httpx.Limits(max_connections=1),
        )

    def turn(self, connection: psycopg.Connection[Any], client: httpx.Client, stop: threading.Event) -> int:
        """Tells of what is due; how many were tried. Raises psycopg.Error: a telling may then be repeated."""
        with connection.transaction():
            due = alerts.take_due(connection, BATCH_MAX)
        for telling in due:
            if stop.is_set():
                # Its lease runs out, and somebody takes it again.
                break
            failed, for_ever = self._tell(client, telling)
            with connection.transaction():
                if failed is None:
                    alerts.told(connection, telling.alert_id)
                else:
                    wait = None if for_ever else wait_s(telling.attempts)
                    alerts.not_told(connection, telling.alert_id, failed, wait)
            self._note(telling, failed, dead=failed is not None and (for_ever or wait_s(telling.attempts) is None))
        return len(due)

    def _tell(self, client: httpx.Client, telling: Telling) -> tuple[str | None, bool]:
        """(None when the receiver took it, else what was wrong; whether it never wants to hear of it again)."""
        body, message_id, timestamp = body_of(telling), str(telling.alert_id), int(self._clock())
        headers = {
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(self._secrets, message_id, timestamp, body),
        }
        try:
            # The body of the answer is not read: its status says all that is asked, and it has no bound.
            with client.stream("POST", self._url, content=body, headers=headers) as answer:
                if answer.is_success:
                    return None, False
                return f"the receiver answered {answer.status_code}", answer.status_code == GONE
        except (httpx.HTTPError, ssl.SSLError) as error:
            return f"{type(error).__name__}: {error}"[:300], False

    def _note(self, telling: Telling, failed: str | None, *, dead: bool) -> None:
        outcome = "delivered" if failed is None else "dead" if dead else "failed"
        metrics.ALERTS.labels(outcome).inc()
        if failed is not None:
            extra = {"alert": str(telling.alert_id), "attempts": telling.attempts, "error": failed, "dead": dead}
            logger.warning("a webhook was not taken", extra=extra)
