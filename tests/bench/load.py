"""HTTP load from a process of its own: `python -m tests.bench.load` with one JSON object on standard input.

Raw sockets and only as much HTTP as the answers need, so that the cores go to the server that is measured. Two kinds:
closed (each connection asks again when it was answered: what the server can do) and paced (`rate` requests a second on a
fixed schedule, each answer's time counted from when it was due: what a client sees at that rate).
"""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, cast

import uvloop

ROOT = Path(__file__).parents[2]
CONNECTIONS_MAX = 1_000
SECONDS_MAX = 300.0
ENDS_WITHIN_S = 30.0


@dataclass(frozen=True)
class Load:
    """What is asked, how often, for how long."""

    port: int
    path: str
    item: str
    """The body. `%d` in it becomes the request's number, from 0, modulo `modulo`; with `batch` the item's number."""
    headers: dict[str, str] = field(default_factory=dict)
    connections: int = 16
    seconds: float = 5.0
    warm_up_s: float = 1.0
    rate: float | None = None
    """Requests a second; None: as many as there are answers."""
    batch: int = 0
    """Items of a body, which is then an array; 0: the body is one item."""
    modulo: int = 1 << 62
    first: int = 0
    method: str = "POST"


@dataclass(frozen=True)
class Answered:
    """What came back after the warm-up."""

    requests: int
    seconds: float
    statuses: dict[str, int]
    p50_ms: float
    p99_ms: float
    cpu_s: float
    """Of the generator: where it comes near to `seconds`, the generator was the limit."""
    next_number: int

    @property
    def rate(self) -> float:
        return self.requests / self.seconds

    def only(self, status: int) -> Answered:
        """Itself, if every answer had that status. Raises ValueError."""
        if set(self.statuses) != {str(status)}:
            raise ValueError(f"not every answer was {status}: {self.statuses}")
        return self


def put(load: Load) -> Answered:
    """Runs the generator and waits for what it saw. Raises RuntimeError when it failed."""
    assert load.connections <= CONNECTIONS_MAX
    assert load.seconds + load.warm_up_s <= SECONDS_MAX
    ran = subprocess.run(
        [sys.executable, "-m", "tests.bench.load"],
        cwd=ROOT,
        input=json.dumps(asdict(load)),
        capture_output=True,
        text=True,
        timeout=load.seconds + load.warm_up_s + ENDS_WITHIN_S,
        check=False,
    )
    if ran.returncode != 0:
        raise RuntimeError(f"the load generator failed: {ran.stderr[-2000:]}")
    return Answered(**json.loads(ran.stdout))


class _Run:
    """What all connections share."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.numbers = count(load.first)
        self.last_number = load.first
        self.statuses: Counter[bytes] = Counter()
        self.took: list[float] = []
        self.counting = False
        self.over = False
        self.began = 0.0
        self.sent = 0
        host = f"{load.method} {load.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        self._head = (host + "".join(f"{name}: {value}\r\n" for name, value in load.headers.items())).encode()
        self._item = load.item.encode()
        self._numbered = b"%d" in self._item

    def request(self) -> bytes:
        body = b"[" + b",".join(self._one() for _ in range(self.load.batch)) + b"]" if self.load.batch else self._one()
        return b"%bContent-Length: %d\r\n\r\n%b" % (self._head, len(body), body)

    def _one(self) -> bytes:
        self.last_number = next(self.numbers)
        return self._item % (self.last_number % self.load.modulo) if self._numbered else self._item

    def due_at(self) -> float:
        """When the next request is due, on a schedule."""
        assert self.load.rate is not None
        self.sent += 1
        return self.began + self.sent / self.load.rate


class _Connection(asyncio.Protocol):
    """One request at a time, for as long as the run goes on."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._buffer = b""
        self._due = 0.0
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._next()

    def _next(self) -> None:
        if self._run.over:
            self._transport.close()
        elif self._run.load.rate is None:
            request = self._run.request()
            self._due = time.perf_counter()
            self._transport.write(request)
        else:
            self._due = self._run.due_at()
            asyncio.get_running_loop().call_later(max(0.0, self._due - time.perf_counter()), self._send_due)

    def _send_due(self) -> None:
        if self._run.over:
            self._transport.close()
        else:
            self._transport.write(self._run.request())

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head_ends = self._buffer.find(b"\r\n\r\n")
        if head_ends < 0:
            return
        at = self._buffer.lower().find(b"content-length:", 0, head_ends + 2)
        length = int(self._buffer[at + 15 : self._buffer.find(b"\r\n", at)])
        if len(self._buffer) < head_ends + 4 + length:
            return
        if self._run.counting:
            self._run.statuses[self._buffer[9:12]] += 1
            self._run.took.append(time.perf_counter() - self._due)
        self._buffer = b""
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(not self._run.over)


async def _answered(load: Load) -> Answered:
    loop = asyncio.get_running_loop()
    run = _Run(load)
    run.began = time.perf_counter()
    made = [await loop.create_connection(lambda: _Connection(run), "127.0.0.1", load.port) for _ in range(load.connections)]
    await asyncio.sleep(load.warm_up_s)
    run.counting = True
    began, cpu_before = time.perf_counter(), _cpu_s()
    await asyncio.sleep(load.seconds)
    run.counting = False
    seconds, cpu_s = time.perf_counter() - began, _cpu_s() - cpu_before
    run.over = True
    _, late = await asyncio.wait([connection.lost for _, connection in made], timeout=10)
    if late or any(connection.lost.result() for _, connection in made):
        raise RuntimeError("connections were closed by the server, or never answered")
    took = sorted(run.took)
    if not took:
        raise RuntimeError("nothing was answered")
    return Answered(
        len(took),
        seconds,
        {status.decode(): number for status, number in run.statuses.items()},
        took[len(took) // 2] * 1e3,
        took[len(took) * 99 // 100] * 1e3,
        cpu_s,
        run.last_number + 1,
    )


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _main(asked: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(asdict(uvloop.run(_answered(Load(**asked))))))


if __name__ == "__main__":
    _main(json.load(sys.stdin))
