"""Mutants of the credits: what docs/credits.md promises of an account, left out."""

from __future__ import annotations

from typing import Final

from tests.mutants.patch import Catcher, Mutant, Replace, processes

_RULES: Final = Catcher(
    "T2", ("pytest", "-q", "-x", "-p", "no:cacheprovider", "-n", "0", "tests/simulation/test_credits_machine.py")
)

CREDITS: Final = (
    Mutant(
        "oldest_lot_pays_first",
        "the lot that expires first pays first",
        (Replace("metering/credits.py", "one.expires_at or _NEVER, one.lot_id or 0)", "_NEVER, one.lot_id or 0)"),),
        _RULES,
    ),
    Mutant(
        "expired_lots_pay",
        "from the instant of its expiry on, what is available of a lot pays for nothing",
        (
            Replace(
                "metering/credits.py",
                "    live = tuple(lot for lot in account.lots if not lot.expired(now))\n",
                "    live = account.lots\n",
            ),
        ),
        _RULES,
    ),
    Mutant(
        "given_back_to_an_expired_lot",
        "what is given back of a lot that expired meanwhile expires at once",
        (Replace("metering/credits.py", "        if back and part.expired(now):\n", "        if False:\n"),),
        _RULES,
    ),
    Mutant(
        "debt_left_standing",
        "credits that come pay first what is owed",
        (
            Replace(
                "metering/credits.py",
                '    moves = [Move("issued", "available", amount, NEW_LOT)]\n    if account.owed:\n',
                '    moves = [Move("issued", "available", amount, NEW_LOT)]\n    if False:\n',
            ),
        ),
        _RULES,
    ),
    Mutant(
        "account_not_locked",
        "operations on one account follow one another",
        (
            Replace(
                "store/credit_rows.py",
                "WHERE tenant_id = %(tenant_id)s AND user_id = %(user_id)s FOR UPDATE\n",
                "WHERE tenant_id = %(tenant_id)s AND user_id = %(user_id)s\n",
            ),
        ),
        processes(
            "test_credits_spent_together.py::test_fifty_clients_spend_one_balance_and_it_is_never_negative_and_the_sum_of_its_ledger"
        ),
    ),
    Mutant(
        "keys_not_looked_up",
        "each operation is idempotent by its key",
        (Replace("store/credits.py", '"key": key, "hold_id": hold_id, "at": at})', '"key": "", "hold_id": hold_id, "at": at})'),),
        processes("test_credits_ledger.py::test_holds_are_known_by_their_ids_and_end_once"),
    ),
)
