"""A consumer process: what `consumers.app` does around the product's Assigning, Decider, Lane and Storer, step by step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar, cast

from consumers.assignment import Assigning
from consumers.deciding import Decider, Lacking
from consumers.following import Following, inherited_of
from consumers.lane import Lane
from consumers.patience import Retriable
from consumers.storing import Cycle, committed_at
from metering.index import Hashes
from metering.ranges import Claim
from metering.records import Records
from meterline_schemas.rules import Rules
from meterline_schemas.types import Epoch, Offset
from runtime.exits import Exit, MeterlineExit
from store.epochs import Epoch as LogEpoch
from store.fences import Fence
from tests.simulation import seams
from tests.simulation.steps import Step, SteppedStorer
from tests.simulation.workload import PARTITIONS_OF, RULES_BY_VERSION

if TYPE_CHECKING:
    from tests.simulation.world import World

T = TypeVar("T")

_CYCLES_WAITING_MAX = 2
_TRIES_MAX = 3


class Member:
    """Two threads of one process. `step` moves one of them; `kill` and `notice` come from the schedule."""

    def __init__(self, world: World, number: int, rules: dict[int, Rules]) -> None:
        self.world, self.number, self.rules = world, number, rules
        self.random: Random = world.random
        self.generation = -1
        self.following: Following | None = None
        """Which epoch the process decides; None before a new process has looked."""
        self._now = 0
        self.deciding = False
        """Within a call of the deciding thread, which cannot be entered again."""
        self._forget()

    def _forget(self) -> None:
        self.decider: Decider | None = None
        self.storer: SteppedStorer | None = None
        self.positions: dict[int, int] = {}
        self.cycles: deque[Cycle] = deque()
        self.steps: deque[Step] = deque()
        self.under_way: Cycle | None = None
        self.committed: list[Cycle] = []
        self.failed = False

    @property
    def stale(self) -> bool:
        """The group has gone on without it: a zombie, when it still holds lanes."""
        return self.generation != self.world.stores.group.generation

    # -- the schedule's hand -------------------------------------------------------------------------------------

    def step(self) -> None:
        if self.deciding:
            self.store()
        elif self.failed:
            self.fail()
        elif self._turns() and self.follow():
            pass
        elif self.decider is None:
            self.take()
        else:
            chance = self.random.random()
            if chance < 0.3:
                self.fetch()
            elif chance < 0.5:
                self.decide()
            elif chance < 0.97 or not self.stale:
                self.store()
            else:
                self.notice()

    def kill(self) -> None:
        """`kill -9`, anywhere but within a call of the deciding thread. What is on its way may still arrive."""
        if self.deciding:
            return
        self.world.say("killed", self.number)
        self._leave_behind()
        self._forget()
        self.following = None
        if self.random.random() < 0.3:
            self.rules = dict(RULES_BY_VERSION)

    def notice(self) -> None:
        """The member learns that its partitions are another's; the storing thread ends before anything else."""
        if self.decider is not None and not self.deciding:
            self.world.say("notices that it lost its partitions", self.number)
            self._leave_behind()
            self._forget()

    def finish(self) -> None:
        """A revocation in good time: what waits is finished and committed, then everything is given back."""
        if self.deciding or self.decider is None:
            return
        for _ in range(200):
            if self.failed or not (self.steps or self.cycles):
                break
            self.store()
        self._forget()

    def fail(self) -> None:
        """The storing thread gave up: all of P goes with the process."""
        self.kill()

    def _leave_behind(self) -> None:
        if self.steps and self.random.random() < 0.5:
            self.world.late.append(self.steps[0])

    def rests_at(self, ends: list[int]) -> bool:
        """Whether everything up to the log's ends is decided, stored and committed. It may have nothing to commit."""
        if self.decider is None or self.failed or self.steps or self.cycles or self.epoch != self.world.stores.log.epoch:
            return False
        committed, starts = self.world.stores.group.committed[self.epoch], self.world.stores.log.starts
        return all(
            lane.next_offset == ends[partition] and committed.get(partition, (start, ""))[0] == ends[partition]
            for (partition, lane), start in zip(sorted(self.decider.lanes.items()), starts, strict=True)
        )

    # -- from epoch to epoch ---------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        return 1 if self.following is None else self.following.epoch.epoch

    def clock(self) -> float:
        """Far enough on at each look that the product looks again."""
        self._now += 1
        return self._now

    def epochs(self) -> list[LogEpoch]:
        return list(self.world.stores.ledger.epochs)

    def committed_of(self, epoch: LogEpoch) -> dict[int, tuple[int, str]]:
        found = dict(self.world.stores.group.committed[epoch.epoch])
        self.world.stir(self)
        return found

    def fences_of(self, epoch: LogEpoch) -> list[Fence]:
        return [fence for fence in self.world.stores.ledger.fences.values() if fence.epoch == epoch.epoch]

    def _turns(self) -> bool:
        """Whether it is time to look for a new epoch."""
        ended = len(self.world.stores.logs) > self.epoch
        return ended and self.following is not None and (self.decider is None or self.random.random() < 0.1)

    def follow(self) -> bool:
        """What the product's main loop does between two turns; True when another epoch is taken up."""
        assert self.following is not None
        self.deciding = True
        try:
            moved = self.following.moved_on()
        finally:
            self.deciding = False
        if moved:
            self.world.say(f"takes up epoch {self.epoch}", self.number)
            self._leave_behind()
            self._forget()
            self.world.rebalance()
        return moved

    # -- the deciding thread ---------------------------------------------------------------------------------------

    def take(self) -> None:
        """What the product does when partitions are assigned."""
        stores = self.world.stores
        self.deciding = True
        try:
            if self.following is None:
                self.following = Following(_Log(self), self.clock)
            mine = [p for (epoch, p), owner in stores.group.owners.items() if owner == self.number and epoch == self.epoch]
            if not mine:
                return
            self.generation = stores.group.generation
            lanes = self.lanes(mine)
        except MeterlineExit as error:
            self.world.say(f"cannot take partitions: {error}", self.number)
            return
        finally:
            self.deciding = False
        self.decider = Decider(
            lanes,
            PARTITIONS_OF[self.epoch],
            self.world.delta_bytes_max,
            self._confirm,
            recent_events_max=self.world.recent_events_max,
        )
        taken = {p: committed_at(self.epoch, lane.next_offset, lane.rules_version, lane.figures) for p, lane in lanes.items()}
        self.storer = SteppedStorer(stores, self.random, taken, self.epoch)
        self.positions = {partition: lane.next_offset for partition, lane in lanes.items()}
        self.world.say(f"takes {self.positions}", self.number)

    def lanes(self, partitions: list[int]) -> dict[int, Lane]:
        return self.assigning().lanes(partitions)

    def assigning(self) -> Assigning:
        assert self.following is not None
        return Assigning(
            epoch=Epoch(self.epoch),
            partitions=PARTITIONS_OF[self.epoch],
            offsets=cast(Any, self),
            fences=self._fences,
            clickhouse=lambda: cast(Any, self.world.stores),
            log_starts=lambda: self.world.stores.logs[self.epoch - 1].starts,
            patience=cast(Any, self),
            inherited=inherited_of(self.following.older),
        )

    def committed_notes(self, partitions: list[int]) -> dict[int, tuple[int, str]]:
        found = {p: note for p, note in self.world.stores.group.committed[self.epoch].items() if p in partitions}
        self.world.stir(self)
        return found

    def _fences(self) -> list[Fence]:
        found = [fence for fence in self.world.stores.ledger.fences.values() if fence.epoch == self.epoch]
        self.world.stir(self)
        return found

    def until_done(self, _dependency: str, call: Callable[[], T], _away: object = (), behind: Exit = Exit.UNREACHABLE) -> T:
        """The product's patience, with a bound in tries instead of seconds."""
        for _ in range(1 + int(self.random.random() * _TRIES_MAX)):
            try:
                return call()
            except Retriable:
                self.world.say("a read lags behind", self.number)
                self.world.stir(self)
        raise MeterlineExit(behind, "out of patience")

    def fetch(self) -> None:
        """The next records of one partition into its lane."""
        assert self.decider is not None
        lanes = list(self.decider.lanes.values())
        lane = lanes[int(self.random.random() * len(lanes))]
        log, partition = self.world.stores.logs[self.epoch - 1], lane.partition
        records, position = log.read(partition, self.positions[partition], 1 + int(self.random.random() * 8))
        lane.take(Records.of(records))
        self.positions[partition] = position
        if position == len(log.partitions[partition]) and position > lane.next_offset:
            lane.reached_end(Offset(position))

    def decide(self) -> None:
        """A turn of the product's main loop: acknowledgements, the rules, a cycle."""
        assert self.decider is not None
        committed, self.committed = self.committed, []
        self.decider.acknowledge(committed)
        if len(self.cycles) >= _CYCLES_WAITING_MAX:
            return
        if not any(lane.has_work() for lane in self.decider.lanes.values()):
            return
        changes = self.rules_changes()
        self.deciding = True
        seams.knows(self.rules)
        try:
            cycle = self.decider.cycle(changes)
        except MeterlineExit as error:
            self.deciding = False
            self.world.say(f"leaves: {error}", self.number)
            self.kill()
            return
        finally:
            self.deciding = False
        if cycle is not None:
            self.world.say(f"decided {spans(cycle)}", self.number)
            self.cycles.append(cycle)

    def rules_changes(self) -> dict[int, list[tuple[int, int]]]:
        """Read after the ranges were fetched and before they are decided."""
        return self.world.stores.ledger.rules_changes(self.epoch)

    def _confirm(self, hashes: Hashes, lacking: Lacking) -> dict[bytes, Claim]:
        """As the product's main loop does it: a row that C counts and ClickHouse does not show is a lagging read."""

        def fetch() -> dict[bytes, Claim]:
            claims = self.world.stores.confirm(hashes)
            if lacking(claims):
                raise Retriable("lagging")
            return claims

        claims = self.until_done("clickhouse", fetch)
        self.world.stir(self)
        seams.knows(self.rules)
        return claims

    # -- the storing thread ----------------------------------------------------------------------------------------

    def store(self) -> None:
        """One step; the next cycle's first when nothing is under way."""
        if self.storer is None or self.failed:
            return
        if not self.steps:
            if self.cycles:
                self.under_way = self.cycles.popleft()
                self.steps = self.storer.through(self.under_way)
            elif self.random.random() < 0.1 or self.world.stores.calm:
                self.steps = self.storer.idle()
                if self.steps:
                    self.world.say("a lowered offset is put right", self.number)
        if self.steps:
            self._carry_out(self.steps.popleft())
        if not self.steps and not self.failed:
            self.committed += self.storer.acknowledged()

    def _carry_out(self, step: Step) -> None:
        self.world.say(f"{step.kind}{' (late)' if step.late else ''}", self.number)
        if step.kind == "fail":
            self.failed = True
        elif step.kind == "commit" and self.stale and not step.late:
            self.world.say("the commit is refused", self.number)
            self.failed = True
            if self.random.random() < 0.5:
                self.world.late.append(step)  # another was on its way, from before the group went on
        elif step.late:
            self.world.late.append(step)
        else:
            step.effect()


class _Log:
    """Where the product's `Following` reads; as a port of its own, for the member has other methods of these names."""

    def __init__(self, member: Member) -> None:
        self.epochs, self.committed, self.fences = member.epochs, member.committed_of, member.fences_of


def spans(cycle: Cycle) -> str:
    return " ".join(f"{d.span.partition}:[{d.span.from_offset},{d.span.to_offset})" for d in cycle.ranges)
