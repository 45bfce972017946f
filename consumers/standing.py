"""Where a consumer stands, for its watchdog: what it has committed of each partition, and how far the log goes."""

from __future__ import annotations

from confluent_kafka import KafkaException

from consumers.partitions import Partitions
from consumers.patience import Patience
from runtime import kafka
from runtime.settings import Settings
from runtime.watchdog import Seen, Standing
from store import topic_state

_TAKING = "the taking of partitions"


class Standings:
    """Asks the broker by a client of its own, since the consumer's may be what hangs. For the watchdog's thread."""

    def __init__(self, settings: Settings, partitions: Partitions, patience: Patience) -> None:
        self._partitions, self._patience = partitions, patience
        self._admin = kafka.admin(settings)

    def __call__(self) -> Seen | None:
        """None while the broker does not say how far the log goes."""
        storer = self._partitions.storer
        if self._partitions.taking or storer is None:
            # Nothing moves until the indexes are built, for which there is a time limit all the same.
            return Seen({_TAKING: Standing(0)} if self._partitions.taking else {}, _TAKING)
        epoch = self._partitions.epoch
        try:
            ends = topic_state.log_ends(self._admin, epoch.topic, epoch.partitions)
        except KafkaException:
            return None
        if epoch.ends is not None:  # what lies past the epoch's end is not decided
            ends = [min(ended, end) for ended, end in zip(epoch.ends, ends, strict=True)]
        standings = {
            f"partition {partition} of {epoch.topic}": Standing(position, ends[partition])
            for partition, position in storer.positions().items()
        }
        away = {**self._patience.problems, **storer.problems}
        return Seen(standings, ", ".join(sorted(away)) or None)
