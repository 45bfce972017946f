"""Lists as Stripe pages them: newest first, `limit`, `starting_after`, `ending_before`, `has_more`."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence

from deploy.embedded.local_stripe.forms import Params, integer_of, text_of
from deploy.embedded.local_stripe.problems import Problem, absent, wrong

LIMIT_DEFAULT = 10
LIMIT_MAX = 100
PAGING = ("limit", "starting_after", "ending_before")


def limit_of(params: Params) -> int:
    """How many objects a page holds."""
    limit = integer_of(params, "limit")
    if limit is None:
        return LIMIT_DEFAULT
    if not 1 <= limit <= LIMIT_MAX:
        raise wrong("limit", f"want 1 to {LIMIT_MAX}")
    return limit


def cursors_of(params: Params) -> tuple[str | None, str | None]:
    """(starting_after, ending_before); at most one of them is set."""
    after, before = text_of(params, "starting_after"), text_of(params, "ending_before")
    if after and before:
        raise Problem("Only one of starting_after and ending_before may be given.", param="ending_before")
    return after or None, before or None


def document(url: str, data: Sequence[object], has_more: bool) -> dict[str, object]:
    """The list object."""
    return {"object": "list", "url": url, "has_more": has_more, "data": list(data)}


def list_table(
    database: sqlite3.Connection, table: str, noun: str, url: str, params: Params, where: Mapping[str, object]
) -> dict[str, object]:
    """A page of the `body` column of a table with `seq` and `id`; `where` are equalities on its columns.

    `table` and the keys of `where` are names of ours, never of a request.
    """
    limit = limit_of(params)
    after, before = cursors_of(params)
    conditions = [f"{column} = ?" for column in where]
    values = list(where.values())
    for cursor, name, comparison in ((after, "starting_after", "<"), (before, "ending_before", ">")):
        if cursor is not None:
            row = database.execute(f"SELECT seq FROM {table} WHERE id = ?", (cursor,)).fetchone()
            if row is None:
                raise absent(noun, cursor, name, status=400)
            conditions.append(f"seq {comparison} ?")
            values.append(row[0])
    order = "ASC" if before is not None else "DESC"
    found = database.execute(
        f"SELECT body FROM {table} WHERE {' AND '.join(conditions) or 'TRUE'} ORDER BY seq {order} LIMIT ?",
        (*values, limit + 1),
    ).fetchall()
    page = [json.loads(body) for (body,) in found[:limit]]
    if before is not None:
        page.reverse()
    return document(url, page, len(found) > limit)


def list_values(url: str, noun: str, params: Params, items: Sequence[dict[str, object]]) -> dict[str, object]:
    """A page of objects that were computed, newest first."""
    limit = limit_of(params)
    after, before = cursors_of(params)
    start, stop = 0, len(items)
    ids = [item["id"] for item in items]
    for cursor, name in ((after, "starting_after"), (before, "ending_before")):
        if cursor is not None and cursor not in ids:
            raise absent(noun, cursor, name, status=400)
    if after is not None:
        start = ids.index(after) + 1
    if before is not None:
        stop = ids.index(before)
        start = max(0, stop - limit)
        return document(url, items[start:stop], start > 0)
    return document(url, items[start : start + limit], len(items) > start + limit)
