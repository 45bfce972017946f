"""The loop that goes on with accounts whose making was cut. Safe with two copies: each takes what the other has not."""

from __future__ import annotations

import logging
import threading
from typing import Final

from control_plane.accounts.creating import finish_due
from control_plane.parts import Parts
from control_plane.refusals import Refusal
from control_plane.unit import Actor
from runtime.keyring import keyring

logger = logging.getLogger(__name__)

EVERY_S: Final = 5.0
AWAY_S: Final = 30.0
_ACTOR: Final = Actor("loop:accounts")


def run(parts: Parts, stop: threading.Event) -> None:
    """Runs until the event is set. Without a keyring no account can be finished, so there is nothing to do then."""
    keys = keyring(parts.settings)
    if keys is None:
        return
    wait_s = EVERY_S
    while not stop.wait(wait_s):
        wait_s = EVERY_S
        try:
            if done := finish_due(parts, parts.provider, keys, _ACTOR):
                logger.info("accounts finished", extra={"count": done})
        except Refusal as refusal:
            logger.warning("accounts cannot be finished now", extra={"code": refusal.code})
            wait_s = AWAY_S
        except Exception:
            # The last resort: a defect in a turn must end neither the loop nor the process, which answers requests.
            logger.exception("a turn failed; tried again")
            wait_s = AWAY_S
