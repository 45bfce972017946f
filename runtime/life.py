"""How a process lives: it is told to stop, it waits between tries, it says how it is."""

from __future__ import annotations

import gc
import json
import logging
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import FrameType

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from runtime.settings import Settings

logger = logging.getLogger(__name__)


def collect_seldom(every_objects: int) -> None:
    """From now on the garbage collector looks each time that so many objects more stand, and never again at what stands now:
    it lives as long as the process. Call it when the process has started.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(every_objects, 20, 100)


class Stop(threading.Event):
    """Set by SIGTERM and SIGINT. Loops wait on it instead of sleeping."""

    @classmethod
    def install(cls) -> Stop:
        """A Stop wired to the signals; call it from the main thread. A second signal ends the process at once."""
        stop = cls()
        # A handler runs within the main thread, which may be holding the event's lock (it waits for it, say): setting
        # the event there would never return. A SimpleQueue may be put to from anywhere.
        told: queue.SimpleQueue[int] = queue.SimpleQueue()
        signals = 0

        def on_signal(number: int, frame: FrameType | None) -> None:
            nonlocal signals
            signals += 1
            if signals > 1:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)
            told.put(number)

        def pass_on() -> None:
            told.get()
            stop.set()

        threading.Thread(target=pass_on, name="signals", daemon=True).start()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, on_signal)
        return stop


class Backoff:
    """Waits that double from `first_s` to `most_s`. Not shared between threads."""

    def __init__(self, first_s: float = 0.05, most_s: float = 2.0) -> None:
        self._first_s, self._most_s = first_s, most_s
        self._next_s = first_s

    def wait_s(self) -> float:
        """How long to wait now; the next answer is twice that."""
        now, self._next_s = self._next_s, min(self._next_s * 2, self._most_s)
        return now

    def reset(self) -> None:
        """After a success."""
        self._next_s = self._first_s


Check = Callable[[], str | None]
"""None when the dependency answers, else what is wrong with it. May block for its own time limit."""


def _handler(checks: Mapping[str, Check]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            path = self.path.split("?", 1)[0]
            if path == "/metrics":
                self._answer(200, CONTENT_TYPE_LATEST, generate_latest())
            elif path == "/health":
                self._answer(200, "application/json", b'{"status":"ok"}')
            elif path == "/ready":
                wrong = {name: problem for name, check in checks.items() if (problem := check()) is not None}
                body = {name: wrong.get(name, "ok") for name in checks}
                self._answer(503 if wrong else 200, "application/json", json.dumps({"ready": not wrong, "checks": body}).encode())
            else:
                self._answer(404, "application/json", b'{"error":"want /health, /ready or /metrics"}')

        def _answer(self, status: int, content_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            logger.debug("health request", extra={"request": format % args})

    return Handler


@contextmanager
def serve_health(settings: Settings, checks: Mapping[str, Check]) -> Iterator[int | None]:
    """/health, /ready and /metrics of a stage that has no HTTP of its own, while the block runs; yields the port.

    Does nothing when `metrics_port` is not set. Port 0 takes a free one.
    """
    if settings.metrics_port is None:
        yield None
        return
    server = ThreadingHTTPServer((settings.http_host, settings.metrics_port), _handler(checks))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="health", daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
