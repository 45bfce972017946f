"""Usage over HTTP into the log: single events against the bare framework, and batches of 1,000."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from runtime.settings import Settings
from tests.bench.figures import Figure, at_least, reported
from tests.bench.load import ROOT, Answered, Load, put
from tests.bench.place import Place
from tests.integration.entitlement_data import SERVICE, TENANT, put_catalog
from tests.integration.serving import Server, serving

PATH = "/v1/billing/usage"
CONNECTIONS = 128
BATCH = 1_000
BATCH_CONNECTIONS = 4
BATCH_TARGET_PER_S = 50_000
SECONDS = 5.0
ITEM = (
    f'{{"tenantId":"{TENANT}","sourceService":"{SERVICE}","sourceEntityId":"job_%d","usageType":"DEEP",'
    '"quantity":"1.5","metadata":{"model":"large","region":"eu-west-1"}}'
)


def processor_s(pid: int) -> float:
    """What a process has used so far. Waiting for a core is not in it, so a busy machine changes it least."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def put_watched(load: Load, status: int, pid: int) -> tuple[Answered, float]:
    """What came back, and the server's processor time in microseconds a request, its warm-up included in both."""
    before = processor_s(pid)
    answered = put(load).only(status)
    return answered, (processor_s(pid) - before) / (answered.rate * (load.seconds + load.warm_up_s)) * 1e6


@contextmanager
def bare(path: str) -> Iterator[tuple[int, int]]:
    """The port and the process of the bare framework."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.bare_app", path],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline()), process.pid
    finally:
        process.terminate()
        process.wait(timeout=30)


@contextmanager
def server(settings: Settings) -> Iterator[Server]:
    """`meterline serve entitlements`, over a catalog."""
    secret, _ = put_catalog(settings)
    with serving(settings, secret=secret) as running:
        yield running


def measure(place: Place) -> Generator[Sequence[Figure], None, None]:
    with place.corner() as settings, server(settings) as running, bare(PATH) as (bare_port, bare_pid):
        headers = {"X-Service-Secret": running.secret or ""}
        pid, number = running.process.pid, 0
        while True:
            place.say("the bare framework")
            load = Load(bare_port, PATH, ITEM, headers, CONNECTIONS, SECONDS)
            nothing, nothing_us = put_watched(load, 200, bare_pid)
            place.say("single events")
            load = Load(running.port, PATH, ITEM, headers, CONNECTIONS, SECONDS, first=number)
            single, single_us = put_watched(load, 202, pid)
            place.say("batches")
            first = single.next_number
            load = Load(running.port, f"{PATH}/batch", ITEM, headers, BATCH_CONNECTIONS, SECONDS, batch=BATCH, first=first)
            batches, batch_us = put_watched(load, 202, pid)
            number = batches.next_number
            rate, stated = batches.rate * BATCH, "50,000 events/s, stated by the design"
            yield [
                reported("ingest.bare", nothing.rate, "requests/s", nothing.rate, "itself"),
                reported("ingest.bare_cpu", nothing_us, "us/request", nothing_us, "itself"),
                at_least("ingest.single", single.rate, "events/s", 0.5, nothing.rate, "the bare framework, 128 connections"),
                reported("ingest.single_cpu", single_us, "us/event", nothing_us, "the bare framework's"),
                reported("ingest.single_p99", single.p99_ms, "ms", single.p50_ms, "its median"),
                at_least("ingest.batch", rate, "events/s", 1.0, BATCH_TARGET_PER_S, stated),
                reported("ingest.batch_cpu", batch_us / BATCH, "us/event", single_us, "a single event's"),
                reported("ingest.batch_p99", batches.p99_ms, "ms", batches.p50_ms, "its median"),
            ]
