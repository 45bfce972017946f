"""`python -m tests.bench.seeded KEYS consume`: the consumer, its index filled with so many keys that nobody ever sent.

Everything else is the product's. The keys are added where the rebuild adds what ClickHouse holds, spread over the
partitions; the figures stay those of the rows that are there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import numpy as np
from clickhouse_connect.driver.client import Client

from cli.main import main
from metering.index import Hashes
from runtime.settings import load_settings
from store import event_log

_BLOCK = 1_000_000


def fill(keys: int, partition: int, add: Callable[[Hashes], object]) -> None:
    """So many hashes, other ones for each partition."""
    random = np.random.default_rng(partition + 1)
    for start in range(0, keys, _BLOCK):
        add(random.integers(0, 2**64, min(_BLOCK, keys - start), dtype=np.uint64))


def install(keys: int, partitions: int) -> None:
    """From now on every partition that is taken has its share of the keys."""
    held_below = event_log.held_below

    def seeded(client: Client, epoch: int, partition: int, offset: int, add: Callable[[Hashes], object]) -> event_log.Held:
        fill(keys // partitions, partition, add)
        return held_below(client, epoch, partition, offset, add)

    event_log.held_below = seeded


if __name__ == "__main__":
    install(int(sys.argv.pop(1)), load_settings(dict(os.environ)).topic_partitions)
    main()
