"""C, the index of admitted keys, at 10 million keys: bytes a key and probes a second."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Generator, Sequence

import numpy as np

from metering.index import CommittedIndex
from tests.bench.figures import Figure, at_least, at_most
from tests.bench.place import Place

KEYS = 10_000_000
_BATCH = 100_000
_PROBES = 20


def measure(place: Place) -> Generator[Sequence[Figure], None, None]:
    random = np.random.default_rng(1)
    keys = random.integers(0, 2**64, KEYS, dtype=np.uint64)
    batches = [np.concatenate((random.choice(keys, _BATCH // 10), random.integers(0, 2**64, _BATCH * 9 // 10, dtype=np.uint64)))
               for _ in range(_PROBES)]  # fmt: skip
    known = set(keys[: KEYS // 10].tolist())
    plain = [batch.tolist() for batch in batches]
    while True:
        place.say(f"adding {KEYS:,} keys")
        tracemalloc.start()
        index = CommittedIndex()
        for start in range(0, KEYS, _BATCH):
            index.add(keys[start : start + _BATCH])
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        probes = _PROBES * _BATCH / _seconds(index.hits, batches)
        of_a_set = _PROBES * _BATCH / _seconds(lambda batch: [key in known for key in batch], plain)
        yield [
            at_most("index.bytes", held / KEYS, "bytes/key", 9, "the limit of 9 bytes"),
            at_least("index.probes", probes, "probes/s", 1, of_a_set, f"a Python set of {len(known):,}"),
        ]


def _seconds(probe: object, batches: Sequence[object]) -> float:
    assert callable(probe)
    began = time.process_time()
    for batch in batches:
        probe(batch)
    return time.process_time() - began
