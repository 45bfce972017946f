"""The billing workflow as Temporal replays it: deterministic, and nothing but calls and pauses. It is loaded in Temporal's
sandbox, so it imports nothing of ours."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

ADVANCE = "advance_billing"
LOOKS_MAX = 500
"""Looks of one run; then it continues as a new one, so that no history grows without end."""


@dataclass(frozen=True)
class Asked:
    """The request, how long to pause between looks, and after what time a look counts as lost with its worker."""

    request_id: int
    pause_s: float
    lost_after_s: float


@workflow.defn(name="MonthlyBilling")
class MonthlyBilling:
    """Looks, until the request is completed."""

    @workflow.run
    async def run(self, asked: Asked) -> None:
        """One activity a look; what it did stands in Postgres, so a repeat of it is harmless."""
        for _ in range(LOOKS_MAX):
            step: str = await workflow.execute_activity(
                ADVANCE,
                asked.request_id,
                start_to_close_timeout=timedelta(seconds=asked.lost_after_s),
                retry_policy=RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=60)),
                result_type=str,
            )
            if step == "done":
                return
            if step == "waits":
                await workflow.sleep(timedelta(seconds=asked.pause_s))
        workflow.continue_as_new(asked)
