"""Reservations of a usage type priced in credits, over the real socket: the credits are held with the limit, and paid by it."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest

from meterline_schemas.types import Micros
from runtime.postgres import connect
from runtime.settings import Settings
from store import catalog, credits, hold_sweeping
from store.catalog_file import parse_catalog
from store.credit_checks import check_credits
from store.credits import Balance, By, Owner
from store.service_secrets import create
from store.steps import run
from tests.integration.serving import Answer, Server, execute, serving

CATALOG = """
usage_types:
  CHAT: {credits: 0.25}
  FREE: {credits: 0}
  PIXEL: {credits: 0.0000001}
plans:
  p:
    name: P
    limits:
      CHAT: {limit: 100, period: month}
      FREE: {limit: 5, period: month}
      PIXEL: {limit: unlimited, period: month}
  capped: {name: C, credit_overrun: held, limits: {CHAT: {limit: unlimited, period: month}}}
tenants:
  chat: {plan: p}
  capped: {plan: capped}
"""
RESERVATIONS = "/v1/billing/reservations"


@pytest.fixture(scope="module")
def server(migrated: Settings) -> Iterator[Server]:
    with connect(migrated) as connection:
        secret = create(connection, "chat", ["chat"])
        catalog.apply(connection, parse_catalog(CATALOG), by="tester")
    # Kafka is away all the time: what is settled here stays promised, and is paid all the same.
    with serving(migrated.model_copy(update={"kafka_url": "127.0.0.1:9"}), secret=secret) as running:
        yield running
    with connect(migrated) as connection:
        check = check_credits(connection)
    assert check.ok, check.findings


@pytest.fixture
def user() -> str:
    return uuid.uuid4().hex


def give(settings: Settings, user: str, amount: str, tenant: str = "chat") -> None:
    with connect(settings) as connection:
        micros = Micros(int(Decimal(amount) * 1_000_000))
        run(connection, credits.grant(Owner(tenant, user), micros, by=By("tester"), key=uuid.uuid4().hex))


def stands(settings: Settings, user: str, tenant: str = "chat") -> Balance:
    with connect(settings) as connection:
        return run(connection, credits.balance(Owner(tenant, user)))


def reserve(server: Server, user: str, quantity: object = 1, **over: object) -> Answer:
    body = {
        "tenantId": "chat",
        "usageType": "CHAT",
        "sourceService": "chat",
        "sourceEntityId": uuid.uuid4().hex,
        "quantity": quantity,
        "ttlSeconds": 60,
        "userId": user,
    } | over
    return server.ask("POST", RESERVATIONS, body)


def act(server: Server, hold_id: object, what: str, body: object = None) -> Answer:
    return server.ask("POST", f"{RESERVATIONS}/{hold_id}/{what}", body)


def affords(server: Server, user: str, quantity: object) -> object:
    return server.check(tenantId="chat", usageType="CHAT", userId=user, quantity=quantity)["allowed"]


def test_what_is_held_cannot_be_spent_again_until_it_is_given_back(server: Server, migrated: Settings, user: str) -> None:
    give(migrated, user, "2.5")
    first = reserve(server, user, 6)
    assert first.status == 201, first.body
    assert (affords(server, user, 4), affords(server, user, "4.000001")) == (True, False)
    refused = reserve(server, user, "4.000001")
    assert (refused.status, refused.json["code"]) == (409, "insufficient_credits")
    assert (stands(migrated, user).balance, stands(migrated, user).held) == (1_000_000, 1_500_000)
    for _ in range(2):
        assert act(server, first.json["reservationId"], "release").status == 200
    assert (stands(migrated, user).balance, stands(migrated, user).held) == (2_500_000, 0)


def test_settling_charges_what_was_used_at_the_price_of_then_and_says_so_again(
    server: Server, migrated: Settings, user: str
) -> None:
    give(migrated, user, "2.5")
    hold_id = reserve(server, user, 6).json["reservationId"]
    with connect(migrated) as connection:
        catalog.apply(connection, parse_catalog(CATALOG.replace("0.25", "1")), by="tester")
    settled = act(server, hold_id, "settle", {"quantity": "2.000001"})
    with connect(migrated) as connection:
        catalog.apply(connection, parse_catalog(CATALOG), by="tester")
    # Rounded up: nothing is had for less than its price.
    assert (str(settled.json["creditsCharged"]), settled.json["creditsUnpaid"]) == ("0.500001", 0)
    assert act(server, hold_id, "settle", {"quantity": "2.000001"}).body == settled.body
    assert stands(migrated, user).balance == 1_999_999
    with connect(migrated) as connection:
        kept = connection.execute(
            "SELECT price FROM credit_operations WHERE hold_id = %s AND kind = 'settle'", (hold_id,)
        ).fetchone()
    assert kept == ({"usageType": "CHAT", "credits": "0.25"},)


@pytest.mark.parametrize(("tenant", "charged", "unpaid"), [("chat", "2", "0.5"), ("capped", "1", "1.5")])
def test_more_than_was_held_is_paid_as_the_plan_says_and_what_nobody_paid_is_told(
    server: Server, migrated: Settings, user: str, tenant: str, charged: str, unpaid: str
) -> None:
    give(migrated, user, "2", tenant)
    hold_id = reserve(server, user, 4, tenantId=tenant).json["reservationId"]
    settled = act(server, hold_id, "settle", {"quantity": 10})
    assert (str(settled.json["creditsCharged"]), str(settled.json["creditsUnpaid"])) == (charged, unpaid)
    assert stands(migrated, user, tenant).balance == int((2 - Decimal(charged)) * 1_000_000)


def test_an_orphan_gives_its_credits_back_and_is_paid_all_the_same_when_it_settles(
    server: Server, migrated: Settings, user: str
) -> None:
    give(migrated, user, "3")
    late, unswept = (reserve(server, user, 4).json["reservationId"] for _ in range(2))
    expired = "UPDATE holds SET created_at = created_at - interval '1 hour', expires_at = now() WHERE hold_id = %s"
    execute(migrated, [(expired, (late,))])
    with connect(migrated) as connection:
        while hold_sweeping.expire(connection, 100):
            pass
        state = connection.execute("SELECT state FROM credit_holds WHERE hold_id = %s", (late,)).fetchone()
    assert state == ("expired",)
    assert stands(migrated, user).balance == 2_000_000
    settled = act(server, late, "settle")
    assert (settled.json["expired"], settled.json["creditsCharged"]) == (True, 1)
    assert stands(migrated, user).balance == 1_000_000
    assert act(server, unswept, "settle", {"quantity": 0}).json["creditsCharged"] == 0
    assert stands(migrated, user).balance == 2_000_000


def test_a_type_that_costs_nothing_needs_no_credits_and_the_smallest_price_is_not_nothing(
    server: Server, migrated: Settings, user: str
) -> None:
    free = reserve(server, user, usageType="FREE")
    assert free.status == 201, free.body
    assert act(server, free.json["reservationId"], "settle").json["creditsCharged"] == 0
    assert reserve(server, user, usageType="PIXEL").json["code"] == "insufficient_credits"
    give(migrated, user, "0.000001")
    pixel = reserve(server, user, usageType="PIXEL").json["reservationId"]
    assert str(act(server, pixel, "settle").json["creditsCharged"]) == "0.000001"


def test_clients_race_for_credits_and_exactly_as_many_are_served_as_they_pay_for(
    server: Server, migrated: Settings, user: str
) -> None:
    give(migrated, user, "5")

    def one(number: int) -> str:
        answer = reserve(server, user, 1)
        if answer.status != 201:
            return str(answer.json["code"])
        return str(act(server, answer.json["reservationId"], "settle" if number % 2 else "release").json["state"])

    with ThreadPoolExecutor(20) as clients:
        outcomes = Counter(clients.map(one, range(60)))
    assert set(outcomes) <= {"settled", "released", "insufficient_credits"}
    assert stands(migrated, user).balance == 5_000_000 - outcomes["settled"] * 250_000
    assert stands(migrated, user).held == 0
