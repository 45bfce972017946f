"""The producer: one event in, one truthful answer out."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from meterline.drain import Drainer
from meterline.errors import Closed, DeliveryFailed, EmitError, QueueFull, SpoolBroken, SpoolFull
from meterline.link import Link, Unsent
from meterline.receipts import Position, Receipt
from meterline.spool import Spool, SpooledRecord
from meterline_schemas.draft import EncodedEvent, EventDraft, InvalidEvent, encode_event
from meterline_schemas.event import SCHEMA_VERSION_HEADER
from meterline_schemas.instants import format_instant
from meterline_schemas.rules import NEWEST_RULES, RULES

log = logging.getLogger(__name__)

SCHEMA_VERSION: Final = max(RULES[NEWEST_RULES].schema_versions)
TRACEPARENT_HEADER: Final = "traceparent"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_POLL_S: Final = 0.05
_TICK_S: Final = 0.01
_TAKE_BACK_S: Final = 1.0
_MARGIN_S: Final = 2.0


def _utc_now() -> datetime:
    return datetime.now(UTC)


class _Pending:
    """An event between `emit` and its answer."""

    __slots__ = ("draft", "emitted_ms", "encoded", "future", "headers", "number")

    def __init__(
        self, number: int, draft: EventDraft, encoded: EncodedEvent, headers: list[tuple[str, bytes]], emitted_ms: int
    ) -> None:
        self.number = number
        self.draft = draft
        self.encoded = encoded
        self.headers = headers
        self.emitted_ms = emitted_ms
        self.future: Future[Receipt] = Future()
        # From here on nobody can cancel it: the event may be on its way, so its answer stays worth having.
        self.future.set_running_or_notify_cancel()

    def spooled(self) -> SpooledRecord:
        """As it goes to disk. It may reach the log much later, so the time of emitting is written down, if none was."""
        value = self.encoded.value
        if self.draft.occurred_at is None:
            value = encode_event(_dated(self.draft, format_instant(self.emitted_ms)), self.emitted_ms).value
        return SpooledRecord(self.encoded.event.key, value, self.headers)


class Producer:
    """Emits usage events. Thread-safe; one a process is enough. Make it after forking, and close it.

    Every answer is truthful: `acked` is said after the broker's acknowledgement (all replicas in sync), `spooled` after
    fsync, and an error means neither. Whatever the answer, emitting the same event again is safe.

    While Kafka is away and there is a spool, events go to disk at once and are drained in order when it is back, those
    that an earlier process left as well; new ones queue behind them.
    """

    def __init__(
        self,
        kafka: str | Mapping[str, Any],
        topic: str = "usage.events",
        *,
        spool_dir: Path | str | None = None,
        spool_bytes_max: int = 256 << 20,
        delivery_timeout_s: float = 10.0,
        queue_events_max: int = 100_000,
        linger_ms: float = 5,
        fill_occurred_at: bool = True,
        clock: Callable[[], datetime] = _utc_now,
    ) -> None:
        """`kafka` is host:port[,host:port], or a librdkafka configuration (for SASL, TLS).

        `delivery_timeout_s` bounds every wait for the broker; what it did not acknowledge by then is spooled, or fails.
        `fill_occurred_at=False` leaves an absent occurredAt to the log's ingest time, unless the event is spooled.
        Raises ImportError without the extra `[kafka]`, SpoolBroken when the spool directory cannot be used.
        """
        config = {"bootstrap.servers": kafka} if isinstance(kafka, str) else dict(kafka)
        self.topic = topic
        self.delivery_timeout_s = delivery_timeout_s
        self._fill_occurred_at = fill_occurred_at
        self._clock = clock
        self._state = threading.Condition()
        self._numbers = itertools.count()
        self._outstanding = 0
        self._with_client = 0  # of these, handed to the client and not yet answered by it
        self._closed = False
        self._failed: list[tuple[_Pending, Unsent]] = []  # the polling thread's own
        self._stop = threading.Event()
        self._link = Link(
            config, topic, delivery_timeout_s=delivery_timeout_s, queue_events_max=queue_events_max, linger_ms=linger_ms
        )
        self._spool = Spool(Path(spool_dir) / topic, spool_bytes_max) if spool_dir is not None else None
        # True: the log first gets what waits on disk. Guarded by _state.
        self._spooling = self._spool is not None and self._spool.pending()
        self._poller = threading.Thread(target=self._poll_until_stopped, name="meterline-poll", daemon=True)
        self._poller.start()
        self._held = False  # guarded by _state
        self._drainer: Drainer | None = None
        if self._spool is not None:
            self._drainer = Drainer(
                self._spool,
                self._link,
                self._hold,
                self._all_drained,
                delivery_timeout_s=delivery_timeout_s,
                wake_now=self._spooling,
            )

    def emit(self, draft: EventDraft, *, traceparent: str | None = None) -> Future[Receipt]:
        """Takes an event; the future holds its Receipt, or raises an EmitError.

        Raises InvalidEvent at once for one that breaks a rule; QueueFull when the queue stays full for the delivery
        timeout; SpoolFull, SpoolBroken, Closed. The future is settled within about the delivery timeout. In asyncio:
        `await asyncio.wrap_future(producer.emit(draft))`.
        """
        pending = self._prepare(draft, traceparent)
        if self._must_spool():
            self._to_spool([pending])
            error = pending.future.exception(timeout=0)
            if error is not None:
                raise error
        else:
            self._send(pending)
        return pending.future

    def emit_many(
        self, drafts: Iterable[EventDraft], *, traceparent: str | None = None, timeout_s: float | None = None
    ) -> list[Receipt | InvalidEvent | EmitError]:
        """Takes a batch and waits for all; the answers stand in the order of the drafts, errors as values.

        Waits at most `timeout_s` (the delivery timeout and a margin by default); what is open then is answered with
        DeliveryFailed, which says that it may yet be written.
        """
        limit_s = self.delivery_timeout_s + _MARGIN_S if timeout_s is None else timeout_s
        deadline = time.monotonic() + limit_s
        taken: list[_Pending | InvalidEvent | EmitError] = []
        to_spool: list[_Pending] = []
        for draft in drafts:
            try:
                pending = self._prepare(draft, traceparent)
                if self._must_spool():
                    to_spool.append(pending)
                else:
                    self._send(pending)
                taken.append(pending)
            except (InvalidEvent, EmitError) as error:
                taken.append(error)
        if to_spool:
            self._to_spool(to_spool)
        answers: list[Receipt | InvalidEvent | EmitError] = []
        for item in taken:
            if not isinstance(item, _Pending):
                answers.append(item)
                continue
            try:
                answers.append(item.future.result(timeout=max(0.0, deadline - time.monotonic())))
            except FutureTimeoutError:
                answers.append(DeliveryFailed(f"no answer within {limit_s:g} s; the event may yet be written"))
            except EmitError as error:
                answers.append(error)
        return answers

    def redirect(self, topic: str) -> None:
        """From now on events go to `topic`, those that wait on disk too; for a log that has gone over to a new one.

        What is under way already is acknowledged where it was sent to: its Receipt says where.
        """
        self.topic = topic
        self._link.redirect(topic)

    def flush(self, timeout_s: float) -> int:
        """Waits until every event taken so far has its answer, at most `timeout_s`; returns how many have none yet."""
        with self._state:
            self._state.wait_for(lambda: self._outstanding == 0, timeout=timeout_s)
            return self._outstanding

    def problem(self, timeout_s: float) -> str | None:
        """What keeps events from the log right now, or None. Asks the broker; blocks up to `timeout_s`."""
        return self._link.unreachable(timeout_s)

    @property
    def spooled_bytes(self) -> int:
        """Bytes that wait on disk; 0 without a spool."""
        return 0 if self._spool is None else self._spool.bytes_held()

    def wait_drained(self, timeout_s: float) -> bool:
        """Waits until nothing of this process, or left by an earlier one, waits on disk; whether that came about."""
        with self._state:
            return self._state.wait_for(lambda: not self._spooling, timeout=timeout_s)

    def close(self, timeout_s: float | None = None) -> int:
        """Flushes for at most `timeout_s` (the delivery timeout by default), then spools what is unanswered, or fails it.

        Returns how many were unanswered when the time was over. Closing twice does nothing.
        """
        with self._state:
            if self._closed:
                return 0
            self._closed = True
        left = self.flush(self.delivery_timeout_s if timeout_s is None else timeout_s)
        if self._drainer is not None:
            self._drainer.stop()
        deadline = time.monotonic() + _MARGIN_S
        with self._state:
            while self._outstanding and time.monotonic() < deadline:
                self._link.give_up_all()  # again, for an emit that was between its check and its send
                self._state.wait(timeout=_POLL_S)
        self._stop.set()
        self._poller.join(timeout=_MARGIN_S)
        if self._spool is not None:
            self._spool.close()
        return left

    def __enter__(self) -> Producer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prepare(self, draft: EventDraft, traceparent: str | None) -> _Pending:
        if self._closed:
            raise Closed("the producer is closed")
        now_ms = (self._clock() - _EPOCH) // _MILLISECOND
        if draft.occurred_at is None and self._fill_occurred_at:
            draft = _dated(draft, format_instant(now_ms))
        headers = [(SCHEMA_VERSION_HEADER, b"%d" % SCHEMA_VERSION)]
        if traceparent is not None:
            headers.append((TRACEPARENT_HEADER, traceparent.encode()))
        return _Pending(next(self._numbers), draft, encode_event(draft, now_ms), headers, now_ms)

    def _must_spool(self) -> bool:
        """Whether the event goes to disk. While the drainer brings the last of it to the log, waits for the answer."""
        with self._state:
            if self._held:
                self._state.wait_for(lambda: not self._held, timeout=self.delivery_timeout_s)
            return self._spooling

    def _hold(self, held: bool) -> None:
        with self._state:
            self._held = held
            self._state.notify_all()

    def _send(self, pending: _Pending) -> None:
        """Hands it to the client. While the queue is full it waits: for room, or for Kafka to be found away."""
        deadline = time.monotonic() + self.delivery_timeout_s
        with self._state:
            self._outstanding += 1
        while True:
            with self._state:
                self._with_client += 1
            if self._link.send(
                pending.encoded.event.key,
                pending.encoded.value,
                pending.headers,
                lambda answer: self._answered(pending, answer),
            ):
                return
            with self._state:
                self._with_client -= 1
                self._state.wait(timeout=min(_POLL_S, max(0.0, deadline - time.monotonic())))
                spooling = self._spooling
            if spooling:
                self._settle_spooled([pending])
                return
            if time.monotonic() >= deadline:
                self._outstanding_less(1)
                raise QueueFull(f"the queue stayed full for {self.delivery_timeout_s:g} s; slow down, or raise queue_events_max")

    def _answered(self, pending: _Pending, answer: Position | Unsent) -> None:
        """In the polling thread, for each event, once."""
        with self._state:
            self._with_client -= 1
        if isinstance(answer, Position):
            pending.future.set_result(Receipt("acked", pending.encoded.event.key, answer))
            self._outstanding_less(1)
        else:
            self._failed.append((pending, answer))

    def _poll_until_stopped(self) -> None:
        while not self._stop.is_set():
            self._link.poll(_POLL_S)
            if self._failed:
                failed, self._failed = self._failed, []
                self._not_delivered(failed)

    def _not_delivered(self, failed: list[tuple[_Pending, Unsent]]) -> None:
        """What the broker did not acknowledge: to disk with one fsync, in the order of emitting, or back as errors."""
        if self._spool is None:
            for pending, unsent in failed:
                pending.future.set_exception(DeliveryFailed(f"{unsent.detail}; the event may have been written"))
            self._outstanding_less(len(failed))
            return
        with self._state:
            began, self._spooling = not self._spooling, True
        if began:
            log.warning("kafka is away: events wait on disk", extra={"topic": self.topic, "error": failed[0][1].detail})
            self._hold(True)
            try:
                failed += self._take_back()
                self._settle_spooled([pending for pending, _ in sorted(failed, key=lambda item: item[0].number)])
            finally:
                self._hold(False)
        else:
            self._settle_spooled([pending for pending, _ in failed])

    def _take_back(self) -> list[tuple[_Pending, Unsent]]:
        """What the client still holds, so that it goes to disk before anything newer, in the order of emitting."""
        self._link.give_up_all()
        deadline = time.monotonic() + _TAKE_BACK_S
        while time.monotonic() < deadline:
            with self._state:
                if self._with_client == 0:
                    break
            self._link.poll(_TICK_S)
        taken, self._failed = self._failed, []
        return taken

    def _to_spool(self, pendings: list[_Pending]) -> None:
        with self._state:
            self._outstanding += len(pendings)
        self._settle_spooled(pendings)

    def _settle_spooled(self, pendings: list[_Pending]) -> None:
        assert self._spool is not None
        error: SpoolFull | SpoolBroken | None = None
        kept = 0
        try:
            kept = self._spool.append([pending.spooled() for pending in pendings])
            if kept < len(pendings):
                error = SpoolFull(
                    f"the spool took {kept} of {len(pendings)} events and is full; bring Kafka back, or raise spool_bytes_max"
                )
        except (SpoolFull, SpoolBroken) as refused:
            error = refused
        with self._state:
            # An append may have come after the drainer saw an empty spool: then there is something to drain again.
            self._spooling = self._spooling or kept > 0
        for number, pending in enumerate(pendings):
            if number < kept:
                pending.future.set_result(Receipt("spooled", pending.encoded.event.key, None))
            else:
                assert error is not None
                pending.future.set_exception(error)
        self._outstanding_less(len(pendings))
        assert self._drainer is not None
        self._drainer.wake()

    def _all_drained(self) -> bool:
        """The drainer found nothing more. Under the lock, so that what comes now either sees it or is seen."""
        assert self._spool is not None
        with self._state:
            if not self._spool.pending():
                if self._spooling:
                    log.info("the spool is drained: events go to kafka directly", extra={"topic": self.topic})
                self._spooling = False
                self._state.notify_all()
            return not self._spooling

    def _outstanding_less(self, count: int) -> None:
        with self._state:
            self._outstanding -= count
            self._state.notify_all()


def _dated(draft: EventDraft, occurred_at: str) -> EventDraft:
    return EventDraft(
        draft.tenant_id,
        draft.source_service,
        draft.source_entity_id,
        draft.usage_type,
        draft.quantity,
        occurred_at,
        draft.kind,
        draft.corrects,
        draft.metadata,
    )
