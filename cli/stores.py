"""Postgres and ClickHouse for the length of a command; a server that is away ends it with the remedy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from psycopg import Connection
from urllib3.exceptions import HTTPError

from runtime import clickhouse, postgres
from runtime.exits import Exit, MeterlineExit
from runtime.settings import Settings
from store.remedies import clickhouse_away, one_line, postgres_answers

_NO_TABLE = ("UNKNOWN_TABLE", "UNKNOWN_DATABASE")


@contextmanager
def clickhouse_answers(settings: Settings) -> Iterator[None]:
    """ClickHouse away, or without its schema, ends the process with the remedy."""
    try:
        yield
    except ClickHouseError as error:
        if any(name in str(error) for name in _NO_TABLE):
            raise MeterlineExit(
                Exit.FAILED, f"ClickHouse lacks a table ({one_line(error)}); run `meterline migrate` first"
            ) from error
        raise clickhouse_away(settings, error) from error
    except HTTPError as error:
        raise clickhouse_away(settings, error) from error


@contextmanager
def clickhouse_client(settings: Settings) -> Iterator[Client]:
    """A client, closed at the end."""
    with clickhouse_answers(settings):
        client = clickhouse.client(settings)
        try:
            yield client
        finally:
            client.close()


@contextmanager
def both_stores(settings: Settings) -> Iterator[tuple[Connection[Any], Client]]:
    """A connection, whose transaction commits at the end, and a client."""
    with postgres_answers(settings), clickhouse_client(settings) as client, postgres.connect(settings) as connection:
        yield connection, client
