"""ClickHouse by its HTTP interface, with the settings that exactness needs on every connection."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

import clickhouse_connect
from clickhouse_connect.driver.client import Client

from runtime.settings import Settings, SettingsError

DURABLE_INSERT = {
    # Answer an insert only when the part is written; a block is never set aside to be written later.
    "async_insert": 0,
    "wait_end_of_query": 1,
    # With replicas: acknowledged by a quorum, read in sequence, forwarded to the shard before the answer.
    "insert_quorum_parallel": 0,
    "select_sequential_consistency": 1,
    "distributed_foreground_insert": 1,
}


def database(settings: Settings) -> str:
    """The database that the URL names. Raises SettingsError when it names none."""
    name = unquote(urlsplit(settings.clickhouse_url).path.strip("/"))
    if not name or "/" in name:
        raise SettingsError("METERLINE_CLICKHOUSE_URL: name one database, as in http://localhost:8123/meterline")
    return name


def client(settings: Settings, *, in_database: bool = True, timeout_s: float | None = None) -> Client:
    """A connected client; one a thread. Raises clickhouse_connect's OperationalError when the server is away.

    `in_database=False` connects to the server's default database, for the one caller that creates ours.
    """
    url = urlsplit(settings.clickhouse_url)
    username = unquote(url.username) if url.username else settings.clickhouse_user
    password = unquote(url.password) if url.password else settings.clickhouse_password.get_secret_value()
    name = database(settings) if in_database else "default"
    return _connected(settings, username, password, name, timeout_s or settings.clickhouse_timeout_s, DURABLE_INSERT)


def reader(settings: Settings, *, timeout_s: float) -> Client:
    """A connected client of the user who may only read, or of the other one where none is set; one a thread. Raises as `client`.

    It sends no settings: such a user may not be allowed to change any.
    """
    if settings.clickhouse_read_user is None:
        return client(settings, timeout_s=timeout_s)
    password = settings.clickhouse_read_password.get_secret_value()
    return _connected(settings, settings.clickhouse_read_user, password, database(settings), timeout_s, {})


def _connected(
    settings: Settings, username: str, password: str, name: str, wait_s: float, query_settings: dict[str, int]
) -> Client:
    url = urlsplit(settings.clickhouse_url)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise SettingsError("METERLINE_CLICKHOUSE_URL: want http(s)://host:port/database")
    return clickhouse_connect.get_client(
        interface=url.scheme,
        host=url.hostname,
        port=url.port or (8443 if url.scheme == "https" else 8123),
        username=username,
        password=password,
        database=name,
        ca_cert=str(settings.clickhouse_ca_file) if settings.clickhouse_ca_file else None,
        connect_timeout=wait_s,
        send_receive_timeout=wait_s,
        query_retries=0,
        compress=False,
        autogenerate_session_id=False,
        settings=query_settings,
    )
