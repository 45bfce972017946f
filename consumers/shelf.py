"""Where the committed index keeps its long runs: in memory up to a bound, past it in files that are mapped.

A file has no name: it is removed as soon as it is mapped, so nothing is left behind however the process ends. The index
is rebuilt at assignment; its files are a place to be, not a store.
"""

from __future__ import annotations

import logging
import mmap
import tempfile
import weakref
from pathlib import Path

import numpy as np

from metering.index import Hashes
from runtime import metrics

logger = logging.getLogger(__name__)


class Shelf:
    """A Keeper, shared by the indexes of a process. For the deciding thread."""

    def __init__(self, folder: Path, memory_bytes_max: int) -> None:
        self._folder, self._memory_bytes_max = folder, memory_bytes_max
        self._held = {"memory": 0, "disk": 0}
        self._complained = False
        for place in self._held:
            self._count(place, 0)

    def keep(self, keys: Hashes) -> Hashes:
        """The same keys, mapped from a file when there is no room in memory. Blocks while a file is written.

        Where no file can be written they stay in memory: deduplication goes on, and the log says that the bound is broken.
        """
        if self._held["memory"] + keys.nbytes <= self._memory_bytes_max:
            return self._noted("memory", keys)
        try:
            mapped = self._mapped(keys)
        except OSError as error:
            if not self._complained:
                self._complained = True
                logger.error(
                    "no file for the index; it stays in memory past METERLINE_INDEX_MEMORY_BYTES_MAX. Free some disk in "
                    "METERLINE_DATA_DIR, or raise the bound",
                    extra={"folder": str(self._folder), "problem": str(error)},
                )
            return self._noted("memory", keys)
        return self._noted("disk", mapped)

    def _mapped(self, keys: Hashes) -> Hashes:
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self._folder) as file:
            file.write(np.ascontiguousarray(keys).data)
            file.flush()
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype=np.uint64)

    def _noted(self, place: str, keys: Hashes) -> Hashes:
        # A view of its own: the caller's array may live on elsewhere, or be kept twice.
        kept = keys.view()
        self._count(place, keys.nbytes)
        weakref.finalize(kept, self._count, place, -keys.nbytes).atexit = False
        return kept

    def _count(self, place: str, size: int) -> None:
        self._held[place] += size
        metrics.INDEX_BYTES.labels(place).set(self._held[place])
