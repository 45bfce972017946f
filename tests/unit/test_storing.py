"""The storing thread: store, announce, commit, in this order, whatever fails on the way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator

import pytest

from consumers import storing
from consumers.patience import Retriable
from consumers.storing import Committed, Cycle, Storer, committed_at
from metering.ranges import Pending, decide
from metering.reading import read
from meterline_schemas.delta import Figures, parse_commit
from meterline_schemas.rules import RULES
from runtime.exits import Exit, MeterlineExit
from store import event_log
from tests.fakes.storing_ports import FakeDeltas, FakeOffsets, FakeRows, Steps
from tests.unit.records import PARTITIONS, body, entities, span

NEVER = threading.Event()


def cycle(first: int = 0, partition: int = 0) -> Cycle:
    """One range [first, first + 2) of a partition: an admitted record and an invalid one."""
    work = span(partition, first, [body(entities(partition, first + 1)[first]), b"{"])
    readings = read(work, RULES[1], PARTITIONS)
    ranges = (decide(readings, RULES[1], Pending(), {}, Figures(admitted=first // 2, invalid=first // 2)),)
    return Cycle(ranges, event_log.admitted_rows(ranges), event_log.reject_rows(ranges))


class Thread:
    """A storer between fakes; `over` replaces one."""

    def __init__(self, **over: object) -> None:
        self.steps = Steps()
        self.rows = FakeRows(self.steps, over.get("rows", ()))  # type: ignore[arg-type]
        self.deltas = FakeDeltas(self.steps, over.get("deltas", ()))  # type: ignore[arg-type]
        self.offsets = FakeOffsets(self.steps, over.get("offsets", ()))  # type: ignore[arg-type]
        clock = over.get("clock", time.monotonic)
        taken = over.get("taken", {})
        self.storer = Storer(self.rows, self.deltas, self.offsets, 60.0, clock, taken)  # type: ignore[arg-type]
        self.storer.start()

    def wait_for(self, step: str, times: int = 1, within_s: float = 10.0) -> None:
        """Serves, as the polling thread would, until the step was taken so often."""
        deadline = time.monotonic() + within_s
        while self.steps.names().count(step) < times:
            assert time.monotonic() < deadline, f"{step} was not taken {times} times: {self.steps.names()}"
            self.storer.serve()
            self.steps.wait_for_any(0.005)


Make = Callable[..., Thread]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[Thread] = []

    def make_thread(**over: object) -> Thread:
        made.append(Thread(**over))
        return made[-1]

    yield make_thread
    for thread in made:
        for port in (thread.rows, thread.deltas, thread.offsets):
            port.gate.set()
        assert thread.storer.abandon(10.0)


def test_a_cycle_is_stored_then_announced_then_committed_with_its_figures_and_then_acknowledged(make: Make) -> None:
    thread, work = make(), cycle()
    assert thread.storer.submit(work, NEVER)
    assert thread.storer.finish(10.0)
    assert [step for step in thread.steps.names() if "?" not in step] == ["store", "announce", "commit"]
    assert thread.storer.acknowledged() == [work]
    offset, metadata = thread.offsets.group[0]
    note = parse_commit(metadata)
    assert (offset, note.offset, note.epoch, note.figures) == (2, 2, 1, work.ranges[0].figures)


def test_a_cycle_is_acknowledged_after_its_commit_and_not_before(make: Make) -> None:
    thread = make()
    thread.storer.submit(cycle(), NEVER)
    thread.steps.wait_for("announce")
    assert thread.storer.acknowledged() == []
    assert "commit?" not in thread.steps.names(), "commits are made by the thread that polls"
    thread.wait_for("commit")
    assert thread.storer.finish(10.0)
    assert len(thread.storer.acknowledged()) == 1


def test_the_next_cycle_is_not_stored_before_this_one_is_committed(make: Make) -> None:
    thread = make()
    thread.storer.submit(cycle(), NEVER)
    thread.storer.submit(cycle(2), NEVER)
    thread.steps.wait_for("announce")
    assert thread.steps.names().count("store?") == 1
    assert thread.storer.finish(10.0)
    assert [step for step in thread.steps.names() if "?" not in step] == ["store", "announce", "commit"] * 2


def test_a_commit_that_nobody_has_begun_is_never_made_after_the_partitions_were_given_up(make: Make) -> None:
    thread = make()
    thread.storer.submit(cycle(), NEVER)
    thread.steps.wait_for("announce")
    assert thread.storer.abandon(10.0)
    thread.storer.serve()
    assert "commit?" not in thread.steps.names()
    assert thread.storer.acknowledged() == []


@pytest.mark.parametrize("port", ["rows", "deltas", "offsets"])
def test_a_step_that_fails_is_repeated_with_the_identical_arguments_and_nothing_after_it_is_begun(make: Make, port: str) -> None:
    thread = make(**{port: [Retriable("away"), Retriable("away")]})
    thread.storer.submit(cycle(), NEVER)
    assert thread.storer.finish(10.0)
    name = {"rows": "store", "deltas": "announce", "offsets": "commit"}[port]
    tries = [what for step, what in thread.steps.taken if step == f"{name}?"]
    assert len(tries) == 3
    assert tries[0] == tries[1] == tries[2]
    assert [step for step in thread.steps.names() if "?" not in step] == ["store", "announce", "commit"]
    assert len(thread.storer.acknowledged()) == 1


def test_a_store_that_stays_away_for_too_long_ends_the_thread_with_a_named_exit_and_no_commit(make: Make) -> None:
    ticks = iter(range(0, 10_000, 40))
    thread = make(rows=[Retriable("away")] * 100, clock=lambda: float(next(ticks)))
    thread.storer.submit(cycle(), NEVER)
    with pytest.raises(MeterlineExit) as left:
        _until(thread)
    assert left.value.code is Exit.UNREACHABLE
    assert "clickhouse did not take the store" in str(left.value)
    assert "commit" not in thread.steps.names()


@pytest.mark.parametrize(
    "failure", [MeterlineExit(Exit.OWNERSHIP_LOST, "another's"), ValueError("a bug"), MemoryError("no room")], ids=repr
)
def test_what_cannot_be_retried_ends_the_thread_and_is_raised_to_the_deciding_thread(make: Make, failure: Exception) -> None:
    thread = make(offsets=[failure])
    thread.storer.submit(cycle(), NEVER)
    with pytest.raises(type(failure)) as raised:
        _until(thread)
    assert raised.value is failure
    with pytest.raises(type(failure)):
        thread.storer.submit(cycle(2), NEVER)
    assert thread.storer.acknowledged() == []
    assert thread.storer.finish(10.0), "a thread that has ended must not be waited for"


def test_abandoning_lets_the_step_under_way_end_and_begins_no_other(make: Make) -> None:
    thread = make()
    thread.rows.gate.clear()
    thread.storer.submit(cycle(), NEVER)
    thread.wait_for("store?")
    ended: list[bool] = []
    abandoning = threading.Thread(target=lambda: ended.append(thread.storer.abandon(10.0)))
    abandoning.start()
    thread.rows.gate.set()
    abandoning.join(10.0)
    assert ended == [True]
    assert thread.steps.names() == ["store?", "store"]
    assert thread.storer.acknowledged() == []
    thread.storer.check()


def test_abandoning_ends_the_retries_of_a_store_that_is_away(make: Make) -> None:
    thread = make(rows=[Retriable("away")] * 1000)
    thread.storer.submit(cycle(), NEVER)
    thread.wait_for("store?", 2)
    assert thread.storer.abandon(10.0)
    assert "announce?" not in thread.steps.names()


def test_cycles_that_wait_when_the_thread_is_abandoned_are_never_stored(make: Make) -> None:
    thread = make()
    thread.rows.gate.clear()
    for first in (0, 2, 4):
        thread.storer.submit(cycle(first), NEVER)
    thread.wait_for("store?")
    threading.Timer(0.05, thread.rows.gate.set).start()
    assert thread.storer.abandon(10.0)
    assert thread.steps.names() == ["store?", "store"]


def test_abandoning_an_idle_thread_does_not_wait_for_its_next_idle_check(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storing, "_IDLE_CHECK_S", 60.0)
    thread = make()
    assert thread.storer.abandon(10.0)


def test_a_thread_that_is_held_up_in_a_call_is_reported_as_not_ended(make: Make) -> None:
    thread = make()
    thread.rows.gate.clear()
    thread.storer.submit(cycle(), NEVER)
    thread.wait_for("store?")
    assert not thread.storer.finish(0.05)
    assert not thread.storer.abandon(0.05)


def test_finishing_takes_no_longer_than_it_was_given_though_the_queue_is_full(make: Make) -> None:
    thread = make()
    thread.rows.gate.clear()
    for first in (0, 2, 4):
        thread.storer.submit(cycle(first), NEVER)
    began = time.monotonic()
    assert not thread.storer.finish(0.3)
    assert time.monotonic() - began < 0.55


def test_handing_over_a_cycle_ends_when_the_process_is_told_to_stop(make: Make) -> None:
    thread, stop = make(), threading.Event()
    thread.rows.gate.clear()
    for first in (0, 2, 4):
        assert thread.storer.submit(cycle(first), stop)
    stop.set()
    assert not thread.storer.submit(cycle(6), stop)


def test_an_idle_owner_commits_again_what_a_late_commit_of_an_old_owner_lowered(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storing, "_IDLE_CHECK_S", 0.02)
    thread = make()
    thread.storer.submit(cycle(), NEVER)
    thread.wait_for("commit")
    mine = thread.offsets.group[0]
    thread.offsets.group[0] = (1, "v1;1;1;1;1;0;0;0;0;5")
    thread.wait_for("commit", 2)
    assert thread.storer.finish(10.0)
    assert thread.offsets.group[0] == mine


def test_an_owner_that_has_committed_nothing_yet_puts_back_the_position_that_it_took(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storing, "_IDLE_CHECK_S", 0.02)
    taken = committed_at(1, 7, 1, Figures(admitted=7, hash_sum=99))
    thread = make(taken={2: taken})
    thread.offsets.group[2] = (5, "v1;1;5;1;5;0;0;0;0;42")
    thread.wait_for("commit")
    assert thread.storer.finish(10.0)
    assert thread.offsets.group[2] == (taken.offset, taken.metadata) == (7, "v1;1;7;1;7;0;0;0;0;99")


@pytest.mark.parametrize("group", [(7, ""), (7, "v1;2;7;1;7;0;0;0;0;99"), None])
def test_an_idle_owner_puts_back_its_note_where_the_group_has_none_that_is_about_its_offset(
    make: Make, monkeypatch: pytest.MonkeyPatch, group: tuple[int, str] | None
) -> None:
    monkeypatch.setattr(storing, "_IDLE_CHECK_S", 0.02)
    taken = committed_at(1, 7, 1, Figures(admitted=7, hash_sum=99))
    thread = make(taken={2: taken})
    if group is not None:
        thread.offsets.group[2] = group
    thread.wait_for("commit")
    assert thread.storer.finish(10.0)
    assert thread.offsets.group[2] == (taken.offset, taken.metadata)


def test_an_idle_owner_leaves_an_offset_alone_that_is_not_below_its_own(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storing, "_IDLE_CHECK_S", 0.01)
    thread = make(taken={0: Committed(7, "mine"), 1: Committed(3, "mine")})
    thread.offsets.group = {0: (7, "mine"), 1: (9, "another's")}
    looks = threading.Semaphore(0)
    answer = thread.offsets.committed_notes

    def committed_notes(wanted: Iterable[int]) -> dict[int, tuple[int, str]]:
        looks.release()
        return answer(wanted)

    monkeypatch.setattr(thread.offsets, "committed_notes", committed_notes)
    deadline = time.monotonic() + 10.0
    for _ in range(3):
        while not looks.acquire(timeout=0.005):
            thread.storer.serve()
            assert time.monotonic() < deadline
    assert thread.storer.finish(10.0)
    assert thread.steps.names() == []


def _until(thread: Thread, within_s: float = 20.0) -> None:
    """Serves until the thread's failure is raised."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        thread.storer.serve()
        thread.storer.check()
        thread.steps.wait_for_any(0.005)
    pytest.fail("nothing was raised")
