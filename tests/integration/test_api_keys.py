"""API keys in the table and on the command line."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner
from pydantic import SecretStr

from cli.commands.keys import command
from runtime.keyring import Keyring, keyring
from runtime.postgres import connect
from runtime.settings import Settings, SettingsError
from store import service_secrets
from store.api_keys import KeyRefused, has_the_form, issue, of_tenant, revoke, verify
from tests.integration.serving import environment


def keyring_of(*secrets: str) -> Keyring:
    found = keyring(Settings(secret_encrypt_key=SecretStr(",".join(secrets))))
    assert found is not None
    return found


KEYS = keyring_of("the first secret of this test")


@pytest.fixture(scope="module")
def connection(migrated: Settings) -> Iterator[psycopg.Connection[Any]]:
    with connect(migrated, autocommit=True) as opened:
        opened.execute("INSERT INTO tenants (tenant_id) VALUES ('a'), ('b')")
        yield opened


def test_an_issued_key_is_verified_and_kept_as_a_keyed_hash_only(connection: psycopg.Connection[Any]) -> None:
    issued = issue(connection, KEYS, "a", "ci")
    assert has_the_form(issued.key)
    found = verify(connection, KEYS, issued.key)
    assert found is not None
    assert (found.key_id, found.tenant_id, found.name, found.source_services) == (issued.key_id, "a", "ci", frozenset({"a"}))
    assert verify(connection, KEYS, "sk_" + "0" * 32) is None
    assert verify(connection, keyring_of("another secret that did not make it"), issued.key) is None
    for table in ("api_keys", "audit"):
        rows = connection.execute(f"SELECT {table}::text FROM {table}".encode()).fetchall()
        assert not any(issued.key[7:] in row for (row,) in rows)


def test_a_key_is_found_after_the_secret_was_rotated(connection: psycopg.Connection[Any]) -> None:
    issued = issue(connection, KEYS, "a", "before")
    rotated = keyring_of("a newer secret of this test", "the first secret of this test")
    assert verify(connection, rotated, issued.key)
    assert verify(connection, KEYS, issue(connection, rotated, "a", "after").key) is None


def test_a_revoked_or_expired_key_is_none_any_more(connection: psycopg.Connection[Any]) -> None:
    issued = issue(connection, KEYS, "a", "short")
    assert revoke(connection, issued.key_id)
    assert not revoke(connection, issued.key_id)
    assert verify(connection, KEYS, issued.key) is None
    expired = issue(connection, KEYS, "a", "old", expires_at=datetime.now(UTC) - timedelta(seconds=1))
    assert verify(connection, KEYS, expired.key) is None


def test_a_source_service_belongs_to_one_tenant_for_good(connection: psycopg.Connection[Any]) -> None:
    service_secrets.create(connection, "photos", ["analysis-worker"])
    issued = issue(connection, KEYS, "a", "own", ["a-worker", "a"])
    revoke(connection, issued.key_id)
    for sources in (["a-worker"], ["analysis-worker"], ["a"], ["*"], ["fine", "a-worker"]):
        with pytest.raises(KeyRefused, match="not this tenant's alone"):
            issue(connection, KEYS, "b", "theirs", sources)
    with pytest.raises(ValueError, match="a-worker"):
        service_secrets.create(connection, "late", ["a-worker"])
    issue(connection, KEYS, "b", "own", ["fine"])
    assert [key.name for key in of_tenant(connection, "b")] == ["own"]


def test_a_key_of_no_tenant_or_without_a_name_is_refused(connection: psycopg.Connection[Any]) -> None:
    with pytest.raises(KeyRefused, match="no tenant"):
        issue(connection, KEYS, "nobody", "x")
    with pytest.raises(KeyRefused, match="name"):
        issue(connection, KEYS, "a", "x\n")


@pytest.mark.parametrize("secret", ["short", "long enough, I think,no", ",".join(["0123456789abcdef"] * 5)])
def test_a_keyring_of_bad_secrets_is_refused(secret: str) -> None:
    with pytest.raises(SettingsError, match="METERLINE_SECRET_ENCRYPT_KEY"):
        keyring_of(secret)


def test_the_command_issues_lists_and_revokes(migrated: Settings, connection: psycopg.Connection[Any]) -> None:
    configured = environment(migrated) | {"METERLINE_SECRET_ENCRYPT_KEY": "the first secret of this test"}

    def run(*arguments: str) -> str:
        ran = CliRunner().invoke(command, arguments, env=configured, catch_exceptions=False)
        assert ran.exit_code == 0, ran.output
        return ran.output.strip()

    connection.execute("INSERT INTO tenants (tenant_id) VALUES ('c')")
    key = run("issue", "c", "--name", "ci", "--emits-for", "c-worker", "--expires-in-days", "30")
    found = verify(connection, KEYS, key)
    assert found is not None
    listed = run("list", "c")
    assert found.key_id in listed
    assert "c-worker" in listed
    assert key not in listed
    assert "ended" in run("revoke", found.key_id)
    assert "revoked" in run("list", "c")
