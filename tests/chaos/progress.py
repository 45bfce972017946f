"""How far the system is, asked past the proxies: log ends, fences, and the time that it takes to be even again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import psycopg
from confluent_kafka import KafkaException

from runtime import kafka, postgres
from runtime.settings import Settings
from store import fences, group, topic_state

_ASK_EVERY_S = 0.25


class Progress:
    """For the main thread. Whatever it asks may be away: it then knows nothing new."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._admin = kafka.admin(settings)
        self._group = group.onlooker(settings)
        self._partitions = settings.topic_partitions
        self._postgres: psycopg.Connection[Any] | None = None
        self.moved_back: list[str] = []
        """Fences that were seen below where they had been seen."""
        self._seen: dict[int, int] = {}

    def ends(self) -> list[int] | None:
        try:
            return topic_state.log_ends(self._admin, self._settings.topic_events, self._partitions)
        except KafkaException:
            return None

    def counted(self) -> list[int] | None:
        """The fences, each held against what it was before."""
        try:
            if self._postgres is None or self._postgres.closed:
                self._postgres = postgres.connect(self._settings, autocommit=True)
            found = fences.read_fences(self._postgres, 1)
        except psycopg.Error:
            if self._postgres is not None:
                self._postgres.close()
            return None
        for fence in found:
            before = self._seen.get(fence.partition, 0)
            if fence.next_offset < before:
                self.moved_back.append(f"partition {fence.partition} from {before} to {fence.next_offset}")
            self._seen[fence.partition] = fence.next_offset
        return [fence.next_offset for fence in found]

    def committed(self) -> list[int] | None:
        try:
            found = group.committed(self._group, self._settings.topic_events, 1, self._partitions)
        except KafkaException:
            return None
        return [found[partition].offset if partition in found else 0 for partition in range(self._partitions)]

    def until_begun(self, within_s: float, tick: Callable[[], None]) -> bool:
        """Whether there was a record in every partition in time."""
        until = time.monotonic() + within_s
        while time.monotonic() < until:
            tick()
            ends = self.ends()
            if ends is not None and all(ends):
                return True
            time.sleep(_ASK_EVERY_S)
        return False

    def until_even(self, within_s: float, tick: Callable[[], None]) -> float | None:
        """Seconds until all that is in the log now is counted; None when that takes longer than `within_s`."""
        began = time.monotonic()
        ends: list[int] | None = None
        while time.monotonic() - began < within_s:
            tick()
            ends = ends if ends is not None else self.ends()
            counted = self.counted()
            if ends is not None and counted is not None and all(at >= end for at, end in zip(counted, ends, strict=True)):
                return time.monotonic() - began
            time.sleep(_ASK_EVERY_S)
        return None

    def close(self) -> None:
        self._group.close()
        if self._postgres is not None:
            self._postgres.close()
