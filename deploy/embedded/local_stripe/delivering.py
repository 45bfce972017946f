"""Webhooks on their way: signed, posted, and tried again until they are answered with 2xx or given up."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import httpx

from deploy.embedded.local_stripe.faults import Faults
from deploy.embedded.local_stripe.problems import Answer
from deploy.embedded.local_stripe.state import Keeper, State
from deploy.embedded.local_stripe.timeline import timely

logger = logging.getLogger(__name__)

PAUSES_S = (1.0, 5.0, 30.0, 300.0, 3_600.0, 4 * 3_600.0)
"""After each failed attempt; then the delivery is given up."""
TOGETHER_MAX = 16
ANSWER_WITHIN_S = 10.0
IDLE_S = 0.5
"""Longest wait before the table is looked at again: what is due moves with the clock, too."""


@dataclass(frozen=True)
class Delivery:
    """One event for one endpoint."""

    seq: int
    attempts: int
    url: str
    secret: str
    body: str


class Delivering:
    """The task that posts what is due. `wake()` when something may be."""

    def __init__(self, keeper: Keeper, faults: Callable[[], Faults]) -> None:
        self._keeper, self._faults = keeper, faults
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Looks now, not at the end of the pause."""
        self._woken.set()

    async def run(self) -> None:
        """Until it is cancelled. What is cut off stays due and is posted again: a receiver must take repeats."""
        async with httpx.AsyncClient(timeout=ANSWER_WITHIN_S, trust_env=False) as client:
            while True:
                found: list[Delivery] = []
                await self._keeper.do(timely(partial(_due, found=found)))
                if found:
                    await asyncio.gather(*(self._deliver(client, one) for one in found))
                    continue
                try:
                    async with asyncio.timeout(IDLE_S):
                        await self._woken.wait()
                except TimeoutError:
                    pass
                self._woken.clear()

    async def _deliver(self, client: httpx.AsyncClient, delivery: Delivery) -> None:
        headers = {"Content-Type": "application/json; charset=utf-8", "Stripe-Signature": signature(delivery, int(time.time()))}
        await asyncio.sleep(self._faults().webhook_wait_s())
        try:
            response = await client.post(delivery.url, content=delivery.body.encode(), headers=headers)
            taken, answer = response.is_success, str(response.status_code)
        except Exception as error:  # noqa: BLE001 - an attempt that failed, whatever the reason, must not end all others
            # httpx lets through more than its own errors: a receiver that closes as it is connected to is an AttributeError.
            taken, answer = False, type(error).__name__
        again = taken and self._faults().webhook_again()
        await self._keeper.do(partial(_noted, delivery=delivery, taken=taken and not again, answer=answer))


def signature(delivery: Delivery, at: int) -> str:
    """The value of Stripe-Signature."""
    signed = hmac.new(delivery.secret.encode(), f"{at}.{delivery.body}".encode(), hashlib.sha256)
    return f"t={at},v1={signed.hexdigest()}"


def _due(state: State, found: list[Delivery]) -> Answer:
    rows = state.database.execute(
        "SELECT d.seq, d.attempts, w.body, w.name, e.body, e.kind FROM deliveries d"
        " JOIN objects w ON w.id = d.endpoint AND w.status = 'enabled' JOIN objects e ON e.id = d.event"
        " WHERE d.state = 'waiting' AND d.next_at <= ? ORDER BY d.next_at LIMIT ?",
        (time.time(), TOGETHER_MAX),
    ).fetchall()
    for seq, attempts, endpoint_text, secret, body, kind in rows:
        endpoint = json.loads(endpoint_text)
        if kind == "thin_event":
            thin = json.loads(body)
            del thin["data"]
            body = json.dumps(thin)
        url = endpoint["url"] if "url" in endpoint else endpoint["webhook_endpoint"]["url"]
        found.append(Delivery(seq, attempts, url, secret, body))
    return Answer(200, {})


def _noted(state: State, delivery: Delivery, taken: bool, answer: str) -> Answer:
    attempts = delivery.attempts + 1
    if taken:
        changes = ("done", time.time())
    elif attempts > len(PAUSES_S):
        logger.warning("a webhook to %s was given up after %d attempts: %s", delivery.url, attempts, answer)
        changes = ("dead", time.time())
    else:
        changes = ("waiting", time.time() + PAUSES_S[attempts - 1])
    state.database.execute(
        "UPDATE deliveries SET attempts = ?, state = ?, next_at = ?, answer = ? WHERE seq = ?",
        (attempts, *changes, answer, delivery.seq),
    )
    return Answer(200, {})
