"""Whether a promo code may be redeemed."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from metering.promotions import SAYS, Reason, Terms, refused

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
OPEN = Terms(
    active=True,
    ready=True,
    starts_at=NOW - SECOND,
    expires_at=NOW + SECOND,
    max_redemptions=3,
    redeemed=2,
    max_per_organization=2,
    plan_ids=frozenset({"studio"}),
    currency="usd",
)


def test_within_all_its_terms_it_may() -> None:
    assert refused(OPEN, NOW, 1, "studio", "usd") is None
    assert refused(OPEN, NOW, 1, None, None) is None
    free = replace(OPEN, starts_at=None, expires_at=None, max_redemptions=None, plan_ids=frozenset(), currency=None)
    assert refused(free, NOW, 1, "agency", "jpy") is None


@pytest.mark.parametrize(
    ("change", "used", "plan", "currency", "reason"),
    [
        ({"active": False}, 0, "studio", "usd", "inactive"),
        ({"starts_at": NOW + SECOND}, 0, "studio", "usd", "not_started"),
        ({"expires_at": NOW}, 0, "studio", "usd", "expired"),
        ({"redeemed": 3}, 0, "studio", "usd", "used_up"),
        ({}, 2, "studio", "usd", "used_by_organization"),
        ({}, 0, "agency", "usd", "wrong_plan"),
        ({}, 0, "studio", "jpy", "wrong_currency"),
        ({"ready": False}, 0, "studio", "usd", "not_ready"),
    ],
)
def test_each_of_its_terms_can_be_what_refuses_it(
    change: dict[str, object], used: int, plan: str, currency: str, reason: Reason
) -> None:
    assert refused(replace(OPEN, **change), NOW, used, plan, currency) == reason  # type: ignore[arg-type]
    assert SAYS[reason]
