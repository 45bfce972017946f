"""The real sink: the producer SDK, with its spool, polled by the event loop itself.

The client reports each acknowledgement with a call into Python. In a thread of its own each call would have to wait for the
interpreter's lock while the loop works; within the loop it waits for nothing. So the loop polls, every millisecond while
something is open. What may block (a full queue, the spool's fsync, a new client) goes to threads.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from entitlements.log_epochs import LogEpochs
from entitlements.models import Position
from entitlements.sink import Published, SinkAway
from meterline.errors import EmitError, EventTooLarge
from meterline.flight import Answer
from meterline.producer import Producer
from meterline.receipts import Position as LogPosition
from meterline_schemas.draft import EncodedEvent
from runtime import metrics
from runtime.kafka import librdkafka_config
from runtime.settings import Settings

logger = logging.getLogger(__name__)

DELIVERY_TIMEOUT_S = 5.0
"""What the broker has not acknowledged by then goes to the spool."""
LINGER_MS = 1
OUTSTANDING_MAX = 20_000
"""More events without an answer than this are refused: they would time out before their turn."""
LOOK_WITHIN_S = 2.0
POLL_EVERY_S = 0.001
POLL_IDLE_S = 0.05

_Handed = tuple[Sequence[EncodedEvent], Callable[[list[Answer]], None], str]
"""Events on their way to the thread that may wait, who is told the answers, and the traceparent."""


class KafkaSink:
    """Publishes to the events topic. For one event loop; nothing connects before `open`."""

    def __init__(self, settings: Settings, epochs: LogEpochs) -> None:
        self._settings = settings
        self._epochs = epochs
        self._topic = settings.topic_events
        self._handed: queue.SimpleQueue[_Handed | None] = queue.SimpleQueue()
        self._outstanding = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread = 0
        self._producer: Producer | None = None
        self._admin: AdminClient | None = None
        self._thread = threading.Thread(target=self._send_until_closed, name="usage-sink", daemon=True)
        self._next_poll: asyncio.TimerHandle | None = None
        self._polls_soon = False
        self._settling: asyncio.Future[None] | None = None

    async def open(self) -> None:
        """Raises meterline.errors.SpoolBroken when the spool's directory cannot be used."""
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._producer = await asyncio.to_thread(
            Producer,
            librdkafka_config(self._settings),
            self._topic,
            spool_dir=self._settings.spool_dir,
            spool_bytes_max=self._settings.spool_bytes_max,
            delivery_timeout_s=DELIVERY_TIMEOUT_S,
            queue_events_max=OUTSTANDING_MAX,
            linger_ms=LINGER_MS,
            polls_itself=False,
        )
        # Without a log of its own: what it has to say is the answer of /ready.
        self._admin = AdminClient(librdkafka_config(self._settings) | {"log_level": 0})
        self._thread.start()
        self._poll(self._loop, self._producer)

    async def publish(self, events: Sequence[EncodedEvent], traceparent: str) -> list[Published]:
        loop, producer = self._loop, self._producer
        if loop is None or producer is None:
            raise SinkAway("The server is not ready yet; try again shortly.")
        if self._outstanding + len(events) > OUTSTANDING_MAX:
            raise SinkAway("Too many events wait for the log; nothing was recorded. Try again shortly.")
        # Before the event leaves: an acknowledged event must not be answered with an error.
        await self._follow(producer)
        landed: asyncio.Future[list[Answer]] = loop.create_future()

        def on_done(answers: list[Answer]) -> None:
            # Here and not where they are awaited: a client that went away leaves events behind that are open still.
            if threading.get_ident() == self._loop_thread:
                self._land(landed, answers)
            else:
                loop.call_soon_threadsafe(self._land, landed, answers)

        self._outstanding += len(events)
        if producer.send(events, on_done, traceparent=traceparent):
            self._poll_soon(loop, producer)
        else:
            self._handed.put((events, on_done, traceparent))
        return [self._published(answer) for answer in await landed]

    def _land(self, landed: asyncio.Future[list[Answer]], answers: list[Answer]) -> None:
        self._outstanding -= len(answers)
        if not landed.done():
            landed.set_result(answers)

    def _published(self, answer: Answer) -> Published:
        if isinstance(answer, LogPosition):
            return Position(self._epochs.of_topic(answer.topic), answer.partition, answer.offset)
        if isinstance(answer, EmitError):
            metrics.RETRIES.labels("entitlements", "kafka").inc()
            if isinstance(answer, EventTooLarge):
                return SinkAway(f"The event is not recorded: {answer}. Run `meterline topics apply`, then send it again.")
            return SinkAway(f"Neither the log nor the spool took the event ({answer}); send it again.")
        return None

    async def problem(self) -> str | None:
        return await asyncio.to_thread(self._look)

    async def close(self, within_s: float) -> None:
        if self._producer is None:
            return
        self._handed.put(None)
        # The loop polls on meanwhile, or nothing would be answered.
        await asyncio.to_thread(self._close, self._producer, within_s)
        if self._settling is not None:
            await self._settling
        if self._next_poll is not None:
            self._next_poll.cancel()

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

    def _poll(self, loop: asyncio.AbstractEventLoop, producer: Producer) -> None:
        if producer.poll() and (self._settling is None or self._settling.done()):
            self._settling = loop.run_in_executor(None, self._settle, producer)
        self._polls_soon = not producer.idle
        self._next_poll = loop.call_later(POLL_EVERY_S if self._polls_soon else POLL_IDLE_S, self._poll, loop, producer)

    def _poll_soon(self, loop: asyncio.AbstractEventLoop, producer: Producer) -> None:
        if not self._polls_soon and self._next_poll is not None:
            self._next_poll.cancel()
            self._polls_soon = True
            self._next_poll = loop.call_later(POLL_EVERY_S, self._poll, loop, producer)

    def _settle(self, producer: Producer) -> None:
        try:
            producer.settle()
        except Exception:
            # Nobody awaits this; what it left open is answered when the producer gives it up.
            logger.exception("events that the log did not take could not be settled")

    def _send_until_closed(self) -> None:
        assert self._producer is not None
        while (handed := self._handed.get()) is not None:
            events, on_done, traceparent = handed
            try:
                self._producer.send_patiently(events, on_done, traceparent=traceparent)
            except EmitError as error:
                on_done([error] * len(events))

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
