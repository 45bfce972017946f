"""Service secrets: shown once, kept as a hash, two at a time."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from runtime import postgres
from runtime.settings import Settings
from store.migrate import migrate_postgres
from store.service_secrets import PREFIX, TooManySecrets, create, retire, revoke, secret_hash, verify


@pytest.fixture(scope="module")
def schema(settings: Settings) -> Settings:
    migrate_postgres(settings)
    return settings


@pytest.fixture
def connection(schema: Settings) -> Iterator[psycopg.Connection[Any]]:
    with postgres.connect(schema, autocommit=True) as connection:
        connection.execute("TRUNCATE service_secrets, audit")
        yield connection


def test_a_secret_is_known_by_its_hash_only(connection: psycopg.Connection[Any]) -> None:
    with connection.transaction():
        secret = create(connection, "worker", ["analysis-worker"])
    assert secret.startswith(PREFIX)
    assert len(secret) >= len(PREFIX) + 43
    assert connection.execute("SELECT secret_hash FROM service_secrets").fetchall() == [(secret_hash(secret),)]
    (dump,) = connection.execute("SELECT string_agg(t::text, ' ') FROM (SELECT * FROM audit) t").fetchone() or ("",)
    assert secret not in dump
    found = verify(connection, secret)
    assert found is not None
    assert found.name == "worker"
    assert found.may_emit_for("analysis-worker")
    assert not found.may_emit_for("another")


@pytest.mark.parametrize("wrong", ["", "mls_", "x", "mls_" + "A" * 43])
def test_a_wrong_secret_is_nobodys(connection: psycopg.Connection[Any], wrong: str) -> None:
    create(connection, "worker", ["*"])
    assert verify(connection, wrong) is None


def test_a_star_emits_for_every_service(connection: psycopg.Connection[Any]) -> None:
    found = verify(connection, create(connection, "gateway", ["*"]))
    assert found is not None
    assert found.may_emit_for("anything")


def test_a_rotation_has_two_valid_secrets_and_a_third_is_refused(connection: psycopg.Connection[Any]) -> None:
    old = create(connection, "worker", ["w"])
    new = create(connection, "worker", ["w"])
    assert verify(connection, old) is not None
    assert verify(connection, new) is not None
    with pytest.raises(TooManySecrets, match="retire the older one first"):
        create(connection, "worker", ["w"])
    assert retire(connection, "worker") == 1
    assert verify(connection, old) is None
    assert verify(connection, new) is not None
    third = create(connection, "worker", ["w"])
    assert verify(connection, third) is not None


def test_a_retired_secret_works_until_its_time_and_the_end_is_never_moved_out(connection: psycopg.Connection[Any]) -> None:
    old = create(connection, "worker", ["w"])
    create(connection, "worker", ["w"])
    assert retire(connection, "worker", after=timedelta(hours=1)) == 1
    assert verify(connection, old) is not None
    assert retire(connection, "worker", after=timedelta(hours=2)) == 0
    assert retire(connection, "worker") == 1
    assert verify(connection, old) is None


def test_a_revoked_service_has_no_valid_secret(connection: psycopg.Connection[Any]) -> None:
    secrets = [create(connection, "worker", ["w"]), create(connection, "worker", ["w"])]
    other = create(connection, "other", ["o"])
    assert revoke(connection, "worker") == 2
    assert [verify(connection, secret) for secret in secrets] == [None, None]
    assert verify(connection, other) is not None


def test_several_made_at_once_are_two_at_most(connection: psycopg.Connection[Any], schema: Settings) -> None:
    def one(_: int) -> bool:
        with postgres.connect(schema) as own:
            try:
                create(own, "worker", ["w"])
            except TooManySecrets:
                return False
            return True

    with ThreadPoolExecutor(6) as threads:
        assert sum(threads.map(one, range(6))) == 2


@pytest.mark.parametrize(("name", "services"), [("", ["a"]), ("a b", ["a"]), ("a" * 101, ["a"]), ("a", []), ("a", [""])])
def test_a_secret_without_a_proper_name_or_scope_is_refused(
    connection: psycopg.Connection[Any], name: str, services: list[str]
) -> None:
    with pytest.raises(ValueError, match=r"want a name|name the source services"):
        create(connection, name, services)


def test_who_made_and_ended_a_secret_is_audited(connection: psycopg.Connection[Any]) -> None:
    create(connection, "worker", ["w"], by="anna")
    revoke(connection, "worker", by="bert")
    assert connection.execute("SELECT who, what, subject FROM audit ORDER BY id").fetchall() == [
        ("anna", "service_secret.created", "worker"),
        ("bert", "service_secret.revoked", "worker"),
    ]
