"""Usage over time, the events behind it and the explanation of one, over HTTP and from the real stores."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import pytest
from pydantic import SecretStr

from deploy.embedded.stack import StackAddresses
from entitlements.formats import CLOUDEVENTS, NDJSON
from runtime.settings import Settings
from tests.fakes.pipeline import Pipeline
from tests.fakes.proxy import Proxy
from tests.integration.counted_log import CountedLog
from tests.integration.entitlement_data import ANCHORED, SERVICE, TENANT, put_catalog
from tests.integration.serving import Server, serving

DAYS = ("2026-10-01", "2026-10-02")
HOURS = [f"{day}T{hour:02d}:00:00Z" for day in DAYS for hour in (0, 23)]


def event(entity: str, **over: object) -> dict[str, object]:
    identity = {"sourceService": SERVICE, "sourceEntityId": entity}
    return {"tenantId": TENANT, "usageType": "DEEP", "quantity": "0.1", **identity, **over}


@pytest.fixture(scope="module")
def reading(migrated: Settings, stack: StackAddresses) -> Settings:
    """As an operator sets it up: what clients ask is read by a user who may not write."""
    url = urlsplit(stack.clickhouse_readonly)
    assert url.username != migrated.clickhouse_user
    return migrated.model_copy(
        update={"clickhouse_read_user": url.username, "clickhouse_read_password": SecretStr(url.password or "")}
    )


@pytest.fixture(scope="module")
def log(migrated: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CountedLog]:
    with Pipeline(migrated, tmp_path_factory.mktemp("series")) as pipeline:
        yield CountedLog(migrated, pipeline)


@pytest.fixture(scope="module")
def server(reading: Settings, log: CountedLog) -> Iterator[Server]:
    secret, _ = put_catalog(reading)
    with serving(reading, secret=secret) as running:
        lines = [event(f"l{n}", occurredAt=HOURS[n % 4], metadata={"n": n}) for n in range(12)]
        lines.append(event("soft", usageType="SOFT", quantity=2, occurredAt=HOURS[0]))
        lines.append(event("other", tenantId=ANCHORED, occurredAt=HOURS[0]))
        body = b"\n".join(json.dumps(line).encode() for line in lines)
        answer = running.ask("POST", "/v1/billing/usage/batch", body, headers={"Content-Type": NDJSON})
        assert answer.status == 202, answer.body
        cloud = {"specversion": "1.0", "id": "cloud", "source": SERVICE, "type": "DEEP", "subject": TENANT, "time": HOURS[3]}
        batch = json.dumps([{**cloud, "data": {"quantity": "0.000001"}}]).encode()
        answer = running.ask("POST", "/v1/billing/usage/batch", batch, headers={"Content-Type": CLOUDEVENTS})
        assert answer.status == 202, answer.body
        # The same work with another quantity: taken into the log, where it is a conflict.
        assert running.ask("POST", "/v1/billing/usage", event("l0", occurredAt=HOURS[0], quantity="7")).status == 202
        log.advance()
        yield running


def ask(server: Server, tenant: str = TENANT, /, **query: object) -> Any:
    answer = server.ask("GET", f"/v1/billing/usage/{quote(tenant, safe='')}?{urlencode(query)}")
    assert answer.status == 200, answer.body
    return answer.json


RANGE = {"from": "2026-10-01", "to": "2026-10-03"}


def test_a_series_by_day_is_the_exact_sum_of_what_was_admitted(server: Server) -> None:
    said = ask(server, **RANGE)
    assert (said["tenantId"], said["granularity"], said["nextCursor"]) == (TENANT, "day", None)
    assert [(line["usageType"], line["start"], line["quantity"], line["events"]) for line in said["series"]] == [
        ("DEEP", "2026-10-01T00:00:00.000Z", Decimal("0.6"), 6),
        ("SOFT", "2026-10-01T00:00:00.000Z", 2, 1),
        ("DEEP", "2026-10-02T00:00:00.000Z", Decimal("0.600001"), 7),
    ]


def test_a_series_by_hour_of_one_type_over_a_part_of_the_time(server: Server) -> None:
    said = ask(server, granularity="hour", usageType="DEEP", **{**RANGE, "to": "2026-10-02"})
    assert [(line["start"][11:13], line["quantity"]) for line in said["series"]] == [
        ("00", Decimal("0.3")),
        ("23", Decimal("0.3")),
    ]


def test_pages_of_a_series_and_of_events_hold_every_line_once_while_others_arrive(server: Server, log: CountedLog) -> None:
    assert pages(server, "series", limit=1, granularity="hour") == [
        (line["start"], line["usageType"]) for line in ask(server, granularity="hour", **RANGE)["series"]
    ]
    before = {line["sourceEntityId"] for line in ask(server, view="events", **RANGE)["events"]}
    assert len(before) == 14
    seen = []
    cursor: str | None = None
    late = iter(range(100))
    while True:
        said = ask(server, view="events", limit=5, **RANGE, **({"cursor": cursor} if cursor else {}))
        seen += [line["sourceEntityId"] for line in said["events"]]
        cursor = said["nextCursor"]
        if cursor is None:
            break
        # One that lies before the cursor, and one behind it.
        for at in (HOURS[0], HOURS[3]):
            assert server.ask("POST", "/v1/billing/usage", event(f"late{next(late)}", occurredAt=at)).status == 202
        log.advance()
    assert len(seen) == len(set(seen))
    assert before <= set(seen)


def pages(server: Server, view: str, **query: object) -> list[tuple[str, str]]:
    found, cursor = [], ""
    while True:
        said = ask(server, view=view, **RANGE, **query, **({"cursor": cursor} if cursor else {}))
        assert len(said["series"]) <= 1
        found += [(line["start"], line["usageType"]) for line in said["series"]]
        if not (cursor := said["nextCursor"]):
            return found


def test_the_events_behind_a_number_are_shown_as_they_were_sent_and_with_their_place(server: Server) -> None:
    line = next(line for line in ask(server, view="events", **RANGE)["events"] if line["sourceEntityId"] == "l0")
    assert (line["quantity"], line["occurredAt"], line["kind"]) == (Decimal("0.1"), "2026-10-01T00:00:00.000Z", "usage")
    assert line["metadata"] == {"n": 0}
    assert {"epoch", "partition", "offset", "ingestedAt"} <= set(line)


def test_a_tenant_without_usage_has_an_empty_series_and_one_that_is_none_is_not_found(server: Server) -> None:
    assert ask(server, "tnt_planless", **RANGE)["series"] == []
    answer = server.ask("GET", "/v1/billing/usage/nobody")
    assert (answer.status, answer.json["code"]) == (404, "unknown_tenant")


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("view=rows", "bad_view"),
        ("granularity=minute", "bad_granularity"),
        ("from=2026-13-01", "bad_date"),
        ("from=20261001", "bad_date"),
        ("to=2199-01-01", "bad_date"),
        ("from=2026-10-02&to=2026-10-02", "bad_range"),
        ("from=2020-01-01&to=2026-01-01", "bad_range"),
        ("granularity=hour&from=2026-01-01&to=2026-03-01", "bad_range"),
        ("usageType=%00", "bad_id"),
        ("limit=0", "bad_page_size"),
        ("cursor=x", "bad_cursor"),
        ("cursor=W10=", "bad_cursor"),
        (f"cursor={'A' * 4000}", "bad_cursor"),
    ],
)
def test_a_query_that_makes_no_sense_is_refused_with_its_code(server: Server, query: str, code: str) -> None:
    answer = server.ask("GET", f"/v1/billing/usage/{TENANT}?{query}")
    assert (answer.status, answer.json["code"]) == (400, code)


def test_an_explanation_tells_of_the_resend_with_another_body(server: Server) -> None:
    query = urlencode({"sourceService": SERVICE, "sourceEntityId": "l0", "usageType": "DEEP"})
    answer = server.ask("GET", f"/v1/billing/explain?{query}")
    assert answer.status == 200, answer.body
    said = answer.json
    assert (said["known"], said["admitted"][0]["quantity"], said["admitted"][0]["counted"]) == (True, Decimal("0.1"), True)
    assert [(reject["verdict"], reject["reason"]) for reject in said["rejects"]] == [("conflict", "other_quantity")]
    unknown = server.ask("GET", "/v1/billing/explain?sourceService=s&sourceEntityId=never&usageType=DEEP").json
    assert (unknown["known"], unknown["admitted"]) == (False, [])
    missing = server.ask("GET", "/v1/billing/explain?sourceService=s")
    assert (missing.status, missing.json["code"]) == (400, "missing_field")


def test_without_clickhouse_the_answer_is_503_and_everything_else_goes_on(reading: Settings, server: Server) -> None:
    url = urlsplit(reading.clickhouse_url)
    proxy = Proxy((url.hostname or "", url.port or 0))
    cable = reading.model_copy(update={"clickhouse_url": f"http://127.0.0.1:{proxy.port}{url.path}", "clickhouse_timeout_s": 2.0})
    with serving(cable, secret=server.secret) as through:
        assert ask(through, **RANGE)["series"]
        proxy.cut()
        for path in (f"/v1/billing/usage/{TENANT}", "/v1/billing/explain?sourceService=s&sourceEntityId=e&usageType=DEEP"):
            answer = through.ask("GET", path)
            assert (answer.status, answer.json["code"]) == (503, "clickhouse_unavailable"), answer.body
            assert answer.headers["retry-after"] == "1"
        assert through.check(tenantId=TENANT, usageType="DEEP")["allowed"] in (True, False)
        proxy.join()
        assert ask(through, **RANGE)["series"]
    proxy.cut()
