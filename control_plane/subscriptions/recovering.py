"""The loop that finishes what a crash or a silent provider left open. Safe with two copies: each takes what nobody works on."""

from __future__ import annotations

import logging
import threading
import time

from sqlalchemy import select

from control_plane.parts import Parts
from control_plane.provider.port import Provider
from control_plane.provider.values import OVER
from control_plane.refusals import Refusal, StoreAway
from control_plane.subscriptions import operations, repository
from control_plane.subscriptions.operations import Wanted
from control_plane.subscriptions.running import advance
from control_plane.unit import STAGE, Actor, Unit, Units
from runtime import metrics

logger = logging.getLogger(__name__)

ACTOR = Actor("subscriptions.recovery", None)
AT_ONCE = 10
EVERY_S = 2.0
STRAYS_EVERY_S = 60.0
AWAY_S = 10.0


def recover(units: Units, provider: Provider) -> int:
    """One turn: how many operations came to an end. What the provider still does not answer stays for a later turn."""
    with units.begin(ACTOR) as unit:
        claimed = operations.claim(unit, AT_ONCE)
    ended = 0
    for operation in claimed:
        try:
            advance(units, provider, operation)
        except Refusal as refusal:
            logger.info("a change was not made", extra={"operation": operation.id, "code": refusal.code})
            ended += refusal.kind != "unavailable"
        else:
            ended += 1
    return ended


def end_strays(units: Units) -> int:
    """Parts that live on after their subscription ended are to be ended: opens an operation for each; how many."""
    opened = 0
    with units.begin(ACTOR) as unit:
        for subscription_id, tenant_id in _strays(unit):
            try:
                operations.begin(unit, tenant_id, subscription_id, "cancel", Wanted(at_period_end=False), free=True)
            except Refusal:
                continue  # another operation of the tenant goes first; the next turn looks again
            opened += 1
    return opened


def run(parts: Parts, stop: threading.Event) -> None:
    """Until `stop`. It outlives a Postgres and a provider that are away; without a provider there is nothing to look after."""
    provider = parts.payment_provider
    if provider is None:
        return
    strays_due_s = 0.0
    while not stop.wait(EVERY_S):
        try:
            if time.monotonic() >= strays_due_s:
                end_strays(parts.units)
                strays_due_s = time.monotonic() + STRAYS_EVERY_S
            recover(parts.units, provider)
        except StoreAway as away:
            logger.warning("subscriptions cannot be looked after now", extra={"error": away.message})
            stop.wait(AWAY_S)
        except Exception:
            # The last resort: a defect in a turn must end neither the loop nor the process, which answers requests.
            metrics.RETRIES.labels(STAGE, "defect").inc()
            logger.exception("a turn failed; tried again")
            stop.wait(AWAY_S)


def _strays(unit: Unit) -> list[tuple[str, str]]:
    subscriptions, parts = repository.SUBSCRIPTIONS, repository.PARTS
    rows = unit.sql.execute(
        select(subscriptions.c.subscription_id, subscriptions.c.tenant_id)
        .join(parts, parts.c.subscription_id == subscriptions.c.subscription_id)
        .where(parts.c.status.not_in(OVER), subscriptions.c.status.in_(OVER))
        .distinct()
        .limit(AT_ONCE)
    )
    return [(row.subscription_id, row.tenant_id) for row in rows]
