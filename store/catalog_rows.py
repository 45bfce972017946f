"""The catalog's rows: read as one value, and changed entry by entry."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from psycopg import Connection, Cursor

from store.catalog_change import Change, Entity
from store.catalog_model import Catalog

SECTIONS = ("features", "meters", "usage_types", "rates", "plans", "tenants")
"""In the order of reference: an entry names entries of earlier sections only."""


def load_catalog(connection: Connection[Any], tenants: Collection[str] | None = None) -> Catalog:
    """The catalog that stands; of the tenants, all or those named."""
    who = None if tenants is None else list(tenants)
    plans: dict[str, Entity] = {
        plan_id: {
            "name": name,
            "currency": currency,
            "alerts": alerts,
            "credit_overrun": overrun,
            "prices": {},
            "features": {},
            "limits": {},
        }
        for plan_id, name, currency, alerts, overrun in connection.execute(
            "SELECT plan_id, name, currency, alerts, credit_overrun FROM plans ORDER BY plan_id"
        )
    }
    for plan_id, currency, cycle, amount in connection.execute(
        "SELECT plan_id, currency, cycle, amount FROM plan_prices ORDER BY plan_id, currency, cycle"
    ):
        plans[plan_id]["prices"].setdefault(currency, {})[cycle] = amount
    for plan_id, currency, usage_type, price in connection.execute(
        "SELECT plan_id, currency, usage_type, price FROM plan_overage_prices ORDER BY plan_id, currency, usage_type"
    ):
        plans[plan_id]["prices"][currency].setdefault("overage", {})[usage_type] = price
    people: dict[str, Entity] = {
        tenant_id: {"name": name, "plan": plan, "anchor_day": day, "status": status}
        for tenant_id, name, plan, day, status in connection.execute(
            "SELECT tenant_id, name, plan_id, anchor_day, status FROM tenants"
            " WHERE %(who)s::text[] IS NULL OR tenant_id = ANY(%(who)s) ORDER BY tenant_id",
            {"who": who},
        )
    }
    for table, owners in (("plan", plans), ("tenant", people)):
        only = "" if table == "plan" else " WHERE %(who)s::text[] IS NULL OR tenant_id = ANY(%(who)s)"
        switches = f"SELECT {table}_id, feature, enabled FROM {table}_features{only} ORDER BY 1, 2"
        for owner, feature, enabled in connection.execute(switches.encode(), {"who": who}):
            owners[owner].setdefault("features", {})[feature] = enabled
        limits = (
            f"SELECT {table}_id, usage_type, quantity, hard, overage_price, period, when_unavailable"
            f" FROM {table}_limits{only} ORDER BY 1, 2"
        )
        for owner, usage_type, *limit in connection.execute(limits.encode(), {"who": who}):
            owners[owner].setdefault("limits", {})[usage_type] = _limit(*limit)
    for tenant_id, name, usage_type, quantity, valid_from, expires_on, note in connection.execute(
        "SELECT tenant_id, grant_id, usage_type, quantity, valid_from, expires_on, note FROM grants"
        " WHERE %(who)s::text[] IS NULL OR tenant_id = ANY(%(who)s) ORDER BY tenant_id, grant_id",
        {"who": who},
    ):
        people[tenant_id].setdefault("grants", {})[name] = {
            "usage_type": usage_type,
            "quantity": quantity,
            "valid_from": valid_from,
            "expires_on": expires_on,
            "note": note,
        }
    features = connection.execute("SELECT feature, description FROM features ORDER BY feature")
    meters = connection.execute("SELECT meter, scale, rounding, mode FROM meters ORDER BY meter")
    types = connection.execute(
        "SELECT usage_type, description, unit, feature, meter, credits FROM usage_types ORDER BY usage_type"
    )
    return Catalog.model_validate(
        {
            "features": {name: {"description": description} for name, description in features},
            "meters": {name: {"scale": scale, "rounding": rounding, "mode": mode} for name, scale, rounding, mode in meters},
            "usage_types": {
                name: {"description": description, "unit": unit, "feature": feature, "meter": meter, "credits": credits}
                for name, description, unit, feature, meter, credits in types
            },
            "rates": _rates(connection),
            "plans": plans,
            "tenants": people,
        }
    )


def _rates(connection: Connection[Any]) -> dict[str, Entity]:
    rates: dict[str, Entity] = {
        rate: {"description": description, "per_tokens": per_tokens, "prices": {}}
        for rate, description, per_tokens in connection.execute("SELECT rate, description, per_tokens FROM rates ORDER BY rate")
    }
    for rate, day, *price in connection.execute(
        "SELECT rate, valid_from, input, output, cached, each, valid_until FROM rate_prices ORDER BY rate, valid_from"
    ):
        rates[rate]["prices"][day] = dict(zip(("input", "output", "cached", "each", "until"), price, strict=True))
    return rates


def _limit(quantity: Any, hard: bool, price: Any, period: str, when_unavailable: str | None) -> Entity:
    limit: Entity = {"limit": "unlimited", "period": period, "when_unavailable": when_unavailable}
    if quantity is not None:
        limit |= {"limit": quantity, "enforce": "hard" if hard else "soft", "overage_price": price}
    return limit


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
        "INSERT INTO usage_types (usage_type, description, unit, feature, meter, credits)"
        " VALUES (%(name)s, %(description)s, %(unit)s, %(feature)s, %(meter)s, %(credits)s)"
        " ON CONFLICT (usage_type) DO UPDATE SET description = excluded.description, unit = excluded.unit,"
        " feature = excluded.feature, meter = excluded.meter, credits = excluded.credits"
    ),
    "rates": (
        "INSERT INTO rates (rate, description, per_tokens) VALUES (%(name)s, %(description)s, %(per_tokens)s)"
        " ON CONFLICT (rate) DO UPDATE SET description = excluded.description, per_tokens = excluded.per_tokens"
    ),
    "plans": (
        "INSERT INTO plans (plan_id, name, currency, alerts, credit_overrun)"
        " VALUES (%(name)s, %(label)s, %(currency)s, %(alerts)s, %(credit_overrun)s)"
        " ON CONFLICT (plan_id) DO UPDATE SET name = excluded.name, currency = excluded.currency, alerts = excluded.alerts,"
        " credit_overrun = excluded.credit_overrun"
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
    "rates": "DELETE FROM rates WHERE rate = %s",
    "usage_types": "DELETE FROM usage_types WHERE usage_type = %s",
    "meters": "DELETE FROM meters WHERE meter = %s",
    "features": "DELETE FROM features WHERE feature = %s",
}


def write(connection: Connection[Any], changes: Iterable[Change]) -> None:
    """Additions and changes in the order of reference, then removals in the opposite one. In the caller's transaction."""
    changes = list(changes)
    with connection.cursor() as cursor:
        for section in SECTIONS:
            wanted = {change.name: change.after for change in changes if change.section == section and change.after is not None}
            cursor.executemany(_UPSERT[section], [_row(name, entity) for name, entity in wanted.items()])
            if section == "plans":
                _write_prices(cursor, wanted)
            if section in ("plans", "tenants"):
                _write_terms(cursor, section.removesuffix("s"), wanted)
            elif section == "rates":
                _write_rates(cursor, wanted)
        for section, statement in _DELETE.items():
            gone = [(change.name,) for change in changes if change.section == section and change.action == "removed"]
            cursor.executemany(statement, gone)


def _write_prices(cursor: Cursor[Any], plans: dict[str, Entity]) -> None:
    names = list(plans)
    cursor.execute("DELETE FROM plan_overage_prices WHERE plan_id = ANY(%s)", (names,))
    cursor.execute("DELETE FROM plan_prices WHERE plan_id = ANY(%s)", (names,))
    by_currency = [
        (plan_id, currency, prices) for plan_id, entity in plans.items() for currency, prices in entity["prices"].items()
    ]
    cursor.executemany(
        "INSERT INTO plan_prices (plan_id, currency, cycle, amount) VALUES (%s, %s, %s, %s)",
        [
            (plan_id, currency, cycle, prices[cycle])
            for plan_id, currency, prices in by_currency
            for cycle in ("monthly", "yearly")
            if prices[cycle] is not None
        ],
    )
    cursor.executemany(
        "INSERT INTO plan_overage_prices (plan_id, currency, usage_type, price) VALUES (%s, %s, %s, %s)",
        [
            (plan_id, currency, usage_type, price)
            for plan_id, currency, prices in by_currency
            for usage_type, price in prices["overage"].items()
        ],
    )


def _write_rates(cursor: Cursor[Any], wanted: dict[str, Entity]) -> None:
    cursor.execute("DELETE FROM rate_prices WHERE rate = ANY(%s)", (list(wanted),))
    cursor.executemany(
        "INSERT INTO rate_prices (rate, valid_from, valid_until, input, output, cached, each)"
        " VALUES (%(rate)s, %(day)s, %(until)s, %(input)s, %(output)s, %(cached)s, %(each)s)",
        [{"rate": rate, "day": day, **price} for rate, entity in wanted.items() for day, price in entity["prices"].items()],
    )


def _write_terms(cursor: Cursor[Any], owner: str, wanted: dict[str, Entity]) -> None:
    """What plans and tenants have alike, features and limits, and the grants that only tenants have."""
    names = list(wanted)
    cursor.execute(f"DELETE FROM {owner}_features WHERE {owner}_id = ANY(%s)".encode(), (names,))
    cursor.execute(f"DELETE FROM {owner}_limits WHERE {owner}_id = ANY(%s)".encode(), (names,))
    cursor.executemany(
        f"INSERT INTO {owner}_features ({owner}_id, feature, enabled) VALUES (%s, %s, %s)".encode(),
        [(name, *switch) for name, entity in wanted.items() for switch in (entity["features"] or {}).items()],
    )
    cursor.executemany(
        f"INSERT INTO {owner}_limits ({owner}_id, usage_type, quantity, hard, overage_price, period, when_unavailable)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s)".encode(),
        [
            (
                name,
                usage_type,
                limit["limit"],
                limit["limit"] is not None and limit["enforce"] == "hard",
                limit["overage_price"],
                limit["period"],
                limit["when_unavailable"],
            )
            for name, entity in wanted.items()
            for usage_type, limit in (entity["limits"] or {}).items()
        ],
    )
    cursor.executemany(
        "INSERT INTO grants (tenant_id, grant_id, usage_type, quantity, valid_from, expires_on, note)"
        " VALUES (%(tenant)s, %(name)s, %(usage_type)s, %(quantity)s, %(valid_from)s, %(expires_on)s, %(note)s)"
        " ON CONFLICT (tenant_id, grant_id) DO UPDATE SET usage_type = excluded.usage_type, quantity = excluded.quantity,"
        " valid_from = excluded.valid_from, expires_on = excluded.expires_on, note = excluded.note",
        [
            {"tenant": tenant_id, "name": name, **grant}
            for tenant_id, entity in wanted.items()
            for name, grant in entity.get("grants", {}).items()
        ],
    )


def _row(name: str, entity: Entity) -> Entity:
    label = {"label": entity["name"]} if "name" in entity else {}
    return {**entity, **label, "name": name}
