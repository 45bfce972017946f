"""Usage over HTTP into the log: single events against the bare framework, and batches of 1,000."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager

from runtime.settings import Settings
from tests.bench.figures import Figure, at_least, reported
from tests.bench.load import ROOT, Load, put
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


@contextmanager
def bare(path: str) -> Iterator[int]:
    """The port of the bare framework."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.bare_app", path],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
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
    with place.corner() as settings, server(settings) as running, bare(PATH) as bare_port:
        headers = {"X-Service-Secret": running.secret or ""}
        number = 0
        while True:
            place.say("the bare framework")
            nothing = put(Load(bare_port, PATH, ITEM, headers, CONNECTIONS, SECONDS)).only(200)
            place.say("single events")
            single = put(Load(running.port, PATH, ITEM, headers, CONNECTIONS, SECONDS, first=number)).only(202)
            place.say("batches")
            load = Load(
                running.port, f"{PATH}/batch", ITEM, headers, BATCH_CONNECTIONS, SECONDS, batch=BATCH, first=single.next_number
            )
            batches = put(load).only(202)
            number = batches.next_number
            yield [
                reported("ingest.bare", nothing.rate, "requests/s", nothing.rate, "itself"),
                at_least("ingest.single", single.rate, "events/s", 0.5, nothing.rate, "the bare framework, 128 connections"),
                reported("ingest.single_p99", single.p99_ms, "ms", single.p50_ms, "its median"),
                at_least(
                    "ingest.batch",
                    batches.rate * BATCH,
                    "events/s",
                    1.0,
                    BATCH_TARGET_PER_S,
                    "50,000 events/s, stated by the design",
                ),
                reported("ingest.batch_p99", batches.p99_ms, "ms", batches.p50_ms, "its median"),
            ]
