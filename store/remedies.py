"""Errors of the three servers turned into exits that say what to do. Passwords never enter a message."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import psycopg
from confluent_kafka import KafkaError, KafkaException
from psycopg.conninfo import conninfo_to_dict

from runtime import postgres
from runtime.exits import Exit, MeterlineExit
from runtime.settings import Settings

_MESSAGE_MAX = 400


def one_line(error: object) -> str:
    """An error's text as one line of bounded length."""
    message = " ".join(str(error).split()) or type(error).__name__
    return message if len(message) <= _MESSAGE_MAX else message[:_MESSAGE_MAX] + "..."


def postgres_away(settings: Settings, error: object) -> MeterlineExit:
    """Postgres cannot be used."""
    parts = conninfo_to_dict(postgres.conninfo(settings))
    where = f"{parts.get('host', 'localhost')}:{parts.get('port', 5432)}"
    return MeterlineExit(
        Exit.UNREACHABLE,
        f"Postgres at {where} cannot be used: {one_line(error)}; "
        "start it (`meterline migrate` creates a database that is absent), or set METERLINE_POSTGRES_URL to one that runs",
    )


def clickhouse_away(settings: Settings, error: object) -> MeterlineExit:
    """ClickHouse does not answer."""
    url = urlsplit(settings.clickhouse_url)
    return MeterlineExit(
        Exit.UNREACHABLE,
        f"ClickHouse at {url.hostname}:{url.port or 8123} does not answer: {one_line(error)}; "
        "start it, or set METERLINE_CLICKHOUSE_URL to one that runs",
    )


def kafka_away(settings: Settings, error: object) -> MeterlineExit:
    """No broker answers."""
    return MeterlineExit(
        Exit.UNREACHABLE,
        f"Kafka at {settings.kafka_url} does not answer: {one_line(error)}; "
        "start it, or set METERLINE_KAFKA_URL to one that runs",
    )


@contextmanager
def postgres_answers(settings: Settings) -> Iterator[None]:
    """For commands: Postgres away, or without its schema, ends the process with the remedy."""
    try:
        yield
    except psycopg.errors.UndefinedTable as error:
        raise MeterlineExit(Exit.FAILED, f"Postgres lacks a table ({one_line(error)}); run `meterline migrate` first") from error
    except psycopg.errors.QueryCanceled as error:
        raise MeterlineExit(
            Exit.FAILED, f"Postgres took too long ({one_line(error)}); another run may hold its lock: wait for it and run again"
        ) from error
    except psycopg.OperationalError as error:
        raise postgres_away(settings, error) from error


@contextmanager
def kafka_answers(settings: Settings) -> Iterator[None]:
    """For commands: what Kafka refuses ends the process with the remedy."""
    try:
        yield
    except KafkaException as error:
        reason = error.args[0]
        code = reason.code() if isinstance(reason, KafkaError) else None
        if code in (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED):
            raise MeterlineExit(
                Exit.SETTINGS, f"Kafka does not let this user do that ({reason}); grant Create, Alter, Describe, DescribeConfigs"
            ) from error
        if code == KafkaError.INVALID_REPLICATION_FACTOR:
            raise MeterlineExit(
                Exit.SETTINGS,
                f"Kafka has too few brokers ({reason}); set METERLINE_TOPIC_REPLICATION lower than {settings.topic_replication}",
            ) from error
        if code in (KafkaError.INVALID_CONFIG, KafkaError.POLICY_VIOLATION):
            raise MeterlineExit(
                Exit.SETTINGS, f"Kafka refuses a topic's settings ({reason}); ask who runs the brokers"
            ) from error
        raise kafka_away(settings, reason) from error
