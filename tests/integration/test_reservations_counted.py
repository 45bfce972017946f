"""From a settlement to the counters, through the real processes: held until counted, and from then on not, in one moment."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.postgres import connect
from runtime.settings import Settings
from tests.fakes.pipeline import Pipeline, wait_until
from tests.integration.entitlement_data import SERVICE, TENANT, put_catalog
from tests.integration.serving import Server, serving

RESERVATIONS = "/v1/billing/reservations"
WORK = 30
ONE_MOMENT = """
SELECT coalesce((SELECT sum(quantity) FROM usage_counters WHERE usage_type = %(type)s), 0),
       coalesce((SELECT sum(quantity) FROM held WHERE usage_type = %(type)s), 0)
"""


@pytest.fixture(scope="module")
def server(migrated: Settings) -> Iterator[Server]:
    """A server whose own relay does not reach the broker."""
    secret, _ = put_catalog(migrated)
    with serving(migrated.model_copy(update={"kafka_url": "127.0.0.1:9"}), secret=secret) as running:
        yield running


@pytest.fixture
def pipeline(migrated: Settings, tmp_path: Path) -> Iterator[Pipeline]:
    with Pipeline(migrated, tmp_path) as pipeline:
        yield pipeline


def settled(server: Server, usage_type: str, entity: str, quantity: object = 1) -> str:
    """Reserved and settled; its id."""
    work = {"tenantId": TENANT, "usageType": usage_type, "sourceService": SERVICE, "sourceEntityId": entity}
    reserved = server.ask("POST", RESERVATIONS, {**work, "quantity": quantity})
    assert reserved.status == 201, reserved.body
    hold_id = str(reserved.json["reservationId"])
    assert server.ask("POST", f"{RESERVATIONS}/{hold_id}/settle").status == 200
    return hold_id


def shown(server: Server, hold_id: str) -> Any:
    return server.ask("GET", f"{RESERVATIONS}/{hold_id}").json


def standing(server: Server, usage_type: str) -> tuple[object, object]:
    said = server.check(tenantId=TENANT, usageType=usage_type)
    return said["used"], said["reserved"]


def records(pipeline: Pipeline) -> int:
    return sum(pipeline.ends())


def test_a_relay_killed_after_the_ack_publishes_again_and_the_work_is_counted_once(server: Server, pipeline: Pipeline) -> None:
    hold_id = settled(server, "DEEP", "killed", 4)
    killed = pipeline.start("entitlements", "relay.acked:1", ("cli", "serve"), http_port="0")
    assert pipeline.wait_for_end(killed) == -signal.SIGKILL
    assert records(pipeline) == 1
    assert (standing(server, "DEEP"), "position" in shown(server, hold_id)["settled"]) == ((0, 4), False)
    relaying = pipeline.start("entitlements", program=("cli", "serve"), http_port="0")
    wait_until("the record has a position", lambda: "position" in shown(server, hold_id)["settled"])
    assert records(pipeline) == 2
    assert standing(server, "DEEP") == (0, 4)
    pipeline.consume()
    pipeline.aggregate()
    pipeline.settle()
    assert standing(server, "DEEP") == (4, 0)
    wait_until("the verdict is noted", lambda: "verdict" in shown(server, hold_id)["settled"])
    event = shown(server, hold_id)["settled"]
    assert (event["verdict"], event["counted"], event["position"]["offset"]) == ("admitted", True, 1)
    truth = pipeline.assert_exact()
    assert (truth.total().admitted, truth.total().duplicate) == (1, 1)
    # The event of a second reservation for the same piece of work, with another quantity, is no work of its own.
    again = settled(server, "DEEP", "killed", 1)
    wait_until("its verdict is noted", lambda: "verdict" in shown(server, again)["settled"])
    assert shown(server, again)["settled"]["verdict"] == "conflict"
    assert standing(server, "DEEP") == (4, 0)
    relaying.stop()


def test_what_is_settled_is_held_or_counted_at_every_moment_and_never_both(server: Server, pipeline: Pipeline) -> None:
    """Kafka is away while it is settled; the positions are noted before anybody counts, so that both cannot be either."""
    ids = [settled(server, "FREE", f"moment_{number}") for number in range(WORK)]
    assert standing(server, "FREE") == (0, WORK)
    relaying = pipeline.start("entitlements", program=("cli", "serve"), http_port="0")
    wait_until("every record has a position", lambda: all("position" in shown(server, one)["settled"] for one in ids))
    relaying.stop()
    seen: set[tuple[int, int]] = set()
    done = threading.Event()

    def look() -> None:
        with connect(pipeline.settings, autocommit=True) as connection:
            while not done.is_set():
                row = connection.execute(ONE_MOMENT, {"type": "FREE"}).fetchone()
                assert row is not None
                seen.add((int(row[0]), int(row[1])))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        pipeline.consume(range_events_max="3")
        pipeline.aggregate(aggregator_batch_max="1")
        pipeline.settle()
    finally:
        done.set()
        looking.join()
    assert {used + reserved for used, reserved in seen} == {WORK}
    assert {(0, WORK), (WORK, 0)} < seen
    assert standing(server, "FREE") == (WORK, 0)
