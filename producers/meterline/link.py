"""The one place that touches the Kafka client: configured so that an acknowledgement means what we say it means."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, NamedTuple

from meterline.errors import EventTooLarge
from meterline.receipts import Position

log = logging.getLogger(__name__)

_REBUILD_WITHIN_S: Final = 5.0
_ERROR_LOGGED_EVERY_S: Final = 10.0


class Unsent(NamedTuple):
    """The broker did not acknowledge the record. It may have been written all the same."""

    detail: str


LinkAnswer = Position | Unsent | EventTooLarge
OnAnswer = Callable[[LinkAnswer], None]


class Link:
    """A librdkafka producer that is made anew after a fatal error. Answers come in the thread that calls `poll`."""

    def __init__(
        self, config: Mapping[str, Any], topic: str, *, delivery_timeout_s: float, queue_events_max: int, linger_ms: float
    ) -> None:
        """Connects in the background. Raises ImportError without the extra `[kafka]`."""
        try:
            import confluent_kafka
        except ImportError as error:
            raise ImportError("emitting to Kafka needs the extra: pip install 'meterline[kafka]'") from error
        self._kafka = confluent_kafka
        self._topic = topic
        self._config: dict[str, Any] = {
            "compression.type": "lz4",
            "client.id": "meterline-producer",
            # Its errors come through error_cb; its own log repeats each failed connection.
            "log_level": 2,
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 1_000,
            **{name: value for name, value in config.items() if name != "delivery.timeout.ms"},
            # What follows is the promise, so no caller's configuration changes it.
            "acks": "all",
            "enable.idempotence": True,
            "partitioner": "murmur2_random",
            "message.timeout.ms": max(1, round(delivery_timeout_s * 1_000)),
            "linger.ms": min(linger_ms, delivery_timeout_s * 500),
            "queue.buffering.max.messages": queue_events_max,
            "error_cb": self._on_client_error,
        }
        self._fatal = threading.Event()
        self._next_error_logged_at = 0.0
        self._client = self._connect()

    def send(self, key: bytes, value: bytes, headers: list[tuple[str, bytes]], on_answer: OnAnswer) -> bool:
        """Queues a record; False while there is no room. The answer comes once, later, from `poll`; at once, from here, for a
        record that is larger than the client takes."""
        if self._fatal.is_set():
            return False

        try:
            told = partial(self._report, on_answer)
            self._client.produce(self._topic, value=value, key=key, headers=headers, on_delivery=told)
        except BufferError:
            return False
        except self._kafka.KafkaException as error:
            if error.args[0].code() == self._kafka.KafkaError.MSG_SIZE_TOO_LARGE:
                on_answer(EventTooLarge(f"the client's message.max.bytes is too small: {error.args[0].str()}"))
                return True
            # A client in a fatal state refuses; the caller tries again with the next one.
            log.error("the kafka client refused an event", extra={"error": str(error)})
            self._fatal.set()
            return False
        return True

    def redirect(self, topic: str) -> None:
        """From now on records go to `topic`; those queued before still go where they were meant to."""
        self._topic = topic

    def _report(self, on_answer: OnAnswer, error: Any, message: Any) -> None:
        if error is None:
            on_answer(Position(message.topic(), message.partition(), message.offset(), message.timestamp()[1]))
        else:
            if error.fatal():
                self._fatal.set()
            too_large = error.code() == self._kafka.KafkaError.MSG_SIZE_TOO_LARGE
            on_answer(EventTooLarge(f"the topic {self._topic} refuses it: {error.str()}") if too_large else Unsent(error.str()))

    def poll(self, timeout_s: float) -> None:
        """Serves answers for up to `timeout_s`. One thread at a time calls this, again and again."""
        self._client.poll(timeout_s)

    @property
    def broken(self) -> bool:
        """The client met a fatal error and takes nothing more, until `rebuild`."""
        return self._fatal.is_set()

    def queued(self) -> int:
        """Records that were not answered yet."""
        return len(self._client)

    def give_up_all(self) -> None:
        """Everything queued or in flight is answered as Unsent, soon, from `poll`."""
        self._client.purge()

    def unreachable(self, timeout_s: float) -> str | None:
        """None when a broker answers and knows the topic, else what is wrong. Blocks up to `timeout_s`."""
        try:
            found = self._client.list_topics(self._topic, timeout=timeout_s).topics.get(self._topic)
        except self._kafka.KafkaException as error:
            return str(error.args[0].str())
        if found is None or found.error is not None:
            return f"topic {self._topic}: {'unknown' if found is None else found.error.str()}"
        return None

    def _connect(self) -> Any:
        return self._kafka.Producer(self._config, logger=log)

    def rebuild(self) -> None:
        """After a fatal error: every open record is answered, then a new client takes over. Called by who polls."""
        log.error("the kafka client met a fatal error and is made anew", extra={"topic": self._topic})
        old = self._client
        deadline = time.monotonic() + _REBUILD_WITHIN_S
        while len(old) and time.monotonic() < deadline:
            with contextlib.suppress(self._kafka.KafkaException):
                old.purge()
            old.poll(0.05)
        self._client = self._connect()
        self._fatal.clear()

    def _on_client_error(self, error: Any) -> None:
        if error.fatal():
            self._fatal.set()
        now = time.monotonic()
        if now >= self._next_error_logged_at:
            self._next_error_logged_at = now + _ERROR_LOGGED_EVERY_S
            log.warning("kafka: %s", error.str())
