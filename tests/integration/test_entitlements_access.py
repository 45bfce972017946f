"""Who comes in: every route, with no secret, a wrong one, and one of another service."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from runtime.exits import Exit
from runtime.postgres import connect
from runtime.settings import Settings
from store.service_secrets import create, revoke
from tests.integration.entitlement_data import SERVICE, TENANT, put_catalog
from tests.integration.serving import Server, execute, serving, start

CHECK = {"tenantId": TENANT, "usageType": "DEEP"}
EVENT = {**CHECK, "quantity": 1, "sourceService": SERVICE, "sourceEntityId": "a1"}
BODIES: dict[str, object] = {
    "/v1/billing/entitlements/check": CHECK,
    "/v1/billing/entitlements/check/batch": [CHECK],
    "/v1/billing/usage": EVENT,
    "/v1/billing/reservations": {**EVENT, "ttlSeconds": 60},
    "/v1/billing/usage/batch": [EVENT],
}
OPEN = {"/health", "/ready", "/metrics", "/docs", "/openapi.json"}


@pytest.fixture(scope="module")
def secrets(migrated: Settings) -> tuple[str, str]:
    return put_catalog(migrated)


@pytest.fixture(scope="module")
def server(migrated: Settings, secrets: tuple[str, str]) -> Iterator[Server]:
    origins = {"METERLINE_CORS_ORIGIN": "https://app.example, https://b.example"}
    with serving(migrated, secret=secrets[0], over=origins) as running:
        yield running


def routes(server: Server) -> list[tuple[str, str]]:
    """(method, path) of every route that the server itself names."""
    paths: dict[str, dict[str, Any]] = server.ask("GET", "/openapi.json", secret=None).json["paths"]
    return [(method.upper(), path.replace("{tenantId}", TENANT)) for path, methods in paths.items() for method in methods]


def test_the_document_says_which_routes_want_credentials(server: Server) -> None:
    shown = server.ask("GET", "/openapi.json", secret=None).json
    for path, methods in shown["paths"].items():
        for operation in methods.values():
            assert bool(operation["security"]) == (path not in OPEN)


def test_another_services_secret_checks_but_may_not_emit_for_this_one(server: Server, secrets: tuple[str, str]) -> None:
    other = secrets[1]
    for method, path in routes(server):
        answer = server.ask(method, path, BODIES.get(path), secret=other)
        if path == "/v1/billing/usage":
            assert (answer.status, answer.json["code"]) == (403, "source_not_allowed")
        elif path == "/v1/billing/usage/batch":
            assert [result["code"] for result in answer.json["results"]] == ["source_not_allowed"]
        elif path == "/v1/billing/reservations":
            assert (answer.status, answer.json["code"]) == (403, "source_not_allowed")
        elif path == "/v1/billing/explain":
            # It was let in, and has named no event.
            assert (answer.status, answer.json["code"]) == (400, "missing_field")
        elif "{reservationId}" in path:
            assert (answer.status, answer.json["code"]) == (404, "not_found")
        else:
            assert answer.status == 200, path
    allowed = server.ask("POST", "/v1/billing/usage", {**EVENT, "sourceService": "chat-proxy"}, secret=other)
    assert allowed.status == 202


def test_a_new_secret_is_let_in_and_a_revoked_one_kept_out_within_seconds(server: Server, migrated: Settings) -> None:
    with connect(migrated) as connection:
        secret = create(connection, "late", ["*"])
    deadline = time.monotonic() + 8
    while server.ask("GET", f"/v1/billing/summaries/{TENANT}", secret=secret).status != 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    with connect(migrated) as connection:
        revoke(connection, "late")
    deadline = time.monotonic() + 8
    while server.ask("GET", f"/v1/billing/summaries/{TENANT}", secret=secret).status != 401:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_every_answer_carries_the_security_headers_and_an_id(server: Server) -> None:
    for path in ("/health", "/nowhere", f"/v1/billing/summaries/{TENANT}"):
        headers = server.ask("GET", path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["cache-control"] == "no-store"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-request-id"] == "test-1"
        assert "server" not in headers


def test_only_listed_origins_may_call_from_a_browser(server: Server) -> None:
    ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-service-secret"}
    listed = server.ask("OPTIONS", "/v1/billing/usage", headers={"Origin": "https://b.example", **ask}, secret=None)
    assert listed.headers["access-control-allow-origin"] == "https://b.example"
    other = server.ask("OPTIONS", "/v1/billing/usage", headers={"Origin": "https://evil.example", **ask}, secret=None)
    assert "access-control-allow-origin" not in other.headers


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, said = process.communicate(timeout=30)
    return process.returncode, said


def test_without_any_secret_it_refuses_to_start(migrated: Settings, server: Server) -> None:
    execute(migrated, [("UPDATE service_secrets SET expires_at = now() - interval '1 s'", ())])
    try:
        status, said = ended(start(migrated))
        assert status == Exit.SETTINGS
        assert "meterline secrets create" in said
    finally:
        execute(migrated, [("UPDATE service_secrets SET expires_at = NULL WHERE name <> 'late'", ())])


def test_a_development_server_lets_anybody_in_and_says_so_but_on_loopback_only(migrated: Settings) -> None:
    with serving(migrated, "--dev", secret=None) as dev:
        assert dev.check(**CHECK)["allowed"]
        assert dev.ask("POST", "/v1/billing/usage", EVENT).status == 202
        assert dev.ask("POST", "/v1/billing/usage", EVENT, secret="mls_wrong").status == 401
        assert [line for line in dev.logged() if line["level"] == "warning" and "without credentials" in line["message"]]
    for host in ("::", "192.0.2.1"):
        status, said = ended(start(migrated, "--dev", "--host", host))
        assert status == Exit.SETTINGS
        assert "127.0.0.1" in said


def test_a_port_that_is_taken_is_a_named_exit(migrated: Settings, server: Server) -> None:
    status, said = ended(start(migrated, "--port", str(server.port)))
    assert status == Exit.SETTINGS
    assert "--port" in said
