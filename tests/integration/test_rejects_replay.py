"""Dead letters as an operator meets them: listed, shown, sent again, and what the log makes of that."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

from cli.commands.rejects import command
from meterline_schemas.key import parse_key
from meterline_schemas.rules import RULES
from runtime import clickhouse, kafka, postgres
from runtime.exits import Exit, MeterlineExit
from runtime.settings import Settings
from store import rejects, replaying
from store.positions import parse_position
from store.reconcile import reconcile
from tests.fakes.pipeline import Pipeline, environment_of
from tests.integration.counted_log import CountedLog
from tests.integration.test_consume_crashes import event


@pytest.fixture(scope="module")
def log(migrated: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CountedLog]:
    with Pipeline(migrated, tmp_path_factory.mktemp("rejects")) as pipeline:
        log = CountedLog(migrated, pipeline)
        pipeline.send_event("paid", event("paid"))
        pipeline.send_event("paid", event("paid", "9"))
        pipeline.send_event("paid", event("paid", "1.250"))
        home = pipeline.partition("stray")
        stray = json.loads(event("stray"))
        del stray["occurredAt"]
        pipeline.send(
            json.dumps(stray).encode(), b"\x00\xff", (home + 1) % pipeline.partitions, headers=[("traceparent", b"00-ab")]
        )
        pipeline.send(event("bad", "1e5"), partition=0)
        pipeline.send(b'{"tenantId": \xff}', partition=1)
        log.advance()
        yield log


def run(log: CountedLog, *words: str) -> Any:
    """The command's JSON; raises what ended it."""
    ran = CliRunner().invoke(command, [*words, "--json"], env=environment_of(log.settings), standalone_mode=False)
    if ran.exception is not None:
        raise ran.exception
    return json.loads(ran.stdout)


def only(log: CountedLog, **wanted: str) -> dict[str, Any]:
    """The one reject that a list with these options has."""
    words = [word for name, value in wanted.items() for word in (f"--{name}", value)]
    (reject,) = run(log, "list", *words)["rejects"]
    found: dict[str, Any] = reject
    return found


def refused(log: CountedLog, *words: str) -> str:
    before = log.pipeline.ends()
    with pytest.raises(MeterlineExit) as told:
        run(log, "replay", *words, "--yes")
    assert told.value.code == Exit.FAILED
    assert log.pipeline.ends() == before
    return str(told.value)


def test_a_list_is_filtered_and_paged_from_the_newest_on(log: CountedLog) -> None:
    everything = run(log, "list")["rejects"]
    assert [reject["verdict"] for reject in everything].count("invalid") >= 3
    times = [reject["ingested_at"] for reject in everything]
    assert times == sorted(times, reverse=True)
    pages, cursor = [], None
    for _ in range(len(everything)):
        answer = run(log, "list", "--limit", "2", *(("--cursor", cursor) if cursor else ()))
        pages += answer["rejects"]
        cursor = answer["cursor"]
        if cursor is None:
            break
    assert pages == everything
    assert only(log, verdict="conflict")["reason"] == "other_quantity"
    assert only(log, reason="bad_quantity", tenant="tnt_1", service="worker")["source_entity_id"] == "bad"
    assert run(log, "list", "--tenant", "nobody")["rejects"] == []
    assert run(log, "list", "--until", "2020-01-01")["rejects"] == []
    assert run(log, "list", "--since", "2020-01-01", "--until", "2999-01-01T00:00:00Z")["rejects"] == everything


def test_a_reject_is_shown_with_every_byte_that_it_had(log: CountedLog) -> None:
    shown = run(log, "show", only(log, reason="not_utf8")["position"])
    assert bytes.fromhex(shown["record"]["value_hex"]) == b'{"tenantId": \xff}'
    shown = run(log, "show", only(log, reason="misrouted")["position"])
    assert shown["record"]["headers"] == [["traceparent", "00-ab"]]
    assert shown["record"]["key"] == "\x00\\xff"
    assert "replay" in shown["remedy"]
    with pytest.raises(MeterlineExit, match="there is no reject at 1/0/4000"):
        run(log, "show", "1/0/4000")


def test_a_misrouted_record_is_sent_right_keeps_its_day_and_is_admitted(log: CountedLog) -> None:
    reject = only(log, reason="misrouted")
    before = run(log, "show", reject["position"])
    sent = run(log, "replay", reject["position"], "--yes")
    assert sent["new_position"].startswith(f"1/{log.pipeline.partition('stray')}/")
    assert run(log, "show", reject["position"])["replays"] == [sent | {"verdict": "not decided yet"}]
    log.advance()
    shown = run(log, "show", reject["position"])
    assert shown["replays"] == [sent | {"verdict": "admitted and counted"}]
    # The original is as it was.
    assert {name: shown[name] for name in shown if name != "replays"} == {
        name: before[name] for name in before if name != "replays"
    }
    ((occurred,),) = log.pipeline.query(
        "SELECT toString(toUnixTimestamp64Milli(occurred_at)) FROM usage_events WHERE source_entity_id = 'stray'"
    )
    ((ingested,),) = log.pipeline.query(
        "SELECT toString(toUnixTimestamp64Milli(ingested_at)) FROM usage_rejects WHERE reason = 'misrouted'"
    )
    assert occurred == ingested
    who, what = log.pipeline.postgres("SELECT who, after FROM audit WHERE subject = %s", reject["position"])[0]
    assert who == sent["who"]
    assert what["position"] == sent["new_position"]


def test_a_second_replay_is_refused_and_a_wanted_one_is_a_duplicate(log: CountedLog) -> None:
    position = only(log, reason="misrouted")["position"]
    assert "is counted already" in refused(log, position)
    assert "is counted already" in refused(log, position, "--again")
    conflict = only(log, verdict="conflict")["position"]
    first = run(log, "replay", conflict, "--as-entity", "paid-2", "--yes")
    assert "it was replayed before" in refused(log, conflict, "--as-entity", "paid-2")
    again = run(log, "replay", conflict, "--as-entity", "paid-2", "--again", "--yes")
    assert (first["attempt"], again["attempt"]) == (1, 2)
    log.advance()
    verdicts = [one["verdict"] for one in run(log, "show", conflict)["replays"]]
    assert verdicts == ["admitted and counted", "duplicate"]
    rows = log.pipeline.query("SELECT source_entity_id, toString(quantity) FROM usage_events WHERE source_entity_id LIKE 'paid%'")
    assert sorted(tuple(row) for row in rows) == [("paid", "1.25"), ("paid-2", "9")]


def test_a_conflict_or_duplicate_is_sent_only_as_work_of_its_own(log: CountedLog) -> None:
    conflict, duplicate = only(log, verdict="conflict")["position"], only(log, verdict="duplicate")["position"]
    assert "--as-entity NEWID" in refused(log, conflict, "--again")
    assert "it needs a new one" in refused(log, conflict, "--as-entity", "paid", "--again")
    assert "--as-entity NEWID" in refused(log, duplicate)
    assert "is taken by other usage (other_quantity)" in refused(log, conflict, "--as-entity", "stray", "--again")


def test_an_invalid_record_is_sent_only_when_the_rules_take_it(log: CountedLog, tmp_path: Path) -> None:
    position = only(log, reason="bad_quantity")["position"]
    assert "bad_quantity" in refused(log, position)
    corrected = tmp_path / "body.json"
    corrected.write_bytes(event("bad", "1e6"))
    assert "bad_quantity" in refused(log, position, "--body", str(corrected))
    corrected.write_bytes(event("bad", "100000") + b"\n")
    sent = run(log, "replay", position, "--body", str(corrected), "--yes")
    log.advance()
    assert [one["verdict"] for one in run(log, "show", position)["replays"]] == ["admitted and counted"]
    assert sent["source_entity_id"] == "bad"
    assert reconcile(log.settings, patience_s=0).ok


def test_a_replay_is_not_sent_where_nobody_can_be_asked(log: CountedLog) -> None:
    position = only(log, reason="bad_quantity")["position"]
    ran = CliRunner().invoke(command, ["replay", position, "--as-entity", "x"], env=environment_of(log.settings))
    assert ran.exit_code != 0


def test_a_record_that_was_not_acknowledged_may_be_sent_again_and_counts_once(log: CountedLog) -> None:
    position = only(log, verdict="duplicate")["position"]
    with clickhouse.client(log.settings) as client:
        original = rejects.read(client, parse_position(position))
    assert original is not None
    record = replaying.judge(original, RULES[1], original.reject.ingested_ms, as_entity="paid-3")
    nowhere = log.settings.model_copy(update={"kafka_url": "127.0.0.1:1"})
    producer = kafka.producer(nowhere, **{"delivery.timeout.ms": 300})
    with pytest.raises(replaying.NotAcknowledged):
        replaying.replay(lambda: postgres.connect(log.settings), producer, log.epoch, original, record, "tester", False)
    (begun,) = run(log, "show", position)["replays"]
    assert (begun["attempt"], begun["who"], begun["new_position"], begun["verdict"]) == (1, "tester", None, None)
    assert "it was replayed before" in refused(log, position, "--as-entity", "paid-3")
    run(log, "replay", position, "--as-entity", "paid-3", "--again", "--yes")
    run(log, "replay", position, "--as-entity", "paid-3", "--again", "--yes")
    log.advance()
    verdicts = [one["verdict"] for one in run(log, "show", position)["replays"]]
    assert verdicts == [None, "admitted and counted", "duplicate"]


def test_the_tables_for_people_say_the_same(log: CountedLog) -> None:
    def text(*words: str) -> str:
        ran = CliRunner().invoke(command, list(words), env=environment_of(log.settings))
        assert ran.exit_code == 0, ran.output
        return ran.stdout

    conflict = only(log, verdict="conflict")["position"]
    assert conflict in text("list")
    assert "more: --cursor" in text("list", "--limit", "1")
    shown = text("show", conflict)
    assert "other_quantity" in shown
    assert "paid-2" in shown
    assert "none" in text("list", "--tenant", "nobody")


def test_a_link_between_two_records_is_never_changed_or_removed(log: CountedLog) -> None:
    (row,) = log.pipeline.postgres("SELECT record_key FROM replays ORDER BY at LIMIT 1")
    assert parse_key(bytes(row[0]))[0] == "worker"
    for statement in ("UPDATE replays SET new_offset = 1", "UPDATE replays SET who = 'x'", "DELETE FROM replays"):
        with postgres.connect(log.settings) as connection, pytest.raises(psycopg.errors.CheckViolation, match="is history"):
            connection.execute(statement.encode())
