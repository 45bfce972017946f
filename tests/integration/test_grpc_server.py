"""The gRPC servers around their methods: reflection, health, deadlines, limits, TLS, a graceful end, and refusals to start."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from pydantic import SecretStr

from control_plane.grpc import account_service, payment_service
from control_plane.grpc.client import client_of
from control_plane.grpc.generated import account_pb2, payment_pb2
from control_plane.grpc.methods import ORGANIZATIONS, SERVICES, SIGNED
from runtime.exits import Exit
from runtime.keyring import keyring
from runtime.postgres import connect
from runtime.settings import Settings
from store import service_secrets
from store.api_keys import issue
from tests.fakes.grpc_process import ROOT, GrpcProcess, grpc_process, key_of, refused, secret_of
from tests.integration.serving import environment

ACCOUNT, PAYMENT = "meterline.account.v1.AccountService", "meterline.payment.v1.PaymentService"
ACCOUNTS = account_service.METHODS.service
NOBODY = account_pb2.GetAccountRequest(app_id="app_nobody")


@pytest.fixture(scope="module")
def configured(migrated: Settings) -> Settings:
    return migrated.model_copy(
        update={"secret_encrypt_key": SecretStr("a secret of the keyring of this test"), "rate_limit_key_per_s": 1.0}
    )


@pytest.fixture(scope="module")
def service(configured: Settings) -> Any:
    with connect(configured) as connection:
        return secret_of(service_secrets.create(connection, "console", ["console"]))


@pytest.fixture(scope="module")
def server(configured: Settings, service: object) -> Iterator[GrpcProcess]:
    with grpc_process(configured) as running:
        yield running


def test_a_client_that_has_no_protos_learns_them_by_reflection_and_calls(server: GrpcProcess, service: Any) -> None:
    for name, wanted in (("account", ACCOUNT), ("payment", PAYMENT)):
        database = ProtoReflectionDescriptorDatabase(server.channel(name))
        assert set(database.get_services()) == {wanted, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
        described = DescriptorPool(database).FindServiceByName(wanted)
        ours = {"account": account_pb2, "payment": payment_pb2}[name].DESCRIPTOR.services_by_name[described.name]
        assert [method.name for method in described.methods] == [method.name for method in ours.methods]
    described = DescriptorPool(ProtoReflectionDescriptorDatabase(server.channel("account"))).FindServiceByName(ACCOUNT)
    method = described.FindMethodByName("ValidateApiKey")
    call = server.channel("account").unary_unary(
        f"/{ACCOUNT}/{method.name}",
        request_serializer=GetMessageClass(method.input_type).SerializeToString,
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    request = json_format.Parse('{"apiKey": "sk_unknown"}', GetMessageClass(method.input_type)())
    answer = call(request, metadata=service, timeout=20)
    assert json_format.MessageToDict(answer, always_print_fields_with_no_presence=True)["valid"] is False


def health_of(server: GrpcProcess, name: str) -> Any:
    """Its stub, whose methods its type stubs do not know."""
    return health_pb2_grpc.HealthStub(server.channel(name))


def test_health_is_told_by_server_and_by_service_without_credentials(server: GrpcProcess) -> None:
    for name, wanted in (("account", ACCOUNT), ("payment", PAYMENT)):
        for asked in ("", wanted):
            answer = health_of(server, name).Check(health_pb2.HealthCheckRequest(service=asked), timeout=20)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as unknown:
        health_of(server, "account").Check(health_pb2.HealthCheckRequest(service=PAYMENT), timeout=20)
    assert unknown.value.code() == grpc.StatusCode.NOT_FOUND


def test_who_may_call_what_is_said_of_every_method() -> None:
    allowed = {name: allow for methods in (account_service, payment_service) for name, allow in methods.METHODS.allowed().items()}
    own = {"GetAccount", "GetSecret", "GetCustomer", "RecordUsage", "GetUsage", "GetInvoice", "ListInvoices"}
    assert {name for name, allow in allowed.items() if allow == ORGANIZATIONS} == own
    assert {name for name, allow in allowed.items() if allow is SIGNED} == {"HandleWebhook"}
    assert {name for name, allow in allowed.items() if allow == SERVICES} == set(allowed) - own - {"HandleWebhook"}
    described = [one.METHODS.service.methods_by_name for one in (account_service, payment_service)]
    assert set(allowed) == {name for methods in described for name in methods}, "none is missing"


def test_every_method_lets_in_before_it_looks_at_the_request(server: GrpcProcess) -> None:
    for name, methods in (("account", account_service), ("payment", payment_service)):
        for method in methods.METHODS.allowed():
            request = GetMessageClass(methods.METHODS.service.methods_by_name[method].input_type)()
            wanted = grpc.StatusCode.INVALID_ARGUMENT if method == "HandleWebhook" else grpc.StatusCode.UNAUTHENTICATED
            assert refused(getattr(getattr(server, name), method), request).code == wanted, method


def test_an_answer_names_the_request_as_the_client_did(server: GrpcProcess, service: Any) -> None:
    told = refused(server.account.GetAccount, NOBODY, (*service, ("x-request-id", "req-7")))
    assert told.metadata["requestId"] == "req-7"
    _, call = server.account.ValidateApiKey.with_call(
        account_pb2.ValidateApiKeyRequest(api_key="sk_x"), metadata=(*service, ("x-request-id", "req-8")), timeout=20
    )
    assert dict(call.trailing_metadata())["x-request-id"] == "req-8"
    for odd in ("two words", "x" * 65):
        told = refused(server.account.GetAccount, NOBODY, (*service, ("x-request-id", odd)))
        assert told.metadata["requestId"] != odd


def test_a_deadline_ends_the_statement_that_outlives_it_and_the_call(
    server: GrpcProcess, service: Any, configured: Settings
) -> None:
    with connect(configured) as holder:
        holder.execute("LOCK TABLE accounts")
        started = time.monotonic()
        with pytest.raises(grpc.RpcError) as late:
            server.account.GetAccount(NOBODY, metadata=service, timeout=0.5)
        assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert time.monotonic() - started < configured.postgres_timeout_s
        deadline = time.monotonic() + 5
        while _waiting(configured):
            assert time.monotonic() < deadline, "a statement goes on for a client that is gone"
            threading.Event().wait(0.05)
        holder.rollback()
    assert refused(server.account.GetAccount, NOBODY, service).code == grpc.StatusCode.NOT_FOUND


def _waiting(settings: Settings) -> bool:
    with connect(settings) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ).fetchone()
    return row is not None and row[0] > 0


def test_a_message_that_is_too_large_is_refused_and_the_next_one_is_not(
    server: GrpcProcess, service: Any, configured: Settings
) -> None:
    large = account_pb2.GetAccountRequest(app_id="x" * (configured.http_body_max + 1))
    with pytest.raises(grpc.RpcError) as told:
        server.account.GetAccount(large, metadata=service, timeout=20)
    assert told.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refused(server.account.GetAccount, NOBODY, service).code == grpc.StatusCode.NOT_FOUND


def test_who_asks_too_often_is_told_when_to_come_back(server: GrpcProcess, configured: Settings) -> None:
    keys = keyring(configured)
    assert keys is not None
    with connect(configured) as connection:
        connection.execute("INSERT INTO tenants (tenant_id) VALUES ('busy')")
        key = issue(connection, keys, "busy", "busy").key
    codes = [refused(server.account.GetAccount, NOBODY, key_of(key)) for _ in range(6)]
    assert codes[0].code == grpc.StatusCode.NOT_FOUND
    assert codes[-1].code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert codes[-1].reason == "TOO_MANY_REQUESTS"


def test_what_nobody_foresaw_is_an_answer_without_its_cause(server: GrpcProcess, service: Any, configured: Settings) -> None:
    with connect(configured, autocommit=True) as connection:
        connection.execute("ALTER TABLE accounts RENAME TO accounts_away")
        try:
            told = refused(server.account.GetAccount, NOBODY, service)
        finally:
            connection.execute("ALTER TABLE accounts_away RENAME TO accounts")
    assert (told.code, told.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "accounts" not in told.message
    assert any(told.metadata["requestId"] in line and '"level": "error"' in line for line in server.lines)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, trustme.CA]:
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    shown = authority.issue_cert("127.0.0.1")
    (folder / "server.pem").write_bytes(b"".join(blob.bytes() for blob in shown.cert_chain_pems))
    shown.private_key_pem.write_to_path(str(folder / "server.key"))
    return folder, authority


def test_with_tls_a_client_without_a_certificate_of_the_authority_gets_nowhere_and_a_call_under_way_is_finished(
    configured: Settings, service: Any, certificates: tuple[Path, trustme.CA]
) -> None:
    folder, authority = certificates
    over = {
        "METERLINE_GRPC_TLS_CERTIFICATE_FILE": str(folder / "server.pem"),
        "METERLINE_GRPC_TLS_KEY_FILE": str(folder / "server.key"),
        "METERLINE_GRPC_TLS_CLIENT_CA_FILE": str(folder / "ca.pem"),
    }
    trusted = authority.cert_pem.bytes()
    shown = authority.issue_cert("client.example")
    chain = b"".join(blob.bytes() for blob in shown.cert_chain_pems)
    known = grpc.ssl_channel_credentials(trusted, shown.private_key_pem.bytes(), chain)
    strangers = [grpc.ssl_channel_credentials(trusted), grpc.ssl_channel_credentials(trustme.CA().cert_pem.bytes())]
    with grpc_process(configured, over=over) as server:
        address = server.addresses["account"]
        with grpc.secure_channel(address, known) as channel:
            assert refused(client_of(channel, ACCOUNTS).GetAccount, NOBODY, service).code == grpc.StatusCode.NOT_FOUND
        for stranger in strangers:
            with grpc.secure_channel(address, stranger) as channel, pytest.raises(grpc.RpcError) as told:
                client_of(channel, ACCOUNTS).GetAccount(NOBODY, metadata=service, timeout=5)
            assert told.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
        with pytest.raises(grpc.RpcError):
            server.account.GetAccount(NOBODY, metadata=service, timeout=2)

        with connect(configured) as holder, grpc.secure_channel(address, known) as channel:
            holder.execute("LOCK TABLE accounts")
            under_way = client_of(channel, ACCOUNTS).GetAccount.future(NOBODY, metadata=service, timeout=20)
            deadline = time.monotonic() + 10
            while not _waiting(configured):
                assert time.monotonic() < deadline
                threading.Event().wait(0.05)
            server.process.send_signal(signal.SIGTERM)
            holder.rollback()
            error = under_way.exception(timeout=20)
            assert error.code() == grpc.StatusCode.NOT_FOUND, "it was answered, not cut"
        assert server.process.wait(configured.stop_within_s) == 0


def start(settings: Settings, **over: str) -> subprocess.CompletedProcess[str]:
    variables = {"PATH": os.environ["PATH"], **environment(settings), **over}
    command = [sys.executable, "-m", "cli", "serve", "grpc"]
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=60, check=False)


def test_a_port_that_is_taken_is_named(configured: Settings, service: object) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = start(configured, METERLINE_GRPC_ACCOUNT_PORT=port, METERLINE_GRPC_PAYMENT_PORT="0")
    assert ended.returncode == Exit.SETTINGS, ended.stderr
    assert f"127.0.0.1:{port}" in ended.stderr
    assert "METERLINE_GRPC_ACCOUNT_PORT" in ended.stderr


@pytest.mark.parametrize(
    "over",
    [
        {"METERLINE_GRPC_TLS_KEY_FILE": "{folder}/server.key"},
        {"METERLINE_GRPC_TLS_CERTIFICATE_FILE": "{folder}/none.pem", "METERLINE_GRPC_TLS_KEY_FILE": "{folder}/server.key"},
        {"METERLINE_GRPC_TLS_CERTIFICATE_FILE": "{folder}", "METERLINE_GRPC_TLS_KEY_FILE": "{folder}/server.key"},
    ],
)
def test_tls_that_is_not_complete_is_refused_with_the_settings_name(
    configured: Settings, certificates: tuple[Path, trustme.CA], over: dict[str, str]
) -> None:
    ended = start(configured, **{name: value.format(folder=certificates[0]) for name, value in over.items()})
    assert ended.returncode == Exit.SETTINGS, ended.stderr
    assert "METERLINE_GRPC_TLS_CERTIFICATE_FILE" in ended.stderr
