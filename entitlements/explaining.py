"""GET /v1/billing/explain: where an event is, as `meterline explain` says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg
from clickhouse_connect.driver.client import Client
from msgspec import Raw

from entitlements.bodies import valid_name
from entitlements.problems import Problem
from entitlements.store import StoreAway
from entitlements.warehouse import Warehouse
from runtime import postgres
from runtime.settings import Settings
from store.explain import Explanation
from store.explaining import explained

NAMES = ("sourceService", "sourceEntityId", "usageType")
_EXACT = {"quantity", "total"}
"""Texts of the command's JSON that are numbers over HTTP."""


class Explaining:
    """Reads both stores and the log, in a thread. Raises Problem, StoreAway or WarehouseAway."""

    def __init__(self, settings: Settings, warehouse: Warehouse) -> None:
        self._settings = settings.model_copy(
            update={"postgres_timeout_s": min(settings.postgres_timeout_s, warehouse.within_s / 2)}
        )
        self._warehouse = warehouse

    async def of(self, query: Mapping[str, str]) -> dict[str, Any]:
        """What is known of the event that the query names."""
        names = [_named(query, name) for name in NAMES]

        def work(client: Client) -> Explanation:
            with postgres.connect(self._settings) as connection:
                return explained(self._settings, connection, client, *names)

        try:
            found = await self._warehouse.read("explain", work)
        except LookupError as error:
            raise StoreAway(f"{error}.") from error
        except psycopg.Error as error:
            raise StoreAway("Postgres does not answer; try again shortly.") from error
        shown: dict[str, Any] = _in_camel_case(found.as_json())
        return shown


def _named(query: Mapping[str, str], name: str) -> str:
    if name not in query:
        raise Problem(400, "missing_field", f"{name} is missing. Send {', '.join(NAMES)} as the event has them.")
    return valid_name(name, query[name])


def _in_camel_case(value: Any) -> Any:
    if isinstance(value, list):
        return [_in_camel_case(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        _camel(name): Raw(item.encode()) if name in _EXACT and isinstance(item, str) else _in_camel_case(item)
        for name, item in value.items()
    }


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)
