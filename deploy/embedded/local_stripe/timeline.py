"""What the clock brings about: each object that is due is touched, in the order of time, before a request is answered."""

from __future__ import annotations

from deploy.embedded.local_stripe import invoices, subscriptions
from deploy.embedded.local_stripe.problems import Answer
from deploy.embedded.local_stripe.state import State, Work

STEPS_MAX = 10_000
"""Most transitions before one request: a clock that jumps over years must not hold it for ever; the next one goes on."""


def timely(work: Work) -> Work:
    """The work, after all that was due before it."""

    def then(state: State) -> Answer:
        run(state)
        return work(state)

    return then


def run(state: State) -> None:
    """Lets everything happen that was due by now, each at its own time."""
    for _ in range(STEPS_MAX):
        row = state.database.execute(
            "SELECT id, kind, due FROM objects WHERE due <= ? ORDER BY due, seq LIMIT 1", (state.clock.now(),)
        ).fetchone()
        if row is None:
            return
        identifier, kind, due = row
        (subscriptions.fall_due if kind == "subscription" else invoices.fall_due)(state, identifier, due)
