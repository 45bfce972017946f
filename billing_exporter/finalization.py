"""Whether a period's last total is at Stripe before Stripe makes its invoice final. Pure.

What comes after that is billed with the next period. Stripe does not tell an account's setting; the drafts that stand there
tell how long they wait.
"""

from __future__ import annotations

from dataclasses import dataclass

from runtime.settings import Settings

MOST_S = 72 * 3_600
"""Stripe leaves an invoice a draft for at most three days."""


@dataclass(frozen=True)
class Problem:
    """Why an invoice may be final too early, and what to set."""

    what: str
    remedy: str


def needed_s(settings: Settings) -> float:
    """How long after a period's end its last total may come."""
    return settings.close_grace_s + settings.export_deadline_s


def problem(settings: Settings, seen_s: int | None) -> Problem | None:
    """Compares with the setting, and with what drafts at Stripe were seen to wait, if any were seen."""
    waits_s, source = settings.stripe_finalization_grace_s, "METERLINE_STRIPE_FINALIZATION_GRACE_S"
    if seen_s is not None and seen_s < waits_s:
        waits_s, source = seen_s, "a draft at Stripe"
    if needed_s(settings) < waits_s:
        return None
    return Problem(
        f"an invoice is final {waits_s:.0f} s after its period ({source}), and its last total may come {needed_s(settings):.0f} s"
        f" after: {settings.close_grace_s:.0f} s of grace and {settings.export_deadline_s:.0f} s until the export",
        f"raise the finalization grace of the Stripe account (at most {MOST_S} s), METERLINE_STRIPE_FINALIZATION_GRACE_S with it,"
        " or lower METERLINE_CLOSE_GRACE_S or METERLINE_EXPORT_DEADLINE_S",
    )
