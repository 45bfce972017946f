"""Kafka clients from one resolved configuration, translated for librdkafka and for aiokafka."""

from __future__ import annotations

import logging
import ssl
import time
from typing import Any

from confluent_kafka import Consumer, KafkaError, Producer
from confluent_kafka.admin import AdminClient

from runtime.settings import Settings

logger = logging.getLogger(__name__)

REQUEST_TIMEOUT_S = 10.0
SAY_AGAIN_S = 10.0


class _Errors:
    """Logs what a client reports, each kind at most once in SAY_AGAIN_S: a broker that is away is reported all the time."""

    def __init__(self) -> None:
        self._said: dict[int, float] = {}

    def __call__(self, error: KafkaError) -> None:
        now = time.monotonic()
        if now - self._said.get(error.code(), -SAY_AGAIN_S) >= SAY_AGAIN_S:
            self._said[error.code()] = now
            logger.warning("kafka client: %s", error.str(), extra={"code": error.name()})


def librdkafka_config(settings: Settings) -> dict[str, Any]:
    """What every confluent-kafka client shares: where the brokers are and how to be let in."""
    config: dict[str, Any] = {
        "bootstrap.servers": settings.kafka_url,
        "client.id": settings.kafka_client_id,
        "security.protocol": settings.kafka_security_protocol,
        "socket.timeout.ms": round(REQUEST_TIMEOUT_S * 1000),
        "socket.connection.setup.timeout.ms": 5000,
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 1000,
        # librdkafka's own lines go to standard error, dozens a second while a broker is away; its errors come to us instead.
        "log_level": 2,
        "error_cb": _Errors(),
    }
    if settings.kafka_sasl_mechanism is not None and settings.kafka_security_protocol.startswith("SASL"):
        assert settings.kafka_sasl_password is not None
        config |= {
            "sasl.mechanism": settings.kafka_sasl_mechanism,
            "sasl.username": settings.kafka_sasl_username,
            "sasl.password": settings.kafka_sasl_password.get_secret_value(),
        }
    if settings.kafka_ca_file is not None:
        config["ssl.ca.location"] = str(settings.kafka_ca_file)
    return config


def aiokafka_security(settings: Settings) -> dict[str, Any]:
    """The same for aiokafka's keyword arguments."""
    context = None
    if settings.kafka_security_protocol.endswith("SSL"):
        context = ssl.create_default_context(cafile=str(settings.kafka_ca_file) if settings.kafka_ca_file else None)
    arguments: dict[str, Any] = {"security_protocol": settings.kafka_security_protocol, "ssl_context": context}
    if settings.kafka_sasl_mechanism is not None and settings.kafka_security_protocol.startswith("SASL"):
        assert settings.kafka_sasl_password is not None
        arguments |= {
            "sasl_mechanism": settings.kafka_sasl_mechanism,
            "sasl_plain_username": settings.kafka_sasl_username,
            "sasl_plain_password": settings.kafka_sasl_password.get_secret_value(),
        }
    return arguments


def producer(settings: Settings, **over: Any) -> Producer:
    """A producer whose acknowledgement means: written by every replica in sync, once, at its key's partition."""
    return Producer(
        librdkafka_config(settings)
        | {
            "acks": "all",
            "enable.idempotence": True,
            "partitioner": "murmur2_random",
            "compression.type": "lz4",
            "linger.ms": 5,
            "delivery.timeout.ms": 30_000,
        }
        | over
    )


def consumer(settings: Settings, **over: Any) -> Consumer:
    """A consumer that reads committed records only and never resets its position by itself."""
    return Consumer(
        librdkafka_config(settings)
        | {
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "enable.partition.eof": True,
            "check.crcs": True,
            # The reading limit of the default (1000) is a sixth of what the broker gives.
            "fetch.queue.backoff.ms": 1,
        }
        | over
    )


def admin(settings: Settings) -> AdminClient:
    """For topics and offsets. Pass `request_timeout=REQUEST_TIMEOUT_S` to each call."""
    return AdminClient(librdkafka_config(settings))
