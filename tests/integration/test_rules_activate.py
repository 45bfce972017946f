"""`rules activate` on a running system: every record is decided by one version, whoever races whom."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest
from click.testing import CliRunner, Result

from cli.commands import rules as rules_command
from meterline_schemas.rules import RULES, Rules
from runtime.exits import Exit, MeterlineExit
from runtime.settings import Settings
from store import rules_change
from tests.fakes.late_producer import LateProducer
from tests.fakes.pipeline import Pipeline, environment_of, wait_until

KNOWS_2 = """
import dataclasses, types
import meterline_schemas.rules as rules
newer = dataclasses.replace(rules.RULES[1], version=2, schema_versions=frozenset({1, 2}))
rules.RULES = types.MappingProxyType({**rules.RULES, 2: newer})
"""
"""A build that knows a second version: it takes events of schema version 2, which version 1 turns away."""

TWO: Mapping[int, Rules] = MappingProxyType({**RULES, 2: replace(RULES[1], version=2, schema_versions=frozenset({1, 2}))})


@pytest.fixture
def newer(tmp_path: Path) -> Path:
    """A folder that makes the build of a process the newer one."""
    folder = tmp_path / "newer"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(KNOWS_2)
    return folder


@pytest.fixture
def pipeline(migrated: Settings, newer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipeline]:
    monkeypatch.setattr(rules_change, "RULES", TWO)
    with monkeypatch.context() as inherited:
        inherited.setenv("PYTHONPATH", str(newer))
        running = Pipeline(migrated, tmp_path)
    with running:
        yield running


def run(settings: Settings, *arguments: str) -> Result:
    return CliRunner(env=environment_of(settings)).invoke(rules_command.command, arguments, standalone_mode=False)


def code_of(result: Result) -> Exit:
    assert isinstance(result.exception, MeterlineExit), result.output
    return result.exception.code


def test_each_record_is_decided_by_the_version_of_its_position_under_load_and_an_older_build_leaves(
    pipeline: Pipeline, migrated: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = migrated
    first = pipeline.consume(range_window_ms="0")
    second = pipeline.consume(range_window_ms="0", consumer_instance="c2")
    pipeline.aggregate()
    load = LateProducer(settings, pipeline.topic, pipeline.partitions, "v2", every_s=0.001, headers=(("schema-version", b"2"),))
    with load:
        wait_until("some are decided", lambda: sum(fence.next_offset for fence in pipeline.fences()) > 200, 60)
        planned = json.loads(run(settings, "activate", "2", "--dry-run", "--json").output)
        assert (planned["outcome"], planned["version"], planned["before"]) == ("planned", 2, 1)
        assert code_of(run(settings, "activate", "2", "--json")) is Exit.USAGE, "nobody was asked"
        done = json.loads(run(settings, "activate", "2", "--yes", "--json").output)
        assert done["outcome"] == "activated"
        acked = len(load.acked)
        wait_until("many more are sent", lambda: len(load.acked) > acked + 200)
    assert load.refused == []
    pipeline.settle()
    found = {
        entity: (version, verdict)
        for entity, version, verdict in [
            *pipeline.query("SELECT source_entity_id, rules_version, 'admitted' FROM usage_events"),
            *pipeline.query("SELECT source_entity_id, rules_version, verdict FROM usage_rejects FINAL"),
        ]
    }
    assert found == {
        entity: (2, "admitted") if at.offset >= done["from"][at.partition] else (1, "invalid")
        for entity, at in load.acked.items()
    }
    assert {version for version, _ in found.values()} == {1, 2}

    assert json.loads(run(settings, "activate", "2", "--json").output)["outcome"] == "unchanged"
    assert code_of(run(settings, "activate", "1", "--yes")) is Exit.FAILED
    assert code_of(run(settings, "activate", "3", "--yes")) is Exit.RULES_UNKNOWN
    shown = json.loads(run(settings, "show", "--json").output)
    assert shown["in_force"] == 2
    assert len(shown["from"]) == 2 * pipeline.partitions
    ((what, before, after),) = pipeline.postgres("SELECT what, before, after FROM audit WHERE what = 'rules.activated'")
    assert (what, before, after) == ("rules.activated", {"version": 1}, {"version": 2, "from": done["from"]})

    # A build that lacks the version in force leaves, with the remedy, and counts nothing.
    first.kill()
    second.kill()
    (tmp_path / "older").mkdir()
    with Pipeline(settings, tmp_path / "older") as older:
        leaving = older.consume()
        load = LateProducer(settings, pipeline.topic, pipeline.partitions, "later", every_s=60)
        with load:
            load.send("later")
        assert older.wait_for_end(leaving, 60) == Exit.RULES_UNKNOWN
        assert "deploy a build that knows it" in leaving.tail()
    assert not list(pipeline.query("SELECT 1 FROM usage_events WHERE source_entity_id = 'later'"))
