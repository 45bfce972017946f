"""Every route with every kind of principal: who is let in, whose data is shown, and what the others are told.

The table here says what the contract wants; the server's own table (`entitlements.permissions`) is not asked. A route that
is added to the application fails the first test until it has a line here.
"""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr
from starlette.routing import Route

from access.principals import ROLES_OF
from entitlements.app import create_app, dependencies
from runtime.keyring import keyring
from runtime.postgres import connect
from runtime.settings import Settings
from store.api_keys import issue, revoke
from tests.fakes.tokens import (
    ISSUER,
    ORIGIN,
    USER_SECRET,
    clerk_key,
    clerk_token,
    pem_of,
    signed_with_the_public_key,
    unsigned_token,
    user_token,
)
from tests.integration.entitlement_data import ANCHORED, SERVICE, TENANT, put_catalog
from tests.integration.serving import Answer, Server, serving

OTHER = ANCHORED
"""A tenant that there is, of somebody else."""

MACHINES = {"service", "key"}
EVERYBODY = {*MACHINES, "user", "supervisor", "admin", "org_member", "org_billing", "org_admin"}
_number = itertools.count()


@dataclass(frozen=True)
class Case:
    """A route, how it is asked about a tenant, and who may."""

    method: str
    path: str
    allowed: set[str] | None
    """None: open."""
    status: int = 200
    body: Callable[[str, str], object] | None = None
    """Of tenant and source service."""
    query: str = ""
    each: bool = False
    """Each item of the answer has a status of its own."""

    def ask(self, server: Server, tenant: str, source: str, headers: Mapping[str, str]) -> Answer:
        path = self.path.replace("{tenantId:path}", tenant).replace("{reservationId}", str(hold_of(self.path, tenant, source)))
        body = None if self.body is None else self.body(tenant, source)
        return server.ask(self.method, path + self.query, body, secret=None, headers=headers)


def check(tenant: str, _: str) -> object:
    return {"tenantId": tenant, "usageType": "DEEP"}


def event(tenant: str, source: str) -> object:
    identity = {"sourceService": source, "sourceEntityId": f"e{next(_number)}"}
    return {"tenantId": tenant, "usageType": "DEEP", "quantity": 1, **identity}


RESERVATION = "/v1/billing/reservations/{reservationId}"


def hold_of(path: str, tenant: str, source: str) -> uuid.UUID:
    """The reservation that a route is asked about: each route has its own, of each tenant and source service."""
    return uuid.uuid5(uuid.NAMESPACE_URL, f"{path} {tenant} {source}")


CASES = [
    Case("POST", "/v1/billing/entitlements/check", EVERYBODY, body=check),
    Case("POST", "/v1/billing/entitlements/check/batch", EVERYBODY, body=lambda *of: [check(*of)]),
    Case("POST", "/v1/billing/usage", MACHINES, 202, event),
    Case("POST", "/v1/billing/usage/batch", MACHINES, 202, lambda *of: [event(*of)], each=True),
    Case("POST", "/v1/billing/reservations", MACHINES, 201, event),
    Case("POST", f"{RESERVATION}/settle", MACHINES),
    Case("POST", f"{RESERVATION}/release", MACHINES),
    Case("GET", RESERVATION, MACHINES),
    Case("GET", "/v1/billing/summaries/{tenantId:path}", EVERYBODY),
    Case("GET", "/v1/billing/usage/{tenantId:path}", EVERYBODY),
    Case("GET", "/v1/billing/explain", {"service"}, query="?sourceService=s&sourceEntityId=e&usageType=DEEP"),
    *(Case("GET", path, None) for path in ("/health", "/ready", "/metrics")),
    *(Case("GET", path, None) for path in ("/docs", "/docs/oauth2-redirect", "/openapi.json")),
]
GUARDED = [case for case in CASES if case.allowed is not None]

of_route = pytest.mark.parametrize("case", GUARDED, ids=lambda case: f"{case.method} {case.path}")


@pytest.fixture(scope="module")
def configured(migrated: Settings) -> Settings:
    return migrated.model_copy(
        update={
            "jwt_access_secret": SecretStr(USER_SECRET),
            "clerk_jwt_key": pem_of(clerk_key("one")).replace("\n", "\\n"),
            "clerk_issuer": ISSUER,
            "clerk_authorized_parties": f"https://elsewhere.example, {ORIGIN}",
            "secret_encrypt_key": SecretStr("a secret of the keyring, an older secret of the keyring"),
        }
    )


@dataclass(frozen=True)
class Credentials:
    """Headers by the role that they stand for, all of TENANT; and those that are wrong, by what is wrong with them."""

    right: Mapping[str, Mapping[str, str]]
    wrong: Mapping[str, tuple[Mapping[str, str], str]]


@pytest.fixture(scope="module")
def credentials(configured: Settings) -> Credentials:
    secret, _ = put_catalog(configured)
    keys = keyring(configured)
    assert keys is not None
    with connect(configured) as connection:
        key = issue(connection, keys, TENANT, "own").key
        revoked = issue(connection, keys, TENANT, "lost")
        revoke(connection, revoked.key_id)
        expired = issue(connection, keys, TENANT, "old", expires_at=datetime.now(UTC) - timedelta(seconds=1)).key
        connection.execute("INSERT INTO users (user_id, tenant_id, role) VALUES ('u_account', %s, 'user')", (TENANT,))
    right = {
        "service": {"X-Service-Secret": secret},
        "key": bearer(key),
        "user": bearer(user_token("u_account")),
        "supervisor": bearer(user_token("u2", role="supervisor", tenantId=TENANT)),
        "admin": bearer(user_token("u3", role="admin", tenantId=TENANT)),
        "org_member": bearer(clerk_token(TENANT, "member")),
        "org_billing": bearer(clerk_token(TENANT, "billing")),
        "org_admin": bearer(clerk_token(TENANT, "admin")),
    }
    wrong: dict[str, tuple[Mapping[str, str], str]] = {
        "nothing": ({}, "no_credentials"),
        "a wrong secret": ({"X-Service-Secret": "mls_wrong"}, "wrong_secret"),
        "an empty secret": ({"X-Service-Secret": ""}, "wrong_secret"),
        "a key as a secret": ({"X-Service-Secret": key}, "wrong_secret"),
        "a secret as a token": (bearer(secret), "wrong_token"),
        "a wrong key": (bearer("sk_" + "0" * 32), "wrong_key"),
        "a key of another form": (bearer(key + "0"), "wrong_key"),
        "a revoked key": (bearer(revoked.key), "revoked_key"),
        "an expired key": (bearer(expired), "expired_key"),
        "an expired token": (bearer(user_token(tenantId=TENANT, expires_s=-60)), "expired_token"),
        "an expired session": (bearer(clerk_token(TENANT, expires_s=-60)), "expired_token"),
        "a token that nobody signed": (bearer(unsigned_token(tenantId=TENANT)), "wrong_token"),
        "a token signed by somebody else": (bearer(user_token(secret="x" * 40, tenantId=TENANT)), "wrong_token"),
        "a token signed with the public key": (bearer(signed_with_the_public_key(tenantId=TENANT)), "wrong_token"),
        "a session signed by somebody else": (bearer(clerk_token(TENANT, key="two")), "wrong_token"),
        "a session for another site": (bearer(clerk_token(TENANT, azp="https://evil.example")), "wrong_party"),
        "a session that is pending": (bearer(clerk_token(TENANT, sts="pending")), "pending_session"),
        "another scheme": ({"Authorization": "Basic dTpw"}, "bad_credentials"),
        "two kinds": ({"X-Service-Secret": secret, **bearer(key)}, "bad_credentials"),
    }
    return Credentials(right, wrong)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture(scope="module")
def server(configured: Settings, credentials: Credentials) -> Iterator[Server]:
    with connect(configured) as connection:
        for case, tenant, source in itertools.product(CASES, (TENANT, OTHER), (TENANT, SERVICE)):
            connection.execute(
                "INSERT INTO holds (hold_id, tenant_id, usage_type, source_service, source_entity_id, quantity, reason,"
                " created_at, expires_at) VALUES (%s, %s, 'DEEP', %s, 'e', 0, 'within_plan', now(), now() + interval '1 hour')",
                (hold_of(case.path, tenant, source), tenant, source),
            )
    over = {"METERLINE_RATE_LIMIT_USER_PER_S": "0", "METERLINE_RATE_LIMIT_KEY_PER_S": "0"}
    with serving(configured, secret=None, over=over) as running:
        yield running


def status_of(case: Case, answer: Answer) -> tuple[int, str | None]:
    """The status and code, an item's own where each has one."""
    if case.each and answer.status in (202, 207):
        (result,) = answer.json["results"]
        return (result["status"], result["code"]) if result["state"] == "refused" else (answer.status, None)
    return answer.status, answer.json.get("code") if answer.status >= 400 else None


def test_the_table_has_every_route_of_the_application(configured: Settings) -> None:
    async def routes() -> set[tuple[str, str]]:
        app = create_app(configured, dependencies(configured))
        found = [route for route in app.routes if isinstance(route, Route)]
        assert len(found) == len(app.routes), "something else than a route is mounted"
        return {(method, route.path) for route in found for method in (route.methods or ()) if method != "HEAD"}

    assert asyncio.run(routes()) == {(case.method, case.path) for case in CASES}


def test_the_table_has_every_role() -> None:
    assert set().union(*ROLES_OF.values()) == EVERYBODY


@pytest.mark.parametrize("case", [case for case in CASES if case.allowed is None], ids=lambda case: case.path)
def test_an_open_route_answers_anybody(case: Case, server: Server) -> None:
    assert case.ask(server, TENANT, SERVICE, {}).status == 200


@of_route
def test_wrong_credentials_of_any_kind_are_turned_away(case: Case, server: Server, credentials: Credentials) -> None:
    for wrong, (headers, code) in credentials.wrong.items():
        answer = case.ask(server, TENANT, SERVICE, headers)
        assert (answer.status, answer.json["code"]) == (401, code), wrong
        assert "Bearer" in answer.headers["www-authenticate"]


@of_route
def test_right_credentials_that_belong_nowhere_are_forbidden(case: Case, server: Server) -> None:
    for token in (user_token("u_unknown"), clerk_token()):
        answer = case.ask(server, TENANT, SERVICE, bearer(token))
        assert (answer.status, answer.json["code"]) == (403, "no_tenant")


@of_route
def test_a_role_may_what_the_table_says_and_nothing_else(case: Case, server: Server, credentials: Credentials) -> None:
    assert set(credentials.right) == EVERYBODY
    for role, headers in credentials.right.items():
        source = TENANT if role == "key" else SERVICE
        answer = case.ask(server, TENANT, source, headers)
        expected = (case.status, None) if role in (case.allowed or ()) else (403, "role_not_allowed")
        assert status_of(case, answer) == expected, role


@of_route
def test_another_tenant_is_not_there_for_whoever_belongs_to_one(case: Case, server: Server, credentials: Credentials) -> None:
    for role, headers in credentials.right.items():
        if role not in (case.allowed or ()):
            continue
        source = TENANT if role == "key" else SERVICE
        theirs, nobodys = (case.ask(server, tenant, source, headers) for tenant in (OTHER, "no-such-tenant"))
        if role == "service":
            assert status_of(case, theirs) == (case.status, None)
            continue
        assert status_of(case, theirs) == (404, "not_found"), role
        # To the letter what is said of a tenant that does not exist.
        assert theirs.body == nobodys.body


def test_a_key_emits_for_its_own_source_services_only(server: Server, credentials: Credentials) -> None:
    usage = next(case for case in CASES if case.path == "/v1/billing/usage")
    answer = usage.ask(server, TENANT, SERVICE, credentials.right["key"])
    assert (answer.status, answer.json["code"]) == (403, "source_not_allowed")


def test_who_asks_too_often_is_told_when_to_come_back(configured: Settings, credentials: Credentials) -> None:
    over = {f"METERLINE_RATE_LIMIT_{kind}_PER_S": rate for kind, rate in [("USER", "0.5"), ("KEY", "0.25"), ("SERVICE", "0.125")]}
    with serving(configured, secret=None, over=over) as limited:
        for who, wait_s in (("admin", 2), ("key", 4), ("service", 8)):
            answers = [CASES[0].ask(limited, TENANT, SERVICE, credentials.right[who]) for _ in range(3)]
            assert answers[0].status == 200
            last = answers[-1]
            assert (last.status, last.json["code"]) == (429, "too_many_requests")
            assert wait_s / 2 <= int(last.headers["retry-after"]) <= wait_s
        assert CASES[0].ask(limited, TENANT, SERVICE, credentials.right["org_admin"]).status == 200


def test_tokens_alone_are_a_verifier_to_start_with(configured: Settings, credentials: Credentials) -> None:
    with connect(configured) as connection:
        connection.execute("UPDATE service_secrets SET expires_at = now() WHERE expires_at IS NULL")
    with serving(configured, secret=None) as running:
        assert running.ask("GET", "/ready").json["checks"]["credentials"] == "ok"
        assert CASES[0].ask(running, TENANT, SERVICE, credentials.right["user"]).status == 200
