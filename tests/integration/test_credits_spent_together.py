"""Fifty clients on one balance, and processes killed in the middle: no credit is lost or made."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import psycopg

from meterline_schemas.types import Micros
from runtime.postgres import connect
from runtime.settings import Settings
from store import credits
from store.credits import Insufficient, Owner, TooManyLots, UnknownHold
from store.steps import run
from tests.fakes.pipeline import environment_of
from tests.integration.credit_ledger import BY, CREDIT, adds_up, connection, do, give, owner, stands

__all__ = ["connection", "owner"]  # fixtures

SPENDING_S = float(os.environ.get("METERLINE_TEST_SPENDING_S", "3"))
"""A minute is what the promise says; the suite takes a part of it."""


def test_fifty_clients_spend_one_balance_and_it_is_never_negative_and_the_sum_of_its_ledger(
    migrated: Settings, connection: psycopg.Connection[Any], owner: Owner
) -> None:
    give(connection, owner, 50)
    ends = time.monotonic() + SPENDING_S
    counts: dict[str, int] = {}
    counting = threading.Lock()

    def spend(seed: int) -> None:
        rng = random.Random(seed)
        mine: list[uuid.UUID] = []
        # All of them wait for one row, on a machine that may be busy.
        with connect(migrated.model_copy(update={"postgres_timeout_s": 60.0}), autocommit=True) as own:
            done = 0
            # However slow the machine: some of everything.
            while time.monotonic() < ends or done < 10:
                done += 1
                amount = Micros(rng.randrange(1, 3 * CREDIT))
                what = rng.choice(["hold", "hold", "settle", "release", "charge", "grant", "adjust", "balance"])
                try:
                    with own.transaction():
                        if what == "hold":
                            mine.append(uuid.uuid4())
                            run(own, credits.hold(owner, mine[-1], amount, by=BY, purpose="session"))
                        elif what == "settle" and mine:
                            overrun = rng.choice(["held", "balance"])
                            run(own, credits.settle(mine.pop(), amount, by=BY, overrun=overrun))  # type: ignore[arg-type]
                        elif what == "release" and mine:
                            run(own, credits.release(mine.pop(), by=BY, expired=rng.random() < 0.5))
                        elif what == "charge":
                            run(own, credits.charge(owner, amount, by=BY, key=uuid.uuid4().hex))
                        elif what == "grant":
                            life = timedelta(milliseconds=rng.randrange(1, 500))
                            run(own, credits.grant(owner, amount, by=BY, key=uuid.uuid4().hex, expires_in=life))
                        elif what == "adjust":
                            run(own, credits.adjust(owner, -amount // 2, by=BY, key=uuid.uuid4().hex))
                        else:
                            assert run(own, credits.balance(owner)).balance >= 0
                            run(own, credits.expire_due())
                except (Insufficient, UnknownHold, TooManyLots) as refused:
                    what = refused.code
                with counting:
                    counts[what] = counts.get(what, 0) + 1

    with ThreadPoolExecutor(50) as clients:
        list(clients.map(spend, range(50)))
    assert counts["charge"] > 10
    assert counts["insufficient_credits"] > 10
    shown = stands(connection, owner)
    assert shown.balance >= 0
    adds_up(connection)
    lowest = connection.execute(
        "SELECT min(o.balance), count(*) FROM credit_operations o JOIN credit_accounts a USING (account_id) WHERE a.user_id = %s",
        (owner.user_id,),
    ).fetchone()
    assert lowest is not None
    assert lowest[0] >= 0
    print(counts, lowest[1])  # noqa: T201 - the figures of the long run


SPENDER = """
import os, random, sys, uuid
from control_plane.credits import expiring
from meterline_schemas.types import Micros
from runtime.postgres import connect
from runtime.settings import load_settings
from store import credits
from store.credits import By, Insufficient, Owner
from store.steps import run

settings, rng = load_settings(dict(os.environ)), random.Random()
print("ready", flush=True)
with connect(settings, autocommit=True) as connection:
    while True:
        hold_id = uuid.uuid4()
        try:
            with connection.transaction():
                run(connection, credits.hold(Owner("tnt_123", sys.argv[1]), hold_id, Micros(1000), by=By("s"), purpose="session"))
            with connection.transaction():
                run(connection, credits.settle(hold_id, Micros(rng.randrange(1500)), by=By("s"), overrun="balance"))
            print(hold_id, flush=True)
        except Insufficient:
            pass
"""


def test_processes_killed_in_the_middle_leave_no_credit_lost_or_made(
    migrated: Settings, connection: psycopg.Connection[Any], owner: Owner
) -> None:
    give(connection, owner, 1000)
    said: set[str] = set()
    rng = random.Random(3)
    command = [sys.executable, "-c", SPENDER, owner.user_id]
    spenders = [
        subprocess.Popen(command, env={**os.environ, **environment_of(migrated)}, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for process in spenders:
        with process:
            assert process.stdout is not None
            for _ in range(10 + rng.randrange(40)):
                said.add(process.stdout.readline().strip())
            process.send_signal(signal.SIGKILL)
    said.discard("ready")
    said.discard("")
    adds_up(connection)
    rows = connection.execute(
        "SELECT h.hold_id::text, h.state FROM credit_holds h JOIN credit_accounts a USING (account_id) WHERE a.user_id = %s",
        (owner.user_id,),
    ).fetchall()
    states = dict(rows)
    assert len(said) > 20
    assert {states[hold_id] for hold_id in said} == {"settled"}, "what was said to be settled is not"
    for hold_id, state in states.items():
        if state == "open":
            do(connection, credits.release(uuid.UUID(hold_id), by=BY, expired=True))
    adds_up(connection)
    row = connection.execute(
        "SELECT a.held, a.available + s.spent FROM credit_accounts a, LATERAL (SELECT sum(e.amount) AS spent FROM"
        " credit_operations o JOIN credit_entries e USING (operation_id) WHERE o.account_id = a.account_id"
        " AND e.target = 'spent') s WHERE a.user_id = %s",
        (owner.user_id,),
    ).fetchone()
    assert row is not None
    assert row == (0, 1000)
