"""What becomes of one entry of the catalog, to be shown, audited and written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Entity = dict[str, Any]


@dataclass(frozen=True)
class Change:
    """What becomes of one entry; `before` and `after` are its fields as JSON values."""

    section: str
    name: str
    action: Literal["added", "changed", "removed"]
    before: Entity | None
    after: Entity | None

    def fields(self) -> list[tuple[str, str, str]]:
        """(field, before, after) of each field that differs, nested ones by path; an absent one is empty."""
        old, new = _flat(self.before), _flat(self.after)
        return [
            (field, old.get(field, ""), new.get(field, ""))
            for field in [*old, *(field for field in new if field not in old)]
            if old.get(field) != new.get(field)
        ]


def _flat(entity: Entity | None, prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for field, value in (entity or {}).items():
        if isinstance(value, list):
            flat[prefix + field] = ", ".join(map(str, value))
        elif isinstance(value, dict):
            if "period" in value:
                flat[prefix + field] = _limit_text(value)
            else:
                flat |= _flat(value, f"{prefix}{field}.")
        elif value is not None:
            flat[prefix + field] = str(value).lower() if isinstance(value, bool) else str(value)
    return flat


def _limit_text(limit: Entity) -> str:
    away = f", {limit['when_unavailable']}" if limit["when_unavailable"] is not None else ""
    if limit["limit"] is None:
        return f"unlimited per {limit['period']}{away}"
    price = f", overage at {limit['overage_price']}" if limit["overage_price"] is not None else ""
    return f"{limit['limit']} per {limit['period']}, {limit['enforce']}{price}{away}"
