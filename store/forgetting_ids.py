"""The ids of somebody in Postgres, replaced by pseudonyms wherever a column is named for them, in the caller's transaction.

Columns are found by name (`tenant_id`, `user_id`), so a table that comes later is covered as it is. What is kept because it
must not change by itself (the ledger, closed periods, the audit trail, replays) has a trigger against it: these triggers
are off within the transaction, and only for the replacement of ids.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from psycopg import Connection, sql

from metering.pseudonyms import Kind, Pseudonyms
from meterline_schemas.key import dedup_key, parse_key
from store.positions import Position

_PARENTS = {"tenant": "tenants", "user": "users"}
_SUMMED = {
    "usage_counters": (("usage_type", "day"), ("quantity", "events")),
    "usage_totals": (("usage_type",), ("quantity",)),
}
"""Tables whose rows of an earlier forgetting are there already, and are added to."""

_CLEARED: dict[str, dict[str, str | None]] = {"tenants": {"name": ""}, "users": {"username": "", "email": None}}
_MOVED_UNIQUE = {"tenants": ("stripe_customer_id",)}
"""Unique beside the id; kept, for it is Stripe's name of the customer, whose totals stay."""


def columns_of(connection: Connection[Any], name: str) -> list[str]:
    """The tables of this schema that have a column of that name."""
    rows = connection.execute(
        "SELECT c.table_name FROM information_schema.columns c JOIN information_schema.tables t USING (table_schema, table_name)"
        " WHERE c.table_schema = current_schema() AND t.table_type = 'BASE TABLE' AND c.column_name = %s ORDER BY 1",
        (name,),
    )
    return [table for (table,) in rows]


def count(connection: Connection[Any], kind: Kind, subject: str) -> dict[str, int]:
    """How many rows of each table are about somebody; tables without any are left out."""
    found = {}
    for table in columns_of(connection, f"{kind}_id"):
        row = connection.execute(
            sql.SQL("SELECT count(*) FROM {} WHERE {} = %s").format(sql.Identifier(table), sql.Identifier(f"{kind}_id")),
            (subject,),
        ).fetchone()
        if row is not None and row[0]:
            found[table] = int(row[0])
    return found


def replace(connection: Connection[Any], kind: Kind, subject: str, pseudonyms: Pseudonyms) -> dict[str, int]:
    """Replaces the id everywhere; returns the rows changed by table. Repeating it changes nothing more."""
    pseudonym = pseudonyms.of(kind, subject)
    changed = count(connection, kind, subject)
    parent = _PARENTS[kind]
    with _changeable(connection, [*changed, "audit"]):
        for table in changed:
            _replace_entities(connection, table, kind, subject, pseudonyms)
        kept = _copy_parent(connection, parent, kind, subject, pseudonym) if parent in changed else {}
        for table in changed:
            if table in _SUMMED:
                _add_up(connection, table, subject, pseudonym)
            elif table != parent:
                _set(connection, table, f"{kind}_id", subject, pseudonym)
        if parent in changed:
            _drop_parent(connection, parent, kind, subject, pseudonym, kept)
        changed["audit"] = _in_audit(connection, subject, pseudonym)
    changed["credit_operations"] = _in_credits(connection, kind, subject, pseudonym)
    return {table: rows for table, rows in changed.items() if rows}


@contextmanager
def _changeable(connection: Connection[Any], tables: list[str]) -> Iterator[None]:
    for table in tables:
        connection.execute(sql.SQL("ALTER TABLE {} DISABLE TRIGGER USER").format(sql.Identifier(table)))
    yield
    for table in tables:
        connection.execute(sql.SQL("ALTER TABLE {} ENABLE TRIGGER USER").format(sql.Identifier(table)))


def _set(connection: Connection[Any], table: str, column: str, subject: str, pseudonym: str) -> None:
    connection.execute(
        sql.SQL("UPDATE {} SET {} = %s WHERE {} = %s").format(
            sql.Identifier(table), sql.Identifier(column), sql.Identifier(column)
        ),
        (pseudonym, subject),
    )


def _replace_entities(connection: Connection[Any], table: str, kind: Kind, subject: str, pseudonyms: Pseudonyms) -> None:
    """The sourceEntityId beside the id, where the table keeps the whole key."""
    if table not in columns_of(connection, "source_entity_id"):
        return
    rows = connection.execute(
        sql.SQL("SELECT DISTINCT source_service, source_entity_id, usage_type FROM {} WHERE {} = %s").format(
            sql.Identifier(table), sql.Identifier(f"{kind}_id")
        ),
        (subject,),
    ).fetchall()
    for service, entity, usage_type in rows:
        connection.execute(
            sql.SQL(
                "UPDATE {} SET source_entity_id = %s WHERE {} = %s AND source_service = %s AND source_entity_id = %s"
                " AND usage_type = %s"
            ).format(sql.Identifier(table), sql.Identifier(f"{kind}_id")),
            (pseudonyms.of_entity(dedup_key(service, entity, usage_type)), subject, service, entity, usage_type),
        )


def _add_up(connection: Connection[Any], table: str, subject: str, pseudonym: str) -> None:
    keys, sums = _SUMMED[table]
    moved = sql.SQL(
        "WITH gone AS (DELETE FROM {table} WHERE tenant_id = %s RETURNING *)"
        " INSERT INTO {table} AS t SELECT (jsonb_populate_record(NULL::{table}, to_jsonb(gone) || jsonb_build_object('tenant_id',"
        " %s::text))).* FROM gone ON CONFLICT (tenant_id, {keys}) DO UPDATE SET {sums}"
    ).format(
        table=sql.Identifier(table),
        keys=sql.SQL(", ").join(map(sql.Identifier, keys)),
        sums=sql.SQL(", ").join(sql.SQL("{0} = t.{0} + excluded.{0}").format(sql.Identifier(name)) for name in sums),
    )
    connection.execute(moved, (subject, pseudonym))


def _copy_parent(connection: Connection[Any], parent: str, kind: Kind, subject: str, pseudonym: str) -> dict[str, Any]:
    """The row that others refer to, under its new name beside the old one. Returns what only one row may have."""
    column, kept = f"{kind}_id", {}
    for name in _MOVED_UNIQUE.get(parent, ()):
        row = connection.execute(
            sql.SQL("UPDATE {t} n SET {c} = NULL FROM {t} o WHERE n.{i} = o.{i} AND n.{i} = %s RETURNING o.{c}").format(
                t=sql.Identifier(parent), c=sql.Identifier(name), i=sql.Identifier(column)
            ),
            (subject,),
        ).fetchone()
        if row is not None and row[0] is not None:
            kept[name] = row[0]
    over = json.dumps({column: pseudonym, **_CLEARED[parent]})
    connection.execute(
        sql.SQL(
            "INSERT INTO {t} SELECT (jsonb_populate_record(NULL::{t}, to_jsonb(old) || %s::jsonb)).* FROM {t} old WHERE {i} = %s"
            " ON CONFLICT DO NOTHING"
        ).format(t=sql.Identifier(parent), i=sql.Identifier(column)),
        (over, subject),
    )
    return kept


def _drop_parent(
    connection: Connection[Any], parent: str, kind: Kind, subject: str, pseudonym: str, kept: dict[str, Any]
) -> None:
    column = sql.Identifier(f"{kind}_id")
    connection.execute(sql.SQL("DELETE FROM {} WHERE {} = %s").format(sql.Identifier(parent), column), (subject,))
    for name, value in kept.items():
        connection.execute(
            sql.SQL("UPDATE {} SET {} = %s WHERE {} = %s").format(sql.Identifier(parent), sql.Identifier(name), column),
            (value, pseudonym),
        )


def _in_audit(connection: Connection[Any], subject: str, pseudonym: str) -> int:
    """The trail keeps what was done and when; whose name it was about goes, and with it every sourceEntityId beside it."""
    quoted = json.dumps(subject, ensure_ascii=False)
    return connection.execute(
        "UPDATE audit SET subject = CASE WHEN subject = %(id)s THEN %(new)s ELSE subject END,"
        " who = CASE WHEN who = %(id)s THEN %(new)s ELSE who END,"
        " before = CASE WHEN jsonb_typeof(before) = 'object' THEN replace((before - 'source_entity_id' - 'name' - 'email')::text,"
        "  %(quoted)s, to_json(%(new)s::text)::text)::jsonb ELSE NULL END,"
        " after = CASE WHEN jsonb_typeof(after) = 'object' THEN replace((after - 'source_entity_id' - 'name' - 'email')::text,"
        "  %(quoted)s, to_json(%(new)s::text)::text)::jsonb ELSE NULL END"
        " WHERE subject = %(id)s OR who = %(id)s OR position(%(quoted)s in coalesce(before::text, '')) > 0"
        " OR position(%(quoted)s in coalesce(after::text, '')) > 0",
        {"id": subject, "new": pseudonym, "quoted": quoted},
    ).rowcount


def _in_credits(connection: Connection[Any], kind: Kind, subject: str, pseudonym: str) -> int:
    """The ledger keeps what moved, when and at which price; what people wrote, the keys, and who did it go. The account has its
    pseudonym by now. Repeating it changes nothing more."""
    of_theirs = sql.SQL("account_id IN (SELECT account_id FROM credit_accounts WHERE {} = %(new)s)").format(
        sql.Identifier(f"{kind}_id")
    )
    names = {"id": subject, "new": pseudonym}
    with _changeable(connection, ["credit_lots", "credit_operations"]):
        connection.execute(sql.SQL("UPDATE credit_lots SET note = '' WHERE note <> '' AND {}").format(of_theirs), names)
        return connection.execute(
            sql.SQL(
                "UPDATE credit_operations SET note = '', who = CASE WHEN who = %(id)s THEN %(new)s ELSE who END,"
                " key = CASE WHEN starts_with(key, 'key:') THEN 'forgotten:' || operation_id ELSE key END"
                " WHERE who = %(id)s OR ({} AND (note <> '' OR starts_with(key, 'key:')))"
            ).format(of_theirs),
            names,
        ).rowcount


def replays_of(connection: Connection[Any], rejects: list[Position], pseudonyms: Pseudonyms) -> int:
    """The keys under which forgotten rejects were sent again."""
    changed = 0
    with _changeable(connection, ["replays"]):
        for at in rejects:
            rows = connection.execute(
                "SELECT attempt, record_key FROM replays WHERE epoch = %s AND partition = %s AND kafka_offset = %s", at
            ).fetchall()
            for attempt, key in rows:
                if parse_key(bytes(key))[1].startswith("forgotten:"):
                    continue
                connection.execute(
                    "UPDATE replays SET record_key = %s"
                    " WHERE epoch = %s AND partition = %s AND kafka_offset = %s AND attempt = %s",
                    (pseudonyms.of_key(bytes(key)), *at, attempt),
                )
                changed += 1
    return changed


def boxes(connection: Connection[Any], subject: str) -> tuple[int, int]:
    """Drops finished outbox and inbox rows that name somebody; returns (dropped, waiting), waiting ones being left."""
    needle = json.dumps(subject, ensure_ascii=False).encode()
    dropped = waiting = 0
    # A record may have to be sent again as long as a hold waits for it.
    of_a_hold = sql.SQL(" AND NOT EXISTS (SELECT FROM holds h WHERE h.outbox_id = outbox.id AND h.done_at IS NULL)")
    for table, body, done in (
        ("outbox", "value", sql.SQL("sent_at IS NOT NULL") + of_a_hold),
        ("inbox", "body", sql.SQL("done_at IS NOT NULL")),
    ):
        holds = sql.SQL("position(%s::bytea in {}) > 0").format(sql.Identifier(body))
        dropped += connection.execute(
            sql.SQL("DELETE FROM {} WHERE {} AND {}").format(sql.Identifier(table), done, holds),
            (needle,),
        ).rowcount
        row = connection.execute(
            sql.SQL("SELECT count(*) FROM {} WHERE NOT ({}) AND {}").format(sql.Identifier(table), done, holds),
            (needle,),
        ).fetchone()
        waiting += int(row[0]) if row is not None else 0
    return dropped, waiting
