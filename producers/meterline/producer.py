"""The producer: one event in, one truthful answer out."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

from meterline.drain import Drainer
from meterline.errors import Closed, DeliveryFailed, EmitError, QueueFull, SpoolBroken, SpoolFull
from meterline.flight import Answer, Flight, Flights, as_receipt
from meterline.link import Link, LinkAnswer, Unsent
from meterline.receipts import Receipt
from meterline.spool import Spool
from meterline_schemas.draft import EncodedEvent, EventDraft, InvalidEvent, encode_event
from meterline_schemas.instants import format_instant

log = logging.getLogger(__name__)

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_POLL_S: Final = 0.05
_TICK_S: Final = 0.01
_TAKE_BACK_S: Final = 1.0
_MARGIN_S: Final = 2.0


def _utc_now() -> datetime:
    return datetime.now(UTC)


Failed = tuple[Flight, int, Unsent]
"""An event of a flight that the broker did not acknowledge."""


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
        polls_itself: bool = True,
        clock: Callable[[], datetime] = _utc_now,
    ) -> None:
        """`kafka` is host:port[,host:port], or a librdkafka configuration (for SASL, TLS).

        `delivery_timeout_s` bounds every wait for the broker; what it did not acknowledge by then is spooled, or fails.
        `polls_itself=False` starts no thread for the answers: its owner calls `poll`, as an event loop can, often.
        Raises ImportError without the extra `[kafka]`, SpoolBroken when the spool directory cannot be used.
        """
        config = {"bootstrap.servers": kafka} if isinstance(kafka, str) else dict(kafka)
        self.topic = topic
        self.delivery_timeout_s = delivery_timeout_s
        self._clock = clock
        self._state = threading.Condition()
        self._flights = Flights()
        self._closed = False
        self._failed: list[Failed] = []  # of whoever holds _polling
        self._polling = threading.Lock()
        self._stop = threading.Event()
        self._queue_events_max = queue_events_max
        self._link = Link(
            config, topic, delivery_timeout_s=delivery_timeout_s, queue_events_max=queue_events_max, linger_ms=linger_ms
        )
        self._spool = Spool(Path(spool_dir) / topic, spool_bytes_max) if spool_dir is not None else None
        # True: the log first gets what waits on disk. Guarded by _state.
        self._spooling = self._spool is not None and self._spool.pending()
        self._poller: threading.Thread | None = None
        if polls_itself:
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
        future: Future[Receipt] = Future()
        # From here on nobody can cancel it: the event may be on its way, so its answer stays worth having.
        future.set_running_or_notify_cancel()
        encoded, now_ms = self._encoded(draft)
        flight = self._flights.begin([encoded], traceparent, now_ms, lambda answers: _settle(future, encoded, answers[0]))
        taken = self._offer(flight, 0)
        if isinstance(taken, QueueFull):
            self._flights.drop(flight)
            raise taken
        if not taken:
            self._settle_spooled([(flight, 0)])
            error = future.exception(timeout=0)
            if error is not None:
                raise error
        return future

    def emit_many(
        self, drafts: Iterable[EventDraft], *, traceparent: str | None = None, timeout_s: float | None = None
    ) -> list[Receipt | InvalidEvent | EmitError]:
        """Takes a batch and waits for all; the answers stand in the order of the drafts, errors as values.

        Waits at most `timeout_s` (the delivery timeout and a margin by default); what is open then is answered with
        DeliveryFailed, which says that it may yet be written.
        """
        limit_s = self.delivery_timeout_s + _MARGIN_S if timeout_s is None else timeout_s
        deadline = time.monotonic() + limit_s
        taken: list[EncodedEvent | InvalidEvent | EmitError] = []
        now_ms = self._now_ms()
        for draft in drafts:
            try:
                taken.append(self._encoded(draft)[0])
            except (InvalidEvent, EmitError) as error:
                taken.append(error)
        events = [item for item in taken if isinstance(item, EncodedEvent)]
        answered = threading.Event()
        flight = self._flights.begin(events, traceparent, now_ms, lambda _: answered.set())
        self._send_all(flight)
        if events:
            answered.wait(timeout=max(0.0, deadline - time.monotonic()))
        late = DeliveryFailed(f"no answer within {limit_s:g} s; the event may yet be written")
        answers = iter(list(flight.answers))
        return [as_receipt(item, next(answers) or late) if isinstance(item, EncodedEvent) else item for item in taken]

    def send(self, events: Sequence[EncodedEvent], on_done: Callable[[list[Answer]], None], *, traceparent: str) -> bool:
        """Hands encoded events to the client without ever waiting; False, and nothing was taken, where it would have to.

        `on_done` gets the answers in the order of the events, in the thread that the last one comes in. An absent
        occurredAt stays absent, unless an event is spooled after all. After False: `send_patiently`, in a thread.
        """
        with self._state:
            # While spooling, events go to disk; and a flight must not find the queue full half-way.
            if self._closed or self._held or self._spooling or self._link.queued() + len(events) > self._queue_events_max:
                return False
            flight = self._flights.begin(events, traceparent, self._now_ms(), on_done)
            headers, answered = flight.headers, self._answered
            for index, (value, event) in enumerate(events):
                if not self._link.send(event.key, value, headers, partial(answered, flight, index)):
                    self._flights.answer(flight, index, QueueFull("the queue is full; slow down, or raise queue_events_max"))
        return True

    def send_patiently(
        self, events: Sequence[EncodedEvent], on_done: Callable[[list[Answer]], None], *, traceparent: str
    ) -> None:
        """As `send`, but waits for room or for the spool's fsync. Raises Closed."""
        if self._closed:
            raise Closed("the producer is closed")
        flight = self._flights.begin(events, traceparent, self._now_ms(), on_done)
        self._send_all(flight)

    def poll(self) -> bool:
        """Serves the answers that have come, without waiting; for an owner that polls itself.

        True: some events failed, and `settle` has to be called, in a thread that may block.
        """
        if not self._polling.acquire(blocking=False):
            return False  # settling, which polls
        try:
            self._link.poll(0)
            return bool(self._failed) or self._link.broken
        finally:
            self._polling.release()

    def settle(self) -> None:
        """Makes a client anew that met a fatal error, and takes what failed to disk. Blocks for seconds."""
        with self._polling:
            self._settle_failed()

    @property
    def idle(self) -> bool:
        """Nothing waits for an answer, on disk or with the client, so nothing is lost by polling seldom."""
        return not self._flights.any() and not self._spooling

    def redirect(self, topic: str) -> None:
        """From now on events go to `topic`, those that wait on disk too; for a log that has gone over to a new one.

        What is under way already is acknowledged where it was sent to: its Receipt says where.
        """
        self.topic = topic
        self._link.redirect(topic)

    def flush(self, timeout_s: float) -> int:
        """Waits until every event taken so far has its answer, at most `timeout_s`; returns how many have none yet."""
        return self._flights.wait(timeout_s)

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
        while self._flights.any() and time.monotonic() < deadline:
            self._link.give_up_all()  # again, for an emit that was between its check and its send
            self._flights.wait(_POLL_S)
        self._stop.set()
        if self._poller is not None:
            self._poller.join(timeout=_MARGIN_S)
        if self._spool is not None:
            self._spool.close()
        return left

    def __enter__(self) -> Producer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _now_ms(self) -> int:
        return (self._clock() - _EPOCH) // _MILLISECOND

    def _encoded(self, draft: EventDraft) -> tuple[EncodedEvent, int]:
        """The event and the time of emitting. Raises InvalidEvent, Closed."""
        if self._closed:
            raise Closed("the producer is closed")
        now_ms = self._now_ms()
        if draft.occurred_at is None:
            draft = replace(draft, occurred_at=format_instant(now_ms))
        return encode_event(draft, now_ms), now_ms

    def _hold(self, held: bool) -> None:
        with self._state:
            self._held = held
            self._state.notify_all()

    def _send_all(self, flight: Flight) -> None:
        """Each event to the client, or those that must to disk, with one fsync."""
        to_spool: list[tuple[Flight, int]] = []
        for index in range(len(flight.events)):
            taken = self._offer(flight, index)
            if isinstance(taken, QueueFull):
                self._flights.answer(flight, index, taken)
            elif not taken:
                to_spool.append((flight, index))
        if to_spool:
            self._settle_spooled(to_spool)

    def _offer(self, flight: Flight, index: int) -> bool | QueueFull:
        """Hands an event to the client, waiting for room. False: it goes to disk. QueueFull: there was no room in time.

        All under the lock: whoever finds Kafka away takes back what the client holds, and an event that was handed over
        after that, or went to disk before it, would lie on disk in another order than it was emitted in.
        """
        deadline = time.monotonic() + self.delivery_timeout_s
        value, event = flight.events[index]
        with self._state:
            while True:
                if self._held:
                    self._state.wait_for(lambda: not self._held, timeout=self.delivery_timeout_s)
                if self._spooling:
                    return False
                if self._link.send(event.key, value, flight.headers, partial(self._answered, flight, index)):
                    return True
                if time.monotonic() >= deadline:
                    full_s = self.delivery_timeout_s
                    return QueueFull(f"the queue stayed full for {full_s:g} s; slow down, or raise queue_events_max")
                self._state.wait(timeout=min(_POLL_S, max(0.0, deadline - time.monotonic())))

    def _answered(self, flight: Flight, index: int, answer: LinkAnswer) -> None:
        """While polling, for each event, once."""
        if isinstance(answer, Unsent):
            self._failed.append((flight, index, answer))
        else:
            self._flights.answer(flight, index, answer)

    def _poll_until_stopped(self) -> None:
        while not self._stop.is_set():
            with self._polling:
                self._link.poll(_POLL_S)
                self._settle_failed()

    def _settle_failed(self) -> None:
        if self._link.broken:
            self._link.rebuild()
        if self._failed:
            failed, self._failed = self._failed, []
            self._not_delivered(failed)

    def _not_delivered(self, failed: list[Failed]) -> None:
        """What the broker did not acknowledge: to disk with one fsync, in the order of emitting, or back as errors."""
        if self._spool is None:
            for flight, index, unsent in failed:
                self._flights.answer(flight, index, DeliveryFailed(f"{unsent.detail}; the event may have been written"))
            return
        with self._state:
            began = not self._spooling
            # In one step: an event that was emitted between the two would be on disk before those that are taken back.
            self._spooling, self._held = True, self._held or began
        if began:
            log.warning("kafka is away: events wait on disk", extra={"topic": self.topic, "error": failed[0][2].detail})
            try:
                failed += self._take_back()
                ordered = sorted(failed, key=lambda item: (item[0].number, item[1]))
                self._settle_spooled([(flight, index) for flight, index, _ in ordered])
            finally:
                self._hold(False)
        else:
            self._settle_spooled([(flight, index) for flight, index, _ in failed])

    def _take_back(self) -> list[Failed]:
        """What the client still holds, so that it goes to disk before anything newer, in the order of emitting."""
        self._link.give_up_all()
        deadline = time.monotonic() + _TAKE_BACK_S
        while self._link.queued() and time.monotonic() < deadline:
            self._link.poll(_TICK_S)
        taken, self._failed = self._failed, []
        return taken

    def _settle_spooled(self, events: list[tuple[Flight, int]]) -> None:
        assert self._spool is not None
        error: SpoolFull | SpoolBroken | None = None
        kept = 0
        try:
            kept = self._spool.append([flight.spooled(index) for flight, index in events])
            if kept < len(events):
                error = SpoolFull(
                    f"the spool took {kept} of {len(events)} events and is full; bring Kafka back, or raise spool_bytes_max"
                )
        except (SpoolFull, SpoolBroken) as refused:
            error = refused
        with self._state:
            # An append may have come after the drainer saw an empty spool: then there is something to drain again.
            self._spooling = self._spooling or kept > 0
        for number, (flight, index) in enumerate(events):
            if number < kept:
                self._flights.answer(flight, index, Receipt("spooled", flight.events[index].event.key, None))
            else:
                assert error is not None
                self._flights.answer(flight, index, error)
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


def _settle(future: Future[Receipt], encoded: EncodedEvent, answer: Answer) -> None:
    receipt = as_receipt(encoded, answer)
    if isinstance(receipt, Receipt):
        future.set_result(receipt)
    else:
        future.set_exception(receipt)
