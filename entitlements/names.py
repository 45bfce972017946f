"""Which tenants and usage types exist: asked before usage is published, so that a typing error is told and not logged.

The log itself admits unknown names (they are reported as unmapped); only this edge refuses them. So a name that was known a
minute ago may pass from memory: at worst an event of a removed tenant is logged and reported. That keeps SQL out of most
requests, and recording goes on for known names while Postgres is away.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Set
from typing import Final

from entitlements.queries import statement
from entitlements.store import Store, StoreAway

KNOWN_FOR_S: Final = 60.0
NAMES_MAX: Final = 200_000
"""Most names kept; the ones asked for longest ago go first."""


class _Memory:
    """Names seen in the catalog, with when; bounded."""

    def __init__(self) -> None:
        self._seen: dict[str, float] = {}

    def age_s(self, name: str, now: float) -> float:
        seen = self._seen.get(name)
        return float("inf") if seen is None else now - seen

    def keep(self, name: str, now: float) -> None:
        self._seen.pop(name, None)
        self._seen[name] = now
        if len(self._seen) > NAMES_MAX:
            del self._seen[next(iter(self._seen))]

    def forget(self, name: str) -> None:
        self._seen.pop(name, None)


class KnownNames:
    """The names that passed lately. For one event loop."""

    def __init__(self, store: Store, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._monotonic = monotonic
        self._sql = statement("names")
        self._tenants = _Memory()
        self._types = _Memory()

    def known(self, tenant_id: str, usage_type: str) -> bool:
        """Whether both passed lately: then nothing has to be asked."""
        now = self._monotonic()
        return self._tenants.age_s(tenant_id, now) <= KNOWN_FOR_S and self._types.age_s(usage_type, now) <= KNOWN_FOR_S

    async def unknown(self, tenants: Iterable[str], types: Iterable[str]) -> tuple[Set[str], Set[str]]:
        """Which of the tenants and of the usage types do not exist.

        Raises StoreAway when that cannot be known: a name that never passed is asked for while Postgres is away.
        """
        now = self._monotonic()
        tenants, types = set(tenants), set(types)
        ask_tenants = [name for name in tenants if self._tenants.age_s(name, now) > KNOWN_FOR_S]
        ask_types = [name for name in types if self._types.age_s(name, now) > KNOWN_FOR_S]
        if not ask_tenants and not ask_types:
            return set(), set()
        try:
            rows = await self._store.rows("names", self._sql, {"tenants": ask_tenants, "types": ask_types})
        except StoreAway:
            never = float("inf")
            if any(self._tenants.age_s(name, now) == never for name in ask_tenants) or any(
                self._types.age_s(name, now) == never for name in ask_types
            ):
                raise
            return set(), set()
        known_tenants = {name for is_tenant, name in rows if is_tenant}
        known_types = {name for is_tenant, name in rows if not is_tenant}
        for memory, asked, known in ((self._tenants, ask_tenants, known_tenants), (self._types, ask_types, known_types)):
            for name in asked:
                if name in known:
                    memory.keep(name, now)
                else:
                    memory.forget(name)
        return set(ask_tenants) - known_tenants, set(ask_types) - known_types
