"""All mutants: every sentence of the proof that has a figure, and every bug that it names."""

from __future__ import annotations

from typing import Final

from tests.mutants.credits import CREDITS
from tests.mutants.patch import SCHEDULES, Mutant, Replace, processes

_ACK = """        for cycle in cycles:
            for decided in cycle.ranges:
                self.lanes[decided.span.partition].acknowledged(decided)
"""
_CYCLE = "        return Cycle(tuple(ranges), event_log.admitted_rows(ranges), event_log.reject_rows(ranges))\n"
_STORE = """        self._until_done("clickhouse", "store", lambda: self._rows.insert(cycle.admitted, cycle.rejects))
"""
_ANNOUNCE = """        self._until_done("kafka", "announce", lambda: self._deltas.announce(cycle.ranges))
"""
_COMMIT = """        self._commit(notes)
        crash_point("consumer.committed")
"""
_CONFIRM = "        confirmed = self._confirmed([suspicion for suspicion, _ in looked], work)\n"
_SUM = "Micros((upper << _LOW_BITS) + lower)"

MUTANTS: Final = (
    Mutant(
        "rules_versions_ignored",
        "a build that lacks the rules version in force stops",
        (
            Replace(
                "consumers/deciding.py",
                "    rules = RULES.get(version)\n",
                "    rules = RULES.get(version) or RULES[max(RULES)]\n",
            ),
        ),
        SCHEDULES,
    ),
    Mutant(
        "range_straddles_a_change_of_rules",
        "a range never straddles a change of the rules",
        (Replace("consumers/lane.py", "                span = cut_at(span, change)\n", "                pass\n"),),
        SCHEDULES,
    ),
    Mutant(
        "committed_offset_read_twice",
        "the committed offset is read once, and the index is built for exactly that offset",
        (
            Replace(
                "consumers/assignment.py",
                "            lanes[partition] = self._lane(partition, start, inherited.pop(partition))\n        return lanes\n",
                "            lanes[partition] = self._lane(partition, start, inherited.pop(partition))\n"
                '        again = self.patience.until_done("kafka", lambda: self.offsets.committed_notes(wanted), ())\n'
                "        for partition, lane in lanes.items():\n"
                "            start = start_of(self.epoch, again.get(partition), fences[partition])\n"
                "            lane.next_offset, lane.figures = start.offset, start.figures\n"
                "        return lanes\n",
            ),
        ),
        SCHEDULES,
    ),
    Mutant(
        "acks_handed_over_by_the_storing_thread",
        "only the deciding thread changes C and P, between ranges",
        (
            Replace("consumers/storing.py", "        self._acks.put(cycle)\n", "        OWNER[id(cycle)].acknowledge([cycle])\n"),
            Replace("consumers/storing.py", "CYCLES_WAITING_MAX = 2\n", "CYCLES_WAITING_MAX = 2\nOWNER: dict[int, Any] = {}\n"),
            Replace(
                "consumers/deciding.py",
                _CYCLE,
                "        cycle = Cycle(tuple(ranges), event_log.admitted_rows(ranges), event_log.reject_rows(ranges))\n"
                "        from consumers.storing import OWNER\n\n"
                "        OWNER[id(cycle)] = self\n"
                "        return cycle\n",
            ),
        ),
        SCHEDULES,
    ),
    Mutant(
        "dropped_from_p_before_added_to_c",
        "a range is added to C before it leaves P",
        (
            Replace(
                "consumers/deciding.py",
                _ACK,
                "        late, self.__dict__['late'] = self.__dict__.get('late', []), []\n"
                "        for lane, hashes in late:\n"
                "            lane.committed_index.add(hashes)\n"
                "        for cycle in cycles:\n"
                "            for decided in cycle.ranges:\n"
                "                lane = self.lanes[decided.span.partition]\n"
                "                lane.pending.acknowledge(decided, type(lane.committed_index)())\n"
                "                lane.stored = decided.span.to_offset\n"
                "                self.__dict__['late'].append((lane, decided.ranked))\n",
            ),
        ),
        SCHEDULES,
        fast=True,
    ),
    Mutant(
        "goes_on_after_a_failure",
        "after a failure that cannot be retried the process drops all of P by leaving",
        (
            Replace(
                "consumers/storing.py",
                "                self._through(cycle)\n        except _Abandoned:\n",
                "                try:\n"
                "                    self._through(cycle)\n"
                "                except MeterlineExit:\n"
                "                    self._acks.put(cycle)\n"
                "        except _Abandoned:\n",
            ),
        ),
        processes("test_consumer_gives_up.py"),
    ),
    Mutant(
        "index_rebuild_unchecked",
        "a rebuild must match the committed figures",
        (Replace("consumers/assignment.py", "            if not found.matches(start.figures):\n", "            if False:\n"),),
        SCHEDULES,
        fast=True,
    ),
    Mutant(
        "next_epoch_before_the_end_is_committed",
        "nothing of the next epoch is decided until every partition has committed its end",
        (
            Replace(
                "consumers/following.py",
                "        if at.offset != end:\n            return None\n",
                "        if False:\n            return None\n",
            ),
        ),
        SCHEDULES,
    ),
    Mutant(
        "no_exact_confirm",
        "a hit in C is a suspicion, confirmed by the full key",
        (
            Replace(
                "consumers/deciding.py",
                _CONFIRM,
                _CONFIRM + "        by_hash = {claim.key_hash: claim for claim in confirmed.values()}\n"
                "        for _, _, readings in work:\n"
                "            keys = zip(texts.listed(readings.columns.key), readings.columns.key_hash.tolist(), strict=True)\n"
                "            confirmed |= {key: by_hash[hashed] for key, hashed in keys if hashed in by_hash}\n",
            ),
        ),
        SCHEDULES,
        fast=True,
    ),
    Mutant(
        "repeats_not_compared",
        "a record repeats a row at hand only where key, tenant, quantity, corrected key and bytes are equal",
        (
            Replace(
                "metering/ranked.py",
                "            found[places[_same(columns, rows[places], one.rows, holders)]] = True\n",
                "            found[places] = True\n",
            ),
        ),
        SCHEDULES,
    ),
    Mutant(
        "self_recognition",
        "a row never recognises itself: only a smaller position counts",
        (
            Replace(
                "metering/ranges.py",
                "    return found if found is not None and found.position < claim.position else None\n",
                "    return found\n",
            ),
        ),
        SCHEDULES,
    ),
    Mutant(
        "commit_before_announce",
        "announce, then commit",
        (
            Replace("consumers/storing.py", _ANNOUNCE, "        pass\n"),
            Replace("consumers/storing.py", _COMMIT, _COMMIT + _ANNOUNCE),
        ),
        SCHEDULES,
    ),
    Mutant(
        "no_fence",
        "a delta below the fence is skipped",
        (
            Replace(
                "metering/fence.py",
                "    if delta.to_offset <= next_offset:\n        return FenceAction.SKIP\n",
                "    if delta.to_offset < next_offset:\n        return FenceAction.SKIP\n",
            ),
            Replace(
                "metering/fence.py",
                "    return FenceAction.ADD if delta.from_offset == next_offset else FenceAction.RECOMPUTE\n",
                "    return FenceAction.ADD\n",
            ),
            Replace(
                "aggregator/counting.py", "                check_continues(delta, fence.figures)\n", "                pass\n"
            ),
        ),
        SCHEDULES,
        fast=True,
    ),
    Mutant(
        "insert_not_awaited",
        "the identical insert again until it is acknowledged",
        (
            Replace(
                "consumers/storing.py",
                _STORE,
                "        with contextlib.suppress(Retriable):\n            self._rows.insert(cycle.admitted, cycle.rejects)\n",
            ),
        ),
        SCHEDULES,
    ),
    Mutant(
        "float_sums",
        "sums are exact integers",
        (Replace("metering/ranges.py", _SUM, "Micros(int(float((upper << _LOW_BITS) + lower)))"),),
        SCHEDULES,
    ),
    Mutant(
        "int64_sums",
        "ten of the largest quantities overflow int64",
        (
            Replace(
                "metering/ranges.py",
                _SUM,
                "Micros(((upper << _LOW_BITS) + lower + (1 << 63)) % (1 << 64) - (1 << 63))",
            ),
        ),
        SCHEDULES,
        fast=True,
    ),
    Mutant(
        "acked_before_the_brokers_ack",
        "success is said after the broker's acknowledgement only",
        (
            Replace(
                "producers/meterline/link.py",
                "            self._client.produce(self._topic, value=value, key=key, headers=headers, on_delivery=told)\n",
                "            self._client.produce(self._topic, value=value, key=key, headers=headers)\n"
                "            on_answer(Position(self._topic, 0, 0, 0))\n",
            ),
        ),
        processes("test_producer_kafka.py"),
    ),
    Mutant(
        "export_without_identifier",
        "a total that is sent again carries the same identifier",
        (Replace("billing_exporter/stripe_gateway.py", '                    "identifier": event.identifier,\n', ""),),
        processes("test_export_gateway.py"),
    ),
    Mutant(
        "batch_that_raised_is_acknowledged",
        "no exception leaves the batch body: Faust acknowledges a batch however it ends",
        (
            Replace(
                "aggregator/app.py",
                '        _leave(Exit.FAILED, "an unforeseen error while counting")\n',
                "        return\n",
            ),
        ),
        processes("test_aggregate_failures.py"),
    ),
    Mutant(
        "recompute_unchecked",
        "a range is counted from ClickHouse only when rows and hashes are exactly the difference of the figures",
        (
            Replace(
                "aggregator/counting.py",
                "        if not explains(found.events, found.hash_sum, fence.figures, target.figures):\n",
                "        if False:\n",
            ),
        ),
        SCHEDULES,
    ),
    Mutant(
        "fences_not_compared",
        "sums made before the fences were locked are written only where the locked ones are the same",
        (
            Replace(
                "aggregator/counting.py",
                "            if any(locked.get(lane) != fence for lane, fence in addition.assumed.items()):\n",
                "            if False:\n",
            ),
        ),
        SCHEDULES,
    ),
    Mutant(
        "lowered_offset_left_alone",
        "an idle owner commits again when the group's offset is below its own",
        (
            Replace(
                "consumers/storing.py",
                "        lowered = {p: note for p, note in self._last.items() if _is_behind(group.get(p), note)}\n",
                "        lowered: dict[int, Committed] = {}\n",
            ),
        ),
        SCHEDULES,
    ),
    *CREDITS,
)
