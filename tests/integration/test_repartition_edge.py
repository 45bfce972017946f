"""The HTTP edge and `emit` across the end of an epoch: `wait=counted` ends with true, and `asOf` never goes back."""

from __future__ import annotations

import json
import threading
from pathlib import Path

from click.testing import CliRunner

from cli.commands import emit as emit_command
from runtime.settings import Settings
from store.repartition import repartition
from tests.fakes.pipeline import Pipeline, environment_of, wait_until
from tests.integration.entitlement_data import SERVICE, TENANT, put_catalog
from tests.integration.serving import Server, serving

ENOUGH = 15


class Caller:
    """Records one event after the other, each waiting until it is counted, and looks at `asOf` in between."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.answers: dict[str, dict[str, object]] = {}
        self.as_of: list[str | None] = []
        self.stop = threading.Event()
        self.problems: list[BaseException] = []

    def run(self) -> None:
        try:
            while not self.stop.is_set():
                entity = f"e-{len(self.answers)}"
                body = {
                    "tenantId": TENANT,
                    "usageType": "DEEP",
                    "quantity": 1,
                    "sourceService": SERVICE,
                    "sourceEntityId": entity,
                }
                answer = self._server.ask("POST", "/v1/billing/usage?wait=counted&timeout=10s", body)
                assert answer.status == 202, answer.body
                self.answers[entity] = answer.json
                self.as_of.append(self._server.check(tenantId=TENANT, usageType="DEEP", quantity=0)["asOf"])
        except BaseException as error:  # noqa: BLE001 - told by the test itself
            self.problems.append(error)


def test_usage_that_waits_is_counted_across_the_end_of_an_epoch(migrated: Settings, tmp_path: Path) -> None:
    secret, _ = put_catalog(migrated)
    with Pipeline(migrated, tmp_path) as pipeline, serving(migrated, secret=secret) as server:
        pipeline.consume()
        pipeline.aggregate()
        caller = Caller(server)
        calling = threading.Thread(target=caller.run)
        calling.start()
        wait_until("some are counted", lambda: len(caller.answers) >= ENOUGH or not calling.is_alive(), 60)
        repartition(migrated, 3, "tester")
        before = len(caller.answers)
        wait_until("more are counted", lambda: len(caller.answers) >= before + ENOUGH or not calling.is_alive(), 90)
        caller.stop.set()
        calling.join(30)
        assert caller.problems == []
        assert {entity for entity, answer in caller.answers.items() if not answer["counted"]} == set()
        epochs = [answer["position"]["epoch"] for answer in caller.answers.values()]  # type: ignore[index]
        assert epochs == sorted(epochs)
        assert set(epochs) == {1, 2}
        # None before the first sample, and never again.
        assert caller.as_of == sorted(caller.as_of, key=lambda as_of: as_of or "")
        assert len(set(caller.as_of)) > 2
        (row,) = pipeline.postgres("SELECT sum(events), sum(quantity) FROM usage_counters")
        assert tuple(map(int, row)) == (len(caller.answers), len(caller.answers))

        lines = tmp_path / "events.ndjson"
        event = {"tenantId": TENANT, "usageType": "DEEP", "quantity": "1", "sourceService": SERVICE, "sourceEntityId": "emitted"}
        lines.write_text(json.dumps(event) + "\n")
        sent = CliRunner(env=environment_of(migrated)).invoke(emit_command.command, [str(lines), "--json"], standalone_mode=False)
        assert json.loads(sent.stdout)["acked"] == 1
        wait_until(
            "the emitted event is counted",
            lambda: pipeline.postgres("SELECT sum(events) FROM usage_counters") == [(len(caller.answers) + 1,)],
            30,
        )
        assert list(pipeline.query("SELECT log_epoch FROM usage_events WHERE source_entity_id = 'emitted'")) == [(2,)]
