"""The consumer group in memory: who owns what, and the committed offsets with their metadata, by the epoch of the topic."""

from __future__ import annotations

from collections.abc import Sequence

Position = tuple[int, int, str]
"""Partition, offset, metadata."""


class Group:
    """A commit of an older generation is refused; one that is already on its way may still land (`land`)."""

    def __init__(self) -> None:
        self.generation = 0
        self.owners: dict[tuple[int, int], int] = {}
        """(epoch, partition) -> number of the member that is to take it."""
        self.committed: dict[int, dict[int, tuple[int, str]]] = {1: {}}
        """Epoch -> partition -> (offset, metadata)."""

    def rebalance(self, owners: dict[tuple[int, int], int]) -> None:
        self.generation += 1
        self.owners = owners

    def land(self, epoch: int, positions: Sequence[Position]) -> None:
        for partition, offset, metadata in positions:
            self.committed[epoch][partition] = (offset, metadata)
