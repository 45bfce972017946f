"""Idempotency keys: the first result of a key is kept for 24 hours and replayed, errors included.

Kept are results of handlers. A request that never reached one (wrong key, no such path, a garbled body, another request
in flight) leaves nothing behind, so that its repeat is a first try.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

from deploy.embedded.local_stripe.problems import Answer, Problem
from deploy.embedded.local_stripe.state import State, Work

KEEP_S = 24 * 3600
KEY_CHARS_MAX = 255
SWEPT_MAX = 200
"""Expired keys removed by one request, so that no request pays for all of them."""


def fingerprint(method: str, path: str, body: bytes) -> bytes:
    """Two requests with one key must have the same."""
    return hashlib.sha256(b"\0".join((method.encode(), path.encode(), body))).digest()


def once(work: Work, key: str, mark: bytes, request_id: str) -> Work:
    """The work, done at most once a key."""

    def guarded(state: State) -> Answer:
        now = state.clock.now()
        row = state.database.execute(
            "SELECT fingerprint, status, body, headers, request_id FROM idempotency WHERE key = ? AND saved > ?",
            (key, now - KEEP_S),
        ).fetchone()
        if row is not None:
            if row[0] != mark:
                raise Problem(
                    f"The idempotency key {key[:60]!r} was used with other parameters or another path; use a new one.",
                    kind="idempotency_error",
                    should_retry=False,
                )
            headers = [tuple(header) for header in json.loads(row[3])]
            return Answer(row[1], json.loads(row[2]), (*headers, ("Idempotent-Replayed", "true"), ("Original-Request", row[4])))
        state.database.execute("SAVEPOINT handler")
        try:
            answer = work(state)
        except Problem as problem:
            state.database.execute("ROLLBACK TO handler")
            answer = problem.answer()
        state.database.execute("RELEASE handler")
        state.database.execute(
            "INSERT OR REPLACE INTO idempotency VALUES (?, ?, ?, ?, ?, ?, ?)",
            (key, mark, answer.status, json.dumps(answer.body), json.dumps(answer.headers), request_id, now),
        )
        state.database.execute(
            "DELETE FROM idempotency WHERE key IN (SELECT key FROM idempotency WHERE saved <= ? LIMIT ?)",
            (now - KEEP_S, SWEPT_MAX),
        )
        return replace(answer, headers=(*answer.headers, ("Original-Request", request_id)))

    return guarded
