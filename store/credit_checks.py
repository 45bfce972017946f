"""I10: the ledger of credits adds up, and the figures of accounts, lots and holds are what it says."""

from __future__ import annotations

from typing import Any, Final

from psycopg import Connection

from store.findings import SHOWN_MAX, Check

_SUM: Final = "sum(CASE '{0}' WHEN e.target THEN e.amount WHEN e.source THEN -e.amount ELSE 0 END)"
_AVAILABLE, _HELD, _OWED = (_SUM.format(place) for place in ("available", "held", "owed"))

_ACCOUNTS: Final = f"""
SELECT a.tenant_id, a.user_id, array[a.available, a.held, a.owed]::text,
       array[coalesce(s.available, 0), coalesce(s.held, 0), coalesce(s.owed, 0)]::text
  FROM credit_accounts a
  LEFT JOIN (SELECT o.account_id, {_AVAILABLE} AS available, {_HELD} AS held, -{_OWED} AS owed
               FROM credit_operations o JOIN credit_entries e USING (operation_id) GROUP BY o.account_id) s USING (account_id)
 WHERE (a.available, a.held, a.owed) <> (coalesce(s.available, 0), coalesce(s.held, 0), coalesce(s.owed, 0))
 ORDER BY a.account_id LIMIT {SHOWN_MAX}
"""

_LOTS: Final = f"""
SELECT a.tenant_id, a.user_id, l.lot_id, array[l.available, l.held]::text,
       array[coalesce(s.available, 0), coalesce(s.held, 0)]::text
  FROM credit_lots l
  JOIN credit_accounts a USING (account_id)
  LEFT JOIN (SELECT e.lot_id, {_AVAILABLE} AS available, {_HELD} AS held FROM credit_entries e GROUP BY e.lot_id) s USING (lot_id)
 WHERE (l.available, l.held) <> (coalesce(s.available, 0), coalesce(s.held, 0))
 ORDER BY l.lot_id LIMIT {SHOWN_MAX}
"""

_HOLDS: Final = f"""
SELECT a.tenant_id, a.user_id, h.hold_id::text, h.state, coalesce(s.held, 0)::text
  FROM credit_holds h
  JOIN credit_accounts a USING (account_id)
  LEFT JOIN (SELECT o.hold_id, {_HELD} AS held FROM credit_operations o JOIN credit_entries e USING (operation_id)
              WHERE o.hold_id IS NOT NULL GROUP BY o.hold_id) s USING (hold_id)
 WHERE coalesce(s.held, 0) <> CASE h.state WHEN 'open' THEN h.amount ELSE 0 END
 ORDER BY h.hold_id LIMIT {SHOWN_MAX}
"""

_OPERATIONS: Final = f"""
SELECT a.tenant_id, a.user_id, o.operation_id, o.kind, o.moved::text, s.moved::text
  FROM credit_operations o
  JOIN credit_accounts a USING (account_id)
  JOIN LATERAL (SELECT coalesce(sum(e.amount) FILTER (WHERE CASE o.kind
                           WHEN 'grant' THEN (e.source, e.target) = ('issued', 'available')
                           WHEN 'set' THEN (e.source, e.target) = ('issued', 'available')
                           WHEN 'adjust' THEN e.source = 'issued' OR e.target = 'removed'
                           WHEN 'remove' THEN e.target = 'removed'
                           WHEN 'charge' THEN e.target = 'spent'
                           WHEN 'settle' THEN e.target = 'spent'
                           WHEN 'hold' THEN e.target = 'held'
                           WHEN 'release' THEN e.source = 'held'
                           WHEN 'expire' THEN e.target = 'expired' END), 0) AS moved
                  FROM credit_entries e WHERE e.operation_id = o.operation_id) s ON true
 WHERE o.moved <> s.moved
 ORDER BY o.operation_id LIMIT {SHOWN_MAX}
"""

_NEWEST: Final = f"""
SELECT a.tenant_id, a.user_id, o.operation_id, (a.available - a.owed)::text, o.balance::text
  FROM credit_accounts a
  JOIN LATERAL (SELECT operation_id, balance FROM credit_operations WHERE account_id = a.account_id
                 ORDER BY operation_id DESC LIMIT 1) o ON true
 WHERE o.balance <> a.available - a.owed
 ORDER BY a.account_id LIMIT {SHOWN_MAX}
"""


def check_credits(connection: Connection[Any]) -> Check:
    """Compares them in one snapshot: the connection's transaction is to be REPEATABLE READ where others write meanwhile."""
    check = Check("I10")
    row = connection.execute("SELECT (SELECT count(*) FROM credit_accounts), (SELECT count(*) FROM credit_entries)").fetchone()
    assert row is not None
    accounts, check.checked = row
    for tenant, user, figures, sums in connection.execute(_ACCOUNTS.encode()):
        check.add("available, held and owed of an account", {"tenant": tenant, "user": user}, sums, figures)
    for tenant, user, lot, figures, sums in connection.execute(_LOTS.encode()):
        check.add("available and held of a lot", {"tenant": tenant, "user": user, "lot": lot}, sums, figures)
    for tenant, user, hold, state, held in connection.execute(_HOLDS.encode()):
        check.add("held by a hold", {"tenant": tenant, "user": user, "hold": hold}, f"what it holds when {state}", held)
    for tenant, user, operation, kind, moved, entries in connection.execute(_OPERATIONS.encode()):
        check.add(f"moved by a {kind}", {"tenant": tenant, "user": user, "operation": operation}, entries, moved)
    for tenant, user, operation, figure, balance in connection.execute(_NEWEST.encode()):
        check.add("balance after the newest operation", {"tenant": tenant, "user": user, "operation": operation}, figure, balance)
    check.detail = f"{check.checked} entries of {accounts} accounts of credits are what their balances say"
    if not check.ok:
        check.detail = f"the ledger of credits and its figures differ in {check.findings_count} places"
    return check
