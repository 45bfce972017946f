"""Where is my event: every answer that `explain` may give, on real stores."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner

from cli.commands.explain import command
from runtime import kafka, postgres
from runtime.settings import Settings
from tests.fakes.pipeline import Pipeline, environment_of
from tests.integration.counted_log import CountedLog
from tests.integration.test_consume_crashes import NOW, event


@pytest.fixture(scope="module")
def log(migrated: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CountedLog]:
    with Pipeline(migrated, tmp_path_factory.mktemp("explain")) as pipeline:
        log = CountedLog(migrated, pipeline)
        pipeline.send_event("job-1", event("job-1", "1.5", metadata={"a": 1}))
        pipeline.send_event("job-1", event("job-1", "1.5", metadata={"a": 1}))
        pipeline.send_event("job-1", event("job-1", "2"))
        pipeline.send_event("job-1", event("job-1", "1.5", metadata={"a": 2}))
        pipeline.send_event("job-2", event("job-2", "4"))
        pipeline.send_event("torn", b'{"tenantId": ')
        pipeline.send_event("negative", event("negative", "-1"))
        pipeline.send_event("[red]x[/]\n\u00fc", event("[red]x[/]\n\u00fc"))
        log.advance()
        yield log


def explain(log: CountedLog, entity: str, **over: str) -> tuple[int, dict[str, Any]]:
    environment = environment_of(log.settings) | over
    ran = CliRunner().invoke(command, ["worker", entity, "PHOTO", "--json"], env=environment, standalone_mode=False)
    assert ran.exception is None, ran.output
    document: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return ran.return_value, document


def test_an_admitted_event_is_shown_with_its_row_its_counter_and_what_was_turned_away_for_it(log: CountedLog) -> None:
    code, found = explain(log, "job-1")
    (row,) = found["admitted"]
    assert (code, found["known"]) == (0, True)
    assert found["key"] == "6:worker,5:job-1,5:PHOTO,"
    assert (row["tenant_id"], row["quantity"], row["counted"], row["rules_version"]) == ("tnt_1", "1.5", True, 1)
    assert row["occurred_at"] == NOW.replace("Z", ".000Z")
    assert row["metadata_bytes"] == len('{"a": 1}')
    assert found["verdict"] == f"admitted at {row['position']} and counted"
    assert found["partition"]["partition"] == log.pipeline.partition("job-1")
    assert found["partition"]["waiting"] == 0
    assert found["counter"] == {"tenant_id": "tnt_1", "usage_type": "PHOTO", "day": NOW[:10], "quantity": "5.5", "events": 2}
    assert [(one["verdict"], one["admitted_position"]) for one in found["rejects"]] == [
        ("conflict", row["position"]),
        ("duplicate", row["position"]),
    ]
    assert found["exports"] == []
    epoch, partition, offset = map(int, row["position"].split("/"))
    delta = found["delta"]
    assert (delta["epoch"], delta["partition"], delta["rules_version"]) == (epoch, partition, 1)
    assert delta["from_offset"] <= offset < delta["to_offset"]
    assert delta["admitted"] >= 1


def test_each_row_is_found_in_the_one_delta_that_announced_it(log: CountedLog) -> None:
    entities = [f"later-{number}" for number in range(12)]
    for entity in entities:
        log.pipeline.send_event(entity, event(entity))
        log.advance()
    noise = kafka.producer(log.settings)
    # What is no delta is passed over, wherever it stands.
    for partition in range(log.pipeline.partitions):
        noise.produce(log.settings.topic_deltas, value=b"no delta", partition=partition)
    assert noise.flush(10.0) == 0
    seen = set()
    for entity in entities:
        found = explain(log, entity)[1]
        _, partition, offset = map(int, found["admitted"][0]["position"].split("/"))
        assert (found["delta"]["from_offset"], found["delta"]["to_offset"]) == (offset, offset + 1)
        seen.add((partition, offset))
    assert len(seen) == len(entities)


def test_an_event_that_was_turned_away_is_known_by_its_verdict(log: CountedLog) -> None:
    code, found = explain(log, "negative")
    assert (code, found["admitted"], found["counter"]) == (0, [], None)
    assert "not admitted: invalid" in found["verdict"]
    assert found["rejects"][0]["reason"] == "negative_usage"
    # Nothing could be read of this one, but its record key says what it was to be.
    code, found = explain(log, "torn")
    assert (code, found["rejects"][0]["reason"]) == (0, "malformed_json")


def test_an_unknown_event_never_reached_the_log_when_all_of_it_is_counted(log: CountedLog) -> None:
    code, found = explain(log, "never-sent")
    assert (code, found["known"]) == (1, False)
    assert "It never reached the log" in found["verdict"]


def test_an_event_on_its_way_is_unknown_so_far_then_admitted_then_counted(log: CountedLog) -> None:
    log.pipeline.send_event("fresh", event("fresh"))
    log.pipeline.flush()
    code, found = explain(log, "fresh")
    assert code == 1
    assert "unknown so far" in found["verdict"]
    assert found["partition"]["waiting"] == 1
    log.advance(count=False)
    code, found = explain(log, "fresh")
    assert code == 0
    assert "not counted yet: the fence stands at" in found["verdict"]
    assert found["admitted"][0]["counted"] is False
    log.advance()
    assert explain(log, "fresh")[1]["verdict"].endswith("and counted")


def test_without_kafka_the_stores_alone_are_asked(log: CountedLog) -> None:
    code, found = explain(log, "never-sent", METERLINE_KAFKA_URL="127.0.0.1:1")
    assert (code, found["partition"]["log_end"]) == (1, None)
    assert "Kafka did not say" in found["verdict"]


def test_the_exports_of_the_period_say_whether_they_hold_the_event(log: CountedLog) -> None:
    position = explain(log, "job-2")[1]["admitted"][0]["position"]
    _, partition, offset = position.split("/")
    with postgres.connect(log.settings) as connection:
        connection.execute("INSERT INTO meters VALUES ('photos', 1000000, 'floor', 'last'), ('other', 1, 'floor', 'last')")
        connection.execute("INSERT INTO usage_types (usage_type, meter) VALUES ('PHOTO', 'photos')")
        for number, meter, revision, state, below in (
            (1, "photos", 1, "superseded", int(offset)),
            (2, "photos", 2, "planned", int(offset) + 1),
            (3, "other", 1, "planned", int(offset) + 1),
        ):
            connection.execute(
                "INSERT INTO export_ledger (account, livemode, tenant_id, customer_id, meter, period_start, period_end, revision,"
                " identifier, exact_total, value, remainder, event_time, positions, state) VALUES ('acct', false, 'tnt_1', 'cus',"
                " %s, %s::date - 3, %s::date + 3, %s, %s, 5.50, 5500000, 0, now() + %s * interval '1 second', %s::jsonb, %s)",
                (meter, NOW[:10], NOW[:10], revision, f"i{number}", number, json.dumps({f"1:{partition}": below}), state),
            )
    exports = explain(log, "job-2")[1]["exports"]
    assert [(one["meter"], one["revision"], one["state"], one["total"], one["holds_event"]) for one in exports] == [
        ("photos", 2, "planned", "5.5", True),
        ("photos", 1, "superseded", "5.5", False),
    ]


def test_the_tables_for_people_show_strange_names_as_they_are(log: CountedLog) -> None:
    def text(entity: str) -> tuple[int, str]:
        ran = CliRunner().invoke(command, ["worker", entity, "PHOTO"], env=environment_of(log.settings), standalone_mode=False)
        assert ran.exception is None, ran.output
        return ran.return_value, ran.stdout

    code, shown = text("[red]x[/]\n\u00fc")
    assert code == 0
    assert "[red]x[/]\\n\u00fc" in shown
    code, shown = text("job-1")
    assert "admitted at" in shown
    assert "conflict" in shown
    assert "5.5" in shown
    code, shown = text("never-sent")
    assert code == 1
    assert "never reached the log" in shown.replace("\n", " ")


def test_a_name_that_is_not_utf8_is_a_wrong_command_line(log: CountedLog) -> None:
    ran = CliRunner().invoke(command, ["worker", "a\udcff", "PHOTO"], env=environment_of(log.settings))
    assert ran.exit_code == 2
