"""A schedule: who moves when, drawn from one seed."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from meterline_schemas.delta import Figures, encode_commit
from tests.simulation import codec, seams
from tests.simulation.check import check
from tests.simulation.counter import Counter
from tests.simulation.event_log import EventLog
from tests.simulation.forwarder import SteppedForwarder
from tests.simulation.member import Member
from tests.simulation.steps import Step
from tests.simulation.stores import Stores
from tests.simulation.violation import Violation
from tests.simulation.workload import NEXT_PARTITIONS, PARTITIONS, RULES_BY_VERSION

_MEMBERS = 2
_RECORDS_MIN, _RECORDS_MAX = 10, 50
_STEPS, _FEW_STEPS = 290, 50
_LONG_EVERY = 4
"""What is rare needs several things to have happened first; what is not is soon found, and read more easily, in few steps."""
_STIR_DEPTH_MAX = 2
_IN_COLUMNS_EVERY = 256
"""It takes many times as long; fuzzed bytes hold the two ways of reading together more closely than schedules can."""
_REST_STEPS_MAX = 600


class World:
    """One seed's. Everything random is drawn from `random`, in an order that the seed alone decides."""

    def __init__(self, seed: int, verbose: bool = False) -> None:
        self.seed, self.verbose = seed, verbose
        self.random = random = Random(seed)
        codec.use_weak_hashes(random.random() < 0.5)
        seams.reads_in_columns(however_few=seed % _IN_COLUMNS_EVERY == 0)
        starts = [0 if random.random() < 0.7 else int(random.random() * 5) for _ in range(PARTITIONS)]
        self.stores = Stores(random, logs=[EventLog(starts)])
        self.loses_deltas = random.random() < 0.3
        # More often none: what is at hand is not asked for, and asking is what the schedules are for.
        self.recent_events_max = 0 if random.random() < 0.7 else 1 + int(random.random() * 20)
        self.delta_bytes_max = 524_288 if random.random() < 0.7 else 330
        self.late: list[Step] = []
        older = {1: RULES_BY_VERSION[1]}
        self.members = [
            Member(self, number, older if random.random() < 0.2 else dict(RULES_BY_VERSION)) for number in range(_MEMBERS)
        ]
        self.counter = Counter(self)
        self._records_left = random.randint(_RECORDS_MIN, _RECORDS_MAX)
        self._depth = 0
        self._rules_wait = random.random() < 0.5
        self._epoch_waits = random.random() < 0.3
        self.forwarder = SteppedForwarder(self)
        self._steps = 0

    # -- run -----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Raises Violation."""
        seams.current.crashes_counting = self._crashes_counting
        self.rebalance()
        for _ in range(_STEPS if self.seed % _LONG_EVERY == 0 else _FEW_STEPS):
            self._move()
        self._rest()
        check(self.stores)

    def say(self, what: str, member: int | None) -> None:
        """A line of the schedule."""
        if self.verbose:
            who = "" if member is None else f"member {member}: "
            print(f"{self._steps:4d} {'  ' * self._depth}{who}{what}")  # noqa: T201 - what -v is for

    def stir(self, waiting: Member) -> None:
        """Called where a deciding thread waits for a store: others move meanwhile, its own storing thread above all."""
        if self._depth < _STIR_DEPTH_MAX and not self.stores.calm and self.random.random() < 0.5:
            self._depth += 1
            for _ in range(1 + int(self.random.random() * 5)):
                if self.random.random() < 0.5:
                    waiting.store()
                else:
                    self._move()
            self._depth -= 1

    def _move(self) -> None:
        self._steps += 1
        chance = self.random.random()
        if chance < 0.66:
            self._any_member().step()
        elif chance < 0.78:
            self.counter.step()
        elif chance < 0.89:
            if len(self.stores.logs) > 1 and self.random.random() < 0.4:
                self.forwarder.step()
            else:
                self._produce()
        elif chance < 0.94:
            self._land_late()
        elif chance < 0.965:
            self._any_member().kill()
        elif chance < 0.985:
            self.rebalance()
        elif chance < 0.990:
            self._activate_rules()
        elif chance < 0.995:
            self._repartition()
        else:
            self._reset_group()

    def _any_member(self) -> Member:
        return self.members[int(self.random.random() * _MEMBERS)]

    def _crashes_counting(self) -> bool:
        return not self.stores.calm and self.random.random() < 0.05

    # -- what happens to a pipeline ------------------------------------------------------------------------------

    def _produce(self) -> None:
        if self._records_left > 0:
            logs = self.stores.logs
            # A producer that has not heard of the new epoch goes on with the old topic.
            log = logs[0] if len(logs) > 1 and self.random.random() < 0.4 else logs[-1]
            self._records_left -= log.produce(self.random)
            self.say(f"log of epoch {log.epoch} ends at {log.ends()}", None)

    def _land_late(self) -> None:
        if self.late:
            step = self.late.pop(int(self.random.random() * len(self.late)))
            self.say(f"a late {step.kind} lands", None)
            step.effect()

    def rebalance(self) -> None:
        """Some members give back in good time, some drop everything, some do not hear of it: zombies."""
        if self.stores.calm:
            self.stores.group.rebalance(self._owners(lambda: self.members[0].number))
            return
        for member in self.members:
            chance = self.random.random()
            if chance < 0.3:
                member.finish()
            elif chance < 0.5:
                member.notice()
        self.stores.group.rebalance(self._owners(lambda: int(self.random.random() * _MEMBERS)))
        self.say(f"rebalance: {self.stores.group.owners}", None)

    def _owners(self, draw: Callable[[], int]) -> dict[tuple[int, int], int]:
        """Of the topics of every epoch; a member takes those of the epoch that it decides."""
        epochs = self.stores.ledger.epochs
        return {(epoch.epoch, partition): draw() for epoch in epochs for partition in range(epoch.partitions)}

    def _activate_rules(self) -> None:
        """`rules activate`: the log's ends, read and written under the exclusive lock."""
        if self._rules_wait:
            self._rules_wait = False
            for partition, end in enumerate(self.stores.log.ends()):
                self.stores.ledger.rules_from[self.stores.log.epoch][partition].append((end, 2))
            self.say(f"rules 2 from {self.stores.log.ends()}", None)

    def _repartition(self) -> None:
        """`topics repartition`: the end of the log, and all that begins with it, under the exclusive lock."""
        if self._epoch_waits:
            self._epoch_waits = False
            stores, ends = self.stores, self.stores.log.ends()
            version = max(version for _, version in stores.ledger.rules_from[1][0])
            stores.ledger.end(ends)
            stores.logs.append(EventLog([0] * NEXT_PARTITIONS, stores.log))
            stores.ledger.begin(stores.log.starts, version)
            stores.group.committed[2] = {}
            self.say(f"epoch 1 ends at {ends}", None)
            self.rebalance()

    def _reset_group(self) -> None:
        """An operator's hand in the group: an offset without a note, with another's note, or none at all."""
        log = self.stores.logs[int(self.random.random() * len(self.stores.logs))]
        committed, partition = self.stores.group.committed[log.epoch], int(self.random.random() * len(log.starts))
        chance = self.random.random()
        offset = int(self.random.random() * (log.ends()[partition] + 1))
        fence = self.stores.ledger.fences[log.epoch, partition]
        if chance < 0.3:
            committed[partition] = (offset, "")
        elif chance < 0.5:
            committed[partition] = (offset, encode_commit(3 - log.epoch, offset, 1, Figures(void=offset)))  # of another epoch
        elif chance < 0.75 and offset != fence.next_offset:
            committed[partition] = (offset, encode_commit(log.epoch, fence.next_offset, fence.rules_version, fence.figures))
        else:
            committed.pop(partition, None)
        self.say(f"the group's offset of {partition} is now {committed.get(partition)}", None)

    # -- rest ----------------------------------------------------------------------------------------------------

    def _rest(self) -> None:
        """No more faults: what is late lands or is lost, one member takes everything, all deltas arrive."""
        self.stores.calm = True
        last, *others = self.members
        for member in others:
            member.finish() if self.random.random() < 0.5 else member.kill()
        if self.random.random() < 0.5:
            last.kill()
        last.rules = dict(RULES_BY_VERSION)
        while len(self.stores.logs) > 1 and list(self.stores.ledger.forwarded.values()) != self.stores.logs[0].ends():
            self.forwarder.step()
        self.rebalance()
        last.notice()
        self._go_on_until_rest(last)
        while self.late:  # an old owner's commit may lower the offset of one that has nothing to do
            if self.random.random() < 0.7:
                self._land_late()
            else:
                self.late.pop()
        self._go_on_until_rest(last)
        self.counter.drain()

    def _go_on_until_rest(self, last: Member) -> None:
        ends = self.stores.log.ends()
        for _ in range(_REST_STEPS_MAX):
            if self.random.random() < 0.1:
                self._land_late()
            if last.rests_at(ends):
                return
            last.step()
        raise Violation("rest", f"committed {self.stores.group.committed}, the log ends at {ends}")
