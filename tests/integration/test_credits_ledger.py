"""What the database itself holds about credits, whoever writes, and what races do to an account."""

from __future__ import annotations

import asyncio
import random
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from control_plane.credits import expiring
from meterline_schemas.types import Micros
from runtime.postgres import connect, conninfo
from runtime.settings import Settings
from store import credits
from store.credit_checks import check_credits
from store.credits import Balance, CreditsRefused, Done, HoldEnded, Insufficient, KeyReused, Owner, TooManyLots, UnknownHold
from store.steps import arun, run
from tests.integration.credit_ledger import BY, CREDIT, adds_up, connection, do, give, owner, stands

__all__ = ["connection", "owner"]  # fixtures


def test_nobody_has_nothing_and_an_operation_says_who_did_it_and_at_what_price(
    connection: psycopg.Connection[Any], owner: Owner
) -> None:
    assert stands(connection, owner) == Balance(Micros(0), Micros(0), Micros(0), (), None)
    give(connection, owner, 5, note="welcome")
    price = {"modelId": "m", "input": "0.25"}
    charged = do(connection, credits.charge(owner, Micros(2 * CREDIT), by=BY, key="c", price=price, note="a picture"))
    assert (charged.moved, charged.balance, charged.repeated) == (2 * CREDIT, 3 * CREDIT, False)
    row = connection.execute(
        "SELECT kind, amount::text, balance::text, who, request_id, price, note FROM credit_operations WHERE operation_id = %s",
        (charged.operation_id,),
    ).fetchone()
    assert row == ("charge", "2", "3", "tester", "req-1", price, "a picture")
    (lot,) = stands(connection, owner).lots
    assert (lot.available, lot.note, lot.expires_at) == (3 * CREDIT, "welcome", None)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE credit_operations SET moved = 0",
        "DELETE FROM credit_operations",
        "UPDATE credit_entries SET amount = amount + 1",
        "DELETE FROM credit_entries",
        "TRUNCATE credit_entries",
        "UPDATE credit_accounts SET available = available + 1",
        "DELETE FROM credit_accounts",
        "UPDATE credit_lots SET expires_at = NULL",
        "UPDATE credit_lots SET held = 1",
        "INSERT INTO credit_accounts (tenant_id, user_id, available) VALUES ('t', 'rich', 5)",
        "INSERT INTO credit_lots (account_id, created_at, available) SELECT account_id, now(), 5 FROM credit_accounts",
        "UPDATE credit_holds SET amount = 0",
        "UPDATE credit_holds SET state = 'released'",
        "DELETE FROM credit_holds",
    ],
)
def test_history_and_figures_change_by_operations_only(connection: psycopg.Connection[Any], owner: Owner, statement: str) -> None:
    give(connection, owner, 5, expires_in=timedelta(days=1))
    hold_id = uuid.uuid4()
    do(connection, credits.hold(owner, hold_id, Micros(CREDIT), by=BY, purpose="session"))
    do(connection, credits.settle(hold_id, Micros(CREDIT), by=BY, overrun="held"))
    with pytest.raises((psycopg.errors.CheckViolation, psycopg.errors.FeatureNotSupported)):
        connection.execute(statement.encode())
    connection.rollback()
    adds_up(connection)


@pytest.mark.parametrize(
    ("source", "target", "amount", "of_lot"),
    [
        ("available", "spent", 6, True),  # more than there is
        ("held", "spent", 1, True),  # nothing is held
        ("owed", "spent", 1, False),  # the account may not owe
        ("spent", "available", 1, True),  # what is spent does not come back
        ("issued", "spent", 1, True),
        ("available", "spent", 0, True),
        ("available", "spent", -1, True),
        ("available", "spent", 1, False),  # credits without a lot
    ],
)
def test_the_database_refuses_entries_that_no_operation_makes(
    connection: psycopg.Connection[Any], owner: Owner, source: str, target: str, amount: int, of_lot: bool
) -> None:
    give(connection, owner, 5)
    with pytest.raises(psycopg.errors.CheckViolation):
        connection.execute(
            "INSERT INTO credit_entries (operation_id, lot_id, source, target, amount)"
            " SELECT o.operation_id, CASE WHEN %s THEN l.lot_id END, %s, %s, %s FROM credit_operations o JOIN credit_lots l"
            " USING (account_id) JOIN credit_accounts a USING (account_id) WHERE a.user_id = %s",
            (of_lot, source, target, amount, owner.user_id),
        )
    connection.rollback()


def test_no_operation_moves_credits_of_another_account(connection: psycopg.Connection[Any], owner: Owner) -> None:
    give(connection, owner, 5)
    other = Owner(owner.tenant_id, uuid.uuid4().hex)
    give(connection, other, 5)
    with pytest.raises(psycopg.errors.CheckViolation, match="its own account only"):
        connection.execute(
            "INSERT INTO credit_entries (operation_id, lot_id, source, target, amount) SELECT o.operation_id, l.lot_id,"
            " 'available', 'spent', 1 FROM credit_operations o JOIN credit_accounts a USING (account_id), credit_lots l"
            " JOIN credit_accounts b ON b.account_id = l.account_id WHERE a.user_id = %s AND b.user_id = %s",
            (owner.user_id, other.user_id),
        )
    connection.rollback()


def test_a_check_sees_no_expired_lot_before_any_job_and_neither_does_a_hold(
    connection: psycopg.Connection[Any], owner: Owner
) -> None:
    give(connection, owner, 2, "lasting")
    row = connection.execute("SELECT clock_timestamp()").fetchone()
    assert row is not None
    # It expires now; the clock has passed it when the next statement asks.
    give(connection, owner, 5, "brief", expires_in=timedelta(hours=1), at=row[0] - timedelta(hours=1))
    row = connection.execute("SELECT balance::text FROM credit_balances WHERE user_id = %s", (owner.user_id,)).fetchone()
    assert row == ("2",)
    connection.rollback()
    assert stands(connection, owner).balance == 2 * CREDIT
    row = connection.execute("SELECT available::text FROM credit_accounts WHERE user_id = %s", (owner.user_id,)).fetchone()
    assert row == ("7",), "somebody wrote it down already"
    with pytest.raises(Insufficient) as refused:
        run(connection, credits.hold(owner, uuid.uuid4(), Micros(3 * CREDIT), by=BY, purpose="session"))
    assert (refused.value.asked, refused.value.spendable) == (3 * CREDIT, 2 * CREDIT)
    connection.rollback()
    assert run(connection, credits.expire_due()) >= 1
    connection.commit()
    kinds = connection.execute(
        "SELECT o.kind, e.source, e.target, e.amount::text FROM credit_operations o JOIN credit_entries e USING (operation_id)"
        " JOIN credit_accounts a USING (account_id) WHERE a.user_id = %s ORDER BY entry_id DESC LIMIT 1",
        (owner.user_id,),
    ).fetchone()
    assert kinds == ("expire", "available", "expired", "5")
    adds_up(connection)


def test_what_is_held_outlives_its_lot_and_expires_when_it_is_given_back(
    connection: psycopg.Connection[Any], owner: Owner
) -> None:
    now = connection.execute("SELECT clock_timestamp()").fetchone()
    assert now is not None
    soon, late = now[0] + timedelta(minutes=1), now[0] + timedelta(hours=2)
    give(connection, owner, 10, expires_in=timedelta(hours=1))
    kept, back = uuid.uuid4(), uuid.uuid4()
    for hold_id in (kept, back):
        do(connection, credits.hold(owner, hold_id, Micros(4 * CREDIT), by=BY, purpose="session", at=soon))
    settled = do(connection, credits.settle(kept, Micros(3 * CREDIT), by=BY, overrun="held", at=late))
    assert (settled.moved, settled.refunded, settled.shortfall, settled.balance) == (3 * CREDIT, 0, 0, 0)
    released = do(connection, credits.release(back, by=BY, at=late))
    assert (released.moved, released.refunded, released.balance) == (4 * CREDIT, 0, 0)
    adds_up(connection)


def test_holds_are_known_by_their_ids_and_end_once(connection: psycopg.Connection[Any], owner: Owner) -> None:
    give(connection, owner, 10)
    hold_id = uuid.uuid4()
    for unknown in (credits.settle(hold_id, Micros(1), by=BY, overrun="held"), credits.release(hold_id, by=BY)):
        with pytest.raises(UnknownHold):
            run(connection, unknown)
    held = do(connection, credits.hold(owner, hold_id, Micros(4 * CREDIT), by=BY, purpose="session"))
    again = do(connection, credits.hold(owner, hold_id, Micros(4 * CREDIT), by=BY, purpose="session"))
    assert (again.operation_id, again.balance, again.repeated) == (held.operation_id, 6 * CREDIT, True)
    with pytest.raises(KeyReused):
        run(connection, credits.hold(owner, hold_id, Micros(5 * CREDIT), by=BY, purpose="session"))
    connection.rollback()
    with pytest.raises(KeyReused, match="another account"):
        run(connection, credits.hold(Owner("t", "other"), hold_id, Micros(0), by=BY, purpose="session"))
    connection.rollback()
    settled = do(connection, credits.settle(hold_id, Micros(CREDIT), by=BY, overrun="held"))
    with pytest.raises(HoldEnded) as ended:
        run(connection, credits.release(hold_id, by=BY))
    assert (ended.value.code, ended.value.done.operation_id) == ("already_settled", settled.operation_id)
    connection.rollback()


def test_a_settlement_and_a_release_at_the_same_time_one_wins_and_the_other_is_told(
    migrated: Settings, connection: psycopg.Connection[Any], owner: Owner
) -> None:
    give(connection, owner, 100)
    holds = [uuid.uuid4() for _ in range(20)]
    for hold_id in holds:
        do(connection, credits.hold(owner, hold_id, Micros(2 * CREDIT), by=BY, purpose="session"))

    def end(asked: tuple[uuid.UUID, str]) -> str:
        hold_id, how = asked
        with connect(migrated) as own:
            try:
                if how == "settle":
                    run(own, credits.settle(hold_id, Micros(CREDIT), by=BY, overrun="held"))
                else:
                    run(own, credits.release(hold_id, by=BY, expired=how == "sweep"))
            except HoldEnded as ended:
                return ended.code
            return how

    asked = [(hold_id, how) for hold_id in holds for how in ("settle", "release")]
    random.Random(7).shuffle(asked)
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(end, asked))
    for hold_id in holds:
        both = sorted(answer for (one, _), answer in zip(asked, answers, strict=True) if one == hold_id)
        assert both in (["already_settled", "settle"], ["already_released", "release"]), both
    settled = sum(answer == "settle" for answer in answers)
    assert stands(connection, owner).balance == (100 - settled) * CREDIT
    adds_up(connection)


def test_an_account_may_owe_as_far_as_it_is_allowed_and_pays_it_first(connection: psycopg.Connection[Any], owner: Owner) -> None:
    give(connection, owner, 1)
    do(connection, credits.allow_overdraft(owner, Micros(3 * CREDIT), by=BY, key="o"))
    assert do(connection, credits.charge(owner, Micros(4 * CREDIT), by=BY, key="c")).balance == -3 * CREDIT
    with pytest.raises(Insufficient):
        run(connection, credits.charge(owner, Micros(1), by=BY, key="d"))
    connection.rollback()
    with pytest.raises(CreditsRefused, match="allocate credits first"):
        run(connection, credits.allow_overdraft(owner, Micros(0), by=BY, key="p"))
    connection.rollback()
    assert give(connection, owner, 5, "paid").balance == 2 * CREDIT
    do(connection, credits.allow_overdraft(owner, Micros(0), by=BY, key="p"))
    adds_up(connection)


def test_an_account_has_a_bound_on_its_lots(
    connection: psycopg.Connection[Any], owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credits, "LOTS_MAX", 3)
    for number in range(3):
        run(connection, credits.grant(owner, Micros(1), by=BY, key=f"k{number}"))
    with pytest.raises(TooManyLots, match="set its balance"):
        run(connection, credits.grant(owner, Micros(1), by=BY, key="more"))
    assert run(connection, credits.set_balance(owner, Micros(3), by=BY, key="one")).balance == 3
    assert len(run(connection, credits.balance(owner)).lots) == 1
    connection.rollback()


@pytest.mark.parametrize("amount", [-1, 10**18])
def test_amounts_have_bounds(owner: Owner, amount: int) -> None:
    with pytest.raises(ValueError, match="not within"):
        next(credits.grant(owner, Micros(amount), by=BY, key="k"))


def test_an_event_loop_runs_the_very_same_steps(migrated: Settings, owner: Owner) -> None:
    async def asked() -> tuple[Done, Balance]:
        async with await psycopg.AsyncConnection.connect(conninfo(migrated)) as own:
            await arun(own, credits.grant(owner, Micros(5), by=BY, key="k"))
            held = await arun(own, credits.hold(owner, uuid.uuid4(), Micros(2), by=BY, purpose="reservation"))
            return held, await arun(own, credits.balance(owner))

    held, shown = asyncio.run(asked())
    assert (held.moved, held.balance, shown.balance, shown.held) == (2, 3, 3, 2)


@pytest.mark.parametrize(
    ("table", "tampered"),
    [
        ("credit_accounts", "available = available + 1"),
        ("credit_lots", "held = held + 1"),
        ("credit_holds", "state = 'expired', ended_at = now()"),
        ("credit_operations", "moved = moved + 1"),
        ("credit_operations", "balance = balance + 1"),
        ("credit_entries", "amount = amount + 1"),
    ],
)
def test_whatever_was_tampered_with_is_found(
    connection: psycopg.Connection[Any], owner: Owner, table: str, tampered: str
) -> None:
    give(connection, owner, 5)
    do(connection, credits.hold(owner, uuid.uuid4(), Micros(CREDIT), by=BY, purpose="session"))
    connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER".encode())
    newest = f"ctid = (SELECT max(ctid) FROM {table})" if table != "credit_holds" else "state = 'open'"
    assert connection.execute(f"UPDATE {table} SET {tampered} WHERE {newest}".encode()).rowcount
    check = check_credits(connection)
    assert not check.ok
    assert "differ in" in check.detail
    connection.rollback()


def test_the_job_leaves_accounts_that_are_locked_to_another_turn(
    migrated: Settings, connection: psycopg.Connection[Any], owner: Owner
) -> None:
    row = connection.execute("SELECT clock_timestamp()").fetchone()
    assert row is not None
    give(connection, owner, 5, expires_in=timedelta(hours=1), at=row[0] - timedelta(hours=1))

    def expired() -> object:
        found = connection.execute(
            "SELECT count(*) FROM credit_operations o JOIN credit_accounts a USING (account_id)"
            " WHERE a.user_id = %s AND o.kind = 'expire'",
            (owner.user_id,),
        ).fetchone()
        connection.rollback()
        return found

    with connect(migrated) as other, connect(migrated, autocommit=True) as job:
        other.execute("SELECT FROM credit_accounts WHERE user_id = %s FOR UPDATE", (owner.user_id,))
        expiring.turn(job)
        assert expired() == (0,)
        other.rollback()
        expiring.turn(job)
        assert expired() == (1,)
        expiring.turn(job)
    assert expired() == (1,)
    adds_up(connection)
