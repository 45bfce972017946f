"""Usage records from the billing service's own words to the counters: kept, published, counted once, read back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from pydantic import SecretStr

from runtime.keyring import keyring
from runtime.postgres import connect
from runtime.settings import Settings
from store.api_keys import issue
from tests.e2e.seed_operations import seed
from tests.fakes.control_plane_server import control_plane_served
from tests.fakes.pipeline import Pipeline, wait_until
from tests.fakes.tokens import USER_SECRET, user_token
from tests.integration.entitlement_data import ANCHORED, SERVICE, TENANT, put_catalog
from tests.integration.serving import serving

DAY = "2026-10-01"


@dataclass
class Told:
    client: httpx.Client
    service: Mapping[str, str]
    key: Mapping[str, str]

    def record(self, entity: str, headers: Mapping[str, str] | None = None, **over: Any) -> httpx.Response:
        order = {"organization_id": TENANT, "usage_type": "DEEP", "quantity": "0.1", "source_service": SERVICE}
        body = {**order, "source_entity_id": entity, "occurred_at": f"{DAY}T10:00:00Z", **over}
        return self.client.post("/api/usage-records", json=body, headers=headers or self.service)

    def read(self, path: str = "", headers: Mapping[str, str] | None = None, **query: Any) -> httpx.Response:
        asked = {"organization_id": TENANT, "from": DAY, "to": "2026-10-03", **query}
        return self.client.get(f"/api/usage-records{path}", params=asked, headers=headers or self.service)


@pytest.fixture(scope="module")
def told(migrated: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    settings = migrated.model_copy(
        update={"secret_encrypt_key": SecretStr("a secret of the keyring"), "jwt_access_secret": SecretStr(USER_SECRET)}
    )
    secret, _ = put_catalog(settings)
    keys = keyring(settings)
    assert keys is not None
    with connect(settings) as connection:
        key = issue(connection, keys, TENANT, "own").key
    folder: Path = tmp_path_factory.mktemp("records")
    with Pipeline(settings, folder) as pipeline:
        pipeline.consume()
        pipeline.aggregate()
        # Its relay publishes what the control plane promises.
        with serving(settings, secret=secret), control_plane_served(settings) as client:
            yield Told(client, {"X-Service-Secret": secret}, {"Authorization": f"Bearer {key}"})


def code_of(answered: httpx.Response) -> tuple[int, str]:
    return answered.status_code, answered.json()["error"]["code"]


def exact(answered: httpx.Response) -> Any:
    assert answered.status_code == 200, answered.text
    return msgspec.json.Decoder(float_hook=Decimal).decode(answered.content)


@seed("003", "usage records", "used", "repeated", "bad input")
def test_a_record_is_kept_published_counted_once_and_read_back(told: Told) -> None:
    for entity, quantity in (("job_1", "0.1"), ("job_2", 2), ("job_1", "0.1")):
        taken = told.record(entity, quantity=quantity)
        assert (taken.status_code, taken.json()["data"]["state"]) == (202, "queued"), taken.text
    assert (
        told.record(
            "job_3", told.key, source_service=TENANT, occurred_at="2026-10-02T00:00:00.123Z", quantity=0.000001
        ).status_code
        == 202
    )
    counted = [
        {"usage_type": "DEEP", "day": DAY, "quantity": Decimal("2.1"), "events": 2},
        {"usage_type": "DEEP", "day": "2026-10-02", "quantity": Decimal("0.000001"), "events": 1},
    ]
    wait_until("counted", lambda: exact(told.read("/summary"))["data"] == counted)
    first = exact(told.read(limit=2))
    second = exact(told.read(limit=2, cursor=first["page"]["nextCursor"]))
    assert second["page"]["nextCursor"] is None
    shown = [(one["source_entity_id"], one["quantity"]) for one in first["data"] + second["data"]]
    assert shown == [("job_1", Decimal("0.1")), ("job_2", 2), ("job_3", Decimal("0.000001"))]
    assert second["data"][0]["occurred_at"].startswith("2026-10-02T00:00:00.123")
    for wrong in ({"quantity": "-1"}, {"quantity": "0.0000001"}, {"quantity": "x"}, {"source_entity_id": ""}, {"more": 1}):
        assert told.record("job_9", **wrong).status_code == 400, wrong
    assert code_of(told.record("job_9", usage_type="NOTHING")) == (422, "unknown_usage_type")
    assert code_of(told.record("job_9", organization_id="tnt_nobody")) == (422, "unknown_tenant")
    assert told.read(to=DAY).status_code == 400
    assert told.read(cursor="nonsense").status_code == 400


@seed("003", "usage records", "wrong role", "other tenant")
def test_people_read_their_own_and_write_nothing(told: Told) -> None:
    person = {"Authorization": f"Bearer {user_token('u1', tenantId=TENANT)}"}
    assert code_of(told.record("job_1", person)) == (403, "role_not_allowed")
    assert told.read("/summary", person).status_code == 200
    for headers in (person, told.key):
        assert told.read("/summary", headers, organization_id=ANCHORED).status_code == 404
        assert told.read(headers=headers, organization_id=ANCHORED).status_code == 404
    assert told.record("job_1", told.key, organization_id=ANCHORED).status_code == 404
    assert code_of(told.record("job_1", source_service="somebody-elses")) == (403, "source_not_allowed")
