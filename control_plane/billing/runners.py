"""Who takes the steps of the billing workflow: the port, and the runner on Postgres, which needs nothing beside it.

The state of a workflow is its row. A runner only decides when to look: it may be stopped, doubled or exchanged for the other
one at any moment.
"""

from __future__ import annotations

import logging
import threading
from datetime import UTC, datetime
from typing import Protocol

from control_plane.billing.steps import ACTOR, Workflow
from control_plane.refusals import StoreAway
from store import billing_requests

logger = logging.getLogger(__name__)

LOOKED_AT_ONCE_MAX = 100
STEPS_MAX = 8
"""Most steps of one request in a row: more arrows than there are."""


class Runner(Protocol):
    """Takes open requests to their end."""

    def run(self, stop: threading.Event) -> None:
        """Until the event is set. Outlives a Postgres, and a server of its own, that are away."""


class PostgresRunner:
    """Looks at what is due, `pause_s` after it was looked at last."""

    def __init__(self, workflow: Workflow, pause_s: float) -> None:
        self._workflow, self._pause_s = workflow, pause_s

    def run(self, stop: threading.Event) -> None:
        """See Runner."""
        while not stop.is_set():
            looked = 0
            try:
                looked = self.look(datetime.now(UTC), stop)
            except StoreAway:
                logger.warning("billing requests cannot be looked at: Postgres is away")
            except Exception:
                # The last resort: a defect in a step must not end the loop; the request is looked at again.
                logger.exception("a look at billing requests failed")
            if looked < LOOKED_AT_ONCE_MAX:
                stop.wait(self._pause_s)

    def look(self, now: datetime, stop: threading.Event) -> int:
        """Takes each due request as far as it goes; returns how many were looked at. Raises StoreAway."""
        units = self._workflow.units
        with units.begin(ACTOR) as unit:
            due = billing_requests.due(unit.pg, LOOKED_AT_ONCE_MAX)
        for request_id in due:
            if stop.is_set():
                break
            for _ in range(STEPS_MAX):
                if self._workflow.advance(request_id, now) != "moved":
                    break
            with units.begin(ACTOR) as unit:
                billing_requests.look_again(unit.pg, request_id, self._pause_s)
        return len(due)
