"""`python -m deploy.embedded.local_stripe --data DIR --port N --key sk_test_...`

Listens on 127.0.0.1 only; port 0 takes a free one. Says `listening on http://...` on standard output, and answers
GET /__local/health, once it is ready. SIGTERM ends it after the requests in hand.
"""

from __future__ import annotations

import argparse
import logging
import signal
import socket
import sqlite3
import sys
from pathlib import Path

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from deploy.embedded.local_stripe.app import LocalStripe
from deploy.embedded.local_stripe.state import Busy, Keeper

HOST = "127.0.0.1"
STOP_WITHIN_S = 5
CONNECTIONS_MAX = 512


class Protocol(HttpToolsProtocol):
    """Lets the application close a connection without an answer, or in the middle of one."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["hang_up"] = self.transport.close  # type: ignore[typeddict-unknown-key]


def main(arguments: list[str]) -> int:
    """Serves until it is told to stop; 3 when a setting is wrong, 1 when the port or the data cannot be had."""
    parser = argparse.ArgumentParser(prog="local_stripe", description="A Stripe that runs on this machine.")
    parser.add_argument("--data", type=Path, required=True, help="directory of its state")
    parser.add_argument("--port", type=int, required=True, help="port on 127.0.0.1; 0 takes a free one")
    key = parser.add_mutually_exclusive_group(required=True)
    key.add_argument("--key", help="the secret key that clients use, sk_test_...")
    key.add_argument("--key-file", type=Path, help="a file that holds it: a command line can be read by everybody")
    options = parser.parse_args(arguments)
    if options.key_file is not None:
        options.key = options.key_file.read_text("utf-8").strip()
    if not options.key.startswith("sk_test_") or len(options.key) < 12:
        sys.stderr.write(
            "local_stripe: --key must look like sk_test_...: this is no live Stripe, and a live key has no place here\n"
        )
        return 3
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, options.port))
            keeper = Keeper(options.data)
            keeper.start()
        except (OSError, OverflowError) as error:
            sys.stderr.write(f"local_stripe: cannot listen on {HOST}:{options.port} ({error}); choose another --port\n")
            return 1
        except (Busy, sqlite3.Error) as error:
            sys.stderr.write(f"local_stripe: {error}\n")
            return 1
        listener.listen(CONNECTIONS_MAX)
        sys.stdout.write(f"listening on http://{HOST}:{listener.getsockname()[1]}\n")
        sys.stdout.flush()
        # uvicorn raises the signal again once it has stopped; a stop that was asked for is no failure
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        server = uvicorn.Server(
            uvicorn.Config(
                LocalStripe(keeper, options.key),
                http=Protocol,
                lifespan="on",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                date_header=True,
                timeout_graceful_shutdown=STOP_WITHIN_S,
                limit_concurrency=CONNECTIONS_MAX,
            )
        )
        server.run(sockets=[listener])
        keeper.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
