"""AccountService over a real socket: every method with right and wrong credentials, another organization, bad input, a repeat."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from pydantic import SecretStr

from control_plane.grpc.generated import account_pb2 as pb
from runtime.postgres import connect
from runtime.settings import Settings
from store import service_secrets
from tests.e2e.seed_operations import seed
from tests.fakes.grpc_process import GrpcProcess, customers_of, grpc_process, key_of, refused, secret_of
from tests.fakes.local_stripe_server import KEY, LocalStripeServer

PLANTED = "sk_planted000000000000000000000000000"


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
def service(configured: Settings) -> tuple[tuple[str, str], ...]:
    with connect(configured) as connection:
        connection.execute("INSERT INTO plans (plan_id, name) VALUES ('studio', 'Studio')")
        return secret_of(service_secrets.create(connection, "console", ["console"]))


@pytest.fixture(scope="module")
def server(configured: Settings, service: object) -> Iterator[GrpcProcess]:
    with grpc_process(configured) as running:
        yield running


@pytest.fixture(scope="module")
def ours(server: GrpcProcess, service: Any) -> pb.CreateAccountResponse:
    return create(server, service, "org_ours")


@pytest.fixture(scope="module")
def theirs(server: GrpcProcess, service: Any) -> pb.CreateAccountResponse:
    return create(server, service, "org_theirs")


def create(server: GrpcProcess, service: Any, organization: str, **over: Any) -> pb.CreateAccountResponse:
    wanted = {"name": "Ours & Sons", "email": "billing@example.com", "plan_id": "studio", "anchor_day": 3, **over}
    request = pb.CreateAccountRequest(organization_id=organization, **wanted)
    made = server.account.CreateAccount(request, metadata=service, timeout=20)
    assert isinstance(made, pb.CreateAccountResponse)
    return made


@seed("000", "CreateAccount", "used", "repeated", "bad input", "wrong role")
def test_an_account_is_made_once_with_its_customer_secret_and_key(
    server: GrpcProcess, service: Any, ours: pb.CreateAccountResponse, stripe: LocalStripeServer
) -> None:
    account = ours.account
    assert (account.organization_id, account.name, account.status) == ("org_ours", "Ours & Sons", "active")
    assert (account.plan_id, account.anchor_day) == ("studio", 3)
    assert re.fullmatch("sk_[A-Za-z0-9]{32}", ours.api_key)
    assert [key.secret_id for key in account.api_keys] == [ours.secret_id]
    assert list(account.api_keys[0].source_services) == ["org_ours"]
    customer = stripe.client().v1.customers.retrieve(account.customer_id)
    assert (customer.name, customer.email) == ("Ours & Sons", "billing@example.com")

    again = create(server, service, "org_ours")
    assert (again.account.app_id, again.secret_id, again.api_key) == (account.app_id, ours.secret_id, "")
    named = customers_of(stripe, "org_ours")
    assert len(named) == 1

    otherwise = pb.CreateAccountRequest(organization_id="org_ours", name="Another name")
    told = refused(server.account.CreateAccount, otherwise, service)
    assert (told.code, told.reason) == (grpc.StatusCode.ALREADY_EXISTS, "ACCOUNT_EXISTS")
    assert told.metadata["appId"] == account.app_id

    bad = pb.CreateAccountRequest(organization_id="a\n", email=PLANTED, anchor_day=32)
    told = refused(server.account.CreateAccount, bad, service)
    assert (told.code, told.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert told.fields == ("organization_id", "name", "email", "anchor_day")
    unknown = pb.CreateAccountRequest(organization_id="org_new", name="New", plan_id="nowhere")
    assert refused(server.account.CreateAccount, unknown, service).fields == ("plan_id",)
    taken = pb.CreateAccountRequest(organization_id="org_new", name="New", source_services=["org_ours"])
    assert refused(server.account.CreateAccount, taken, service).reason == "SOURCE_SERVICES_TAKEN"

    told = refused(server.account.CreateAccount, pb.CreateAccountRequest(organization_id="org_new"), key_of(ours.api_key))
    assert (told.code, told.reason) == (grpc.StatusCode.PERMISSION_DENIED, "ROLE_NOT_ALLOWED")


@seed("000", "ValidateApiKey", "used", "repeated", "bad input", "wrong role")
def test_a_key_is_validated_and_a_wrong_one_is_an_answer(
    server: GrpcProcess, service: Any, ours: pb.CreateAccountResponse, configured: Settings
) -> None:
    for _ in range(2):
        valid = server.account.ValidateApiKey(pb.ValidateApiKeyRequest(api_key=ours.api_key), metadata=service, timeout=20)
        assert (valid.valid, valid.app_id, valid.organization_id) == (True, ours.account.app_id, "org_ours")
        assert list(valid.source_services) == ["org_ours"]
    for wrong in ("sk_" + "0" * 32, PLANTED, "x"):
        answer = server.account.ValidateApiKey(pb.ValidateApiKeyRequest(api_key=wrong), metadata=service, timeout=20)
        assert answer == pb.ValidateApiKeyResponse(valid=False)
    assert refused(server.account.ValidateApiKey, pb.ValidateApiKeyRequest(), service).fields == ("api_key",)
    request = pb.ValidateApiKeyRequest(api_key=ours.api_key)
    assert refused(server.account.ValidateApiKey, request, key_of(ours.api_key)).code == grpc.StatusCode.PERMISSION_DENIED
    with connect(configured) as connection:
        used = connection.execute("SELECT last_used_at FROM api_keys WHERE tenant_id = 'org_ours'").fetchone()
    assert used is not None
    assert used[0] is not None


@seed("000", "RevealApiKey", "used", "repeated", "bad input", "wrong role", "other tenant")
def test_a_key_is_revealed_to_who_says_why_and_the_audit_keeps_it(
    server: GrpcProcess,
    service: Any,
    ours: pb.CreateAccountResponse,
    theirs: pb.CreateAccountResponse,
    configured: Settings,
) -> None:
    asked = {"app_id": ours.account.app_id, "secret_id": ours.secret_id, "reason": "customer lost it, ticket 7"}
    for _ in range(2):
        shown = server.account.RevealApiKey(pb.RevealApiKeyRequest(**asked), metadata=service, timeout=20)
        assert shown.api_key == ours.api_key
    with connect(configured) as connection:
        rows = connection.execute(
            "SELECT who, after ->> 'reason', after::text FROM audit WHERE what = 'api_key.revealed'"
        ).fetchall()
    assert [(who, reason) for who, reason, _ in rows] == [("service:console", asked["reason"])] * 2
    assert not any(ours.api_key in text for _, _, text in rows)

    for reason in ("", "  ", "x" * 501, "two\nlines"):
        assert refused(server.account.RevealApiKey, pb.RevealApiKeyRequest(**asked | {"reason": reason}), service).fields == (
            "reason",
        )
    other = pb.RevealApiKeyRequest(**asked | {"secret_id": theirs.secret_id})
    assert refused(server.account.RevealApiKey, other, service).code == grpc.StatusCode.NOT_FOUND
    told = refused(server.account.RevealApiKey, pb.RevealApiKeyRequest(**asked), key_of(ours.api_key))
    assert told.code == grpc.StatusCode.PERMISSION_DENIED


@seed("000", "GetAccount", "used", "repeated", "bad input", "other tenant", "wrong role")
def test_an_account_is_shown_to_services_and_to_its_own_organization(
    server: GrpcProcess, service: Any, ours: pb.CreateAccountResponse, theirs: pb.CreateAccountResponse
) -> None:
    request = pb.GetAccountRequest(app_id=ours.account.app_id)
    for credentials in (service, key_of(ours.api_key), key_of(ours.api_key)):
        shown = server.account.GetAccount(request, metadata=credentials, timeout=20).account
        assert (shown.app_id, shown.customer_id) == (ours.account.app_id, ours.account.customer_id)
        assert ours.api_key not in str(shown)
    told = refused(server.account.GetAccount, request, key_of(theirs.api_key))
    nowhere = refused(server.account.GetAccount, pb.GetAccountRequest(app_id="app_nowhere"), key_of(theirs.api_key))
    assert (told.code, told.reason, told.message) == (nowhere.code, nowhere.reason, nowhere.message)
    assert told.code == grpc.StatusCode.NOT_FOUND
    assert refused(server.account.GetAccount, pb.GetAccountRequest(), service).fields == ("app_id",)
    for wrong in ((), secret_of(PLANTED), key_of(PLANTED), (*service, *key_of(ours.api_key)), service * 2):
        told = refused(server.account.GetAccount, request, wrong)
        assert told.code == grpc.StatusCode.UNAUTHENTICATED
        assert PLANTED not in told.message


@seed("000", "GetSecret", "used", "repeated", "bad input", "other tenant", "wrong role")
def test_how_a_key_is_kept_is_shown_and_its_ciphertext_to_services_only(
    server: GrpcProcess, service: Any, ours: pb.CreateAccountResponse, theirs: pb.CreateAccountResponse
) -> None:
    request = pb.GetSecretRequest(app_id=ours.account.app_id, secret_id=ours.secret_id)
    for _ in range(2):
        kept = server.account.GetSecret(request, metadata=service, timeout=20)
        assert (kept.algorithm, len(kept.iv), len(kept.ciphertext)) == ("AES-256-GCM", 12, 35 + 16)
    own = server.account.GetSecret(request, metadata=key_of(ours.api_key), timeout=20)
    assert (own.encryption_key_id, own.iv, own.ciphertext) == (kept.encryption_key_id, b"", b"")
    assert refused(server.account.GetSecret, request, key_of(theirs.api_key)).code == grpc.StatusCode.NOT_FOUND
    assert refused(server.account.GetSecret, pb.GetSecretRequest(), service).fields == ("app_id", "secret_id")
    assert refused(server.account.GetSecret, request).code == grpc.StatusCode.UNAUTHENTICATED


@seed("000", "MonthlyBilling", "used", "repeated", "bad input", "other tenant", "wrong role")
@seed("000", "UpdateBillingStatus", "used", "repeated", "bad input", "other tenant", "wrong role")
def test_a_month_is_billed_on_request_and_marked_complete_once_it_is_paid(
    server: GrpcProcess,
    service: Any,
    ours: pb.CreateAccountResponse,
    theirs: pb.CreateAccountResponse,
    configured: Settings,
) -> None:
    account, app_id = server.account, ours.account.app_id
    ask = pb.MonthlyBillingRequest(app_id=app_id, period="2026-09")
    end = pb.UpdateBillingStatusRequest(app_id=app_id, period="2026-09", state=pb.BILLING_STATE_COMPLETED)
    assert refused(account.UpdateBillingStatus, end, service).code == grpc.StatusCode.NOT_FOUND, "nobody asked for it"
    first, again = (account.MonthlyBilling(ask, metadata=service, timeout=20).cycle for _ in range(2))
    assert first == again
    assert (first.state, first.period_start, first.period_end) == (pb.BILLING_STATE_REQUESTED, "2026-09-03", "2026-10-03")
    early = refused(account.UpdateBillingStatus, end, service)
    assert (early.code, early.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NOT_PAID")
    with connect(configured) as connection:
        for state in ("closed", "exported", "confirmed", "paid"):
            connection.execute("UPDATE billing_requests SET state = %s WHERE app_id = %s", (state, app_id))
    done = [account.UpdateBillingStatus(end, metadata=service, timeout=20).cycle for _ in range(2)]
    assert done[0] == done[1]
    assert done[0].state == pb.BILLING_STATE_COMPLETED

    odd = pb.UpdateBillingStatusRequest(app_id=app_id, period="2026-09", state=pb.BILLING_STATE_PAID)
    assert refused(account.UpdateBillingStatus, odd, service).fields == ("state",)
    for period in ("", "2026", "2026-13", "September"):
        told = refused(account.MonthlyBilling, pb.MonthlyBillingRequest(app_id=app_id, period=period), service)
        assert told.code == grpc.StatusCode.INVALID_ARGUMENT
    nowhere = pb.MonthlyBillingRequest(app_id="app_nowhere", period="2026-09")
    assert refused(account.MonthlyBilling, nowhere, service).code == grpc.StatusCode.NOT_FOUND
    for act, request in ((account.MonthlyBilling, ask), (account.UpdateBillingStatus, end)):
        for credentials in (key_of(ours.api_key), key_of(theirs.api_key)):
            assert refused(act, request, credentials).code == grpc.StatusCode.PERMISSION_DENIED


def test_no_planted_secret_and_no_key_is_in_the_logs(server: GrpcProcess, ours: pb.CreateAccountResponse, stripe: object) -> None:
    """After the tests above, which sent them in every place there is."""
    refused(server.account.GetAccount, pb.GetAccountRequest(app_id=PLANTED), secret_of(PLANTED))
    logged = "".join(server.lines)
    assert "call refused" in logged
    for secret in (PLANTED, ours.api_key, KEY, "a secret of the keyring"):
        assert secret not in logged
