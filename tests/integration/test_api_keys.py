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
from runtime.sealing import Unopenable
from runtime.settings import Settings, SettingsError
from store import service_secrets
from store.api_key_secrets import not_kept, rotate, secret_of
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


def test_an_issued_key_is_verified_and_kept_as_a_keyed_hash_and_sealed_only(connection: psycopg.Connection[Any]) -> None:
    issued = issue(connection, KEYS, "a", "ci")
    assert has_the_form(issued.key)
    found = verify(connection, KEYS, issued.key)
    assert found is not None
    assert (found.key_id, found.tenant_id, found.name, found.source_services) == (issued.key_id, "a", "ci", frozenset({"a"}))
    assert verify(connection, KEYS, "sk_" + "0" * 32) is None
    assert verify(connection, keyring_of("another secret that did not make it"), issued.key) is None
    for table in ("api_keys", "api_key_secrets", "audit"):
        rows = connection.execute(f"SELECT {table}::text FROM {table}".encode()).fetchall()
        assert not any(issued.key[7:] in row for (row,) in rows)


def test_a_key_is_found_after_the_secret_was_rotated(connection: psycopg.Connection[Any]) -> None:
    issued = issue(connection, KEYS, "a", "before")
    rotated = keyring_of("a newer secret of this test", "the first secret of this test")
    assert verify(connection, rotated, issued.key)
    assert verify(connection, KEYS, issue(connection, rotated, "a", "after").key) is None


def test_rotating_seals_and_keeps_every_key_anew_batch_by_batch_and_no_key_stops_working(
    connection: psycopg.Connection[Any],
) -> None:
    old, both = (
        keyring_of("the secret before a rotation"),
        keyring_of("the secret after a rotation", "the secret before a rotation"),
    )
    new = keyring_of("the secret after a rotation")
    connection.execute("INSERT INTO tenants (tenant_id) VALUES ('r')")
    issued = [issue(connection, old, "r", f"key {number}") for number in range(5)]
    others = connection.execute("SELECT count(*) FROM api_key_secrets").fetchone()
    assert others is not None

    with connection.transaction():
        cut = rotate(connection, both, "", 2, "test")  # as if the run ended here
    assert cut.after is not None
    for keys in (old, both):
        assert all(verify(connection, keys, one.key) for one in issued), "some are rotated, some are not, all work"
    after: str | None = ""
    resealed = cut.resealed
    while after is not None:
        with connection.transaction():
            batch = rotate(connection, both, after, 2, "test")
        after, resealed = batch.after, resealed + batch.resealed
    assert resealed == 5
    for keys in (old, both, new):
        assert all(verify(connection, keys, one.key) for one in issued), "servers go over to the new secret in any order"
    for one in issued:
        kept = secret_of(connection, "r", one.secret_id)
        assert kept is not None
        assert kept.opened(new) == one.key
    assert rotate(connection, both, "", 100, "test").resealed == 0


def test_a_key_under_a_secret_that_is_gone_is_told_of_and_left_alone(connection: psycopg.Connection[Any]) -> None:
    connection.execute("INSERT INTO tenants (tenant_id) VALUES ('gone')")
    issued = issue(connection, keyring_of("a secret that somebody lost"), "gone", "x")
    with connection.transaction():
        batch = rotate(connection, keyring_of("a secret that has just been made"), "", 1_000, "test")
    assert issued.secret_id in batch.unopenable
    assert verify(connection, keyring_of("a secret that somebody lost"), issued.key)


def test_a_sealed_key_opens_for_its_own_tenant_and_secret_only(connection: psycopg.Connection[Any]) -> None:
    connection.execute("INSERT INTO tenants (tenant_id) VALUES ('s')")
    issued, other = issue(connection, KEYS, "a", "mine"), issue(connection, KEYS, "s", "theirs")
    assert secret_of(connection, "s", issued.secret_id) is None
    connection.execute(
        "UPDATE api_key_secrets AS t SET nonce = s.nonce, ciphertext = s.ciphertext, sealed_by = s.sealed_by"
        " FROM api_key_secrets AS s WHERE t.secret_id = %s AND s.secret_id = %s",
        (other.secret_id, issued.secret_id),
    )
    copied = secret_of(connection, "s", other.secret_id)
    assert copied is not None
    with pytest.raises(Unopenable):
        copied.opened(KEYS)
    revoke(connection, issued.key_id)
    assert secret_of(connection, "a", issued.secret_id) is None
    assert connection.execute("SELECT FROM api_key_secrets WHERE secret_id = %s", (issued.secret_id,)).fetchone() is None


def test_when_a_key_was_used_is_noted_once_a_minute_at_most(connection: psycopg.Connection[Any]) -> None:
    issued = issue(connection, KEYS, "a", "used")

    def used_at() -> Any:
        return connection.execute("SELECT last_used_at, xmin::text FROM api_keys WHERE key_id = %s", (issued.key_id,)).fetchone()

    assert used_at()[0] is None
    verify(connection, KEYS, issued.key)
    first = used_at()
    assert first[0] is not None
    for _ in range(5):
        verify(connection, KEYS, issued.key)
    assert used_at() == first, "the row was not written again"
    connection.execute("UPDATE api_keys SET last_used_at = now() - interval '61 seconds' WHERE key_id = %s", (issued.key_id,))
    verify(connection, KEYS, issued.key)
    assert used_at()[0] > first[0]
    revoke(connection, issued.key_id)
    ended = used_at()
    verify(connection, KEYS, issued.key)
    assert used_at() == ended, "a revoked key is not used"


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

    kept = issue(connection, keyring_of("the first secret of this test"), "c", "kept")
    configured["METERLINE_SECRET_ENCRYPT_KEY"] = "the second secret of this test,the first secret of this test"
    connection.execute("DELETE FROM api_keys k WHERE NOT EXISTS (SELECT FROM api_key_secrets s WHERE s.key_id = k.key_id)")
    connection.execute("DELETE FROM api_key_secrets WHERE key_id <> %s", (kept.key_id,))
    connection.execute("DELETE FROM api_keys WHERE key_id <> %s", (kept.key_id,))
    assert run("rotate") == "1 keys are sealed anew with the newest secret"
    assert run("rotate") == "0 keys are sealed anew with the newest secret"
    assert verify(connection, keyring_of("the second secret of this test"), kept.key)
    connection.execute("DELETE FROM api_key_secrets")
    assert not_kept(connection) == [(kept.key_id, "c")]
    ran = CliRunner().invoke(command, ["rotate"], env=configured)
    assert kept.key_id in str(ran.exception)
