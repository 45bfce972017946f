"""The real sink: the producer SDK, with its spool, behind a thread of its own.

`Producer.emit` may block: for room in its queue, or for an fsync of the spool. So one thread calls it, fed by a queue that
never blocks the event loop, and the answers come back to the loop as they arrive.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from functools import partial

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from entitlements.log_epochs import LogEpochs
from entitlements.models import Position
from entitlements.sink import SinkAway, SinkRefused, Usage
from meterline.errors import EmitError
from meterline.producer import Producer
from meterline.receipts import Receipt
from meterline_schemas.draft import EventDraft, InvalidEvent
from meterline_schemas.key import parse_key
from meterline_schemas.quantity import format_quantity
from runtime import metrics
from runtime.kafka import librdkafka_config
from runtime.settings import Settings

DELIVERY_TIMEOUT_S = 5.0
"""What the broker has not acknowledged by then goes to the spool."""
LINGER_MS = 2
OUTSTANDING_MAX = 20_000
"""More events without an answer than this are refused: they would time out before their turn."""
LOOK_WITHIN_S = 2.0


@dataclass(frozen=True, slots=True)
class _Handed:
    """An event on its way to the thread, and who waits for the answer."""

    draft: EventDraft
    traceparent: str
    answer: asyncio.Future[Receipt]


def draft_of(usage: Usage) -> EventDraft:
    """The event as the SDK takes it: the same in every field, so that the log's codec reads what this edge read."""
    event = usage.event
    return EventDraft(
        tenant_id=event.tenant_id,
        source_service=event.source_service,
        source_entity_id=event.source_entity_id,
        usage_type=event.usage_type,
        quantity=format_quantity(event.quantity),
        occurred_at=usage.occurred_at,
        kind=event.kind,
        corrects=parse_key(event.corrects) if event.corrects else None,
        metadata=event.metadata or None,
    )


class KafkaSink:
    """Publishes to the events topic. For one event loop; nothing connects before `open`."""

    def __init__(self, settings: Settings, epochs: LogEpochs) -> None:
        self._settings = settings
        self._epochs = epochs
        self._topic = settings.topic_events
        self._handed: queue.SimpleQueue[_Handed | None] = queue.SimpleQueue()
        self._outstanding = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._producer: Producer | None = None
        self._admin: AdminClient | None = None
        self._thread = threading.Thread(target=self._emit_until_closed, name="usage-sink", daemon=True)

    async def open(self) -> None:
        """Raises meterline.errors.SpoolBroken when the spool's directory cannot be used."""
        self._loop = asyncio.get_running_loop()
        self._producer = await asyncio.to_thread(
            Producer,
            librdkafka_config(self._settings),
            self._topic,
            spool_dir=self._settings.spool_dir,
            spool_bytes_max=self._settings.spool_bytes_max,
            delivery_timeout_s=DELIVERY_TIMEOUT_S,
            queue_events_max=OUTSTANDING_MAX,
            linger_ms=LINGER_MS,
            fill_occurred_at=False,
        )
        # Without a log of its own: what it has to say is the answer of /ready.
        self._admin = AdminClient(librdkafka_config(self._settings) | {"log_level": 0})
        self._thread.start()

    async def publish(self, usage: Usage) -> Position | None:
        if self._loop is None or self._producer is None:
            raise SinkAway("The server is not ready yet; try again shortly.")
        if self._outstanding >= OUTSTANDING_MAX:
            raise SinkAway("Too many events wait for the log; nothing was recorded. Try again shortly.")
        # Before the event leaves: an acknowledged event must not be answered with an error.
        await self._follow(self._producer)
        answer: asyncio.Future[Receipt] = self._loop.create_future()
        answer.add_done_callback(_seen)
        self._outstanding += 1
        try:
            self._handed.put(_Handed(draft_of(usage), usage.traceparent, answer))
            # Shielded: when the client goes away the event goes on, and its answer must find no cancelled future.
            receipt = await asyncio.shield(answer)
        except InvalidEvent as invalid:
            raise SinkRefused(invalid.reason, invalid.detail) from invalid
        except EmitError as error:
            metrics.RETRIES.labels("entitlements", "kafka").inc()
            raise SinkAway(f"Neither the log nor the spool took the event ({error}); send it again.") from error
        finally:
            self._outstanding -= 1
        if receipt.position is None:
            return None
        return Position(self._epochs.of_topic(receipt.position.topic), receipt.position.partition, receipt.position.offset)

    async def problem(self) -> str | None:
        return await asyncio.to_thread(self._look)

    async def close(self, within_s: float) -> None:
        if self._producer is None:
            return
        self._handed.put(None)
        await asyncio.to_thread(self._close, self._producer, within_s)

    def _close(self, producer: Producer, within_s: float) -> None:
        # The thread first: the producer must not be closed under an event that it has yet to take.
        self._thread.join(within_s / 2)
        producer.close(within_s / 2)

    async def _follow(self, producer: Producer) -> None:
        """Turns to the newest epoch's topic. Raises StoreAway, SinkAway."""
        newest = await self._epochs.newest()
        if newest is None:
            raise SinkAway("The events topic is not set up; run `meterline topics apply`.")
        if newest.topic != self._topic:
            self._topic = newest.topic
            producer.redirect(newest.topic)

    def _emit_until_closed(self) -> None:
        assert self._producer is not None
        while (handed := self._handed.get()) is not None:
            try:
                receipt = self._producer.emit(handed.draft, traceparent=handed.traceparent)
            except (InvalidEvent, EmitError) as error:
                self._answer(handed.answer, error)
            else:
                receipt.add_done_callback(partial(self._receipt_came, handed.answer))

    def _receipt_came(self, answer: asyncio.Future[Receipt], receipt: Future[Receipt]) -> None:
        """In the producer's thread."""
        error = receipt.exception()
        self._answer(answer, error if error is not None else receipt.result())

    def _answer(self, answer: asyncio.Future[Receipt], said: Receipt | BaseException) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(_settle, answer, said)

    def _look(self) -> str | None:
        """In a thread of its own. Asks for the topic without creating it."""
        if self._admin is None:
            return "not opened yet"
        try:
            (future,) = self._admin.describe_topics(TopicCollection([self._topic]), request_timeout=LOOK_WITHIN_S).values()
            future.result(timeout=LOOK_WITHIN_S + 1)
        except KafkaException as error:
            if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                return f"topic {self._topic} does not exist; run `meterline topics apply`"
            return "the brokers do not answer; usage is spooled"
        except FutureTimeoutError:
            return "the brokers do not answer; usage is spooled"
        return None


def _seen(answer: asyncio.Future[Receipt]) -> None:
    # An error that nobody waits for any more is no defect: the client went away.
    if not answer.cancelled():
        answer.exception()


def _settle(answer: asyncio.Future[Receipt], said: Receipt | BaseException) -> None:
    if answer.done():
        return
    if isinstance(said, BaseException):
        answer.set_exception(said)
    else:
        answer.set_result(said)
