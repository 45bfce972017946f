"""Which tokens are let in, whose they are, and which are turned away, however they are made."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import httpx
import jwt
import pytest

from access.bearer import LEEWAY_S, REMEMBERED_S, BearerVerifier
from access.clerk_tokens import ClerkTokens
from access.lookups import LookupAway, Lookups
from access.principals import AccessRefused, Principal
from access.signing_keys import READ_AGAIN_S, STALE_MAX_S, FixedKey, KeysAway, PublishedKeys, fetch_from, keys_of
from access.user_tokens import KnownAccounts, UserTokens
from tests.fakes.tokens import (
    ISSUER,
    ORIGIN,
    USER_SECRET,
    clerk_key,
    clerk_token,
    key_set,
    pem_of,
    signed_with_the_public_key,
    unsigned_token,
    user_token,
)


class Accounts:
    """The table of users."""

    def __init__(self, **tenants: str) -> None:
        self.tenants = tenants
        self.away = False

    async def read(self, users: Sequence[str]) -> Mapping[str, str]:
        if self.away:
            raise LookupAway
        return {user: self.tenants[user] for user in users if user in self.tenants}


def verifier(
    accounts: Accounts | None = None, *, secret: str = USER_SECRET, now: Callable[[], float] = time.time
) -> BearerVerifier:
    read = (accounts or Accounts()).read
    clerk = ClerkTokens(FixedKey(pem_of(clerk_key("one"))), ISSUER, [ORIGIN])
    return BearerVerifier(None, {"HS256": UserTokens(secret, KnownAccounts(Lookups(read))), "RS256": clerk}, now)


def verified(token: str, by: BearerVerifier | None = None, scheme: str = "Bearer") -> Principal:
    async def ask() -> Principal:
        # In a loop of its own, so a verifier for each.
        found = await (by or verifier()).verify([(b"authorization", f"{scheme} {token}".encode())])
        assert found is not None
        return found

    return asyncio.run(ask())


def refusal(token: str, by: BearerVerifier | None = None, scheme: str = "Bearer") -> tuple[int, str]:
    with pytest.raises(AccessRefused) as refused:
        verified(token, by, scheme)
    return refused.value.status, refused.value.code


@pytest.mark.parametrize("role", ["user", "supervisor", "admin"])
def test_a_users_token_names_user_role_and_tenant(role: str) -> None:
    principal = verified(user_token("u1", role=role, tenantId="tnt_1"))
    assert (principal.kind, principal.role, principal.tenant_id) == ("user", role, "tnt_1")
    assert (principal.user_id, principal.username, principal.email) == ("u1", "ada", "ada@example.com")
    assert principal.source_services == frozenset()


def test_a_users_tenant_is_the_claim_then_the_account_and_else_there_is_none() -> None:
    accounts = Accounts(u1="tnt_of_account")
    assert verified(user_token("u1", tenantId="tnt_of_claim"), verifier(accounts)).tenant_id == "tnt_of_claim"
    assert verified(user_token("u1"), verifier(accounts)).tenant_id == "tnt_of_account"
    assert verified(user_token("u1", role=None, tenantId=""), verifier(accounts)).role == "user"
    assert refusal(user_token("u2"), verifier(accounts)) == (403, "no_tenant")
    accounts.away = True
    assert refusal(user_token("u1"), verifier(accounts)) == (503, "store_unavailable")
    assert verified(user_token("u1", tenantId="tnt_of_claim"), verifier(accounts)).tenant_id == "tnt_of_claim"


def test_a_short_shared_secret_works_without_a_warning() -> None:
    token = jwt.encode({"sub": "u", "exp": time.time() + 9, "tenantId": "t"}, "short".ljust(32, "\0"), "HS256")
    assert verified(token, verifier(secret="short")).user_id == "u"


FORGED: dict[str, Callable[[], str]] = {
    "no token": lambda: "x",
    "two parts": lambda: "a.b",
    "signed by another": lambda: user_token(secret="another secret, which is as long as the right one"),
    "unsigned": lambda: unsigned_token(tenantId="tnt_1"),
    "unsigned, in other letters": lambda: unsigned_token(tenantId="tnt_1").replace("bm9uZ", "Tm9uZ"),
    "HS256 with the public key": lambda: signed_with_the_public_key(tenantId="tnt_1"),
    "HS512": lambda: jwt.encode({"sub": "u1", "exp": time.time() + 9, "tenantId": "t"}, USER_SECRET.ljust(64, "-"), "HS512"),
    "without an end": lambda: user_token(exp=None, tenantId="t"),
    "without a subject": lambda: user_token(sub=None, tenantId="t"),
    "a subject that is a number": lambda: _number_subject(),
    "a role that there is not": lambda: user_token(role="root", tenantId="t"),
    "a role of another kind": lambda: user_token(role="service", tenantId="t"),
    "a role that is a list": lambda: user_token(role=["admin"], tenantId="t"),
    "a tenant that is a list": lambda: user_token(tenantId=["t"]),
    "a tenant with a control character": lambda: user_token(tenantId="t\n"),
    "for an audience": lambda: user_token(aud="somebody-else", tenantId="t"),
    "not valid yet": lambda: user_token(nbf=time.time() + 60, tenantId="t"),
    "Clerk's, signed by another key": lambda: clerk_token("org_1", key="two"),
    "Clerk's, of another issuer": lambda: clerk_token("org_1", iss="https://evil.example"),
    "Clerk's, without a beginning": lambda: clerk_token("org_1", nbf=None),
    "Clerk's, without an issuer": lambda: clerk_token("org_1", iss=None),
    "Clerk's, whose organization is a text": lambda: clerk_token(o="org_1"),
    "cut short": lambda: user_token(tenantId="t")[:-2],
}


def _number_subject() -> str:
    return jwt.api_jws.encode(b'{"sub":7,"exp":9999999999,"tenantId":"t"}', USER_SECRET, "HS256")


@pytest.mark.parametrize("forged", sorted(FORGED))
def test_a_token_that_is_not_right_is_wrong(forged: str) -> None:
    assert refusal(FORGED[forged]()) == (401, "wrong_token")


def test_an_expired_token_is_told_so() -> None:
    assert refusal(user_token(expires_s=-60, tenantId="t")) == (401, "expired_token")
    assert refusal(clerk_token("org_1", expires_s=-60)) == (401, "expired_token")


@pytest.mark.parametrize(
    ("scheme", "token"), [("Basic", "dTpw"), ("Bearer", ""), ("Bearer", "x" * 9000), ("Token", "x"), ("Bearer", "caf\xe9")]
)
def test_a_header_that_is_no_bearer_token_is_told_so(scheme: str, token: str) -> None:
    assert refusal(token, scheme=scheme) == (401, "bad_credentials")


def test_an_api_key_where_none_are_accepted_is_wrong() -> None:
    assert refusal("sk_" + "a" * 32) == (401, "wrong_key")


@pytest.mark.parametrize(
    ("claims", "role"),
    [
        ({"o": {"id": "org_1", "rol": "admin"}}, "org_admin"),
        ({"o": {"id": "org_1", "rol": "billing"}}, "org_billing"),
        ({"o": {"id": "org_1", "rol": "member"}}, "org_member"),
        ({"o": {"id": "org_1", "rol": "auditor"}}, "org_member"),
        ({"o": {"id": "org_1"}}, "org_member"),
        ({"v": None, "org_id": "org_1", "org_role": "org:admin"}, "org_admin"),
        ({"v": None, "org_id": "org_1", "org_role": "org:billing"}, "org_billing"),
        ({"v": None, "org_id": "org_1", "org_role": "basic_member"}, "org_member"),
        ({"azp": None, "o": {"id": "org_1", "rol": "admin"}}, "org_admin"),
    ],
)
def test_a_clerk_sessions_tenant_is_its_active_organization(claims: dict[str, Any], role: str) -> None:
    principal = verified(clerk_token(**claims))
    assert (principal.kind, principal.tenant_id, principal.role, principal.user_id) == ("member", "org_1", role, "user_1")


@pytest.mark.parametrize(
    ("claims", "status", "code"),
    [
        ({}, 403, "no_tenant"),
        # Each version's claims count in that version only.
        ({"org_id": "org_1", "org_role": "org:admin"}, 403, "no_tenant"),
        ({"v": None, "o": {"id": "org_1", "rol": "admin"}}, 403, "no_tenant"),
        ({"o": {"id": "org_1"}, "sts": "pending"}, 401, "pending_session"),
        ({"o": {"id": "org_1"}, "azp": "https://evil.example"}, 401, "wrong_party"),
    ],
)
def test_a_clerk_session_without_a_tenant_or_from_elsewhere_is_refused(claims: dict[str, Any], status: int, code: str) -> None:
    assert refusal(clerk_token(**claims)) == (status, code)


def test_a_remembered_token_ends_at_its_end_and_is_verified_anew_in_between() -> None:
    async def run() -> None:
        clock = [time.time()]
        checked: list[float] = []

        class Counted(UserTokens):
            async def verified(self, token: str, header: dict[str, Any]) -> Any:
                checked.append(clock[0])
                return await super().verified(token, header)

        by = BearerVerifier(None, {"HS256": Counted(USER_SECRET, KnownAccounts(Lookups(Accounts().read)))}, lambda: clock[0])
        headers = [(b"authorization", f"bearer {user_token(tenantId='t', expires_s=600)}".encode())]
        for _ in range(5):
            assert await by.verify(headers)
        assert len(checked) == 1
        clock[0] += REMEMBERED_S
        assert await by.verify(headers)
        assert len(checked) == 2
        short = [(b"authorization", f"Bearer {user_token(tenantId='t', expires_s=1)}".encode())]
        assert await by.verify(short)
        clock[0] += 1 + LEEWAY_S
        # Long before REMEMBERED_S it is verified again, by the clock that says it has ended.
        assert await by.verify(short)
        assert len(checked) == 4

    asyncio.run(run())


class Issuer:
    """A published key set, and a clock."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self.away = False
        self.fetched = 0
        self.time_s = 0.0

    async def fetch(self) -> Mapping[str, Any]:
        self.fetched += 1
        if self.away:
            raise KeysAway("status 500")
        return keys_of(key_set(*self.names))


def test_a_rotated_key_is_found_and_made_up_names_cost_one_reading_each_half_minute() -> None:
    async def run() -> None:
        issuer = Issuer("one")
        keys = PublishedKeys(issuer.fetch, lambda: issuer.time_s)
        assert await keys.key("one")
        issuer.names = ("one", "two")
        issuer.time_s += READ_AGAIN_S
        assert await keys.key("two")
        assert issuer.fetched == 2
        for name in ("x", "y", "z", None):
            assert await keys.key(name) is None
        assert issuer.fetched == 2

    asyncio.run(run())


def test_a_withdrawn_key_ends_and_an_issuer_that_is_away_is_bridged_for_a_bounded_time() -> None:
    async def run() -> None:
        issuer = Issuer("one", "two")
        keys = PublishedKeys(issuer.fetch, lambda: issuer.time_s)
        assert await keys.key("two")
        issuer.names = ("one",)
        issuer.time_s += 601
        assert await keys.key("two") is None
        issuer.away = True
        issuer.time_s += STALE_MAX_S
        assert await keys.key("one")
        issuer.time_s += 1
        with pytest.raises(AccessRefused) as refused:
            await keys.key("one")
        assert (refused.value.status, refused.value.code) == (503, "keys_unavailable")

    asyncio.run(run())


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"keys": {}}', b"\xff", b"null"])
def test_an_answer_that_is_no_key_set_counts_as_away(body: bytes) -> None:
    with pytest.raises(KeysAway):
        keys_of(body)


def test_only_keys_for_rs256_signatures_are_taken_from_a_set() -> None:
    (good,) = json.loads(key_set("one"))["keys"]
    others: list[Any] = [7, {**good, "kid": None}, {**good, "kid": "e", "use": "enc"}, {**good, "kid": "p", "alg": "PS256"}]
    others += [{**good, "kid": "n", "n": "AQAB"}, {"kid": "h", "kty": "oct", "k": "c2VjcmV0"}]
    assert list(keys_of(json.dumps({"keys": [*others, good]}).encode())) == ["one"]


@pytest.mark.parametrize(
    "raised", [httpx.ConnectError("refused"), TimeoutError(), AttributeError("closed as it was connected to")]
)
def test_an_issuer_that_cannot_be_asked_is_away_whatever_the_client_raises(
    monkeypatch: pytest.MonkeyPatch, raised: Exception
) -> None:
    def stream(self: httpx.AsyncClient, *_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(httpx.AsyncClient, "stream", stream)

    async def ask() -> None:
        await fetch_from("http://127.0.0.1:1/.well-known/jwks.json")()

    with pytest.raises(KeysAway):
        asyncio.run(ask())
