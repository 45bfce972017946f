"""The catalog in Postgres: read, compared with a file's, and changed in one audited transaction.

What a file no longer names:
- a tenant is left alone, for tenants come from sign-ups too; it is switched off with `status: inactive`;
- a usage type goes only while nothing was ever counted of it, else its usage would be billed as nothing;
- a plan goes only when no tenant is on it any more;
- a meter goes only while nothing was sent to it; nor may its scale change then, for what was sent would mean another
  quantity;
- a feature goes when nothing names it, which the file itself must see to.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

from psycopg import Connection

from runtime.exits import Exit, MeterlineExit
from runtime.locks import AdvisoryLock
from store.audit import Entry, record
from store.catalog_model import Catalog

__all__ = ["Catalog", "Change", "load_catalog", "diff", "apply", "current_version", "SECTIONS"]


SECTIONS = ("features", "meters", "usage_types", "plans", "tenants")
_NOUN = {"features": "feature", "meters": "meter", "usage_types": "usage type", "plans": "plan", "tenants": "tenant"}

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


def load_catalog(connection: Connection[Any], tenants: Collection[str] | None = None) -> Catalog:
    """The catalog that stands; of the tenants, all or those named."""
    features = connection.execute("SELECT feature, description FROM features ORDER BY feature").fetchall()
    meters = connection.execute("SELECT meter, scale, rounding, mode FROM meters ORDER BY meter").fetchall()
    types = connection.execute(
        "SELECT usage_type, description, unit, feature, meter FROM usage_types ORDER BY usage_type"
    ).fetchall()
    plans: dict[str, Entity] = {
        plan_id: {"name": name, "features": {}, "limits": {}}
        for plan_id, name in connection.execute("SELECT plan_id, name FROM plans ORDER BY plan_id")
    }
    for plan_id, feature, enabled in connection.execute(
        "SELECT plan_id, feature, enabled FROM plan_features ORDER BY plan_id, feature"
    ):
        plans[plan_id]["features"][feature] = enabled
    for plan_id, usage_type, quantity, hard, price, period in connection.execute(
        "SELECT plan_id, usage_type, quantity, hard, overage_price, period FROM plan_limits ORDER BY plan_id, usage_type"
    ):
        limit: Entity = {"limit": "unlimited", "period": period}
        if quantity is not None:
            limit |= {"limit": quantity, "enforce": "hard" if hard else "soft", "overage_price": price}
        plans[plan_id]["limits"][usage_type] = limit
    who = connection.execute(
        "SELECT tenant_id, name, plan_id, anchor_day, status FROM tenants"
        " WHERE %s::text[] IS NULL OR tenant_id = ANY(%s) ORDER BY tenant_id",
        (None, None) if tenants is None else (list(tenants), list(tenants)),
    ).fetchall()
    return Catalog.model_validate(
        {
            "features": {name: {"description": description} for name, description in features},
            "meters": {name: {"scale": scale, "rounding": rounding, "mode": mode} for name, scale, rounding, mode in meters},
            "usage_types": {
                name: {"description": description, "unit": unit, "feature": feature, "meter": meter}
                for name, description, unit, feature, meter in types
            },
            "plans": plans,
            "tenants": {
                name: {"name": label, "plan": plan, "anchor_day": day, "status": status} for name, label, plan, day, status in who
            },
        }
    )


def diff(connection: Connection[Any], catalog: Catalog) -> list[Change]:
    """What `apply` would change, in the order of the file's sections. Tenants that the catalog does not name stay."""
    standing = load_catalog(connection, tenants=list(catalog.tenants))
    changes: list[Change] = []
    for section in SECTIONS:
        before, after = _entities(standing, section), _entities(catalog, section)
        for name, new in after.items():
            old = before.get(name)
            if old != new:
                changes.append(Change(section, name, "changed" if old is not None else "added", old, new))
        changes.extend(Change(section, name, "removed", old, None) for name, old in before.items() if name not in after)
    return changes


def apply(
    connection: Connection[Any], catalog: Catalog, by: str, source: str | None = None, expected: list[Change] | None = None
) -> int | None:
    """Makes the catalog stand and returns its new version; None when it stands already.

    One transaction (a savepoint within the caller's, if there is one) holds the change, the version with its `source`
    text, and an audit row for each entry. Raises MeterlineExit with the remedy when the change would take away what is
    still referenced, or when it is no longer the `expected` one that was shown.
    """
    dangling = catalog.dangling()
    if dangling:
        raise MeterlineExit(Exit.FAILED, "; ".join(f"{'.'.join(path)}: {message}" for path, message in dangling))
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (AdvisoryLock.CATALOG,))
        changes = diff(connection, catalog)
        if expected is not None and changes != expected:
            raise MeterlineExit(Exit.FAILED, "the catalog was changed by somebody else since this diff was made; run it again")
        if not changes:
            return None
        _refuse(connection, changes)
        _write(connection, changes)
        canonical = json.dumps(catalog.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)
        row = connection.execute(
            "INSERT INTO catalog_versions (digest, source, applied_by) VALUES (%s, %s, %s) RETURNING version",
            (hashlib.sha256(canonical.encode()).hexdigest(), source if source is not None else canonical, by),
        ).fetchone()
        assert row is not None
        record(
            connection,
            by,
            [
                Entry(
                    f"catalog.{_NOUN[change.section].replace(' ', '_')}.{change.action}", change.name, change.before, change.after
                )
                for change in changes
            ],
        )
        return int(row[0])


def current_version(connection: Connection[Any]) -> int | None:
    """The newest version's number; None before the first `apply`."""
    row = connection.execute("SELECT max(version) FROM catalog_versions").fetchone()
    return None if row is None or row[0] is None else int(row[0])


def _entities(catalog: Catalog, section: str) -> dict[str, Entity]:
    return {name: entity.model_dump(mode="json") for name, entity in getattr(catalog, section).items()}


def _flat(entity: Entity | None, prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for field, value in (entity or {}).items():
        if isinstance(value, dict):
            if "period" in value:
                flat[prefix + field] = _limit_text(value)
            else:
                flat |= _flat(value, f"{prefix}{field}.")
        elif value is not None:
            flat[prefix + field] = str(value).lower() if isinstance(value, bool) else str(value)
    return flat


def _limit_text(limit: Entity) -> str:
    if limit["limit"] is None:
        return f"unlimited per {limit['period']}"
    price = f", overage at {limit['overage_price']}" if limit["overage_price"] is not None else ""
    return f"{limit['limit']} per {limit['period']}, {limit['enforce']}{price}"


# -- what may not be taken away ------------------------------------------------------------------------------------


def _refuse(connection: Connection[Any], changes: list[Change]) -> None:
    def removed(section: str) -> list[str]:
        return [change.name for change in changes if change.section == section and change.action == "removed"]

    moved = [change.name for change in changes if change.section == "tenants"]
    rescaled = [
        change.name
        for change in changes
        if change.section == "meters" and change.before and change.after and change.before["scale"] != change.after["scale"]
    ]
    reasons = [
        f"usage type {name}: usage of it is counted and would be billed as nothing; keep its entry, and take it out of the plans"
        for (name,) in connection.execute(
            "SELECT usage_type FROM unnest(%s::text[]) AS gone(usage_type)"
            " WHERE EXISTS (SELECT FROM usage_totals AS t WHERE t.usage_type = gone.usage_type) ORDER BY 1",
            (removed("usage_types"),),
        )
    ]
    reasons += [
        f"plan {name}: {count} tenants are on it that the file leaves there, {example} for one; put them on another plan first"
        for name, count, example in connection.execute(
            "SELECT plan_id, count(*), min(tenant_id) FROM tenants WHERE plan_id = ANY(%s) AND tenant_id <> ALL(%s)"
            " GROUP BY plan_id ORDER BY plan_id",
            (removed("plans"), moved),
        )
    ]
    reasons += [
        f"meter {name}: totals were sent to it; keep its entry" + (" and its scale" if name in rescaled else "")
        for (name,) in connection.execute(
            "SELECT meter FROM unnest(%s::text[]) AS m(meter)"
            " WHERE EXISTS (SELECT FROM export_ledger AS l WHERE l.meter = m.meter) ORDER BY 1",
            (removed("meters") + rescaled,),
        )
    ]
    if reasons:
        raise MeterlineExit(Exit.FAILED, "the catalog was not changed. " + "; ".join(reasons))


# -- writing -------------------------------------------------------------------------------------------------------

_UPSERT = {
    "features": (
        "INSERT INTO features (feature, description) VALUES (%(name)s, %(description)s)"
        " ON CONFLICT (feature) DO UPDATE SET description = excluded.description"
    ),
    "meters": (
        "INSERT INTO meters (meter, scale, rounding, mode) VALUES (%(name)s, %(scale)s, %(rounding)s, %(mode)s)"
        " ON CONFLICT (meter) DO UPDATE SET scale = excluded.scale, rounding = excluded.rounding, mode = excluded.mode"
    ),
    "usage_types": (
        "INSERT INTO usage_types (usage_type, description, unit, feature, meter)"
        " VALUES (%(name)s, %(description)s, %(unit)s, %(feature)s, %(meter)s)"
        " ON CONFLICT (usage_type) DO UPDATE SET description = excluded.description, unit = excluded.unit,"
        " feature = excluded.feature, meter = excluded.meter"
    ),
    "plans": (
        "INSERT INTO plans (plan_id, name) VALUES (%(name)s, %(label)s) ON CONFLICT (plan_id) DO UPDATE SET name = excluded.name"
    ),
    "tenants": (
        "INSERT INTO tenants (tenant_id, name, plan_id, anchor_day, status)"
        " VALUES (%(name)s, %(label)s, %(plan)s, %(anchor_day)s, %(status)s)"
        " ON CONFLICT (tenant_id) DO UPDATE SET name = excluded.name, plan_id = excluded.plan_id,"
        " anchor_day = excluded.anchor_day, status = excluded.status"
    ),
}

_DELETE = {
    "plans": "DELETE FROM plans WHERE plan_id = %s",
    "usage_types": "DELETE FROM usage_types WHERE usage_type = %s",
    "meters": "DELETE FROM meters WHERE meter = %s",
    "features": "DELETE FROM features WHERE feature = %s",
}


def _write(connection: Connection[Any], changes: list[Change]) -> None:
    """Additions and changes in the order of reference, then removals in the opposite one."""
    with connection.cursor() as cursor:
        for section in SECTIONS:
            wanted = [change for change in changes if change.section == section and change.after is not None]
            cursor.executemany(_UPSERT[section], [_row(change) for change in wanted])
            if section == "plans":
                names = [change.name for change in wanted]
                cursor.execute("DELETE FROM plan_features WHERE plan_id = ANY(%s)", (names,))
                cursor.execute("DELETE FROM plan_limits WHERE plan_id = ANY(%s)", (names,))
                cursor.executemany(
                    "INSERT INTO plan_features (plan_id, feature, enabled) VALUES (%s, %s, %s)",
                    [
                        (change.name, feature, enabled)
                        for change in wanted
                        for feature, enabled in (change.after or {})["features"].items()
                    ],
                )
                cursor.executemany(
                    "INSERT INTO plan_limits (plan_id, usage_type, quantity, hard, overage_price, period)"
                    " VALUES (%s, %s, %s, %s, %s, %s)",
                    [
                        (
                            change.name,
                            usage_type,
                            limit["limit"],
                            limit["limit"] is not None and limit["enforce"] == "hard",
                            limit["overage_price"],
                            limit["period"],
                        )
                        for change in wanted
                        for usage_type, limit in (change.after or {})["limits"].items()
                    ],
                )
        for section, statement in _DELETE.items():
            gone = [(change.name,) for change in changes if change.section == section and change.action == "removed"]
            cursor.executemany(statement, gone)


def _row(change: Change) -> Entity:
    assert change.after is not None
    label = {"label": change.after["name"]} if "name" in change.after else {}
    return {**change.after, **label, "name": change.name}
