"""Where an aggregator stands, for its watchdog: what the stream has counted of each partition, and that its loops go round."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from confluent_kafka import KafkaException

from runtime.watchdog import Seen, Standing


class StreamPositions:
    """What the stream owns and how far it is. Written by the stream's thread, read by the watchdog's."""

    def __init__(self) -> None:
        self._next: dict[int, int | None] = {}

    def assigned(self, partitions: Iterable[int]) -> None:
        """From now on it owns exactly these; nothing of them has been counted under this ownership."""
        self._next = dict.fromkeys(partitions)

    def counted(self, partition: int, offset: int) -> None:
        """A record, and all before it, has been counted or passed over; one that is no longer owned is not noted."""
        if partition in self._next:
            self._next[partition] = offset + 1

    def now(self) -> dict[int, int | None]:
        """The next offset of each owned partition; None where no record has come yet."""
        return dict(self._next)


class Standings:
    """One look at all of it. For the watchdog's thread."""

    def __init__(
        self,
        stream: StreamPositions,
        ends: Callable[[], list[int]],
        loops: Mapping[str, Callable[[], int]],
        excuses: Callable[[], str | None],
    ) -> None:
        """`loops` count their own rounds, which go on whatever is away; `ends` are those of the deltas topic."""
        self._stream, self._ends, self._loops, self._excuses = stream, ends, loops, excuses
        self._first_ends: dict[int, int] = {}

    def __call__(self) -> Seen | None:
        """None while the broker does not say how far the log goes."""
        try:
            ends = self._ends()
        except KafkaException:
            return None
        owned = self._stream.now()
        standings = {f"the loop of the {name}": Standing(rounds()) for name, rounds in self._loops.items()}
        self._first_ends = {partition: end for partition, end in self._first_ends.items() if partition in owned}
        for partition, position in owned.items():
            # Where the group had committed to is not known here: what came before the first look is not waited for.
            first = self._first_ends.setdefault(partition, ends[partition])
            standings[f"partition {partition} of the deltas"] = Standing(first if position is None else position, ends[partition])
        return Seen(standings, self._excuses())
