"""Postgres as root and not, in open folders and closed ones, over TLS, and back after a kill."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trustme

from deploy.embedded.errors import EmbeddedError
from deploy.embedded.postgres import Postgres, forget
from deploy.embedded.tls_front import TlsFront


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A server of its own for this file, because it is killed here."""
    home = tmp_path_factory.mktemp("postgres") / "postgres"
    postgres = Postgres(home, log=print)
    postgres.start()
    yield postgres
    postgres.stop()
    forget(home)


def _one(url: str, sql: str, **over: Any) -> object:
    with psycopg.connect(url, connect_timeout=10, autocommit=True, **over) as connection:
        row = connection.execute(sql.encode()).fetchone()
    assert row is not None
    return row[0]


def test_it_is_the_real_thing_with_a_locale_that_is_everywhere(server: Postgres) -> None:
    assert str(_one(server.url, "SELECT version()")).startswith("PostgreSQL 18.")
    assert _one(server.url, "SELECT datlocale FROM pg_database WHERE datname = 'postgres'") == "C.UTF-8"


def test_nobody_gets_in_without_the_password(server: Postgres) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(server.url, password="guess", connect_timeout=10)
    assert _one(server.url, "SELECT left(rolpassword, 13) FROM pg_authid WHERE rolname = current_user") == "SCRAM-SHA-256"


def test_what_was_committed_survives_a_kill_and_the_port_stays(server: Postgres) -> None:
    url = server.url
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n")
        server.kill()
    server.start()
    assert server.url == url
    assert _one(url, "SELECT count(*) FROM kept") == 1000


def test_a_number_in_the_pid_file_that_is_another_program_now_does_not_stop_it(server: Postgres) -> None:
    place = Path(str(_one(server.url, "SHOW data_directory")))
    lines = (place / "postmaster.pid").read_text().split("\n")
    server.kill()
    # A machine that went down and came up again: the number belongs to some process of the same user.
    (place / "postmaster.pid").write_text("\n".join([str(os.getpid()), *lines[1:]]))
    server.start()
    assert _one(server.url, "SELECT 1") == 1


def test_a_start_that_was_cut_short_is_begun_anew(tmp_path: Path) -> None:
    home = tmp_path / "postgres"
    (home / "data" / "base").mkdir(parents=True)
    (home / "data" / "PG_VERSION").write_text("18\n")
    postgres = Postgres(home, log=print, durable=False)
    try:
        postgres.start()
        assert _one(postgres.url, "SHOW fsync") == "off"
    finally:
        postgres.stop()
        forget(home)


def test_it_runs_where_other_users_cannot_look_and_leaves_nothing_behind() -> None:
    # mkdtemp closes its folder (0700). As root Postgres is another user, who cannot enter it.
    closed = Path(tempfile.mkdtemp())
    home = closed / "postgres"
    said: list[str] = []
    postgres = Postgres(home, log=said.append, durable=False)
    try:
        postgres.start()
        place = Path(str(_one(postgres.url, "SHOW data_directory")))
        inside = place.is_relative_to(closed)
        assert inside == (os.geteuid() != 0)
        assert bool(said) == (not inside)
        postgres.stop()
        postgres.start()
        assert Path(str(_one(postgres.url, "SHOW data_directory"))) == place
        postgres.stop()
        forget(home)
        assert not place.exists()
    finally:
        postgres.stop()
        forget(home)
        shutil.rmtree(closed)


def test_data_that_was_cleaned_away_is_not_silently_begun_anew(tmp_path: Path) -> None:
    home = tmp_path / "postgres"
    home.mkdir()
    (home / "initialised").touch()
    with pytest.raises(EmbeddedError, match=r"has gone.*Remedy: remove"):
        Postgres(home, log=print).start()


def test_a_client_that_insists_on_tls_gets_it(server: Postgres, tmp_path: Path) -> None:
    ca = trustme.CA()
    issued = ca.issue_cert("127.0.0.1")
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    issued.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "server.pem"))
    front = TlsFront(tmp_path, to_port=server.port, certificate=tmp_path / "server.pem", key=tmp_path / "server.pem")
    front.start()
    try:
        over: dict[str, Any] = {"port": str(front.port), "sslmode": "verify-full", "sslrootcert": str(tmp_path / "ca.pem")}
        # Large both ways, so that the flow is held back on the way.
        assert _one(server.url, "SELECT length(repeat('x', 30000000))", **over) == 30_000_000
        assert len(str(_one(server.url, "SELECT repeat('x', 30000000)", **over))) == 30_000_000
        with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
            psycopg.connect(server.url, **(over | {"sslrootcert": "system"}), connect_timeout=10)
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(server.url, port=front.port, sslmode="disable", connect_timeout=10)
    finally:
        front.stop()
