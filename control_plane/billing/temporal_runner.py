"""The runner on Temporal: a workflow for each open request, with the extra `meterline-server[temporal]`.

Requests and their states are in Postgres as they are without it. Temporal keeps when to look and repeats what failed; a
server that lost everything is given the open requests again.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from temporalio import activity
from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.service import RPCError
from temporalio.worker import Worker

from control_plane.billing.steps import ACTOR, Step, Workflow
from control_plane.billing.temporal_workflow import ADVANCE, Asked, MonthlyBilling
from control_plane.refusals import StoreAway
from runtime.life import Backoff
from store import billing_requests

logger = logging.getLogger(__name__)

TASK_QUEUE = "meterline-billing"
THREADS = 4
LOST_AFTER_S = 30.0
STARTED_AGAIN_S = 60.0
"""How long a started workflow is trusted to be there before it is asked to be there again."""


class TemporalRunner:
    """Starts what is open, and works for the task queue."""

    def __init__(
        self, workflow: Workflow, address: str, namespace: str, pause_s: float, lost_after_s: float = LOST_AFTER_S
    ) -> None:
        self._workflow, self._address, self._namespace = workflow, address, namespace
        self._pause_s, self._lost_after_s = pause_s, lost_after_s
        self._started: dict[int, float] = {}

    def run(self, stop: threading.Event) -> None:
        """See Runner."""
        asyncio.run(self._run(stop))

    async def _run(self, stop: threading.Event) -> None:
        backoff = Backoff(first_s=0.5, most_s=30.0)
        while not stop.is_set():
            try:
                client = await Client.connect(self._address, namespace=self._namespace)
                with ThreadPoolExecutor(THREADS, thread_name_prefix="billing") as pool:
                    async with Worker(
                        client,
                        task_queue=TASK_QUEUE,
                        workflows=[MonthlyBilling],
                        activities=[self._advance],
                        activity_executor=pool,
                        max_concurrent_activities=THREADS,
                        # Looks are rare: a workflow is replayed for each, so that no killed worker's cache is waited for.
                        max_cached_workflows=0,
                    ):
                        await self._start_open(client, stop, backoff)
            except (RPCError, RuntimeError) as error:
                # RuntimeError is what the client says when nobody answers at the address.
                logger.warning("Temporal is away; tried again", extra={"address": self._address, "error": str(error)[:500]})
                await asyncio.to_thread(stop.wait, backoff.wait_s())

    async def _start_open(self, client: Client, stop: threading.Event, backoff: Backoff) -> None:
        while not stop.is_set():
            try:
                open_ids = await asyncio.to_thread(self._open)
            except StoreAway:
                logger.warning("billing requests cannot be looked at: Postgres is away")
                open_ids = []
            now = time.monotonic()
            self._started = {one: at for one, at in self._started.items() if one in open_ids and now - at < STARTED_AGAIN_S}
            for request_id in open_ids:
                if request_id not in self._started:
                    await client.start_workflow(
                        MonthlyBilling.run,
                        Asked(request_id, self._pause_s, self._lost_after_s),
                        id=f"meterline-billing-{request_id}",
                        task_queue=TASK_QUEUE,
                        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                    )
                    self._started[request_id] = now
            backoff.reset()
            await asyncio.to_thread(stop.wait, self._pause_s)

    def _open(self) -> list[int]:
        with self._workflow.units.begin(ACTOR) as unit:
            return billing_requests.open_ids(unit.pg)

    @activity.defn(name=ADVANCE)
    def _advance(self, request_id: int) -> Step:
        """Raises StoreAway; Temporal repeats it."""
        return self._workflow.advance(request_id, datetime.now(UTC))
