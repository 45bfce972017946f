"""`meterline serve grpc` as a real process on free ports, and what a client needs to talk to it over a real socket."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from grpc_status import rpc_status

from control_plane.grpc import accounts, payments
from control_plane.grpc.client import client_of
from runtime.settings import Settings
from tests.fakes.local_stripe_server import LocalStripeServer
from tests.integration.serving import environment

ROOT = Path(__file__).parents[2]
STARTED_WITHIN_S = 30.0
ANSWER_WITHIN_S = 20.0


@dataclass
class GrpcProcess:
    """A running one. `account` and `payment` call with the credentials that are handed to them as metadata."""

    process: subprocess.Popen[str]
    addresses: dict[str, str]
    lines: list[str]
    channels: dict[str, grpc.Channel] = field(default_factory=dict)

    def channel(self, server: str) -> grpc.Channel:
        if server not in self.channels:
            self.channels[server] = grpc.insecure_channel(self.addresses[server])
        return self.channels[server]

    @property
    def account(self) -> Any:
        return client_of(self.channel("account"), accounts.METHODS.service)

    @property
    def payment(self) -> Any:
        return client_of(self.channel("payment"), payments.METHODS.service)

    def wait_killed(self) -> None:
        """Until it has died by kill -9."""
        assert self.process.wait(STARTED_WITHIN_S) == -signal.SIGKILL, "".join(self.lines)


@contextmanager
def grpc_process(
    settings: Settings, *arguments: str, over: Mapping[str, str] | None = None, dies: bool = False
) -> Iterator[GrpcProcess]:
    """The process while the block runs; it has to end with status 0, or by kill -9 where it `dies`."""
    variables = {
        "PATH": os.environ["PATH"],
        "PYTHONWARNINGS": "error",
        **environment(settings.model_copy(update={"grpc_account_port": 0, "grpc_payment_port": 0})),
        **(over or {}),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", "serve", "grpc", *arguments],
        cwd=ROOT,
        env=variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    lines: list[str] = []
    listening: queue.SimpleQueue[tuple[str, int] | None] = queue.SimpleQueue()

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            if '"message": "listening"' in line:
                told = json.loads(line)
                listening.put((told["server"], told["port"]))
        listening.put(None)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    running = GrpcProcess(process, {}, lines)
    try:
        while len(running.addresses) < 2:
            told = listening.get(timeout=STARTED_WITHIN_S)
            assert told is not None, "".join(lines)
            running.addresses[told[0]] = f"127.0.0.1:{told[1]}"
        yield running
    finally:
        for channel in running.channels.values():
            channel.close()
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        status = process.wait(timeout=settings.stop_within_s + 5)
        reader.join(timeout=5)
        process.stderr.close()
    assert status == (-signal.SIGKILL if dies else 0), "".join(lines[-30:])


def secret_of(secret: str) -> tuple[tuple[str, str], ...]:
    """A service's credentials."""
    return (("x-service-secret", secret),)


def key_of(key: str) -> tuple[tuple[str, str], ...]:
    """An organization's."""
    return (("authorization", f"Bearer {key}"),)


def customers_of(stripe: LocalStripeServer, tenant_id: str) -> list[Any]:
    """The customers at a local Stripe that name the tenant: one has to be all."""
    found: list[Any] = list(stripe.client().v1.customers.list({"limit": 100}).data)
    return [one for one in found if one.metadata["meterline_tenant"] == tenant_id]


@dataclass(frozen=True)
class Refused:
    """How a call ended that was refused."""

    code: grpc.StatusCode
    reason: str
    message: str
    fields: tuple[str, ...]
    metadata: dict[str, str]


def refused(act: Any, request: Any, metadata: Any = (), timeout: float = ANSWER_WITHIN_S) -> Refused:
    """Calls, and wants a refusal with the details that every one has to have."""
    with pytest.raises(grpc.RpcError) as raised:
        act(request, metadata=metadata, timeout=timeout)
    error: Any = raised.value
    status = rpc_status.from_call(error)
    assert status is not None, f"no details: {error}"
    info, bad = ErrorInfo(), BadRequest()
    assert any(detail.Unpack(info) for detail in status.details)
    for detail in status.details:
        detail.Unpack(bad)
    assert info.domain == "meterline"
    assert info.metadata["requestId"]
    fields = tuple(violation.field for violation in bad.field_violations)
    return Refused(error.code(), info.reason, error.details(), fields, dict(info.metadata))
