"""The verdicts of a range: a function of the log below each record, and of nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from metering.index import CommittedIndex
from metering.ranges import Claim, Decided, Pending, decide, suspects
from metering.reading import read
from metering.records import Span, cut_at, shorter
from meterline_schemas.delta import Figures
from meterline_schemas.key import key_hash
from meterline_schemas.rules import RULES
from tests.unit.records import PARTITIONS, body, entities, home, span

RULES_1 = RULES[1]


def decided(
    work: Span, pending: Pending | None = None, confirmed: dict[bytes, Claim] | None = None, before: Figures | None = None
) -> Decided:
    readings = read(work, RULES_1, PARTITIONS)
    return decide(readings, RULES_1, pending or Pending(), confirmed or {}, before or Figures())


def verdicts(result: Decided) -> dict[int, str]:
    found = dict.fromkeys(result.admitted.offset.tolist(), "admitted")
    return found | {int(reject.reading.record.offset): reject.verdict for reject in result.rejects}


def test_the_first_record_of_a_key_is_admitted_and_an_identical_later_one_is_a_duplicate_that_needs_no_dead_letter() -> None:
    (entity,) = entities(0, 1)
    result = decided(span(0, 10, [body(entity), body(entity)]))
    assert verdicts(result) == {10: "admitted"}
    assert result.figures == Figures(admitted=1, duplicate=1, hash_sum=int(result.admitted.row_hash[0]))


def test_a_duplicate_in_other_bytes_is_kept_as_differing() -> None:
    (entity,) = entities(0, 1)
    result = decided(span(0, 0, [body(entity, "1.5"), body(entity, "1.50", occurredAt="2026-09-21T14:00:00Z")]))
    assert verdicts(result) == {0: "admitted", 1: "duplicate"}
    assert result.rejects[0].reason == "differing_duplicate"


@pytest.mark.parametrize(
    ("over", "named"),
    [
        ({"tenant": "tnt_2"}, "tenantId"),
        ({"quantity": "2"}, "quantity"),
        (
            {"kind": "correction", "corrects": {"sourceService": "worker", "sourceEntityId": "x", "usageType": "PHOTO"}},
            "kind, corrects",
        ),
    ],
)
def test_the_same_key_with_another_tenant_quantity_or_kind_is_a_conflict_that_names_the_difference(
    over: dict[str, Any], named: str
) -> None:
    (entity,) = entities(0, 1)
    result = decided(span(0, 0, [body(entity), body(entity, **over)]))
    assert verdicts(result) == {0: "admitted", 1: "conflict"}
    assert result.rejects[0].detail == f"differs in {named}"
    assert result.rejects[0].admitted is not None
    assert result.rejects[0].admitted.offset == 0


def test_an_invalid_record_claims_no_key() -> None:
    (entity,) = entities(0, 1)
    result = decided(span(0, 0, [body(entity, "-1"), body(entity, "1")]))
    assert verdicts(result) == {0: "invalid", 1: "admitted"}


def test_a_record_in_a_partition_that_its_key_does_not_lead_to_is_misrouted() -> None:
    (entity,) = entities(1, 1)
    result = decided(span(0, 0, [body(entity)]))
    assert [(reject.verdict, reject.reason) for reject in result.rejects] == [("invalid", "misrouted")]
    assert result.rejects[0].reading.event.source_entity_id == entity


def test_offsets_without_a_record_are_void_and_every_offset_has_one_verdict() -> None:
    (entity,) = entities(0, 1)
    result = decided(span(0, 5, [body(entity), None], end=12))
    figures = result.figures
    assert (figures.admitted, figures.invalid, figures.void) == (1, 1, 5)
    assert figures.offsets == 12 - 5


def test_figures_are_cumulative_since_the_start_of_the_epoch() -> None:
    (entity,) = entities(0, 1)
    before = Figures(admitted=7, duplicate=3, hash_sum=(1 << 64) - 1)
    result = decided(span(0, 10, [body(entity)]), before=before)
    assert result.figures.admitted == 8
    assert result.figures.hash_sum == (int(result.admitted.row_hash[0]) - 1) % (1 << 64)


def test_a_key_held_by_a_range_that_is_not_yet_acknowledged_is_recognised_without_a_look_up() -> None:
    (entity,) = entities(0, 1)
    pending, first = Pending(), decided(span(0, 0, [body(entity)]))
    pending.add(first)
    work = span(0, 1, [body(entity)])
    assert len(suspects(read(work, RULES_1, PARTITIONS), CommittedIndex(), pending).hashes) == 0
    assert decided(work, pending).figures.duplicate == 1


def test_a_key_in_the_committed_index_is_suspected_and_decided_by_its_admitted_row() -> None:
    (entity,) = entities(0, 1)
    first = decided(span(0, 0, [body(entity)]))
    index, pending = CommittedIndex(), Pending()
    pending.add(first)
    pending.acknowledge(first, index)
    work = span(0, 1, [body(entity, "2")])
    assert suspects(read(work, RULES_1, PARTITIONS), index, pending).hashes.tolist() == [key_hash(first.admitted.event(0).key)]
    result = decided(work, pending, first.claims(first.ranked))
    assert verdicts(result) == {1: "conflict"}


def test_a_row_never_recognises_itself_nor_a_later_copy() -> None:
    # After a crash between store and commit, ClickHouse already holds the very row that is decided again.
    (entity,) = entities(0, 1)
    work = span(0, 4, [body(entity)])
    first = decided(work)
    again = decided(work, confirmed=first.claims(first.ranked))
    assert verdicts(again) == {4: "admitted"}


def test_a_hash_collision_with_another_key_is_admitted() -> None:
    one, other = entities(0, 2)
    first = decided(span(0, 0, [body(one)]))
    (claim,) = first.claims(first.ranked).values()
    work = read(span(0, 1, [body(other)]), RULES_1, PARTITIONS)
    confirmed = {b"another key": claim._replace(key_hash=int(work.columns.key_hash[0]))}
    assert verdicts(decide(work, RULES_1, Pending(), confirmed, Figures())) == {1: "admitted"}


def test_delta_lines_sum_by_tenant_type_and_utc_day_beyond_64_bits() -> None:
    names = entities(0, 12)
    largest = "999999999999.999999"
    late = body(names[11], "0.000001", occurredAt="2026-09-21T23:30:00-01:00")
    result = decided(span(0, 0, [*(body(name, largest) for name in names[:11]), late]))
    assert [(line.tenant_id, line.day, line.quantity, line.events) for line in result.delta.lines] == [
        ("tnt_1", "2026-09-21", 11 * 999_999_999_999_999_999, 11),
        ("tnt_1", "2026-09-22", 1, 1),
    ]
    assert next(iter(result.delta.lines)).quantity > 2**63


def test_a_range_cut_anywhere_gives_the_same_verdicts_and_figures() -> None:
    names = entities(2, 3)
    values = [body(names[0]), body(names[1]), body(names[0]), b"{", body(names[1], "9"), None, body(names[2])]
    whole = decided(span(2, 0, list(values)))
    for cut in range(1, len(values)):
        pending = Pending()
        first = decided(span(2, 0, list(values[:cut])))
        pending.add(first)
        second = decided(span(2, cut, list(values[cut:])), pending, before=first.figures)
        assert second.figures == whole.figures
        assert verdicts(first) | verdicts(second) == verdicts(whole)


def test_ranges_leave_pending_only_in_the_order_in_which_they_were_decided() -> None:
    one, two = (decided(span(0, at, [body(name)])) for at, name in enumerate(entities(0, 2)))
    pending = Pending()
    pending.add(one)
    pending.add(two)
    with pytest.raises(ValueError, match="in the order"):
        pending.acknowledge(two, CommittedIndex())
    assert len(pending) == 2


def test_a_range_is_cut_behind_a_record_or_at_a_change_of_rules() -> None:
    work = span(0, 10, [b"a", b"b", b"c"], end=20)
    assert (shorter(work, 2).to_offset, len(shorter(work, 2).records)) == (12, 2)
    assert (cut_at(work, 15).to_offset, len(cut_at(work, 15).records)) == (15, 3)
    with pytest.raises(ValueError, match="does not lie within"):
        cut_at(work, 10)


def test_an_empty_range_is_refused() -> None:
    with pytest.raises(ValueError, match="empty or backward"):
        span(0, 3, [], end=3)


def test_the_index_finds_what_was_added_through_any_number_of_merges() -> None:
    random = np.random.default_rng(7)
    hashes = random.integers(0, 2**64, size=20_000, dtype=np.uint64)
    index = CommittedIndex(hashes[:100])
    for start in range(100, 20_000, 371):
        index.add(hashes[start : start + 371])
    assert len(index) == 20_000
    assert index.hits(hashes).all()
    assert not index.hits(random.integers(0, 2**64, size=20_000, dtype=np.uint64)).any()
    assert not CommittedIndex().hits(hashes).any()


def test_the_partition_of_the_helpers_is_the_one_that_read_checks() -> None:
    (entity,) = entities(3, 1)
    assert len(read(span(home(entity), 0, [body(entity)]), RULES_1, PARTITIONS).columns) == 1
