"""The catalog in Postgres: read, compared with a file's, and changed in one audited transaction.

What a file no longer names:
- a tenant is left alone, for tenants come from sign-ups too; it is switched off with `status: inactive`;
- a usage type goes only while nothing was ever counted of it, else its usage would be billed as nothing;
- a plan goes only when no tenant is on it any more;
- a tenant's own limits and features stay while its entry does not speak of them, and its grants stay while they are not
  named: they come from commands too;
- a meter goes only while nothing was sent to it; nor may its scale change then, for what was sent would mean another
  quantity;
- a feature or usage type goes when nothing names it: the file itself must see to that, and no tenant's own entries.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from psycopg import Connection

from runtime.exits import Exit, MeterlineExit
from runtime.locks import AdvisoryLock
from store.audit import Entry, record
from store.catalog_change import Change, Entity
from store.catalog_model import Catalog
from store.catalog_rows import SECTIONS, load_catalog, write

__all__ = ["Catalog", "Change", "load_catalog", "diff", "apply", "current_version", "SECTIONS"]

_NOUN = {
    "features": "feature",
    "meters": "meter",
    "usage_types": "usage type",
    "rates": "rate",
    "plans": "plan",
    "tenants": "tenant",
}


def diff(connection: Connection[Any], catalog: Catalog) -> list[Change]:
    """What `apply` would change, in the order of the file's sections. Tenants that the catalog does not name stay."""
    return _compared(connection, catalog)[1]


def _compared(connection: Connection[Any], catalog: Catalog) -> tuple[Catalog, list[Change]]:
    """What shall stand, and what that changes."""
    standing = load_catalog(connection, tenants=list(catalog.tenants))
    wanted = catalog.over(standing)
    changes: list[Change] = []
    for section in SECTIONS:
        before, after = _entities(standing, section), _entities(wanted, section)
        for name, new in after.items():
            old = before.get(name)
            if old != new:
                changes.append(Change(section, name, "changed" if old is not None else "added", old, new))
        changes.extend(Change(section, name, "removed", old, None) for name, old in before.items() if name not in after)
    return wanted, changes


def apply(
    connection: Connection[Any], catalog: Catalog, by: str, source: str | None = None, expected: list[Change] | None = None
) -> int | None:
    """Makes the catalog stand and returns its new version; None when it stands already.

    One transaction (a savepoint within the caller's, if there is one) holds the change, the version with its `source`
    text, and an audit row for each entry. Raises MeterlineExit with the remedy when the change would take away what is
    still referenced, or when it is no longer the `expected` one that was shown.
    """
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (AdvisoryLock.CATALOG,))
        wanted, changes = _compared(connection, catalog)
        # Of the file's own entries, and of what its tenants keep without being spoken of.
        dangling = wanted.dangling()
        if dangling:
            raise MeterlineExit(Exit.FAILED, "; ".join(f"{'.'.join(path)}: {message}" for path, message in dangling))
        if expected is not None and changes != expected:
            raise MeterlineExit(Exit.FAILED, "the catalog was changed by somebody else since this diff was made; run it again")
        if not changes:
            return None
        _refuse(connection, changes, list(wanted.tenants))
        write(connection, changes)
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


_NAMED_BY_TENANTS = """
    SELECT noun, name, min(tenant_id), place FROM (
        SELECT 'feature' AS noun, feature AS name, tenant_id, 'features' AS place FROM tenant_features WHERE feature = ANY(%s)
         UNION ALL
        SELECT 'usage type', usage_type, tenant_id, 'limits' FROM tenant_limits WHERE usage_type = ANY(%s)
         UNION ALL
        SELECT 'usage type', usage_type, tenant_id, 'grants' FROM grants WHERE usage_type = ANY(%s)
    ) own WHERE tenant_id <> ALL(%s)
    GROUP BY noun, name, place ORDER BY noun, name, place
"""

# -- what may not be taken away ------------------------------------------------------------------------------------


def _refuse(connection: Connection[Any], changes: list[Change], named: list[str]) -> None:
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
        f"{noun} {name}: {tenant} has it in its {where}; take that away first"
        for noun, name, tenant, where in connection.execute(
            _NAMED_BY_TENANTS, (removed("features"), removed("usage_types"), removed("usage_types"), named)
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
