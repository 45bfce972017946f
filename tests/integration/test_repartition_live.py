"""`topics repartition` on a running system: 2 to 5 partitions under load, with a consumer that dies in the middle."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.commands import topics as topics_command
from consumers.following import decided_to_its_end
from runtime import kafka, postgres
from runtime.settings import Settings, variables
from store import group, retiring, topic_state, topics
from store.epochs import Epoch, all_epochs, forwarded
from store.fences import read_fences
from store.freshness import covered_until
from store.migrate import migrate_clickhouse, migrate_postgres
from store.reconcile import reconcile
from store.repartition import repartition
from tests.fakes.late_producer import LateProducer
from tests.fakes.pipeline import Pipeline, wait_until

SETTLED_WITHIN_S = 90.0


@pytest.fixture
def narrow(settings: Settings) -> Settings:
    """A log of two partitions."""
    narrow = settings.model_copy(update={"topic_partitions": 2})
    migrate_postgres(narrow)
    migrate_clickhouse(narrow)
    topics.apply(narrow)
    return narrow


@pytest.fixture
def pipeline(narrow: Settings, tmp_path: Path) -> Iterator[Pipeline]:
    with Pipeline(narrow, tmp_path) as running:
        yield running


def epochs_of(settings: Settings) -> list[Epoch]:
    with postgres.connect(settings) as connection:
        return all_epochs(connection)


def at_rest(settings: Settings) -> bool:
    """Whether every epoch is counted to its end, everything late is forwarded, and the log of the last one is counted."""
    admin = kafka.admin(settings)
    with postgres.connect(settings) as connection:
        epochs = all_epochs(connection)
        for epoch in epochs:
            counted = [fence.next_offset for fence in read_fences(connection, epoch.epoch)]
            ends = topic_state.log_ends(admin, epoch.topic, epoch.partitions)
            if epoch.ends is not None and forwarded(connection, epoch.epoch) != ends:
                return False
            if counted != (ends if epoch.ends is None else list(epoch.ends)):
                return False
    return True


def settle(pipeline: Pipeline) -> None:
    wait_until("every epoch at rest", lambda: at_rest(pipeline.settings), SETTLED_WITHIN_S, every_s=0.2)


def admitted(pipeline: Pipeline) -> dict[str, tuple[int, int, int]]:
    """Entity -> (epoch, ingest time, time of the event), of every row."""
    rows = list(
        pipeline.query(
            "SELECT source_entity_id, log_epoch, toUnixTimestamp64Milli(ingested_at), toUnixTimestamp64Milli(occurred_at)"
            " FROM usage_events LIMIT 1 BY log_epoch, kafka_partition, kafka_offset"
        )
    )
    found = {row[0]: (row[1], row[2], row[3]) for row in rows}
    assert len(found) == len(rows), "an entity has two rows"
    return found


def test_2_to_5_partitions_under_load_with_a_late_producer_and_a_killed_consumer_counts_every_event_once(
    pipeline: Pipeline,
) -> None:
    settings = pipeline.settings
    first = pipeline.consume()
    pipeline.aggregate()
    old = LateProducer(settings, pipeline.topic, 2, "old")
    with old:
        wait_until("some events are acknowledged", lambda: len(old.acked) > 300)
        done = repartition(settings, 5, "tester")
        assert (done.begun.epoch, done.begun.topic, done.begun.partitions) == (2, f"{settings.topic_events}.2", 5)
        first.kill()
        pipeline.consume()
        new = LateProducer(settings, done.begun.topic, 5, "new")
        with new:
            for entity in list(old.acked)[:100]:
                new.send(entity)  # epoch 1 has admitted it
            wait_until("the new epoch has events", lambda: len(new.acked) > 300)
            sent = len(old.acked)
            wait_until("the old topic goes on getting events", lambda: len(old.acked) > sent + 100)
    assert old.refused == new.refused == []
    settle(pipeline)

    ends = done.ended.ends
    assert ends is not None
    rows = admitted(pipeline)
    assert rows.keys() == old.acked.keys() | new.acked.keys()
    late = {entity: at for entity, at in old.acked.items() if at.offset >= ends[at.partition]}
    assert len(late) > 100
    for entity, at in old.acked.items():
        epoch, ingested_ms, occurred_ms = rows[entity]
        assert epoch == (2 if entity in late else 1), entity
        # The original ingest time is kept, and stands for the time that the event lacks.
        assert (ingested_ms, occurred_ms) == (at.at_ms, at.at_ms), entity
    (total,) = pipeline.postgres("SELECT sum(quantity), sum(events) FROM usage_counters")
    assert tuple(map(int, total)) == (len(rows), len(rows))
    report = reconcile(settings, sample=1_000)
    assert report.ok, report.as_json()
    with postgres.connect(settings) as connection:
        fences = read_fences(connection, 1)
        as_of, behind = covered_until(connection)
    assert as_of is not None
    assert behind == 0
    onlooker = group.onlooker(settings)
    committed = {p: (at.offset, at.metadata) for p, at in group.committed(onlooker, pipeline.topic, 1, 2).items()}
    onlooker.close()
    assert decided_to_its_end(epochs_of(settings)[0], committed, fences) is not None
    assert {p: offset for p, (offset, _) in committed.items()} == dict(enumerate(ends))

    # And at last the old topic is closed: what would be lost is refused from then on.
    retired = retiring.retire(settings, 1, "tester")
    assert (retired.late, retired.waiting) == (len(late), 0)
    with old_again(pipeline) as refused:
        refused.send("too-late")
        refused.flush()
    assert [error.name() for error in refused.refused] == ["MSG_SIZE_TOO_LARGE"]
    environment = {names[0]: value for name, names in variables().items() if (value := shown(settings, name)) is not None}
    answer = CliRunner(env=environment).invoke(topics_command.command, ["show", "--json"], standalone_mode=False)
    lives = json.loads(answer.output)["epochs"]
    assert [(life["epoch"], life["state"], life["to_count"], life["to_forward"]) for life in lives] == [
        (1, "retired", 0, 0),
        (2, "goes on", 0, None),
    ]


def old_again(pipeline: Pipeline) -> LateProducer:
    return LateProducer(pipeline.settings, pipeline.topic, 2, "again", every_s=60)


def shown(settings: Settings, name: str) -> str | None:
    value = getattr(settings, name)
    if hasattr(value, "get_secret_value"):
        value = value.get_secret_value()
    return None if value in (None, "") else str(value)
