"""Which revision a final invoice billed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from metering.export_states import MOVES, State
from metering.finality import TO_CLOSED, TO_MANUAL, TO_SUPERSEDED, Told, billed_by

FINAL = datetime(2026, 12, 1, 1, 0, tzinfo=UTC)


def told(revision: int, shown: int, state: State, minutes_before: int | None = 10) -> Told:
    sent = None if minutes_before is None else FINAL - timedelta(minutes=minutes_before)
    return Told(revision * 100, revision, shown, Decimal(shown), state, sent)


@pytest.mark.parametrize(
    ("revisions", "quantity", "revision"),
    [
        ([told(1, 5, "superseded"), told(2, 7, "accepted")], 7, 2),
        ([told(1, 5, "superseded"), told(2, 7, "accepted", -1)], 5, 1),
        ([told(1, 5, "superseded"), told(2, 5, "accepted")], 5, 2),
        ([told(1, 5, "superseded"), told(2, 7, "ambiguous")], 7, 2),
        ([told(1, 5, "accepted"), told(2, 7, "ambiguous")], 5, 1),
        ([told(1, 5, "accepted"), told(2, 7, "planned", None)], 5, 1),
        ([told(1, 5, "accepted")], 0, None),
        ([], 0, None),
        ([told(1, 0, "accepted")], 0, 1),
    ],
)
def test_the_newest_revision_sent_before_it_that_says_the_same_is_what_an_invoice_billed(
    revisions: list[Told], quantity: int, revision: int | None
) -> None:
    billed = billed_by(revisions, quantity, FINAL, "in_1")
    assert (None if billed.revision is None else billed.revision.revision, billed.reason) == (revision, "")


def test_a_quantity_that_nobody_sent_is_told_beside_what_stripe_may_have() -> None:
    billed = billed_by([told(1, 5, "superseded"), told(2, 7, "accepted")], 6, FINAL, "in_1")
    assert billed.revision is not None
    assert (billed.revision.revision, billed.reason) == (2, "drift: the final invoice in_1 billed 6, the ledger says 7")
    assert billed_by([], 6, FINAL, "in_1").reason == "drift: the final invoice in_1 billed 6, the ledger says nothing"
    # what was sent only afterwards, or refused, was not billed
    assert billed_by([told(1, 6, "rejected"), told(2, 6, "accepted", -1)], 6, FINAL, "in_1").reason


def test_every_way_to_an_end_goes_by_arrows_of_the_machine() -> None:
    for ways in (TO_CLOSED, TO_MANUAL, dict.fromkeys(TO_SUPERSEDED, ("superseded",))):
        for state, path in ways.items():
            at: State = state
            for to_state in path:
                assert to_state in MOVES[at], (state, path)
                at = to_state
