"""Whether ClickHouse showed all that it must show of a suspected hash.

C counts how many admitted keys have a hash. A read that shows fewer of them lags behind what was acknowledged, and the
one that it lacks may be the very key that was sent again: admitting it would count it twice. Looking whether ANY row of
the hash was shown would not see this where two keys share a hash.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from metering.index import CommittedIndex, Hashes
from metering.ranges import Claim
from meterline_schemas.types import Epoch, Offset, Partition


@dataclass(frozen=True)
class Suspicion:
    """What one partition asks about. C knows the keys of its positions below `stored`, and those of older epochs."""

    epoch: Epoch
    partition: Partition
    stored: Offset
    committed: CommittedIndex
    hashes: Hashes

    def lacking(self, claims: Mapping[bytes, Claim]) -> list[int]:
        """The hashes of which fewer keys were found than C counts; `claims` are by full key.

        Rows at or above `stored` are P's, or copies that a dead owner left: C does not count them, so they do not count.
        """
        found = Counter(claim.key_hash for claim in claims.values() if self._counts(claim))
        counted = zip(self.hashes.tolist(), self.committed.counts(self.hashes).tolist(), strict=True)
        return [hashed for hashed, keys in counted if found[hashed] < keys]

    def _counts(self, claim: Claim) -> bool:
        if claim.epoch < self.epoch:
            return True
        return (claim.epoch, claim.partition) == (self.epoch, self.partition) and claim.offset < self.stored


def lacking(suspicions: Iterable[Suspicion], claims: Mapping[bytes, Claim]) -> list[int]:
    """The hashes that any of the partitions misses a row of."""
    return [hashed for suspicion in suspicions for hashed in suspicion.lacking(claims)]
