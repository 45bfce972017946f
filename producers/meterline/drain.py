"""Brings the spool to the log, in order, when Kafka is back."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from meterline.link import Link, LinkAnswer, Unsent
from meterline.receipts import Position
from meterline.spool import Spool, SpooledRecord

log = logging.getLogger(__name__)

_CHUNK: Final = 1_000
_RETRY_FIRST_S: Final = 0.1
_RETRY_MOST_S: Final = 2.0
_PROBE_S: Final = 1.0
_PASSES: Final = 3
_HOLD_MOST_S: Final = 1.0
_TICK_S: Final = 0.02


class Drainer:
    """A thread that sleeps until woken, then drains until nothing is left, with back-off while Kafka is away.

    A segment goes from disk only after every record of it was acknowledged; the part already acknowledged is
    remembered, so a failure in the middle goes on from there, and only a crash sends it again.
    """

    def __init__(
        self,
        spool: Spool,
        link: Link,
        hold: Callable[[bool], None],
        all_drained: Callable[[], bool],
        *,
        delivery_timeout_s: float,
        wake_now: bool,
    ) -> None:
        """`hold(True)` lets new events wait until `hold(False)`; `all_drained` says whether nothing waits on disk any more,
        and if so sends what comes next to the log directly."""
        self._spool = spool
        self._link = link
        self._hold = hold
        self._all_drained = all_drained
        self._answer_within_s = delivery_timeout_s + 2.0
        self._acked_of: tuple[Path, int] | None = None
        self._stop = threading.Event()
        self._wake = threading.Event()
        if wake_now:
            self._wake.set()
        self._thread = threading.Thread(target=self._run, name="meterline-drain", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        self._wake.set()

    def stop(self) -> None:
        """Ends the thread; what is not drained stays on disk."""
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout=_PROBE_S + 2.0)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.wait()
            self._wake.clear()
            delay_s = _RETRY_FIRST_S
            while not self._stop.is_set():
                try:
                    progress, finished = self._drain()
                except OSError as error:
                    log.error("the spool cannot be read", extra={"error": str(error)})
                    progress = finished = False
                if finished:
                    break
                delay_s = _RETRY_FIRST_S if progress else min(delay_s * 2, _RETRY_MOST_S)
                self._stop.wait(delay_s)

    def _drain(self) -> tuple[bool, bool]:
        """(whether anything reached the log, whether nothing is left).

        A busy service spools on while we drain, so there would always be something left. Each pass leaves less; the
        last one holds new events back for the moment that it takes, and they follow directly.
        """
        if self._link.unreachable(_PROBE_S) is not None:
            return False, False
        with self._spool.draining() as ours:
            if not ours:
                self._spool.rotate()  # for whoever drains
                return False, self._all_drained()
            for _ in range(_PASSES):
                if not self._send_what_is_there():
                    return False, False
            self._hold(True)
            try:
                deadline = time.monotonic() + _HOLD_MOST_S
                # More than once, for an event that had just been told to wait on disk.
                while time.monotonic() < deadline:
                    if not self._send_what_is_there():
                        return True, False
                    if self._all_drained():
                        return True, True
            finally:
                self._hold(False)
        return True, False

    def _send_what_is_there(self) -> bool:
        """Everything that lies on disk now, oldest first; False when the log did not take it, or we are to stop."""
        self._spool.rotate()
        while not self._stop.is_set():
            segment = self._spool.oldest()
            if segment is None:
                return True
            if not self._send(segment):
                return False
        return False

    def _send(self, segment: Path) -> bool:
        """All of a segment to the log; whether every record was acknowledged."""
        frames = self._spool.read(segment)
        start = self._acked_of[1] if self._acked_of is not None and self._acked_of[0] == segment else 0
        for at in range(start, len(frames.records), _CHUNK):
            if not self._send_chunk(frames.records[at : at + _CHUNK]):
                return False
            self._acked_of = segment, min(at + _CHUNK, len(frames.records))
        self._spool.done(segment, frames)
        self._acked_of = None
        return True

    def _send_chunk(self, records: list[SpooledRecord]) -> bool:
        answered = threading.Semaphore(0)
        unsent: list[str] = []

        def on_answer(answer: LinkAnswer) -> None:
            if not isinstance(answer, Position):
                unsent.append(answer.detail if isinstance(answer, Unsent) else str(answer))
            answered.release()

        deadline = time.monotonic() + self._answer_within_s
        for record in records:
            while not self._link.send(record.key, record.value, record.headers, on_answer):
                if self._stop.wait(_TICK_S) or time.monotonic() > deadline:
                    return False
        for _ in records:
            while not answered.acquire(timeout=_TICK_S * 5):
                if self._stop.is_set() or time.monotonic() > deadline:
                    return False
        if unsent:
            log.warning("draining the spool paused", extra={"unsent": len(unsent), "error": unsent[0]})
        return not unsent
