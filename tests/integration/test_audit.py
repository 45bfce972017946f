"""The audit trail: each tenant's admin reads its own part, and nobody takes anything out of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import psycopg
import pytest
from pydantic import SecretStr

from runtime import postgres
from runtime.settings import Settings
from store.audit import Entry, record
from store.migrate import migrate_postgres
from tests.fakes.control_plane_server import control_plane_served
from tests.fakes.tokens import USER_SECRET, user_token

ROLE = "meterline_app_of_the_audit_test"


@pytest.fixture(scope="module")
def configured(migrated: Settings) -> Settings:
    return migrated.model_copy(update={"jwt_access_secret": SecretStr(USER_SECRET), "postgres_app_role": ROLE})


@pytest.fixture(scope="module")
def connection(configured: Settings) -> Iterator[psycopg.Connection[Any]]:
    with postgres.connect(configured, autocommit=True) as connection:
        connection.execute("INSERT INTO tenants (tenant_id) VALUES ('t1'), ('t2')")
        for number in range(5):
            record(connection, f"user:{number}", [Entry("thing.changed", str(number), {"n": 1}, {"n": 2}, "t1")], f"req-{number}")
        record(
            connection, "user:9", [Entry("thing.changed", "secret of t2", tenant_id="t2"), Entry("rules.activated", "epoch 1")]
        )
        yield connection


@pytest.fixture(scope="module")
def client(configured: Settings, connection: psycopg.Connection[Any]) -> Iterator[httpx.Client]:
    with control_plane_served(configured) as client:
        yield client


def bearer(role: str, tenant: str = "t1") -> dict[str, str]:
    return {"Authorization": f"Bearer {user_token(f'{role}-of-{tenant}', role=role, tenantId=tenant)}"}


def test_an_admin_pages_through_its_tenants_part_newest_first_and_sees_no_other(client: httpx.Client) -> None:
    seen, cursor = [], ""
    while True:
        answered = client.get("/api/audit", params={"limit": 2, "cursor": cursor}, headers=bearer("admin")).json()
        seen += answered["data"]
        cursor = answered["page"]["nextCursor"]
        if cursor is None:
            break
    assert [entry["subject"] for entry in seen] == ["4", "3", "2", "1", "0"]
    newest = {name: value for name, value in seen[0].items() if name not in ("id", "at")}
    assert newest == {
        "who": "user:4",
        "what": "thing.changed",
        "subject": "4",
        "organization_id": "t1",
        "before": {"n": 1},
        "after": {"n": 2},
        "request_id": "req-4",
    }


def test_another_tenants_part_is_not_there_and_a_user_may_not_look(client: httpx.Client) -> None:
    assert client.get("/api/audit", params={"organization_id": "t2"}, headers=bearer("admin")).status_code == 404
    assert client.get("/api/audit", headers=bearer("user")).status_code == 403
    assert client.get("/api/audit").status_code == 401
    assert client.get("/api/audit", params={"cursor": "nonsense"}, headers=bearer("admin")).status_code == 400


@pytest.mark.parametrize("statement", ["UPDATE audit SET who = 'nobody'", "DELETE FROM audit"])
def test_even_the_owner_changes_and_deletes_no_row_of_it(connection: psycopg.Connection[Any], statement: str) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        connection.execute(statement.encode())


def test_the_applications_role_adds_to_it_and_has_no_privilege_for_more(
    configured: Settings, connection: psycopg.Connection[Any]
) -> None:
    connection.execute(f"CREATE ROLE {ROLE}".encode())
    try:
        migrate_postgres(configured)
        migrate_postgres(configured)
        connection.execute(f"SET ROLE {ROLE}".encode())
        record(connection, "app", [Entry("thing.changed", "by the application")])
        for statement in ("UPDATE audit SET who = 'x'", "DELETE FROM audit", "TRUNCATE audit", "DROP TABLE audit"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement.encode())
        connection.execute("INSERT INTO tenants (tenant_id) VALUES ('made by the application')")
        connection.execute("DELETE FROM tenants WHERE tenant_id = 'made by the application'")
        assert connection.execute("SELECT audit_drop(now(), 100)").fetchone() == (0,)
    finally:
        connection.execute("RESET ROLE")
        connection.execute(f"DROP OWNED BY {ROLE}".encode())
        connection.execute(f"DROP ROLE {ROLE}".encode())


def test_rows_are_dropped_by_age_alone_and_none_younger_than_a_day(connection: psycopg.Connection[Any]) -> None:
    connection.execute("INSERT INTO audit (who, what, subject, at) VALUES ('w', 'x', 'ancient', '2020-01-01Z')")
    before = connection.execute("SELECT count(*) FROM audit").fetchone()
    assert before is not None
    assert connection.execute("SELECT audit_drop(now() + interval '1 year', 100)").fetchone() == (1,)
    assert connection.execute("SELECT count(*) FROM audit").fetchone() == (before[0] - 1,)
