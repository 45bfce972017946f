"""The embedded stack as the tests of this run use it."""

from __future__ import annotations

from urllib.parse import urlsplit

import psycopg
from confluent_kafka.admin import AdminClient

from deploy.embedded.stack import StackAddresses
from runtime.settings import Settings
from tests.running_stack import clickhouse_query


def test_every_server_tells_its_own_version(stack: StackAddresses) -> None:
    assert stack.versions["kafka"].startswith("apache-4.3.")
    assert stack.versions["postgres"].startswith("18.")
    assert clickhouse_query(stack, "SELECT version()").strip() == stack.versions["clickhouse"]


def test_the_broker_takes_requests(stack: StackAddresses) -> None:
    metadata = AdminClient({"bootstrap.servers": stack.kafka}).list_topics(timeout=10)
    assert [f"{broker.host}:{broker.port}" for broker in metadata.brokers.values()] == [stack.kafka]


def test_a_module_has_databases_of_its_own(stack: StackAddresses, settings: Settings) -> None:
    with psycopg.connect(settings.postgres_url.get_secret_value()) as connection:
        row = connection.execute("SELECT current_database()").fetchone()
    assert row is not None
    database = urlsplit(settings.clickhouse_url).path.strip("/")
    assert database == row[0]
    assert clickhouse_query(stack, f"SELECT count() FROM system.databases WHERE name = '{database}'").strip() == "1"


def test_migrations_and_topics_apply_to_a_fresh_corner(migrated: Settings) -> None:
    admin = AdminClient({"bootstrap.servers": migrated.kafka_url})
    assert migrated.topic_events in admin.list_topics(timeout=10).topics
