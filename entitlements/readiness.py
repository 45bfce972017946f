"""GET /ready: whether requests can be served, by dependency."""

from __future__ import annotations

import asyncio
import time

from access.principals import AccessRefused
from access.verifiers import Gate
from entitlements.models import Ready
from entitlements.queries import statement
from entitlements.sink import UsageSink
from entitlements.store import Store, StoreAway

ANSWER_FOR_S = 0.5
"""One look answers everybody who asks within this time: /ready is open, and must not be a way to load the dependencies."""


class Readiness:
    """Looks at each dependency. For one event loop."""

    def __init__(self, store: Store, sink: UsageSink, gate: Gate) -> None:
        self._store = store
        self._sink = sink
        self._gate = gate
        self._sql = statement("ready")
        self._looked_at = float("-inf")
        self._last = Ready(False, {})
        self._looking = asyncio.Lock()

    async def look(self) -> Ready:
        """The last look if it is fresh, else a new one."""
        async with self._looking:
            if time.monotonic() - self._looked_at > ANSWER_FOR_S:
                (postgres, migrations), kafka = await asyncio.gather(self._postgres(), self._sink.problem())
                checks = {
                    "postgres": postgres or "ok",
                    "migrations": migrations or "ok",
                    "kafka": kafka or "ok",
                    "credentials": "not known yet" if postgres or migrations else await self._credentials(),
                }
                self._last = Ready(all(said == "ok" for said in checks.values()), checks)
                self._looked_at = time.monotonic()
            return self._last

    async def _postgres(self) -> tuple[str | None, str | None]:
        try:
            missing = await self._store.missing_tables(self._sql)
        except StoreAway as away:
            return str(away), "not known while Postgres is away"
        if missing:
            return None, f"missing tables: {', '.join(missing)}; run `meterline migrate`"
        return None, None

    async def _credentials(self) -> str:
        try:
            configured = await self._gate.configured()
        except AccessRefused as refused:
            return str(refused)
        return "ok" if configured else "no verifier lets anybody in; run `meterline secrets create`"
