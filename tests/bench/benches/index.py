"""C, the index of admitted keys, at 10 million keys: bytes a key, probes a second, and its rebuild from ClickHouse."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence

import numpy as np
from clickhouse_connect.driver.client import Client

from metering.index import CommittedIndex, Hashes
from runtime import clickhouse
from store import event_log
from tests.bench.figures import Figure, at_least, at_most
from tests.bench.place import Place
from tests.bench.synthetic import fill

KEYS = 10_000_000
REBUILD_KEYS_A_SECOND = 5_000_000
_BATCH = 100_000
_PROBES = 20
_ADDED = 100_000
_IN_THE_SET = 1_000_000


def measure(place: Place) -> Generator[Sequence[Figure], None, None]:
    with place.corner(clickhouse_timeout_s=120.0) as settings:
        client = clickhouse.client(settings)
        place.say(f"writing {KEYS:,} rows")
        fill(client, KEYS)
        while True:
            yield _run(place, client)


def _run(place: Place, client: Client) -> list[Figure]:
    began = time.perf_counter()
    rebuilt = CommittedIndex()
    held = event_log.held_below(client, 1, 0, KEYS, rebuilt.add)
    rebuilt.settle()
    rebuild = held.admitted / (time.perf_counter() - began)
    if len(rebuilt) != KEYS:
        raise RuntimeError(f"{len(rebuilt)} keys were rebuilt of {KEYS}")

    place.say("adding as the consumer does")
    random = np.random.default_rng(1)
    grown = CommittedIndex()
    for _ in range(KEYS // _ADDED):
        grown.add(random.integers(0, 2**64, _ADDED, dtype=np.uint64))

    batches = [random.integers(0, 2**64, _BATCH, dtype=np.uint64) for _ in range(_PROBES)]
    probes = _PROBES * _BATCH / _seconds_of_hits(grown, batches)
    known = set(random.integers(0, 2**64, _IN_THE_SET, dtype=np.uint64).tolist())
    plain = [batch.tolist() for batch in batches]
    began = time.process_time()
    for batch in plain:
        [key in known for key in batch]
    of_a_set = _PROBES * _BATCH / (time.process_time() - began)
    return [
        at_most("index.bytes", max(grown.bytes_held, rebuilt.bytes_held) / KEYS, "bytes/key", 9, "the limit of 9 bytes"),
        at_least("index.probes", probes, "probes/s", 0.5, of_a_set, f"a Python set of {_IN_THE_SET:,}, by processor time"),
        at_least("index.rebuild", rebuild, "keys/s", 1, REBUILD_KEYS_A_SECOND, "5 million keys/s"),
    ]


def _seconds_of_hits(index: CommittedIndex, batches: Sequence[Hashes]) -> float:
    began = time.process_time()
    for batch in batches:
        index.hits(batch)
    return time.process_time() - began
