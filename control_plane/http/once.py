"""Idempotency keys: a request that was answered is answered the same again, for a day, to whoever sent it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sqlalchemy import Column, DateTime, Integer, LargeBinary, Table, Text, delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from control_plane.http.envelope import Answer
from control_plane.metadata import METADATA
from control_plane.refusals import Refusal
from control_plane.unit import Actor, Units

LEASE_S: Final = 60
"""How long a request may be under way before a repetition takes it over: longer than any request is answered."""

KEYS: Final = Table(
    "idempotency_keys",
    METADATA,
    Column("who", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("started_at", DateTime(timezone=True), nullable=False),
    Column("status", Integer),
    Column("answer", LargeBinary),
)


class Once:
    """One request under one key."""

    def __init__(self, units: Units, actor: Actor, key: str, fingerprint: bytes) -> None:
        self._units = units
        self._actor = actor
        self._key = key
        self._fingerprint = fingerprint
        self._mine = (KEYS.c.who == actor.who) & (KEYS.c.key == key)

    def answer(self, act: Callable[[], Answer]) -> Answer:
        """The kept answer, or what `act` answers, which is kept then. Raises what `act` raises, and Refusal."""
        kept = self._claim()
        if kept is not None:
            return kept
        try:
            answer = act()
        except Exception:
            self._let_go()
            raise
        with self._units.begin(self._actor) as unit:
            unit.sql.execute(update(KEYS).where(self._mine).values(status=answer.status_code, answer=bytes(answer.body)))
        return answer

    def _claim(self) -> Answer | None:
        lease = text(f"interval '{LEASE_S} seconds'")
        with self._units.begin(self._actor) as unit:
            row = {"who": self._actor.who, "key": self._key, "fingerprint": self._fingerprint, "started_at": func.now()}
            # The row is locked either way: by its insertion, or by the update of one that is there.
            added = insert(KEYS).values(row)
            claimed = added.on_conflict_do_update(
                index_elements=["who", "key"],
                set_={"started_at": func.now()},
                where=KEYS.c.status.is_(None)
                & (KEYS.c.started_at < func.now() - lease)
                & (KEYS.c.fingerprint == self._fingerprint),
            ).returning(KEYS.c.key)
            if unit.sql.execute(claimed).first() is not None:
                return None
            found = unit.sql.execute(select(KEYS).where(self._mine)).first()
        if found is None:
            raise _under_way()  # it was let go of just now
        if bytes(found.fingerprint) != self._fingerprint:
            raise Refusal(
                "unprocessable",
                "idempotency_key_reused",
                "This Idempotency-Key was sent with another request; send each request under a key of its own.",
            )
        if found.status is None:
            raise _under_way()
        answer = Answer(bytes(found.answer), int(found.status))
        answer.headers["Idempotent-Replayed"] = "true"
        return answer

    def _let_go(self) -> None:
        with self._units.begin(self._actor) as unit:
            unit.sql.execute(delete(KEYS).where(self._mine & KEYS.c.status.is_(None)))


def _under_way() -> Refusal:
    return Refusal(
        "conflict",
        "idempotency_key_in_use",
        "The same request is under way under this Idempotency-Key; send it again shortly.",
        retry_after_s=1,
    )
