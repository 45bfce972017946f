"""Every route of the control plane with every kind of principal: who is let in, and what the others are told.

A route lets in before it reads a body, so none is needed to see who is let in. The manual's table (docs/control-plane.md) is
held equal to what is enforced; whose data is shown is each noun's own test.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import httpx
import pytest
from pydantic import SecretStr

from access.principals import ROLES_OF, Who
from control_plane.http.nouns import NOUNS
from control_plane.http.routes import allowed_of
from runtime.keyring import keyring
from runtime.postgres import connect
from runtime.settings import Settings
from store.api_keys import issue
from tests.fakes.control_plane_server import control_plane_served
from tests.fakes.tokens import ISSUER, ORIGIN, USER_SECRET, clerk_key, clerk_token, pem_of, user_token
from tests.integration.control_plane_table import table
from tests.integration.entitlement_data import TENANT, put_catalog

MANUAL: Final = Path(__file__).parents[2] / "docs" / "control-plane.md"
EVERY_ROLE: Final[frozenset[Who]] = frozenset().union(*ROLES_OF.values())


@pytest.fixture(scope="module")
def configured(migrated: Settings) -> Settings:
    return migrated.model_copy(
        update={
            "jwt_access_secret": SecretStr(USER_SECRET),
            "clerk_jwt_key": pem_of(clerk_key("one")).replace("\n", "\\n"),
            "clerk_issuer": ISSUER,
            "clerk_authorized_parties": ORIGIN,
            "secret_encrypt_key": SecretStr("a secret of the keyring"),
            "rate_limit_user_per_s": 0.0,
            "rate_limit_key_per_s": 0.0,
        }
    )


@pytest.fixture(scope="module")
def credentials(configured: Settings) -> Mapping[Who, Mapping[str, str]]:
    secret, _ = put_catalog(configured)
    keys = keyring(configured)
    assert keys is not None
    with connect(configured) as connection:
        key = issue(connection, keys, TENANT, "own", expires_at=datetime.now(UTC) + timedelta(hours=1)).key
    return {
        "service": {"X-Service-Secret": secret},
        "key": bearer(key),
        "user": bearer(user_token("u1", email="u1@example.com", tenantId=TENANT)),
        "supervisor": bearer(user_token("u2", email="u2@example.com", role="supervisor", tenantId=TENANT)),
        "admin": bearer(user_token("u3", email="u3@example.com", role="admin", tenantId=TENANT)),
        "org_member": bearer(clerk_token(TENANT, "member")),
        "org_billing": bearer(clerk_token(TENANT, "billing")),
        "org_admin": bearer(clerk_token(TENANT, "admin")),
    }


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


ROUTES: Final = allowed_of(NOUNS)
GUARDED: Final = {route: allowed for route, allowed in ROUTES.items() if allowed is not None}


@pytest.fixture(scope="module")
def client(configured: Settings, credentials: object) -> Iterator[httpx.Client]:
    with control_plane_served(configured) as client:
        yield client


def ask(client: httpx.Client, route: tuple[str, str], headers: Mapping[str, str]) -> tuple[int, str]:
    """Asked about things that do not exist, without a body."""
    method, path = route
    answered = client.request(method, re.sub(r"\{[^}]+\}", "none", path), headers=dict(headers))
    return answered.status_code, answered.json().get("error", {}).get("code", "")


def test_whoever_is_allowed_comes_in_and_nobody_else(client: httpx.Client, credentials: Mapping[Who, Mapping[str, str]]) -> None:
    assert set(credentials) == EVERY_ROLE
    wrong = []
    for route, allowed in GUARDED.items():
        for role, headers in credentials.items():
            status, code = ask(client, route, headers)
            came_in = (status, code) != (403, "role_not_allowed")
            if came_in != (role in allowed) or status in (401, 500):
                wrong.append((route, role, status, code))
    assert not wrong


def test_nobody_comes_in_without_credentials_or_with_wrong_ones(client: httpx.Client) -> None:
    assert {ask(client, route, {}) for route in GUARDED} == {(401, "no_credentials")}
    expired = bearer(user_token("u1", role="admin", tenantId=TENANT, expires_s=-60))
    assert {ask(client, route, expired) for route in GUARDED} == {(401, "expired_token")}


def test_requests_are_counted_by_the_routes_own_path(client: httpx.Client) -> None:
    for route in GUARDED:
        ask(client, route, {})
    counted = set(re.findall(r'^meterline_http_requests_total{endpoint="([^"]+)"', client.get("/metrics").text, re.MULTILINE))
    assert {path for _, path in GUARDED} <= counted


def test_the_manual_says_of_every_route_who_may_call_it() -> None:
    assert table() in MANUAL.read_text("utf-8"), "put there what `python -m tests.integration.control_plane_table` prints"
