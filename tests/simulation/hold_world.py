"""T1 of holds: clients, two relays, sweepers, a counter and an epoch's end, one statement at a time, drawn from one seed.

The rules are the product's (`metering.holds`, `metering.limits`), and so is the relay, which runs against a broker and a
database that fail as the seed wants. Transactions are generators: what they write is seen when they end, and between two of
their statements everybody else may move. That the fence moves with the counters, and that the log's first copy of a key is
the one that counts, is what the other schedules prove.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from random import Random
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

from entitlements.relay import Relay
from metering import holds
from metering.holds import Hold, HoldRefused, HoldState, LogPosition, Settlement
from metering.limits import Limit, Standing, decide
from meterline_schemas.types import Micros
from store.outbox import Record, Waiting
from tests.simulation.hold_broker import Broker, Connection
from tests.simulation.violation import Crash, Violation

LIMIT = Micros(10)
_STEPS = 220
_REST_TURNS_MAX = 400
_PARTITIONS = {1: 2, 2: 3}
_TTL_S = 8
_STIR_MAX = 3

Transaction = Generator[None, None, None]


@dataclass
class Promise:
    """A row of the outbox."""

    hold_id: int
    position: LogPosition | None = None
    sent: bool = False


class Moment(NamedTuple):
    """What one statement sees of the limit."""

    used: Micros
    held: Micros


class HoldWorld:
    """One seed's."""

    def __init__(self, seed: int, verbose: bool = False) -> None:
        self.random = Random(seed)
        self.verbose = verbose
        self.now = datetime(2026, 11, 21, tzinfo=UTC)
        self.holds: dict[int, Hold] = {}
        self.outbox: dict[int, Promise] = {}
        self.used = 0
        self.fences = {(1, partition): 0 for partition in range(_PARTITIONS[1])}
        self.ends: dict[int, list[int] | None] = {1: None}
        self.log: dict[tuple[int, int], list[int]] = {position: [] for position in self.fences}
        self.lock: object | None = None
        self.locked_rows: set[int] = set()
        self.claimed: set[int] = set()
        self.counted: set[int] = set()
        self.flipped: set[int] = set()
        self.calm = False
        self._clients: list[Transaction] = []
        self._relays = [self._relay(), self._relay()]
        self._relaying: set[int] = set()
        self._depth = 0

    # -- what a statement sees -------------------------------------------------------------------------------------

    def moment(self) -> Moment:
        """The counters and the holds, read by one statement."""
        return Moment(Micros(self.used), Micros(sum(self.held(hold_id) for hold_id in self.holds)))

    def held(self, hold_id: int) -> Micros:
        hold = self.holds[hold_id]
        fence = None if hold.position is None else self.fences.get(hold.position[:2])
        return holds.held(hold, self.now, fence)

    # -- clients ---------------------------------------------------------------------------------------------------

    def _locking(self, client: object) -> Iterator[None]:
        while self.lock is not None:
            yield
        self.lock = client

    def reserving(self) -> Transaction:
        client, quantity = object(), Micros(self.random.randint(1, 4))
        try:
            yield from self._locking(client)
            yield
            seen = self.moment()
            yield from self._grant(seen, quantity)
        finally:
            self._unlock(client)

    def _grant(self, seen: Moment, quantity: Micros) -> Transaction:
        standing = Standing(True, True, True, Limit(LIMIT, hard=True), None, seen.used, seen.held)
        if decide(standing, quantity).allowed:
            yield
            ttl = timedelta(seconds=self.random.randint(1, _TTL_S))
            self.holds[len(self.holds)] = Hold(quantity, self.now + ttl)
            self.say(f"hold {len(self.holds) - 1} of {quantity} until {self.now + ttl:%M:%S}")

    def settling(self, hold_id: int) -> Transaction:
        client = object()
        try:
            yield from self._locking(client)
            yield
            while hold_id in self.locked_rows:
                yield
            self.locked_rows.add(hold_id)
            settled = self._settled(hold_id)
            yield  # the row of the outbox
            yield  # the hold
            if settled is not None:
                self._promise(hold_id, settled)
        finally:
            self.locked_rows.discard(hold_id)
            self._unlock(client)

    def _settled(self, hold_id: int) -> Hold | None:
        """The hold after it; None when it is refused, or settled already."""
        hold = self.holds[hold_id]
        quantity = Micros(self.random.randint(1, hold.quantity))
        try:
            settled = holds.settle(hold, Settlement(quantity, self.now, b"%d" % quantity), self.now)
        except HoldRefused as refused:
            self.say(f"settling {hold_id}: {refused.code}")
            return None
        return None if settled is hold else settled

    def _promise(self, hold_id: int, settled: Hold) -> None:
        self.holds[hold_id] = settled
        self.outbox[len(self.outbox)] = Promise(hold_id)
        assert settled.settlement is not None
        self.say(f"settled {hold_id}{' late' if settled.settlement.late else ''}")

    def _unlock(self, client: object) -> None:
        if self.lock is client:
            self.lock = None

    # -- relays ----------------------------------------------------------------------------------------------------

    def _relay(self) -> Relay:
        relay = Relay(cast(Any, SimpleNamespace(topic_events="events")), cast(Any, None))
        relay._producer = cast(Any, Broker(self))
        return relay

    def relay(self, number: int) -> tuple[int, int]:
        """A turn, unless the relay is in the middle of one."""
        if number in self._relaying:
            return 0, 0
        self._relaying.add(number)
        try:
            return self._relays[number].turn(cast(Any, Connection(self)))
        except Crash as crash:
            self.say(f"relay {number} is killed: {crash}")
            self._relays[number] = self._relay()
            return 0, 0
        finally:
            self._relaying.discard(number)

    def claim(self, connection: Any, _events_topic: str, rows_max: int) -> list[Waiting]:
        """As `store.outbox.claim`, for this database."""
        newest = max(self.ends)
        if self.ends[newest] is not None:
            return []
        wanted = [
            (number, row.sent)
            for number, row in self.outbox.items()
            if number not in self.claimed and (not row.sent or self.lies_past_its_end(row))
        ][:rows_max]
        self.claimed.update(number for number, _ in wanted)
        connection.claimed = [number for number, _ in wanted]
        return [
            Waiting(number, Record(str(newest), b"", b"%d" % self.outbox[number].hold_id, {}), newest, again)
            for number, again in wanted
        ]

    def lies_past_its_end(self, row: Promise) -> bool:
        if row.position is None:
            return False
        ends = self.ends[row.position.epoch]
        return holds.lies_past(row.position, None if ends is None else ends[row.position.partition])

    def note(self, connection: Any, positions: dict[int, tuple[int, int, int]]) -> None:
        """As `store.outbox.acknowledged`, when the transaction is committed."""
        connection.writes.append(lambda: self._noted(positions))

    def _noted(self, positions: dict[int, tuple[int, int, int]]) -> None:
        for number, position in positions.items():
            row = self.outbox[number]
            row.position, row.sent = LogPosition(*position), True
            self.holds[row.hold_id] = replace(self.holds[row.hold_id], position=row.position)
            self.say(f"hold {row.hold_id} stands at {tuple(position)}")

    def append(self, epoch: int, hold_id: int) -> tuple[int, int]:
        partition = hold_id % _PARTITIONS[epoch]
        log = self.log[epoch, partition]
        log.append(hold_id)
        return partition, len(log) - 1

    # -- the log and the counters ----------------------------------------------------------------------------------

    def count(self) -> None:
        """Fence and counters, in one transaction. An epoch is decided when those before it are counted to their ends."""
        epoch, partition = self._any(list(self.fences))
        older = [(one, part, end) for one, ends in self.ends.items() if one < epoch for part, end in enumerate(ends or ())]
        if any(self.fences[one, part] < end for one, part, end in older):
            return
        fence, log, ends = self.fences[epoch, partition], self.log[epoch, partition], self.ends[epoch]
        end = len(log) if ends is None else ends[partition]
        target = min(end, fence + self.random.randint(1, 4))
        for hold_id in log[fence:target]:
            if hold_id not in self.counted:
                self.counted.add(hold_id)
                settlement = self.holds[hold_id].settlement
                assert settlement is not None
                self.used += settlement.quantity
        self.fences[epoch, partition] = target
        if target > fence:
            self.say(f"counted {epoch}/{partition} up to {target}")

    def end_epoch(self) -> None:
        """The recorded vector, and the next epoch; relays in the middle of a turn go on publishing to the old one."""
        if len(self.ends) == 1:
            self.ends[1] = [len(self.log[1, partition]) for partition in range(_PARTITIONS[1])]
            self.ends[2] = None
            for partition in range(_PARTITIONS[2]):
                self.fences[2, partition], self.log[2, partition] = 0, []
            self.say(f"epoch 1 ends at {self.ends[1]}")

    def forward(self) -> None:
        """What reached the old topic past its end, at least once."""
        for partition, end in enumerate(self.ends[1] or ()):
            for hold_id in self.log[1, partition][end:]:
                if self.calm or self.random.random() < 0.3:
                    self.append(2, hold_id)

    # -- a schedule ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Raises Violation."""
        for _ in range(_STEPS):
            self.step()
        self._rest()

    def stir(self) -> None:
        """Others move while a relay waits for the broker."""
        if not self.calm and self._depth < 2:
            self._depth += 1
            if self.random.random() < 0.05:
                self.end_epoch()
            for _ in range(self.random.randint(0, _STIR_MAX)):
                self.step()
            self._depth -= 1

    def step(self) -> None:
        chance = self.random.random()
        if chance < 0.45:
            self._move_a_client()
        elif chance < 0.6:
            self.relay(self.random.randint(0, 1))
        elif chance < 0.75:
            self.count()
        elif chance < 0.87:
            self.now += timedelta(seconds=self.random.randint(1, 3))
        elif chance < 0.92:
            self._sweep_or_release()
        elif chance < 0.995:
            self.flip()
            self.forward()
        else:
            self.end_epoch()
        self.check()

    def flip(self) -> None:
        """For the mutant that keeps a flag."""

    def _move_a_client(self) -> None:
        if len(self._clients) < 5 and self.random.random() < 0.4:
            if self.holds and self.random.random() < 0.55:
                self._clients.append(self.settling(self._any(list(self.holds))))
            else:
                self._clients.append(self.reserving())
        elif self._clients:
            client = self._any(self._clients)
            if self.random.random() < 0.04:
                client.close()  # its connection is cut: what it wrote is rolled back
                self._clients.remove(client)
            elif next(client, client) is client:
                self._clients.remove(client)

    def _sweep_or_release(self) -> None:
        free = [hold_id for hold_id in self.holds if hold_id not in self.locked_rows]
        for hold_id in free:
            self.holds[hold_id] = holds.sweep(self.holds[hold_id], self.now)
        if free and self.random.random() < 0.5:
            hold_id = self._any(free)
            try:
                self.holds[hold_id] = holds.release(self.holds[hold_id])
            except HoldRefused:
                self.say(f"releasing {hold_id}: it is settled")

    def check(self) -> None:
        """After every statement: settled work is counted or held, and what was granted is within the limit."""
        settled = [hold.settlement for hold in self.holds.values() if hold.settlement is not None]
        truth = sum(settlement.quantity for settlement in settled)
        seen = self.moment()
        if seen.used + seen.held < truth:
            raise Violation("neither", f"counted {seen.used} and held {seen.held} of {truth} that were settled")
        open_now = sum(h.quantity for h in self.holds.values() if h.state is HoldState.OPEN and not h.expired(self.now))
        in_time = sum(settlement.quantity for settlement in settled if not settlement.late)
        if open_now + in_time > LIMIT:
            raise Violation("over the limit", f"{open_now} reserved and {in_time} settled in time, of {LIMIT}")

    def _rest(self) -> None:
        """No more faults: everybody ends, everything is relayed and counted, what is open expires."""
        self.calm = True
        for _ in range(_REST_TURNS_MAX):
            self._clients = [client for client in self._clients if next(client, client) is not client]
            if not self._clients:
                break
        self.now += timedelta(seconds=_TTL_S)
        truth = Micros(sum(hold.settlement.quantity for hold in self.holds.values() if hold.settlement is not None))
        for _ in range(_REST_TURNS_MAX):
            if not self._clients and self.moment() == (truth, 0):
                return
            self.relay(0)
            self.forward_once()
            self.count()
            self.check()
        seen = self.moment()
        raise Violation("rest", f"counted {seen.used} of {truth}, held {seen.held}, {len(self._clients)} clients wait")

    def forward_once(self) -> None:
        """Whatever lies past the end and is not in the new log yet."""
        there = {hold_id for (epoch, _), log in self.log.items() if epoch == 2 for hold_id in log}
        for partition, end in enumerate(self.ends[1] or ()):
            for hold_id in self.log[1, partition][end:]:
                if hold_id not in there:
                    self.append(2, hold_id)

    def _any(self, some: list[Any]) -> Any:
        return some[int(self.random.random() * len(some))]

    def say(self, what: str) -> None:
        """A line of the schedule."""
        if self.verbose:
            print(f"{self.now:%M:%S} {'  ' * self._depth}{what}")  # noqa: T201 - what -v is for
