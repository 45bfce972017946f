"""A TCP proxy that a test can cut: connections break in the middle of whatever they were doing."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType

_CHUNK = 1 << 16


class TcpProxy:
    """Forwards 127.0.0.1:`port` to a server. `cut` breaks what is open and refuses what comes; `stall` holds it in silence."""

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._up = threading.Event()
        self._refusing = self._closed = False
        self._cut_after: int | None = None
        self.sent_bytes = 0
        """What clients have sent so far, whether it went on or not."""
        self._up.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> TcpProxy:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._closed = True
        self._listener.close()
        self.cut()
        self._up.set()

    def cut(self) -> None:
        """Breaks every connection, and refuses new ones until `restore`."""
        with self._lock:
            self._refusing = True
            doomed, self._open = self._open, set()
        for end in doomed:
            _break(end)

    def cut_after(self, sent_bytes: int) -> None:
        """Cuts once the clients have sent so much more: in the middle of a request, when it is larger."""
        with self._lock:
            self._cut_after = sent_bytes

    def stall(self) -> None:
        """From now on nothing is forwarded, and nothing is said about it."""
        self._up.clear()

    def restore(self) -> None:
        with self._lock:
            self._refusing, self._cut_after = False, None
        self._up.set()

    @property
    def refusing(self) -> bool:
        return self._refusing

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                refused = self._refusing
            if refused:
                _break(client)
                continue
            try:
                server = socket.create_connection(self._server, 10.0)
            except OSError:
                _break(client)
                continue
            server.settimeout(None)  # that of the connecting would end a connection that is idle
            with self._lock:
                self._open |= {client, server}
            threading.Thread(target=self._forward, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._forward, args=(server, client, False), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket, from_client: bool) -> None:
        try:
            while data := source.recv(_CHUNK):
                if from_client:
                    self.sent_bytes += len(data)
                self._up.wait()
                if from_client and self._spent(len(data)):
                    sink.sendall(data[: len(data) // 2])
                    self.cut()
                    return
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        finally:
            with self._lock:
                done = {source, sink} & self._open if not from_client else set()
                self._open -= done
            for end in done:
                end.close()

    def _spent(self, count: int) -> bool:
        with self._lock:
            if self._cut_after is None:
                return False
            self._cut_after -= count
            return self._cut_after < 0


def _break(end: socket.socket) -> None:
    """A reset, as of a host that has gone, and not an orderly end."""
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
