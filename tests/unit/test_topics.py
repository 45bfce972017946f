"""Declared topics, and what makes a topic unfit to be counted from."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from runtime.exits import Exit, MeterlineExit
from runtime.settings import Settings, load_settings
from store.declarations import DELTAS, EVENTS, folder, load_declarations, wanted
from store.epochs import NEEDED_CONFIG, Epoch, check_topic
from store.topic_state import TopicState, describe

EPOCH = Epoch(1, "usage.events", "cluster", "topic-id", 4, (0, 0, 0, 0), None)
STATE = TopicState("usage.events", "cluster", "topic-id", 4, 1, {**NEEDED_CONFIG, "retention.ms": "1"})


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    for path in folder().glob("*.yaml"):
        (tmp_path / path.name).write_text(path.read_text())
    return tmp_path


def test_every_declared_figure_is_the_default_of_its_setting() -> None:
    defaults = load_settings({})
    for declaration in load_declarations():
        for figure in (declaration.partitions, declaration.replication, declaration.retention_days):
            assert figure.setting is None or figure.default == getattr(defaults, figure.setting), declaration.name
        assert getattr(defaults, declaration.topic.setting) == declaration.name


def test_deltas_have_as_many_partitions_as_events_under_any_setting() -> None:
    settings = load_settings({"METERLINE_TOPIC_PARTITIONS": "37"})
    topics = {declaration.name: wanted(declaration, settings) for declaration in load_declarations()}
    assert topics[EVENTS].partitions == topics[DELTAS].partitions == 37


def test_the_events_topic_is_declared_as_consumers_need_it() -> None:
    (events,) = (declaration for declaration in load_declarations() if declaration.name == EVENTS)
    assert {name: wanted(events, load_settings({})).config[name] for name in NEEDED_CONFIG} == NEEDED_CONFIG


def test_settings_override_name_and_retention() -> None:
    settings = load_settings({"KAFKA_TOPIC": "other", "METERLINE_EVENTS_KEEP_DAYS": "45"})
    (events,) = (wanted(declaration, settings) for declaration in load_declarations() if declaration.name == EVENTS)
    assert events.topic == "other"
    assert events.config["retention.ms"] == str(45 * 24 * 3600 * 1000)


@pytest.mark.parametrize(("replicas", "in_sync"), [(1, "1"), (2, "2"), (3, "2"), (5, "3")])
def test_an_acknowledged_record_is_on_a_majority_of_the_replicas(replicas: int, in_sync: str) -> None:
    topic = wanted(load_declarations()[0], load_settings({}))
    assert topic.config_at(replicas)["min.insync.replicas"] == in_sync


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("compression: lz4", "compresion: lz4", "compresion"),
        ("setting: topic_partitions", "setting: partitions", "partitions is not a setting"),
        ("partitions: {default: 4", "partitions: {default: 0", "partitions.default"),
        ("partitions: {default: 4", "partitions: {default: 4.0", "partitions.default"),
        ("name: usage.events", "name: usage.other", "want the file named usage.other.yaml"),
        ("retention.bytes: \"-1\"", "retention.bytes: -1", "config.retention.bytes"),
    ],
)  # fmt: skip
def test_a_declaration_that_is_wrong_is_refused_by_file_and_field(copied: Path, old: str, new: str, told: str) -> None:
    path = copied / "usage.events.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ValueError, match=r"usage\.events\.yaml: ") as refusal:
        load_declarations(copied)
    assert told in str(refusal.value)


def test_a_missing_declaration_is_told(copied: Path) -> None:
    (copied / "usage.deltas.yaml").unlink()
    with pytest.raises(ValueError, match=r"no declaration of usage\.deltas"):
        load_declarations(copied)


def test_the_topic_of_the_epoch_is_taken() -> None:
    check_topic(STATE, EPOCH)


@pytest.mark.parametrize(
    ("state", "code", "told"),
    [
        (None, Exit.TOPIC_REPLACED, "is gone"),
        (replace(STATE, cluster_id="another"), Exit.TOPIC_REPLACED, "METERLINE_KAFKA_URL"),
        (replace(STATE, topic_id="another"), Exit.TOPIC_REPLACED, "made anew"),
        (replace(STATE, partitions=5), Exit.TOPIC_REPLACED, "topics repartition"),
        (replace(STATE, config={**STATE.config, "message.timestamp.type": "CreateTime"}), Exit.TOPIC_SETTINGS, "topics apply"),
        (replace(STATE, config={**STATE.config, "cleanup.policy": "compact"}), Exit.TOPIC_SETTINGS, "cleanup.policy=compact"),
        (replace(STATE, config={**STATE.config, "unclean.leader.election.enable": "true"}), Exit.TOPIC_SETTINGS, "want false"),
        (replace(STATE, config={}), Exit.TOPIC_SETTINGS, "message.timestamp.type=unset"),
    ],
)
def test_a_topic_that_may_not_be_counted_from_ends_with_its_exit_and_remedy(
    state: TopicState | None, code: Exit, told: str
) -> None:
    with pytest.raises(MeterlineExit) as refusal:
        check_topic(state, EPOCH)
    assert refusal.value.code is code
    assert told in str(refusal.value)


def test_no_two_topics_share_a_setting() -> None:
    names = [declaration.topic.setting for declaration in load_declarations()]
    assert sorted(names) == sorted(
        {name for name in Settings.model_fields if name in ("topic_events", "topic_deltas", "topic_alerts")}
    )


@pytest.mark.parametrize("code", [KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._TRANSPORT])
def test_a_topic_that_is_deleted_while_it_is_described_does_not_exist(code: int) -> None:
    def future(result: object) -> Future[Any]:
        made: Future[Any] = Future()
        if isinstance(result, Exception):
            made.set_exception(result)
        else:
            made.set_result(result)
        return made

    partition = SimpleNamespace(leader=1, replicas=[1])
    admin = SimpleNamespace(
        describe_cluster=lambda **_: future(SimpleNamespace(cluster_id="c")),
        describe_topics=lambda *_, **__: {"t": future(SimpleNamespace(topic_id="i", partitions=[partition]))},
        describe_configs=lambda resources, **_: {resources[0]: future(KafkaException(KafkaError(code)))},
    )
    if code == KafkaError.UNKNOWN_TOPIC_OR_PART:
        assert describe(cast(AdminClient, admin), ["t"]) == {"t": None}
    else:
        with pytest.raises(KafkaException):
            describe(cast(AdminClient, admin), ["t"])
