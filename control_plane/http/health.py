"""GET /ready: whether requests can be served, by dependency."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from sqlalchemy import text

from access.principals import AccessRefused
from access.verifiers import Gate
from control_plane.metadata import METADATA
from control_plane.parts import Parts
from control_plane.refusals import StoreAway
from control_plane.unit import Actor

ANSWER_FOR_S = 0.5
"""One look answers everybody who asks within this time: /ready is open, and must not be a way to load the dependencies."""

_MISSING = text("SELECT name FROM unnest(CAST(:names AS text[])) AS name WHERE to_regclass(name) IS NULL ORDER BY name LIMIT 5")


@dataclass(frozen=True)
class Ready:
    """What was seen, by dependency; "ok", or what is wrong."""

    ready: bool
    checks: dict[str, str] = field(default_factory=dict)


class Readiness:
    """Looks at each dependency. For one event loop."""

    def __init__(self, parts: Parts, gate: Gate) -> None:
        self._parts = parts
        self._gate = gate
        self._looked_at = float("-inf")
        self._last = Ready(False)
        self._looking = asyncio.Lock()

    async def look(self) -> Ready:
        """The last look if it is fresh, else a new one."""
        async with self._looking:
            if time.monotonic() - self._looked_at > ANSWER_FOR_S:
                postgres, migrations = await asyncio.to_thread(self._postgres)
                known = postgres == migrations == "ok"
                credentials = await self._credentials() if known else "not known yet"
                checks = {"postgres": postgres, "migrations": migrations, "credentials": credentials}
                self._last = Ready(all(said == "ok" for said in checks.values()), checks)
                self._looked_at = time.monotonic()
            return self._last

    def _postgres(self) -> tuple[str, str]:
        try:
            with self._parts.units.begin(Actor("readiness")) as unit:
                missing = list(unit.sql.scalars(_MISSING, {"names": sorted(METADATA.tables)}))
        except StoreAway as away:
            return str(away), "not known while Postgres is away"
        return "ok", f"missing tables: {', '.join(missing)}; run `meterline migrate`" if missing else "ok"

    async def _credentials(self) -> str:
        try:
            configured = await self._gate.configured()
        except AccessRefused as refused:
            return str(refused)
        return "ok" if configured else "no verifier lets anybody in; run `meterline secrets create`"
