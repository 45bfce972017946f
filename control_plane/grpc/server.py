"""The process of the gRPC servers: the checks before they listen, both services on their ports, the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from access.admission import before_listening
from access.gates import gate_of
from control_plane.grpc import account_service, payment_service
from control_plane.grpc.methods import Door, Methods
from control_plane.grpc.tls import credentials_of
from control_plane.parts import Parts, parts_of
from control_plane.refusals import Refusal
from control_plane.unit import Actor
from runtime.exits import Exit, MeterlineExit
from runtime.life import Stop, serve_health
from runtime.postgres import async_pool
from runtime.settings import Settings

logger = logging.getLogger(__name__)

CALLS_AT_ONCE_MAX: Final = 512
"""More than this on one server end with RESOURCE_EXHAUSTED."""
THREADS_A_CONNECTION: Final = 2
"""Calls in threads at most, for each connection to Postgres: some wait for a provider meanwhile."""
METADATA_BYTES_MAX: Final = 16 << 10
READY_EVERY_S: Final = 2.0
STOP_SHARE: Final = 0.8
"""Of `stop_within_s`: for calls under way."""


def run(settings: Settings, stop: Stop, *, host: str | None = None, dev: bool = False) -> None:
    """Serves until `stop` is set, then ends within `stop_within_s`.

    Raises MeterlineExit: nobody could come in, `dev` on an address that others reach, a port that cannot be had; SettingsError.
    """
    host = settings.http_host if host is None else host
    before_listening(settings, host, dev=dev)
    credentials = credentials_of(settings)
    if credentials is None:
        logger.warning("calls come in plain text; set METERLINE_GRPC_TLS_CERTIFICATE_FILE, or let a proxy encrypt them")
    parts = parts_of(settings)
    try:
        with serve_health(settings, {"postgres": lambda: _postgres(parts)}):
            asyncio.run(_serve(parts, stop, host, credentials, dev=dev))
    finally:
        parts.units.close()
    logger.info("stopped")


async def _serve(parts: Parts, stop: Stop, host: str, credentials: grpc.ServerCredentials | None, *, dev: bool) -> None:
    settings = parts.settings
    services: Mapping[str, tuple[Methods, int]] = {
        "account": (account_service.METHODS, settings.grpc_account_port),
        "payment": (payment_service.METHODS, settings.grpc_payment_port),
    }
    pool = async_pool(settings)
    threads = ThreadPoolExecutor(settings.postgres_pool_max * THREADS_A_CONNECTION, thread_name_prefix="call")
    await pool.open(wait=False)
    try:
        door = Door(parts, gate_of(settings, pool, dev=dev), threads)
        servers = [
            _Server(name, methods, door, settings, f"{host}:{port}", credentials) for name, (methods, port) in services.items()
        ]
        for server in servers:
            await server.start()
        while not await asyncio.to_thread(stop.wait, READY_EVERY_S):
            ready = await asyncio.to_thread(_postgres, parts) is None
            for server in servers:
                await server.say(ready=ready)
        await asyncio.gather(*(server.end(settings.stop_within_s * STOP_SHARE) for server in servers))
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        await pool.close()


class _Server:
    """One service on its port, with health and reflection beside it."""

    def __init__(
        self,
        name: str,
        methods: Methods,
        door: Door,
        settings: Settings,
        address: str,
        credentials: grpc.ServerCredentials | None,
    ) -> None:
        """Raises MeterlineExit where the port cannot be had."""
        service = methods.service.full_name
        self._name = name
        self._names = ("", service)
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(
            maximum_concurrent_rpcs=CALLS_AT_ONCE_MAX,
            options=[
                ("grpc.max_receive_message_length", settings.http_body_max),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_metadata_size", METADATA_BYTES_MAX),
                # A port that another process has is an error, not half of the calls.
                ("grpc.so_reuseport", 0),
                # Connections end now and then, so that clients find servers that were added.
                ("grpc.max_connection_age_ms", 3_600_000),
                ("grpc.max_connection_age_grace_ms", 60_000),
                ("grpc.keepalive_time_ms", 60_000),
            ],
        )
        self._server.add_generic_rpc_handlers((methods.handler(door),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((service, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)
        try:
            if credentials is None:
                self.port = self._server.add_insecure_port(address)
            else:
                self.port = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise MeterlineExit(
                Exit.SETTINGS,
                f"cannot listen on {address} ({error}); end what listens there, or set METERLINE_GRPC_{name.upper()}_PORT "
                "otherwise; with TLS, see whether the certificate belongs to its key",
            ) from None

    async def start(self) -> None:
        """Serves."""
        await self.say(ready=True)
        await self._server.start()
        logger.info("listening", extra={"server": self._name, "port": self.port})

    async def say(self, *, ready: bool) -> None:
        """What the health service answers from now on."""
        serving = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in self._names:
            await self._health.set(name, serving)

    async def end(self, within_s: float) -> None:
        """Takes no more calls, and waits for those under way."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(within_s)


def _postgres(parts: Parts) -> str | None:
    """What is wrong with Postgres."""
    try:
        with parts.units.begin(Actor("health")) as unit:
            unit.pg.execute("SELECT 1")
    except Refusal as away:
        return away.code
    return None
