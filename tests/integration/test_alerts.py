"""Thresholds, from a counted total to the topic and to a receiver that answers as it likes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import psycopg
import pytest
from click.testing import CliRunner, Result
from confluent_kafka import TopicPartition
from pydantic import SecretStr

from cli.commands.alerts import command as alerts_command
from entitlements.thresholds import Thresholds
from entitlements.webhooks import Webhooks
from meterline_schemas.alert import Alert, decode_alert
from runtime import kafka, postgres
from runtime.exits import Exit, MeterlineExit
from runtime.settings import Settings
from store import alerts
from tests.fakes.pipeline import wait_until
from tests.fakes.webhook_receiver import Receiver, receiving
from tests.integration.entitlement_data import ANCHORED, TENANT, put_catalog
from tests.integration.serving import environment, execute, serving

OLD, NEW = ("whsec_" + letter * 40 for letter in "ab")


@pytest.fixture(scope="module")
def secret(migrated: Settings) -> str:
    secret, _ = put_catalog(migrated)
    execute(migrated, [("UPDATE plans SET alerts = '{80,100,120}'", ())])
    return secret


@pytest.fixture
def connection(migrated: Settings, secret: str) -> Iterator[psycopg.Connection[Any]]:
    with postgres.connect(migrated, autocommit=True) as connection:
        connection.execute("TRUNCATE usage_alerts, usage_counters, usage_totals, outbox, holds")
        connection.execute("UPDATE alert_progress SET looked_until = '-infinity'")
        yield connection


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


def told(settings: Settings, receiver: Receiver, secrets: str = OLD) -> Settings:
    return settings.model_copy(update={"alert_webhook_url": receiver.url, "alert_webhook_secrets": SecretStr(secrets)})


def looking(settings: Settings) -> Thresholds:
    return Thresholds(settings, lambda: postgres.connect(settings, autocommit=True), lambda: None)


def count(connection: psycopg.Connection[Any], usage_type: str, quantity: str, tenant: str = TENANT, days_ago: int = 0) -> None:
    """As the aggregator counts."""
    with connection.transaction():
        connection.execute(
            "INSERT INTO usage_counters AS c VALUES (%s, %s, (now() AT TIME ZONE 'UTC')::date - %s, %s, 1)"
            " ON CONFLICT (tenant_id, usage_type, day) DO UPDATE SET quantity = c.quantity + excluded.quantity",
            (tenant, usage_type, days_ago, quantity),
        )
        connection.execute(
            "INSERT INTO usage_totals AS t VALUES (%s, %s, %s, now()) ON CONFLICT (tenant_id, usage_type)"
            " DO UPDATE SET quantity = t.quantity + excluded.quantity, changed_at = excluded.changed_at",
            (tenant, usage_type, quantity),
        )


def promised(connection: psycopg.Connection[Any]) -> list[Alert]:
    rows = connection.execute("SELECT value FROM outbox ORDER BY id").fetchall()
    return [decode_alert(bytes(value)) for (value,) in rows]


def test_each_threshold_is_raised_once_as_it_is_reached(connection: psycopg.Connection[Any], migrated: Settings) -> None:
    look = looking(migrated)
    raised = []
    for quantity in ("7.999999", "0.000001", "0.5", "1.5", "5", "100"):
        count(connection, "DEEP", quantity)
        look.look(connection)
        raised.append([alert.threshold for alert in promised(connection)])
    assert raised == [[], [80], [80], [80, 100], [80, 100, 120], [80, 100, 120]]
    first = promised(connection)[0]
    assert (first.tenant_id, first.usage_type, first.used, first.limit, first.hard_stop) == (
        TENANT,
        "DEEP",
        8_000_000,
        10_000_000,
        True,
    )
    assert first.limit_period == "month"
    # Another one looks, who has seen nothing, and looks at everything: nothing is raised again.
    connection.execute("UPDATE alert_progress SET looked_until = '-infinity'")
    assert looking(migrated).look(connection) == 0


def test_every_period_of_its_own_limit_and_thresholds_of_the_plan(
    connection: psycopg.Connection[Any], migrated: Settings
) -> None:
    for tenant, usage_type, quantity in (
        (TENANT, "DAILY", "2.5"),
        (TENANT, "LIFE", "85"),
        (TENANT, "FREE", "99999"),
        (TENANT, "SOFT", "9"),
        (ANCHORED, "BILLED", "45"),
        (TENANT, "UNPLANNED", "5"),
        ("nobody", "DEEP", "50"),
    ):
        count(connection, usage_type, quantity, tenant)
    count(connection, "DAILY", "50", days_ago=1)
    looking(migrated).look(connection)
    found = {(alert.usage_type, alert.limit_period, alert.threshold) for alert in promised(connection)}
    assert found == {
        ("DAILY", "day", 80),
        ("DAILY", "day", 100),
        ("LIFE", "lifetime", 80),
        ("SOFT", "month", 80),
        ("BILLED", "billing_period", 80),
    }


def test_only_totals_that_changed_are_looked_at_and_one_that_commits_late_is_not_missed(
    connection: psycopg.Connection[Any], migrated: Settings
) -> None:
    look = looking(migrated)
    with postgres.connect(migrated) as slow:
        # Its changed_at is the time at which it began; it is seen after later ones were.
        slow.execute("SELECT")
        count(slow, "SOFT", "9")
        count(connection, "DEEP", "9")
        assert look.look(connection) == 1
        assert look.look(connection) == 0
        slow.commit()
    assert look.look(connection) == 1
    since = alerts.looked_until(connection)
    assert datetime.now(UTC) - since < timedelta(seconds=30)
    connection.execute("UPDATE usage_totals SET changed_at = now() - interval '1 day'")
    place = (since - timedelta(minutes=5), "", "")
    assert alerts.changed_since(connection, place[0], place, 10) == []


def test_many_totals_are_looked_at_page_by_page(
    connection: psycopg.Connection[Any], migrated: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("entitlements.thresholds.PAGE_ROWS", 2)
    for usage_type, quantity in (("DEEP", "9"), ("SOFT", "9"), ("LIFE", "90"), ("DAILY", "2"), ("BILLED", "45")):
        count(connection, usage_type, quantity)
    look = looking(migrated)
    assert [look.look(connection) for _ in range(4)] == [2, 2, 1, 0]


def test_two_look_at_once_and_each_alert_is_promised_once(connection: psycopg.Connection[Any], migrated: Settings) -> None:
    stop = threading.Event()
    threads = [threading.Thread(target=looking(migrated).run_until, args=(stop,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for number in range(20):
            count(connection, "DEEP", "1")
            count(connection, "LIFE", str(number))
        wait_until("they are raised", lambda: len(promised(connection)) >= 6)
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)
    raised = [alert.alert_id for alert in promised(connection)]
    assert len(raised) == len(set(raised)) == 6


class Turns:
    """The webhooks of these settings, a turn at a time, with the waits over."""

    def __init__(self, connection: psycopg.Connection[Any], settings: Settings) -> None:
        self.connection = connection
        webhooks = Webhooks.configured(settings, lambda: connection)
        assert webhooks is not None
        self._webhooks = webhooks

    def turn(self, *, when_due: bool = True) -> int:
        if when_due:
            self.connection.execute("UPDATE usage_alerts SET next_try_at = now() WHERE state = 'waiting'")
        with self._webhooks.client() as client:
            return self._webhooks.turn(self.connection, client, threading.Event())

    def states(self) -> list[tuple[str, int, str | None]]:
        return [(one.state, one.attempts, one.last_error) for one in alerts.list_alerts(self.connection, None, None, 10)]


def test_a_webhook_is_signed_and_tried_again_with_the_same_id_until_it_is_taken(
    connection: psycopg.Connection[Any], migrated: Settings, receiver: Receiver
) -> None:
    settings = told(migrated, receiver, f"{NEW},{OLD}")
    count(connection, "DEEP", "9")
    looking(settings).look(connection)
    receiver.answers += [500, 0, 302, 429]
    turns = Turns(connection, settings)
    for _ in range(4):
        assert turns.turn() == 1
        ((state, _, error),) = turns.states()
        assert (state, error is None) == ("waiting", False)
        # Its time has not come: nothing is tried.
        assert turns.turn(when_due=False) == 0
    assert turns.turn() == 1
    assert turns.states() == [("delivered", 5, None)]
    assert turns.turn() == 0
    (alert,) = promised(connection)
    assert {post.message_id for post in receiver.posts} == {str(alert.alert_id)}
    assert len({post.body for post in receiver.posts}) == 1
    assert len(receiver.posts) == 5
    for post in receiver.posts:
        assert post.signed_with(OLD)
        assert post.signed_with(NEW)
        assert not post.signed_with("whsec_" + "c" * 40)
        assert abs(post.timestamp - datetime.now(UTC).timestamp()) < 60
    said = receiver.posts[0].json
    assert (said["type"], said["data"]["alertId"], said["data"]["used"]) == ("usage.threshold_reached", str(alert.alert_id), "9")
    assert said["timestamp"] == said["data"]["raisedAt"]


def test_who_is_gone_or_never_takes_it_is_given_up_and_can_be_told_again(
    connection: psycopg.Connection[Any], migrated: Settings, receiver: Receiver
) -> None:
    settings = told(migrated, receiver)
    count(connection, "DEEP", "9")
    looking(settings).look(connection)
    turns = Turns(connection, settings)
    receiver.answers += [410]
    turns.turn()
    assert turns.states() == [("dead", 1, "the receiver answered 410")]
    assert command(settings, "replay", "--dead").output.startswith("1 to be posted")
    receiver.answers += [503] * 12
    for _ in range(12):
        assert turns.turn() == 1
    assert turns.states() == [("dead", 12, "the receiver answered 503")]
    assert turns.turn() == 0
    (shown,) = json.loads(command(settings, "list", "--state", "dead", "--json").output)["alerts"]
    assert (shown["state"], shown["attempts"], shown["tenantId"], shown["used"]) == ("dead", 12, TENANT, "9")
    assert "the receiver answered 503" in command(settings, "list").output
    assert command(settings, "replay", shown["alertId"]).exit_code == 0
    turns.turn()
    assert turns.states() == [("delivered", 1, None)]
    assert connection.execute("SELECT count(*) FROM audit WHERE what = 'alerts.replayed'").fetchone() == (2,)
    assert command(settings, "replay").exit_code == 2
    nowhere = command(settings, "replay", "00000000-0000-0000-0000-000000000000").exception
    assert isinstance(nowhere, MeterlineExit)
    assert nowhere.code is Exit.FAILED


def command(settings: Settings, *arguments: str) -> Result:
    return CliRunner().invoke(alerts_command, arguments, env=environment(settings))


def test_what_a_killed_server_had_taken_is_told_by_another(
    connection: psycopg.Connection[Any], migrated: Settings, receiver: Receiver
) -> None:
    """Between the record and the webhook: it is taken and committed so, and then its process is gone."""
    settings = told(migrated, receiver)
    count(connection, "DEEP", "9")
    looking(settings).look(connection)
    with connection.transaction():
        (taken,) = alerts.take_due(connection, 10)
    turns = Turns(connection, settings)
    assert turns.turn(when_due=False) == 0
    connection.execute("UPDATE usage_alerts SET next_try_at = next_try_at - %s", (alerts.LEASE,))
    assert turns.turn(when_due=False) == 1
    assert turns.states() == [("delivered", 2, None)]
    assert [post.message_id for post in receiver.posts] == [str(taken.alert_id)]


def test_a_server_tells_the_topic_and_the_receiver(
    connection: psycopg.Connection[Any], migrated: Settings, receiver: Receiver, secret: str
) -> None:
    with serving(told(migrated, receiver), secret=secret):
        count(connection, "DEEP", "12")
        wait_until("the receiver has them", lambda: len({post.message_id for post in receiver.posts}) == 3)
        wait_until("they are sent", lambda: connection.execute("SELECT FROM outbox WHERE sent_at IS NULL").fetchone() is None)
    reader = kafka.consumer(migrated, **{"group.id": "alerts", "auto.offset.reset": "earliest", "enable.partition.eof": False})
    reader.assign([TopicPartition(migrated.topic_alerts, 0, 0)])
    records = [reader.poll(20.0) for _ in range(3)]
    reader.close()
    read = []
    for record in records:
        assert record is not None
        value = record.value()
        assert value is not None
        assert record.key() == TENANT.encode()
        assert ("schema-version", b"1") in (record.headers() or [])
        read.append(decode_alert(value))
    assert [alert.threshold for alert in read] == [80, 100, 120]
    assert {str(alert.alert_id) for alert in read} == {post.message_id for post in receiver.posts}


def test_the_client_goes_nowhere_else(connection: psycopg.Connection[Any], migrated: Settings, receiver: Receiver) -> None:
    webhooks = Webhooks.configured(told(migrated, receiver), lambda: connection)
    assert webhooks is not None
    assert Webhooks.configured(migrated, lambda: connection) is None
    receiver.answers += [307]
    with webhooks.client() as client:
        assert client.post(receiver.url, content=b"{}", headers=_SOME).status_code == 307
        assert client.timeout == httpx.Timeout(5.0)
    assert len(receiver.posts) == 1


_SOME = {"webhook-id": "i", "webhook-timestamp": "1", "webhook-signature": "v1,x"}
