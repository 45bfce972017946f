"""Tenants with plans, prices in credits, and users with tokens, as tests of sessions and usage need them."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import httpx
from pydantic import SecretStr

from metering.credits import Insufficient
from meterline_schemas.types import Micros
from runtime.postgres import connect
from runtime.settings import Settings
from store import credits
from store.credit_checks import check_credits
from store.credits import By, Owner
from store.steps import run
from tests.fakes.tokens import USER_SECRET, user_token

TENANT, OTHER = "tnt_chat", "tnt_other"
CAPPED = "tnt_capped"
"""On a plan whose overruns nobody pays."""
MODEL = "chat-large"
"""1 credit a 1,000 tokens of input, 3 of output, 0.1 of cached input."""
FREE_MODEL = "chat-free"
LAPSED_MODEL = "chat-old"
ENDPOINT = "/api/streaming-sessions"
CREDIT = 1_000_000
OUTPUT_TOKEN = 3_000
"""Millionths of a credit."""

_CATALOG = (
    "INSERT INTO plans (plan_id, name, credit_overrun) VALUES ('chat', 'Chat', 'balance'), ('capped', 'Capped', 'held')",
    f"INSERT INTO tenants (tenant_id, plan_id) VALUES ('{TENANT}', 'chat'), ('{OTHER}', 'chat'), ('{CAPPED}', 'capped')",
    f"INSERT INTO rates (rate, per_tokens) VALUES ('{MODEL}', 1000), ('{FREE_MODEL}', 1000), ('{LAPSED_MODEL}', 1000)",
    f"INSERT INTO rate_prices (rate, valid_from, input, output, cached) VALUES ('{MODEL}', '2020-01-01', 1, 3, 0.1),"
    f" ('{FREE_MODEL}', '2020-01-01', 0, 0, 0)",
    f"INSERT INTO rate_prices (rate, valid_from, valid_until, input, output, cached)"
    f" VALUES ('{LAPSED_MODEL}', '2020-01-01', '2021-01-01', 1, 1, 1)",
)


def with_catalog(settings: Settings, **over: Any) -> Settings:
    """The settings of a control plane whose databases hold the catalog above."""
    with connect(settings) as connection:
        for statement in _CATALOG:
            connection.execute(statement.encode())
    limits = {"rate_limit_user_per_s": 0, "jwt_access_secret": SecretStr(USER_SECRET)}
    return settings.model_copy(update={**limits, **over})


@dataclass(frozen=True)
class Customer:
    """A user with a client of the control plane."""

    settings: Settings
    client: httpx.Client
    owner: Owner
    role: str = "user"

    def headers(self, **claims: Any) -> dict[str, str]:
        said = {"tenantId": self.owner.tenant_id, "role": self.role, "email": f"{self.owner.user_id}@example.com", **claims}
        return {"Authorization": f"Bearer {user_token(self.owner.user_id, **said)}"}

    def ask(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> httpx.Response:
        return self.client.request(method, path, json=body, headers={**self.headers(), **(headers or {})})

    def post(self, what: str, **body: Any) -> httpx.Response:
        """To /api/streaming-sessions."""
        return self.ask("POST", f"{ENDPOINT}/{what}", body)

    def done(self, what: str, **body: Any) -> dict[str, Any]:
        """The same, which has to succeed."""
        return data_of(self.post(what, **body))

    def begin(self, session_id: str | None = None, tokens: Any = 1_000, **over: Any) -> str:
        """A session that holds 3 credits."""
        name = session_id or uuid.uuid4().hex
        self.done("initialize", sessionId=name, modelId=MODEL, estimatedTokens=tokens, **over)
        return name

    def sees(self, path: str) -> list[dict[str, Any]]:
        """All pages of a list."""
        found: list[dict[str, Any]] = []
        cursor = ""
        for _ in range(100):
            answer = self.ask("GET", f"{path}{'&' if '?' in path else '?'}cursor={cursor}")
            assert answer.status_code == 200, answer.text
            document = answer.json(parse_float=Decimal)
            found += document["data"]
            if document["page"]["nextCursor"] is None:
                return found
            cursor = document["page"]["nextCursor"]
        raise AssertionError("a list that does not end")

    @property
    def balance(self) -> Decimal:
        """By the ledger, not by the endpoint."""
        with connect(self.settings) as connection:
            return Decimal(run(connection, credits.balance(self.owner)).balance) / CREDIT

    @property
    def held(self) -> Decimal:
        with connect(self.settings) as connection:
            return Decimal(run(connection, credits.balance(self.owner)).held) / CREDIT


def customer(
    settings: Settings, client: httpx.Client, credits_: int | str = 100, *, tenant: str = TENANT, role: str = "user"
) -> Customer:
    """A new user with so many credits, whom the control plane has seen."""
    made = Customer(settings, client, Owner(tenant, f"u_{uuid.uuid4().hex[:12]}"), role)
    assert made.ask("GET", f"{ENDPOINT}/active").status_code == 200
    give(settings, made.owner, credits_)
    return made


def give(settings: Settings, owner: Owner, credits_: int | str) -> None:
    """A lot that never expires."""
    amount = Micros(int(Decimal(credits_) * CREDIT))
    if amount:
        with connect(settings) as connection:
            run(connection, credits.grant(owner, amount, by=By("test"), key=uuid.uuid4().hex))


def spend(settings: Settings, owner: Owner, credits_: int | str) -> bool:
    """Somebody else's charge of the same account; whether the account could pay it."""
    with connect(settings) as connection:
        try:
            run(connection, credits.charge(owner, Micros(int(Decimal(credits_) * CREDIT)), by=By("test"), key=uuid.uuid4().hex))
        except Insufficient:
            return False
    return True


def let_expire(settings: Settings, *session_ids: str, user_id: str | None = None) -> None:
    """Their time is over now, of this user alone or of every one; nobody has swept them yet."""
    with connect(settings) as connection:
        # What a session was begun with is frozen, but for its time.
        connection.execute(
            "UPDATE streaming_sessions SET expires_at = created_at + interval '1 microsecond'"
            " WHERE session_id = ANY(%s) AND state = 'active' AND user_id = coalesce(%s, user_id)",
            (list(session_ids), user_id),
        )


def data_of(answer: httpx.Response, status: int | Sequence[int] = (200, 201)) -> dict[str, Any]:
    """What it answered, numbers exact; it has to have that status."""
    assert answer.status_code in ([status] if isinstance(status, int) else status), answer.text
    data: dict[str, Any] = answer.json(parse_float=Decimal)["data"]
    return data


def refusal(answer: httpx.Response) -> tuple[int, str]:
    """Status and code; the message names the remedy, and every error says which request it was."""
    error = answer.json()["error"]
    assert answer.json()["status"] == "error"
    assert error["message"].endswith(".")
    assert error["requestId"] == answer.headers["x-request-id"]
    return answer.status_code, error["code"]


def assert_the_ledger_holds(settings: Settings) -> None:
    """Balance = sum of the ledger, for every account."""
    with connect(settings) as connection:
        assert check_credits(connection).findings == []
