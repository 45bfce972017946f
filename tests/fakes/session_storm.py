"""Many clients with sessions, a server that is killed in their midst and started anew, and what has to be true afterwards.

`python -m tests.fakes.session_storm 10000` is the same at its full size, on servers of its own.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import IO, Any, Final

import httpx

from runtime.postgres import connect
from runtime.settings import Settings
from store.credits import Owner
from tests.bench.place import Place
from tests.fakes.credit_customers import ENDPOINT, MODEL, TENANT, assert_the_ledger_holds, give, with_catalog
from tests.fakes.pipeline import wait_until
from tests.fakes.tokens import user_token
from tests.integration.serving import ANSWER_WITHIN_S, STARTED_WITHIN_S, start

GRANTED: Final = 100_000
SWEPT_WITHIN_S: Final = 5.0
"""After a session's time, whatever became of the server meanwhile."""
ORPHANS: Final = 0.2
"""Of all sessions: nobody ends them."""


NEVER: Final = datetime.max.replace(tzinfo=UTC)


@dataclass
class Storm:
    """What the clients saw."""

    begun: int = 0
    ended: dict[str, Decimal] = field(default_factory=dict)
    """What an acknowledged end was charged, by session."""
    statuses: Counter[int] = field(default_factory=Counter)
    repeated: int = 0
    """Requests sent again because the server had gone."""
    down: tuple[datetime, datetime] = (NEVER, NEVER)
    """From the kill until the next server listened."""
    latest_s: float = 0.0
    """How long after its time the latest orphan was swept; where that fell into the gap, after the gap."""


class Line:
    """The server that is up now, as clients find it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.url = ""
        self.client = httpx.Client(timeout=ANSWER_WITHIN_S, limits=httpx.Limits(max_connections=100))
        self.up()

    def up(self) -> None:
        """A new process; answers once it listens."""
        self.process = start(self._settings, role="control-plane")
        listening = threading.Event()

        def read(lines: IO[str]) -> None:
            with lines:
                for line in lines:
                    if '"message": "listening"' in line:
                        self.url = f"http://127.0.0.1:{json.loads(line)['port']}"
                        listening.set()

        assert self.process.stderr is not None
        self._reader = threading.Thread(target=read, args=(self.process.stderr,))
        self._reader.start()
        assert listening.wait(STARTED_WITHIN_S), "the server does not start"

    def kill(self) -> None:
        """As `kill -9` does."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)
        self._reader.join(10)

    def down(self) -> None:
        self.client.close()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
        self._reader.join(10)


def storm(settings: Settings, sessions: int, *, users: int, clients: int, ttl_s: int, seed: int) -> Storm:
    """Raises AssertionError where a credit was lost or made, or an orphan stayed too long."""
    settings = with_catalog(settings, http_port=None)
    owners = [Owner(TENANT, f"storm_{number}") for number in range(users)]
    seen, lock = Storm(), threading.Lock()
    line = Line(settings)
    try:
        for owner in owners:
            _ask(line, seen, lock, owner, "GET", "active", None)
            give(settings, owner, GRANTED)

        def one(number: int) -> None:
            _session(line, seen, lock, owners[number % users], number, ttl_s, random.Random(seed * 1_000_003 + number))

        with ThreadPoolExecutor(clients) as threads:
            work = [threads.submit(one, number) for number in range(sessions)]
            wait_until("half of the sessions have begun", lambda: seen.begun >= sessions // 2, 600.0)
            killed_at = datetime.now(UTC)
            line.kill()
            line.up()
            seen.down = (killed_at, datetime.now(UTC))
            for done in work:
                done.result()
        _wait_for_the_sweeper(settings, ttl_s)
    finally:
        line.down()
    _check(settings, owners, seen)
    return seen


def _session(line: Line, seen: Storm, lock: threading.Lock, owner: Owner, number: int, ttl_s: int, chance: random.Random) -> None:
    name = f"s{number}"
    body = {"sessionId": name, "modelId": MODEL, "estimatedTokens": 1_000, "ttlSeconds": ttl_s}
    begun = _ask(line, seen, lock, owner, "POST", "initialize", body)
    with lock:
        seen.begun += 1
    if begun is None:
        return
    if chance.random() < 0.3:
        _ask(line, seen, lock, owner, "POST", "heartbeat", {"sessionId": name, "tokensGenerated": chance.randrange(50)})
    if chance.random() < ORPHANS:
        return
    what, of = chance.choice([("finalize", "actualTokens"), ("abort", "tokensGenerated")])
    ended = _ask(line, seen, lock, owner, "POST", what, {"sessionId": name, of: chance.randrange(2_000)})
    with lock:
        seen.ended[name] = ended["chargedCredits"]


def _ask(line: Line, seen: Storm, lock: threading.Lock, owner: Owner, method: str, path: str, body: Any) -> Any:
    """Until it is answered; a request that may have been done is sent again as it was. None: it was swept meanwhile."""
    token = user_token(owner.user_id, expires_s=3_600, tenantId=owner.tenant_id, email=None)
    deadline, pause = time.monotonic() + 120.0, threading.Event()
    while True:
        assert time.monotonic() < deadline, "no answer"
        try:
            headers = {"Authorization": f"Bearer {token}"}
            answer = line.client.request(method, f"{line.url}{ENDPOINT}/{path}", json=body, headers=headers)
        except httpx.TransportError:
            with lock:
                seen.repeated += 1
            pause.wait(0.1)
            continue
        with lock:
            seen.statuses[answer.status_code] += 1
        if answer.status_code == 503:
            pause.wait(0.1)
            continue
        if answer.status_code == 409 and answer.json()["error"]["code"] in ("session_ended", "session_expired"):
            return None
        assert answer.status_code in (200, 201), answer.text
        return answer.json(parse_float=Decimal)["data"]


def _wait_for_the_sweeper(settings: Settings, ttl_s: int) -> None:
    with connect(settings, autocommit=True) as connection:
        active = "SELECT count(*) FROM streaming_sessions WHERE state = 'active'"
        wait_until("no session is active", lambda: connection.execute(active).fetchone() == (0,), ttl_s + 60.0)


def _check(settings: Settings, owners: list[Owner], seen: Storm) -> None:
    assert_the_ledger_holds(settings)
    with connect(settings) as connection:
        sums = connection.execute(
            "SELECT user_id, available, held, spent FROM credit_accounts a JOIN LATERAL"
            " (SELECT coalesce(sum(charged), 0) AS spent FROM streaming_sessions s WHERE s.user_id = a.user_id) s ON true"
        ).fetchall()
        promised = connection.execute("SELECT value FROM outbox").fetchall()
        rows = connection.execute("SELECT session_id, state, charged, swept_at, expires_at FROM streaming_sessions").fetchall()
    by_user: Counter[str] = Counter()
    for (value,) in promised:
        event = json.loads(bytes(value))
        by_user[event["metadata"]["userId"]] += int(Decimal(event["quantity"]) * 1_000_000)
    assert {row[0] for row in sums} == {owner.user_id for owner in owners}
    for user, available, held, spent in sums:
        assert (held, available + spent) == (0, GRANTED), f"credits of {user} were lost or made"
        assert by_user[user] == int(spent * 1_000_000), f"what {user} was charged and what was promised differ"
    assert len(rows) == len({row[0] for row in rows}) == seen.begun
    charged = {row[0]: row[2] for row in rows}
    assert {name: charged[name] for name in seen.ended} == seen.ended, "an end that was acknowledged does not stand"
    gone, back = seen.down
    late = [
        (swept_at - (back if gone < expires_at < back else expires_at)).total_seconds()
        for _, _, _, swept_at, expires_at in rows
        if swept_at is not None
    ]
    seen.latest_s = max(late, default=0.0)
    assert seen.latest_s <= SWEPT_WITHIN_S, f"an orphan was swept {seen.latest_s:.1f} s after its time"


def main() -> None:
    """The storm at its full size."""
    sessions = int(sys.argv[1])
    with Place("storm") as place, place.corner() as settings:
        began = time.monotonic()
        seen = storm(settings, sessions, users=200, clients=16, ttl_s=15, seed=1)
        took = time.monotonic() - began
        gap_s = (seen.down[1] - seen.down[0]).total_seconds()
        place.say(
            f"{seen.begun} sessions in {took:.0f} s, {len(seen.ended)} ended and acknowledged, statuses {dict(seen.statuses)}"
        )
        place.say(f"killed once, back after {gap_s:.1f} s; {seen.repeated} requests sent again; no credit lost or made")
        place.say(f"the latest orphan was swept {seen.latest_s:.2f} s after its time")


if __name__ == "__main__":
    main()
