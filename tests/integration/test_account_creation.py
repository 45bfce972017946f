"""Accounts whose making is cut between any two steps: a repeated call, or the loop, ends in one account and one customer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import grpc
import psycopg
import pytest
from pydantic import SecretStr

from control_plane.accounts.creating import create, finish_due
from control_plane.accounts.schemas import NewAccount
from control_plane.grpc.generated import account_pb2 as pb
from control_plane.loops import LOOPS
from control_plane.parts import Parts, parts_of
from control_plane.refusals import Refusal
from control_plane.unit import Actor
from runtime.keyring import keyring
from runtime.postgres import connect
from runtime.settings import Settings
from store import service_secrets
from store.api_keys import verify
from tests.fakes.grpc_process import customers_of, grpc_process, refused, secret_of
from tests.fakes.local_stripe_server import KEY, LocalStripeServer

POINTS = ("accounts.begun", "accounts.customer_made", "accounts.customer_recorded", "accounts.done")
ACTOR = Actor("test")


@pytest.fixture(scope="module")
def stripe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStripeServer]:
    with LocalStripeServer(tmp_path_factory.mktemp("stripe")) as running:
        yield running


@pytest.fixture(scope="module")
def configured(migrated: Settings, stripe: LocalStripeServer) -> Settings:
    return migrated.model_copy(
        update={
            "secret_encrypt_key": SecretStr("a secret of the keyring of this test"),
            "stripe_secret_key": SecretStr(KEY),
            "stripe_api_base": stripe.url,
        }
    )


@pytest.fixture(scope="module")
def service(configured: Settings) -> Any:
    with connect(configured) as connection:
        return secret_of(service_secrets.create(connection, "console", ["console"]))


@pytest.fixture(scope="module")
def parts(configured: Settings) -> Iterator[Parts]:
    made = parts_of(configured)
    yield made
    made.units.close()


@pytest.fixture
def connection(configured: Settings) -> Iterator[psycopg.Connection[Any]]:
    with connect(configured, autocommit=True) as opened:
        yield opened


def come_due(connection: psycopg.Connection[Any]) -> None:
    connection.execute("UPDATE account_creations SET next_try_at = now() WHERE state <> 'done'")


def finished(connection: psycopg.Connection[Any], stripe: LocalStripeServer, organization: str) -> tuple[str, str]:
    """The one account of an organization, with its one customer, one key, one secret; returns the ids of account and secret."""
    (row,) = connection.execute(
        "SELECT c.app_id, c.secret_id, c.state, t.stripe_customer_id, a.app_id, c.name, c.email"
        " FROM account_creations c JOIN tenants t USING (tenant_id) JOIN accounts a USING (tenant_id) WHERE tenant_id = %s",
        (organization,),
    ).fetchall()
    app_id, secret_id, state, customer_id, of_account, name, email = row
    assert (state, of_account, name, email) == ("done", app_id, "", None)
    assert [one.id for one in customers_of(stripe, organization)] == [customer_id]
    keys = connection.execute(
        "SELECT s.secret_id FROM api_keys k JOIN api_key_secrets s USING (key_id) WHERE k.tenant_id = %s", (organization,)
    ).fetchall()
    assert keys == [(secret_id,)]
    return app_id, secret_id


@pytest.mark.parametrize("point", POINTS)
def test_killed_between_any_two_steps_a_repeated_call_and_the_loop_both_end_in_one_account(
    point: str,
    configured: Settings,
    service: Any,
    parts: Parts,
    connection: psycopg.Connection[Any],
    stripe: LocalStripeServer,
) -> None:
    keys = keyring(configured)
    assert keys is not None
    for how in ("repeated", "loop"):
        organization = f"org_{point.partition('.')[2]}_{how}"
        request = pb.CreateAccountRequest(organization_id=organization, name="Ours", email="billing@example.com")
        with grpc_process(configured, over={"METERLINE_CRASH_AT": f"{point}:1"}, dies=True) as server:
            with pytest.raises(grpc.RpcError) as cut:
                server.account.CreateAccount(request, metadata=service, timeout=20)
            assert cut.value.code() == grpc.StatusCode.UNAVAILABLE
            server.wait_killed()
        if how == "loop":
            come_due(connection)
            assert finish_due(parts, parts.provider, keys, ACTOR) == (point != "accounts.done")
            finished(connection, stripe, organization)
        wanted = NewAccount(organization, "Ours", "billing@example.com")
        created = create(parts, parts.provider, keys, ACTOR, wanted)
        assert (created.account.app_id, created.secret_id) == finished(connection, stripe, organization)
        shown = how == "repeated" and point != "accounts.done"
        assert (created.key is not None) == shown
        if created.key is not None:
            assert verify(connection, keys, created.key) is not None


def test_what_the_provider_refuses_may_be_asked_for_otherwise(
    parts: Parts, connection: psycopg.Connection[Any], stripe: LocalStripeServer
) -> None:
    keys = keyring(parts.settings)
    assert keys is not None
    long = NewAccount("org_refused", "x" * 257)
    with pytest.raises(Refusal) as told:
        create(parts, parts.provider, keys, ACTOR, long)
    assert told.value.kind not in ("unavailable", "exhausted")
    assert connection.execute("SELECT state FROM account_creations WHERE tenant_id = 'org_refused'").fetchall() == [("refused",)]
    come_due(connection)
    assert finish_due(parts, parts.provider, keys, ACTOR) == 0
    created = create(parts, parts.provider, keys, ACTOR, replace(long, name="Shorter"))
    assert (created.account.app_id, created.secret_id) == finished(connection, stripe, "org_refused")


def test_while_stripe_is_away_the_call_says_so_and_the_loop_goes_on_later(
    parts: Parts, configured: Settings, service: Any, connection: psycopg.Connection[Any], stripe: LocalStripeServer
) -> None:
    keys = keyring(configured)
    assert keys is not None
    away = configured.model_copy(update={"stripe_api_base": "http://127.0.0.1:9"})
    with grpc_process(away) as server:
        request = pb.CreateAccountRequest(organization_id="org_away", name="Away")
        told = refused(server.account.CreateAccount, request, service)
        assert told.code == grpc.StatusCode.UNAVAILABLE
    assert finish_due(parts, parts.provider, keys, ACTOR) == 0, "a call may still be under way"
    come_due(connection)
    assert finish_due(parts, parts.provider, keys, ACTOR) == 1
    finished(connection, stripe, "org_away")


def test_an_organization_of_the_catalog_gets_its_account_and_keeps_its_customer(
    parts: Parts, connection: psycopg.Connection[Any]
) -> None:
    keys = keyring(parts.settings)
    assert keys is not None
    connection.execute("INSERT INTO plans (plan_id, name) VALUES ('p', 'P')")
    connection.execute("INSERT INTO tenants (tenant_id, plan_id, stripe_customer_id) VALUES ('org_known', 'p', 'cus_known')")
    connection.execute("INSERT INTO plans (plan_id, name) VALUES ('q', 'Q')")
    with pytest.raises(Refusal, match="another plan") as told:
        create(parts, parts.provider, keys, ACTOR, NewAccount("org_known", "Known", plan_id="q"))
    assert told.value.code == "organization_has_a_plan"
    assert connection.execute("SELECT count(*) FROM account_creations WHERE tenant_id = 'org_known'").fetchone() == (0,)
    created = create(parts, parts.provider, keys, ACTOR, NewAccount("org_known", "Known"))
    assert (created.account.customer_id, created.account.plan_id, created.account.name) == ("cus_known", "p", "Known")


def test_a_creation_never_goes_back(connection: psycopg.Connection[Any]) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match="may not go from done to begun"):
        connection.execute(
            "UPDATE account_creations SET state = 'begun', secret_id = NULL WHERE tenant_id = 'org_known' AND state = 'done'"
        )


def test_serving_the_control_plane_finishes_accounts() -> None:
    assert "accounts" in LOOPS
