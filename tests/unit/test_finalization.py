"""A period's last total must be at Stripe before its invoice is final."""

from __future__ import annotations

import pytest

from billing_exporter import finalization
from cli import checks
from runtime.settings import Settings, load_settings


@pytest.mark.parametrize(
    ("grace_s", "deadline_s", "told_s", "seen_s", "fine"),
    [
        (1_800, 1_200, 3_600, None, True),
        (1_800, 1_200, 3_600, 3_600, True),
        (1_800, 1_800, 3_600, None, False),
        (1_800, 1_799, 3_600, None, True),
        (7_200, 3_600, 86_400, None, True),
        (7_200, 3_600, 86_400, 3_600, False),
        (1_800, 1_200, 3_600, 86_400, True),
    ],
)
def test_grace_and_deadline_must_end_before_stripe_makes_the_invoice_final(
    grace_s: int, deadline_s: int, told_s: int, seen_s: int | None, fine: bool
) -> None:
    settings = Settings(close_grace_s=grace_s, export_deadline_s=deadline_s, stripe_finalization_grace_s=told_s)
    problem = finalization.problem(settings, seen_s)
    assert (problem is None) is fine
    if problem is not None:
        assert f"{grace_s + deadline_s} s after" in problem.what
        assert "METERLINE_CLOSE_GRACE_S" in problem.remedy


def test_the_doctor_holds_it_where_there_is_a_key() -> None:
    late = {"METERLINE_CLOSE_GRACE_S": "7200"}
    assert checks.stripe_finalization(load_settings(late))[0] == "ok"
    key = {"STRIPE_SECRET_KEY": "sk_test_12345678"}
    assert checks.stripe_finalization(load_settings(key))[0] == "ok"
    status, found, remedy = checks.stripe_finalization(load_settings(late | key))
    assert status == "failed"
    assert "8400 s after" in found
    assert remedy
