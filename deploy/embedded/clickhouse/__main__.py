"""`python -m deploy.embedded.clickhouse`: the gateway as a process. Prints nothing; `/ping` answers when it is ready."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from deploy.embedded.clickhouse.engine import Engine
from deploy.embedded.clickhouse.failures import Failure
from deploy.embedded.clickhouse.http import Bounds, Gateway
from deploy.embedded.clickhouse.users import User, Users
from runtime.exits import Exit

GRACE_S = 4.0
_MEMORY_BYTES_DEFAULT = 3_000_000_000


class _Server(uvicorn.Server):
    """A server that leaves signals to this module: uvicorn would raise them again and so end the process too early."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit code."""
    options = _options(argv)
    users = [User(options.user, _password(options.password_file))]
    if options.readonly_user is not None:
        users.append(User(options.readonly_user, _password(options.readonly_password_file), readonly=True))
    options.data.mkdir(parents=True, exist_ok=True)
    spool = options.data / "spool"
    spool.mkdir(mode=0o700, exist_ok=True)
    try:
        listener = socket.create_server(("127.0.0.1", options.port), backlog=512)
    except OSError as error:
        return _give_up(f"port {options.port} of 127.0.0.1 cannot be opened ({error.strerror}): choose another with --port")
    try:
        engine = Engine(options.data / "engine", options.memory_bytes, options.database)
    except Failure as failure:
        return _give_up(
            f"the ClickHouse engine does not open {options.data}: {failure.text}; is another process using the folder?"
        )
    gateway = Gateway(engine, Users(tuple(users)), spool, Bounds())
    config = uvicorn.Config(
        gateway,
        lifespan="off",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(GRACE_S),
        ssl_certfile=options.tls_cert,
        ssl_keyfile=options.tls_key,
    )
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(_serve(_Server(config), gateway, listener))
    idle = gateway.idle
    if idle:
        gateway.close()
        engine.close()
    # A statement that could not be killed holds its thread, and the interpreter would wait for it for ever.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0 if idle else 1)


async def _serve(server: _Server, gateway: Gateway, listener: socket.socket) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    serving = asyncio.create_task(server.serve([listener]))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    server.should_exit = True
    await gateway.stop(GRACE_S)
    await asyncio.wait({serving}, timeout=2 * GRACE_S)


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m deploy.embedded.clickhouse", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder of the data; one process at a time")
    parser.add_argument("--port", type=int, required=True, help="the port of 127.0.0.1 to listen on")
    parser.add_argument("--user", required=True, help="who may read and write")
    parser.add_argument("--password-file", type=Path, required=True)
    parser.add_argument("--readonly-user", help="who may only read")
    parser.add_argument("--readonly-password-file", type=Path)
    parser.add_argument("--tls-cert", help="a PEM file; with it the port speaks HTTPS only")
    parser.add_argument("--tls-key")
    parser.add_argument("--database", default="default", help="the database of requests that name none; made when missing")
    parser.add_argument("--memory-bytes", type=int, default=_MEMORY_BYTES_DEFAULT, help="the most the engine may use")
    options = parser.parse_args(argv)
    if (options.readonly_user is None) != (options.readonly_password_file is None):
        parser.error("--readonly-user and --readonly-password-file go together")
    if (options.tls_cert is None) != (options.tls_key is None):
        parser.error("--tls-cert and --tls-key go together")
    return options


def _password(path: Path) -> str:
    return path.read_text().strip("\r\n")


def _give_up(why: str) -> int:
    sys.stderr.write(f"clickhouse: {why}\n")
    return int(Exit.FAILED)


if __name__ == "__main__":
    sys.exit(main())
