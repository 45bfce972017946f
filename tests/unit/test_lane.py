"""One partition's waiting records, and how they become ranges."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError
from prometheus_client import REGISTRY

from consumers.assignment import Start, start_of
from consumers.deciding import Decider, Lacking
from consumers.lane import Lane
from consumers.polling import check_passes, headers_of
from consumers.storing import Cycle
from metering.index import CommittedIndex, Hashes
from metering.ranges import Claim
from metering.records import Record, Records
from meterline_schemas.delta import Figures, encode_commit, encode_delta
from meterline_schemas.event import Invalid, decode
from meterline_schemas.key import key_hash
from meterline_schemas.rules import RULES
from meterline_schemas.types import Epoch, Offset, Partition
from runtime.exits import Exit, MeterlineExit
from store.epochs import ENDED
from store.fences import Fence
from tests.unit.records import NOW_MS, PARTITIONS, body, entities, record

RULES_FROM_0 = {partition: [(0, 1)] for partition in range(PARTITIONS)}


def lane(partition: int = 0, at: int = 0) -> Lane:
    return Lane(Epoch(1), Partition(partition), Offset(at), 1, Figures(invalid=at), CommittedIndex())


def decider(*lanes: Lane, delta_bytes_max: int = 1 << 19) -> Decider:
    def confirm(hashes: Hashes, lacking: Lacking) -> dict[bytes, Claim]:
        raise AssertionError(f"asked to confirm {hashes}")

    return Decider({int(one.partition): one for one in lanes}, PARTITIONS, delta_bytes_max, confirm)


def take(one: Lane, *records: Record) -> None:
    one.take(Records.of(records))


def ranges(cycle: Cycle | None) -> list[tuple[int, int, int]]:
    assert cycle is not None
    return [(d.span.partition, d.span.from_offset, d.span.to_offset) for d in cycle.ranges]


def test_nothing_waits_and_nothing_is_decided() -> None:
    assert lane().span([0]) is None
    assert decider(lane()).cycle(RULES_FROM_0) is None


def test_a_range_reaches_from_where_the_lane_stands_behind_its_newest_record_gaps_included() -> None:
    one = lane(at=3)
    take(one, record(5, b"{"))
    take(one, record(9, b"{"))
    span = one.span([0])
    assert span is not None
    assert (span.from_offset, span.to_offset, len(span.records)) == (3, 10, 2)


def test_the_end_of_the_log_makes_a_range_of_void_offsets_alone() -> None:
    one = lane(at=3)
    one.reached_end(Offset(7))
    assert ranges(decider(one).cycle(RULES_FROM_0)) == [(0, 3, 7)]
    assert one.figures == Figures(invalid=3, void=4)
    assert one.span([0]) is None


def test_void_offsets_behind_the_newest_record_wait_until_the_log_is_known_to_end_there() -> None:
    one = lane()
    take(one, record(0, b"{"))
    assert ranges(decider(one).cycle(RULES_FROM_0)) == [(0, 0, 1)]
    one.reached_end(Offset(4))
    assert ranges(decider(one).cycle(RULES_FROM_0)) == [(0, 1, 4)]


def test_an_end_of_the_log_that_newer_records_have_passed_is_forgotten() -> None:
    one = lane()
    one.reached_end(Offset(2))
    take(one, record(2, b"{"))
    assert ranges(decider(one).cycle(RULES_FROM_0)) == [(0, 0, 3)]
    assert one.eof is None


@pytest.mark.parametrize("offset", [4, 2])
def test_a_record_that_does_not_come_after_the_newest_one_is_refused(offset: int) -> None:
    one = lane(at=3)
    take(one, record(4, b"{"))
    with pytest.raises(ValueError, match=f"offset {offset} after 4"):
        take(one, record(offset, b"{"))


def test_a_range_ends_where_the_rules_change_and_the_next_begins_there() -> None:
    one = lane()
    for offset in range(6):
        take(one, record(offset, b"{"))
    chain = decider(one)
    changes = RULES_FROM_0 | {0: [(0, 1), (4, 1)]}
    assert ranges(chain.cycle(changes)) == [(0, 0, 4)]
    assert one.records().offsets.tolist() == [4, 5]
    assert ranges(chain.cycle(changes)) == [(0, 4, 6)]


def test_a_change_of_the_rules_within_void_offsets_splits_them_too() -> None:
    one = lane()
    one.reached_end(Offset(6))
    chain = decider(one)
    changes = RULES_FROM_0 | {0: [(0, 1), (2, 1)]}
    assert [ranges(chain.cycle(changes)), ranges(chain.cycle(changes))] == [[(0, 0, 2)], [(0, 2, 6)]]


@pytest.mark.parametrize("changes", [[(0, 1), (2, ENDED)], [(0, 1), (2, 1), (2, ENDED)]])
def test_an_epoch_is_decided_to_its_end_and_what_comes_after_it_is_passed_over(changes: list[tuple[int, int]]) -> None:
    one = lane()
    for offset in range(4):
        take(one, record(offset, b"{"))
    one.reached_end(Offset(6))
    chain = decider(one)
    ending = RULES_FROM_0 | {0: changes}
    assert ranges(chain.cycle(ending)) == [(0, 0, 2)]
    assert chain.cycle(ending) is None
    take(one, record(7, b"{"))
    assert chain.cycle(ending) is None
    assert (one.next_offset, one.eof, len(one.records()), one.waiting_bytes) == (2, None, 0, 0)


def test_an_epoch_that_ends_where_it_starts_decides_nothing() -> None:
    one = lane()
    take(one, record(0, b"{"))
    assert decider(one).cycle(RULES_FROM_0 | {0: [(0, ENDED), (0, 1)]}) is None


def test_rules_that_this_build_lacks_end_the_process_at_their_position_and_not_before() -> None:
    one = lane()
    for offset in range(4):
        take(one, record(offset, b"{"))
    chain = decider(one)
    changes = RULES_FROM_0 | {0: [(0, 1), (2, 999)]}
    assert ranges(chain.cycle(changes)) == [(0, 0, 2)]
    with pytest.raises(MeterlineExit) as left:
        chain.cycle(changes)
    assert left.value.code is Exit.RULES_UNKNOWN
    assert one.next_offset == 2


def test_a_range_is_cut_until_its_delta_fits_and_the_chain_goes_on_with_the_rest() -> None:
    one = lane()
    for offset, entity in enumerate(entities(0, 200)):
        take(one, record(offset, body(entity, tenant=f"tenant-{offset:04}-" + "x" * 60)))
    chain, found = decider(one, delta_bytes_max=4096), []
    while one.waiting:
        cycle = chain.cycle(RULES_FROM_0)
        assert cycle is not None
        found += ranges(cycle)
        assert len(encode_delta(cycle.ranges[0].delta)) <= 4096
    assert len(found) > 3
    assert [at for _, at, _ in found[1:]] == [to for _, _, to in found[:-1]]
    assert found[-1][2] == 200
    assert (one.figures.admitted, one.waiting_bytes) == (200, 0)


def test_a_record_whose_delta_alone_is_too_large_is_announced_all_the_same() -> None:
    one = lane()
    take(one, record(0, body(entities(0, 1)[0])))
    assert ranges(decider(one, delta_bytes_max=10).cycle(RULES_FROM_0)) == [(0, 0, 1)]


def test_the_bytes_that_wait_count_keys_and_headers_and_those_left_by_a_cut() -> None:
    one = lane()
    take(one, Record(Offset(0), b"12345", b"123", (("ab", b"1"), ("c", b"")), NOW_MS))
    take(one, Record(Offset(1), None, None, (), NOW_MS))
    take(one, Record(Offset(2), b"1234567", None, (), NOW_MS))
    assert one.waiting_bytes == 5 + 3 + 4 + 7
    decider(one).cycle(RULES_FROM_0 | {0: [(0, 1), (2, 1)]})
    assert one.waiting_bytes == 7


def test_several_lanes_make_one_cycle_and_idle_ones_no_range() -> None:
    first, idle, last = lane(0), lane(1), lane(2)
    take(first, record(0, b"{"))
    take(last, record(0, b"["))
    cycle = decider(first, idle, last).cycle(RULES_FROM_0)
    assert ranges(cycle) == [(0, 0, 1), (2, 0, 1)]
    assert cycle is not None
    assert cycle.rejects.num_rows == 2


def test_an_acknowledged_range_moves_to_the_committed_index_and_its_keys_are_suspected_from_then_on() -> None:
    (entity,) = entities(0, 1)
    one = lane()
    asked: list[Hashes] = []
    claims: dict[bytes, Claim] = {}

    def confirm(hashes: Hashes, lacking: Lacking) -> dict[bytes, Claim]:
        asked.append(hashes)
        return claims

    chain = Decider({0: one}, PARTITIONS, 1 << 19, confirm)
    take(one, record(0, body(entity)))
    cycle = chain.cycle(RULES_FROM_0)
    assert cycle is not None
    claims.update(cycle.ranges[0].claims(cycle.ranges[0].ranked))
    take(one, record(1, body(entity)))
    assert chain.cycle(RULES_FROM_0) is not None
    assert asked == [], "P answers without a look-up"
    chain.acknowledge([cycle])
    assert (len(one.committed_index), len(one.pending)) == (1, 1)
    take(one, record(2, body(entity)))
    assert chain.cycle(RULES_FROM_0) is not None
    assert [hashes.tolist() for hashes in asked] == [[key_hash(next(iter(claims)))]]
    assert (one.figures.admitted, one.figures.duplicate) == (1, 2)


def test_a_record_sent_again_soon_is_decided_by_the_row_at_hand_and_an_older_one_by_clickhouse() -> None:
    names = entities(0, 4)
    one, asked = lane(), list[int]()
    claims: dict[bytes, Claim] = {}

    def confirm(hashes: Hashes, lacking: Lacking) -> dict[bytes, Claim]:
        asked.extend(hashes.tolist())
        found = {key: claim for key, claim in claims.items() if claim.key_hash in hashes}
        assert lacking(found) == []
        return found

    def suspects(where: str) -> float:
        return REGISTRY.get_sample_value("meterline_suspects_total", {"where": where}) or 0.0

    chain = Decider({0: one}, PARTITIONS, 1 << 19, confirm, recent_events_max=3)
    for offset, name in enumerate(names):
        take(one, record(offset, body(name)))
        cycle = chain.cycle(RULES_FROM_0)
        assert cycle is not None
        claims.update(cycle.ranges[0].claims(cycle.ranges[0].ranked))
        chain.acknowledge([cycle])
    before = [suspects(where) for where in ("repeated", "recent", "clickhouse")]
    take(one, record(4, body(names[3])), record(5, body(names[3], "2")), record(6, body(names[0])))
    cycle = chain.cycle(RULES_FROM_0)
    assert cycle is not None
    assert asked == [key_hash(next(iter(claims)))], "the oldest has gone from what is at hand"
    assert (one.figures.admitted, one.figures.duplicate, one.figures.conflict) == (4, 2, 1)
    after = [suspects(where) for where in ("repeated", "recent", "clickhouse")]
    assert [now - then for now, then in zip(after, before, strict=True)] == [1, 1, 1]


FENCE = Fence(1, 0, 10, 1, Figures(admitted=10, hash_sum=5))
AT_12 = Figures(admitted=12, hash_sum=6)


def test_a_partition_goes_on_from_the_committed_offset_when_its_note_is_about_it() -> None:
    assert start_of(1, (12, encode_commit(1, 12, 1, AT_12)), FENCE) == Start(Offset(12), 1, AT_12)


@pytest.mark.parametrize(
    "committed",
    [
        None,
        (12, ""),
        (12, "v1;1;12"),
        (12, encode_commit(1, 11, 1, Figures())),
        (12, encode_commit(2, 12, 1, AT_12)),
        (12, encode_commit(1, 12, 1, AT_12) + " "),
    ],
    ids=["none", "no-note", "half-a-note", "another-offset", "another-epoch", "not-ours"],
)
def test_an_offset_without_a_note_about_it_is_not_trusted_and_the_fence_is(committed: tuple[int, str] | None) -> None:
    assert start_of(1, committed, FENCE) == Start(Offset(10), 1, FENCE.figures)


class _Message:
    def __init__(self, headers: object) -> None:
        self._headers = headers

    def headers(self) -> object:
        if isinstance(self._headers, Exception):
            raise self._headers
        return self._headers


def test_headers_are_read_with_absent_values_as_empty_ones() -> None:
    assert headers_of([_Message(None)]) == [()]  # type: ignore[list-item]
    assert headers_of([_Message([("a", None), ("b", "text"), ("c", b"\xff")])]) == [  # type: ignore[list-item]
        (("a", b""), ("b", b"text"), ("c", b"\xff"))
    ]


def test_a_header_name_that_the_client_cannot_read_makes_the_record_invalid_and_does_not_end_the_process() -> None:
    bad = _Message(SystemError("returned a result with an exception set"))
    before, headers, after = headers_of([_Message(None), bad, _Message([("a", b"")])])  # type: ignore[list-item]
    assert (before, after) == ((), (("a", b""),))
    verdict = decode(body(entities(0, 1)[0]), headers, NOW_MS, RULES[1])
    assert isinstance(verdict, Invalid)
    assert verdict.reason == "unsupported_schema_version"
    assert "not UTF-8" in verdict.detail


@pytest.mark.parametrize(
    ("code", "left_with"),
    [
        (KafkaError._BAD_MSG, Exit.FAILED),
        (KafkaError._BAD_COMPRESSION, Exit.FAILED),
        (KafkaError.MSG_SIZE_TOO_LARGE, Exit.FAILED),
        (KafkaError._AUTO_OFFSET_RESET, Exit.LOG_TRUNCATED),
        (KafkaError.OFFSET_OUT_OF_RANGE, Exit.LOG_TRUNCATED),
        (KafkaError._LOG_TRUNCATION, Exit.LOG_TRUNCATED),
    ],
)
def test_records_that_the_client_passes_over_are_never_taken_for_void_offsets(code: int, left_with: Exit) -> None:
    # Behind such an error the client goes on with the next readable records, and a missing offset would count as void.
    with pytest.raises(MeterlineExit) as left:
        check_passes(KafkaError(code))
    assert left.value.code is left_with


def retries() -> float:
    return REGISTRY.get_sample_value("meterline_retries_total", {"stage": "consume", "dependency": "kafka"}) or 0.0


def test_an_error_that_the_client_outlives_is_noted_and_no_more() -> None:
    before = retries()
    check_passes(KafkaError(KafkaError._TRANSPORT))
    assert retries() == before + 1
