"""`meterline topics` against the real broker: created once, altered back, refused when it is not the epoch's topic."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner
from confluent_kafka import TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # it re-exports them without saying so
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)
from pydantic import SecretStr

from cli.commands import topics as topics_command
from deploy.embedded.processes import free_port
from meterline_schemas.rules import NEWEST_RULES
from runtime import kafka, postgres
from runtime.exits import Exit, MeterlineExit
from runtime.life import Backoff, Stop
from runtime.settings import Settings, variables
from store import repartition, retiring, topics
from store.epochs import Epoch, check_topic, current_epoch, rules_at
from store.migrate import migrate_postgres
from store.topic_state import describe, partitions_of

WITHIN_S = 20.0


@pytest.fixture
def bare(settings: Settings) -> Iterator[Settings]:
    """A migrated database of its own, and names of topics that do not exist; what was made is removed."""
    suffix = secrets.token_hex(5)
    with postgres.connect(settings, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "topics_{suffix}"'.encode())
    url = settings.postgres_url.get_secret_value().rsplit("/", 1)[0] + f"/topics_{suffix}"
    bare = settings.model_copy(
        update={
            "postgres_url": SecretStr(url),
            "topic_events": f"usage.events.{suffix}",
            "topic_deltas": f"usage.deltas.{suffix}",
            "topic_alerts": f"usage.alerts.{suffix}",
        }
    )
    migrate_postgres(bare)
    yield bare
    admin = kafka.admin(settings)
    for future in admin.delete_topics([bare.topic_events, bare.topic_deltas, bare.topic_alerts]).values():
        future.exception(timeout=WITHIN_S)
    with postgres.connect(settings, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "topics_{suffix}" WITH (FORCE)'.encode())


def until(holds: Callable[[], bool], what: str) -> None:
    """Waits for the broker's metadata to say so."""
    backoff, pause, waited_s = Backoff(0.02, 0.5), Stop(), 0.0
    while not holds():
        assert waited_s < WITHIN_S, f"{what} did not come within {WITHIN_S} s"
        wait_s = backoff.wait_s()
        waited_s += wait_s
        pause.wait(wait_s)


def done(futures: dict[Any, Any]) -> None:
    for future in futures.values():
        future.result(timeout=WITHIN_S)


def create(settings: Settings, topic: str, partitions: int) -> None:
    admin = kafka.admin(settings)
    done(admin.create_topics([NewTopic(topic, num_partitions=partitions, replication_factor=1)]))
    until(lambda: describe(admin, [topic])[topic] is not None, f"topic {topic}")


def delete(settings: Settings, topic: str) -> None:
    admin = kafka.admin(settings)
    done(admin.delete_topics([topic]))
    until(lambda: describe(admin, [topic])[topic] is None, f"the end of {topic}")


def set_config(admin: AdminClient, topic: str, name: str, value: str) -> None:
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    done(admin.incremental_alter_configs([ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])]))
    until(lambda: (state := describe(admin, [topic])[topic]) is not None and state.config[name] == value, f"{name}={value}")


def standing(settings: Settings) -> Epoch | None:
    with postgres.connect(settings) as connection:
        return current_epoch(connection)


def test_the_first_apply_creates_the_topics_and_begins_epoch_1_with_all_its_rows(bare: Settings) -> None:
    assert [difference.action for difference in topics.plan(bare)] == ["create"] * 3
    assert standing(bare) is None
    applied = topics.apply(bare)
    assert applied.epoch_begun
    assert applied.epoch == standing(bare)
    assert (applied.epoch.epoch, applied.epoch.partitions, applied.epoch.starts) == (1, 4, (0, 0, 0, 0))
    with postgres.connect(bare) as connection:
        fences = connection.execute(
            "SELECT partition, next_offset, rules_version, admitted FROM delta_fences ORDER BY partition"
        ).fetchall()
        assert fences == [(partition, 0, NEWEST_RULES, 0) for partition in range(4)]
        assert [rules_at(connection, 1, partition) for partition in range(4)] == [[(0, NEWEST_RULES)]] * 4
    states = describe(kafka.admin(bare), [bare.topic_events, bare.topic_deltas])
    events, deltas = states[bare.topic_events], states[bare.topic_deltas]
    assert events is not None
    assert deltas is not None
    check_topic(events, applied.epoch)
    assert events.partitions == deltas.partitions
    assert events.config["retention.ms"] == str(bare.events_keep_days * 24 * 3600 * 1000)


def test_a_second_apply_changes_nothing(bare: Settings) -> None:
    first = topics.apply(bare)
    second = topics.apply(bare)
    assert (second.changed, second.left, second.epoch_begun, second.epoch) == ([], [], False, first.epoch)
    assert topics.plan(bare) == []


def test_several_applies_at_once_begin_one_epoch(bare: Settings) -> None:
    with ThreadPoolExecutor(4) as threads:
        applied = list(threads.map(lambda _: topics.apply(bare), range(4)))
    assert sorted(one.epoch_begun for one in applied) == [False, False, False, True]
    assert len({one.epoch.topic_id for one in applied}) == 1


def test_settings_decide_names_partitions_and_retention(bare: Settings) -> None:
    settings = bare.model_copy(update={"topic_partitions": 7, "events_keep_days": 3})
    assert topics.apply(settings).epoch.partitions == 7
    longer = settings.model_copy(update={"events_keep_days": 5})
    assert [difference.what for difference in topics.apply(longer).changed] == ["retention.ms"]
    shorter = longer.model_copy(update={"deltas_keep_days": 2})
    assert [(found.topic, found.what) for found in topics.apply(shorter).changed] == [(bare.topic_deltas, "retention.ms")]
    assert topics.plan(shorter) == []


def test_a_setting_that_was_altered_by_hand_is_altered_back(bare: Settings) -> None:
    topics.apply(bare)
    admin = kafka.admin(bare)
    set_config(admin, bare.topic_events, "message.timestamp.type", "CreateTime")
    state = describe(admin, [bare.topic_events])[bare.topic_events]
    epoch = standing(bare)
    assert epoch is not None
    with pytest.raises(MeterlineExit, match="meterline topics apply") as refusal:
        check_topic(state, epoch)
    assert refusal.value.code is Exit.TOPIC_SETTINGS
    assert [(difference.what, difference.found) for difference in topics.apply(bare).changed] == [
        ("message.timestamp.type", "CreateTime")
    ]
    check_topic(describe(admin, [bare.topic_events])[bare.topic_events], epoch)


def test_partitions_that_were_added_by_hand_are_refused_and_nothing_is_touched(bare: Settings) -> None:
    topics.apply(bare)
    admin = kafka.admin(bare)
    done(admin.create_partitions([NewPartitions(bare.topic_events, 6)]))
    until(lambda: (state := describe(admin, [bare.topic_events])[bare.topic_events]) is not None and state.partitions == 6, "six")
    set_config(admin, bare.topic_alerts, "retention.ms", "1000")
    with pytest.raises(MeterlineExit, match="topics repartition") as refusal:
        topics.apply(bare)
    assert refusal.value.code is Exit.TOPIC_REPLACED
    alerts = describe(admin, [bare.topic_alerts])[bare.topic_alerts]
    assert alerts is not None
    assert alerts.config["retention.ms"] == "1000"


def test_a_topic_that_is_gone_is_refused_and_not_made_anew(bare: Settings) -> None:
    topics.apply(bare)
    delete(bare, bare.topic_events)
    for attempt in (topics.plan, topics.apply):
        with pytest.raises(MeterlineExit, match="is gone") as refusal:
            attempt(bare)
        assert refusal.value.code is Exit.TOPIC_REPLACED
    assert describe(kafka.admin(bare), [bare.topic_events])[bare.topic_events] is None


def test_a_topic_that_was_made_anew_under_its_name_is_refused(bare: Settings) -> None:
    before = topics.apply(bare).epoch
    delete(bare, bare.topic_events)
    create(bare, bare.topic_events, before.partitions)
    with pytest.raises(MeterlineExit, match="was made anew") as refusal:
        topics.apply(bare)
    assert refusal.value.code is Exit.TOPIC_REPLACED
    assert standing(bare) == before


def test_an_epoch_begins_where_the_log_begins(bare: Settings) -> None:
    create(bare, bare.topic_events, 4)
    producer = kafka.producer(bare)
    for _ in range(5):
        producer.produce(bare.topic_events, b"{}", partition=2)
    assert producer.flush(WITHIN_S) == 0
    admin = kafka.admin(bare)
    done(admin.delete_records([TopicPartition(bare.topic_events, 2, 3)]))
    applied = topics.apply(bare)
    assert applied.epoch.starts == (0, 0, 3, 0)
    with postgres.connect(bare) as connection:
        assert connection.execute("SELECT next_offset FROM delta_fences WHERE partition = 2").fetchone() == (3,)
        assert rules_at(connection, 1, 2) == [(3, NEWEST_RULES)]


def test_a_found_topic_with_other_partitions_is_refused_with_the_setting_that_takes_it(bare: Settings) -> None:
    create(bare, bare.topic_events, 3)
    with pytest.raises(MeterlineExit, match="set METERLINE_TOPIC_PARTITIONS=3") as refusal:
        topics.apply(bare)
    assert refusal.value.code is Exit.TOPIC_SETTINGS
    assert standing(bare) is None
    assert topics.apply(bare.model_copy(update={"topic_partitions": 3})).epoch.partitions == 3


def test_a_deltas_topic_with_too_few_partitions_grows_and_one_with_more_stands_as_wanted(bare: Settings) -> None:
    create(bare, bare.topic_deltas, 2)
    assert [d.action for d in topics.plan(bare) if d.topic == bare.topic_deltas and d.what == "partitions"] == ["alter"]
    topics.apply(bare)
    admin = kafka.admin(bare)
    assert partitions_of(admin, bare.topic_deltas) == 4
    done(admin.create_partitions([NewPartitions(bare.topic_deltas, 6)]))
    until(lambda: partitions_of(admin, bare.topic_deltas) == 6, "six")
    assert topics.plan(bare) == []


def test_other_replicas_are_left_to_people_and_writes_go_on(bare: Settings) -> None:
    topics.apply(bare)
    applied = topics.apply(bare.model_copy(update={"topic_replication": 3}))
    assert {difference.what for difference in applied.left} == {"replication"}
    assert applied.changed == [], "min.insync.replicas above the replicas there are would refuse every write"


def test_more_replicas_than_brokers_are_told_with_the_setting(bare: Settings) -> None:
    with pytest.raises(MeterlineExit, match="METERLINE_TOPIC_REPLICATION") as refusal:
        topics.apply(bare.model_copy(update={"topic_replication": 3}))
    assert refusal.value.code is Exit.SETTINGS
    assert standing(bare) is None


def test_a_database_of_another_topic_is_refused(bare: Settings) -> None:
    topics.apply(bare)
    with pytest.raises(MeterlineExit, match="set METERLINE_TOPIC_EVENTS back"):
        topics.apply(bare.model_copy(update={"topic_events": f"{bare.topic_events}.other"}))


def test_a_database_without_the_schema_is_told_to_migrate(settings: Settings) -> None:
    with pytest.raises(MeterlineExit, match="run `meterline migrate` first"):
        topics.plan(settings)


def test_a_broker_that_is_away_ends_with_its_exit_and_the_remedy(bare: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.topic_state.REQUEST_TIMEOUT_S", 1.0)
    with pytest.raises(MeterlineExit, match="set METERLINE_KAFKA_URL") as refusal:
        topics.plan(bare.model_copy(update={"kafka_url": f"127.0.0.1:{free_port()}"}))
    assert refusal.value.code is Exit.UNREACHABLE


def test_the_commands_show_and_apply(bare: Settings) -> None:
    names = variables()
    environment = {
        names[field][0]: str(getattr(bare, field)) for field in ("kafka_url", "topic_events", "topic_deltas", "topic_alerts")
    } | {names["postgres_url"][0]: bare.postgres_url.get_secret_value()}

    def run(*arguments: str) -> tuple[int, str]:
        # The group is run as the console script runs it: what a command returns is the exit status.
        result = CliRunner().invoke(topics_command.command, arguments, env=environment, standalone_mode=False)
        assert result.exception is None, result.exception
        return result.return_value or 0, result.stdout

    status, shown = run("show", "--json")
    assert (status, len(json.loads(shown)["differences"])) == (1, 3)
    status, said = run("apply", "--json")
    assert (status, json.loads(said)["epoch_begun"]) == (0, True)
    told = "every topic is as declared\nepoch 1: " + bare.topic_events + ", 4 partitions, goes on\n"
    assert run("show") == (0, told)
    status, said = run("apply")
    assert "epoch 1 goes on" in said


def test_a_repartition_is_planned_refused_where_it_must_be_and_all_or_nothing(bare: Settings) -> None:
    topics.apply(bare)
    plan = repartition.plan(bare, 6)
    assert (plan.number, plan.topic, plan.deltas_from, plan.deltas_to) == (2, f"{bare.topic_events}.2", 4, 6)
    for partitions, code in ((4, Exit.FAILED), (0, Exit.USAGE), (1025, Exit.USAGE)):
        with pytest.raises(MeterlineExit) as refused:
            repartition.plan(bare, partitions)
        assert refused.value.code is code
    with pytest.raises(MeterlineExit, match="goes on") as refused:
        retiring.standing(bare, 1)
    # Left from a try that died before it was recorded: to the same number it goes on, to another it does not.
    create(bare, plan.topic, 6)
    with pytest.raises(MeterlineExit, match="belongs to no epoch"):
        repartition.plan(bare, 3)
    assert standing(bare) == plan.ending
    done_now = repartition.repartition(bare, 6, "tester")
    assert done_now.begun == standing(bare)
    assert done_now.ended.ends == (0, 0, 0, 0)
    with postgres.connect(bare) as connection:
        assert [rules_at(connection, 2, partition) for partition in range(6)] == [[(0, NEWEST_RULES)]] * 6
        assert connection.execute("SELECT count(*) FROM delta_fences WHERE epoch = 2").fetchone() == (6,)
        assert connection.execute("SELECT partition, next_offset FROM forwarding ORDER BY 1").fetchall() == [
            (partition, 0) for partition in range(4)
        ]
        with pytest.raises(psycopg.errors.CheckViolation, match="history"):
            connection.execute("UPDATE epochs SET ends = '{1,1,1,1}' WHERE epoch = 1")
    assert partitions_of(kafka.admin(bare), bare.topic_deltas) == 6
    # The setting is told of, and stops nothing: the epoch has the partitions that it was begun with.
    assert [(found.what, found.action) for found in topics.plan(bare)] == [("partitions", "by hand")]
    assert topics.plan(bare.model_copy(update={"topic_partitions": 6})) == []
    assert topics.apply(bare).epoch == done_now.begun
    with pytest.raises(MeterlineExit, match="there is no epoch 7"):
        retiring.standing(bare, 7)
    delete(bare, plan.topic)
