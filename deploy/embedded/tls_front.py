"""TLS in front of a server on loopback whose build has none: `python -m deploy.embedded.tls_front ...`.

The packaged PostgreSQL is built without TLS, and clients must still be tried against it as in production. This takes
the client's connection, answers PostgreSQL's request for TLS, shakes hands, and passes the bytes on. For tests and
trials; not part of any deployment.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy.embedded.child_server import ChildServer
from deploy.embedded.processes import Starting, free_port, port_answers, run_one, spawn, until

SSL_REQUEST = (8).to_bytes(4, "big") + (80877103).to_bytes(4, "big")
CONNECTIONS_MAX = 256
HANDSHAKE_TIMEOUT_S = 10.0
READY_WITHIN_S = 15.0


class TlsFront(ChildServer):
    """The front as a child process. `port` is where TLS clients connect."""

    def __init__(self, home: Path, *, to_port: int, certificate: Path, key: Path) -> None:
        self.port = free_port()
        self._log = home.absolute() / "tls.log"
        files = ["--certificate", str(certificate), "--key", str(key)]
        ports = ["--port", str(self.port), "--to", str(to_port)]
        self._command = [sys.executable, "-m", "deploy.embedded.tls_front", *ports, *files]

    def start(self) -> None:
        """Returns when it listens; raises EmbeddedError with the log's tail."""
        run_one(self.starting())

    def starting(self) -> Starting[None]:
        """The same, step by step."""
        self.child = spawn("the TLS front", self._command, log=self._log, cwd=Path(__file__).parents[2])
        yield from until(lambda: port_answers(self.port), READY_WITHIN_S, self.child)


class _Side(asyncio.Protocol):
    """One end of a connection that is passed through: what arrives here leaves at `other`, no faster than it is taken."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.other: _Side | None = None
        self._early = bytearray()

    def join(self, other: _Side) -> None:
        """From now on bytes pass; what came before follows first."""
        self.other = other
        if self._early and other.transport is not None:
            other.transport.write(bytes(self._early))
            self._early.clear()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(data)
        else:
            self._early += data

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


class _Door(asyncio.Protocol):
    """A connection before its handshake."""

    def __init__(self, context: ssl.SSLContext, to_port: int, open_now: set[asyncio.Task[None]]) -> None:
        self._context, self._to_port, self._open = context, to_port, open_now
        self._head = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if len(self._open) >= CONNECTIONS_MAX:
            transport.close()

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._head += data
        if self._head == SSL_REQUEST:
            self._transport.pause_reading()
            self._transport.write(b"S")
            self._upgrade(self._transport)
        elif not SSL_REQUEST.startswith(self._head):
            self._transport.close()  # a client that would go on in clear text

    def _upgrade(self, transport: asyncio.Transport) -> None:
        task = asyncio.get_running_loop().create_task(self._pass_through(transport))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _pass_through(self, transport: asyncio.Transport) -> None:
        loop = asyncio.get_running_loop()
        client = _Side()
        try:
            secured = await loop.start_tls(
                transport, client, self._context, server_side=True, ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S
            )
        except OSError as error:  # ssl.SSLError is one: a client that does not trust us, or hangs up
            sys.stderr.write(f"no handshake: {error}\n")
            transport.abort()
            return
        if secured is None:
            return  # hung up between the handshake and now
        client.transport = secured
        try:
            _, server = await loop.create_connection(_Side, "127.0.0.1", self._to_port)
        except OSError as error:
            sys.stderr.write(f"the server behind is away: {error}\n")
            secured.close()
            return
        server.other = client
        client.join(server)


async def serve(port: int, to_port: int, context: ssl.SSLContext) -> None:
    """Runs until SIGTERM."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    open_now: set[asyncio.Task[None]] = set()
    server = await loop.create_server(lambda: _Door(context, to_port, open_now), "127.0.0.1", port)
    try:
        await stopped.wait()
    finally:
        server.close()


def main(arguments: Sequence[str]) -> int:
    """The process."""
    parser = argparse.ArgumentParser(prog="python -m deploy.embedded.tls_front")
    parser.add_argument("--port", type=int, required=True, help="where TLS clients connect")
    parser.add_argument("--to", type=int, required=True, help="the server's port on loopback")
    parser.add_argument("--certificate", type=Path, required=True, help="PEM, the chain")
    parser.add_argument("--key", type=Path, required=True, help="PEM")
    given = parser.parse_args(arguments)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(given.certificate, given.key)
    # PostgreSQL's clients may ask for its protocol by name.
    context.set_alpn_protocols(["postgresql"])
    asyncio.run(serve(given.port, given.to, context))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
