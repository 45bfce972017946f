"""Whether ClickHouse showed all that it must show of a suspected hash.

C counts how many admitted keys have a hash. A read that shows fewer of them lags behind what was acknowledged, and the
one that it lacks may be the very key that was sent again: admitting it would count it twice. Looking whether ANY row of
the hash was shown would not see this where two keys share a hash.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from metering.index import CommittedIndex, Hashes
from metering.keys import murmurs_of
from metering.ranges import Claim
from meterline_schemas.types import Epoch, Offset, Partition


@dataclass(frozen=True)
class Suspicion:
    """What one partition asks about. C knows the keys of its positions below `stored`, and what older epochs have left to it.

    `partitions` are those of the epoch's topic: they say which keys lead here.
    """

    epoch: Epoch
    partition: Partition
    partitions: int
    stored: Offset
    committed: CommittedIndex
    hashes: Hashes

    def lacking(self, claims: Mapping[bytes, Claim]) -> list[int]:
        """The hashes of which fewer keys were found than C counts; `claims` are by full key.

        Rows at or above `stored` are P's, or copies that a dead owner left: C does not count them, so they do not count.
        """
        found = Counter(claim.key_hash for claim in self._known_to_c(claims))
        counted = zip(self.hashes.tolist(), self.committed.counts(self.hashes).tolist(), strict=True)
        return [hashed for hashed, keys in counted if found[hashed] < keys]

    def beyond(self, claims: Mapping[bytes, Claim]) -> Suspicion:
        """What is still asked about where these are at hand."""
        return replace(self, hashes=np.array(self.lacking(claims), dtype=np.uint64))

    def _known_to_c(self, claims: Mapping[bytes, Claim]) -> Iterator[Claim]:
        older: list[tuple[bytes, Claim]] = []
        for key, claim in claims.items():
            if claim.epoch < self.epoch:
                older.append((key, claim))
            elif (claim.epoch, claim.partition) == (self.epoch, self.partition) and claim.offset < self.stored:
                yield claim
        if older:
            murmurs = murmurs_of(pa.array([key for key, _ in older], type=pa.binary()))
            homes = (murmurs & np.uint32(0x7FFFFFFF)) % np.uint32(self.partitions)
            yield from (claim for (_, claim), home in zip(older, homes.tolist(), strict=True) if home == self.partition)


def lacking(suspicions: Iterable[Suspicion], claims: Mapping[bytes, Claim]) -> list[int]:
    """The hashes that any of the partitions misses a row of."""
    return [hashed for suspicion, its in _each(suspicions, claims) for hashed in suspicion.lacking(its)]


def beyond(suspicions: Iterable[Suspicion], claims: Mapping[bytes, Claim]) -> list[Suspicion]:
    """What each of the partitions still asks about where these are at hand."""
    return [suspicion.beyond(its) for suspicion, its in _each(suspicions, claims)]


def _each(suspicions: Iterable[Suspicion], claims: Mapping[bytes, Claim]) -> Iterator[tuple[Suspicion, dict[bytes, Claim]]]:
    """Each with the claims that it may count: of its own partition, and of older epochs."""
    by_lane: dict[tuple[int, int], dict[bytes, Claim]] = {}
    for key, claim in claims.items():
        by_lane.setdefault((claim.epoch, claim.partition), {})[key] = claim
    for suspicion in suspicions:
        its = dict(by_lane.get((suspicion.epoch, suspicion.partition), {}))
        for (epoch, _), older in by_lane.items():
            if epoch < suspicion.epoch:
                its |= older
        yield suspicion, its
