"""The broker keeps what it acknowledged, and lets in whom it should."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from deploy.embedded.kafka import Kafka, SecureListener
from store import topic_state

PASSWORD = 'pass "word" with \\ and ;'


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Files of a certificate authority, of a certificate of 127.0.0.1 by it, and of that one's key."""
    folder = tmp_path_factory.mktemp("tls")
    ca = trustme.CA()
    issued = ca.issue_cert("127.0.0.1")
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    (folder / "cert.pem").write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
    key = load_pem_private_key(issued.private_key_pem.bytes(), None)
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return folder / "ca.pem", folder / "cert.pem", folder / "key.pem"


@pytest.fixture(scope="module")
def broker(authority: tuple[Path, Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """A broker of its own for this file, because it is killed here, with every kind of listener."""
    _, certificate, key = authority
    users = {"meterline": PASSWORD}
    kafka = Kafka(
        tmp_path_factory.mktemp("kafka") / "kafka",
        log=print,
        listeners=[
            SecureListener("SSL", certificate=certificate, key=key),
            SecureListener("SASL_PLAINTEXT", users=users),
            SecureListener("SASL_SSL", users=users, certificate=certificate, key=key),
        ],
    )
    kafka.start()
    yield kafka
    kafka.stop()


def _create(broker: Kafka, topic: str) -> None:
    new = NewTopic(topic, num_partitions=1, replication_factor=1)
    admin = AdminClient({"bootstrap.servers": broker.address})  # must outlive the answer
    admin.create_topics([new])[topic].result(timeout=15)


def _end_of(broker: Kafka, topic: str) -> int:
    consumer = Consumer({"bootstrap.servers": broker.address, "group.id": "reader"})
    try:
        return int(consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=15)[1])
    finally:
        consumer.close()


def test_what_was_acknowledged_survives_a_kill_and_the_port_stays(broker: Kafka) -> None:
    _create(broker, "kept")
    acknowledged: list[int] = []
    producer = Producer({"bootstrap.servers": broker.address, "acks": "all"})
    for _ in range(100):
        producer.produce("kept", b"x", on_delivery=lambda error, message: acknowledged.append(0) if error is None else None)
    assert producer.flush(15) == 0
    assert len(acknowledged) == 100
    address, cluster = broker.address, (broker.home / "log" / "meta.properties").read_text()
    broker.kill()
    broker.start()
    assert broker.address == address
    assert (broker.home / "log" / "meta.properties").read_text() == cluster
    assert _end_of(broker, "kept") == 100


def test_a_topic_is_not_made_by_mentioning_it(broker: Kafka) -> None:
    # A producer's question for a topic is what makes it where brokers create topics by themselves.
    producer = Producer({"bootstrap.servers": broker.address})
    assert producer.list_topics("misspelt", timeout=10).topics["misspelt"].error is not None
    assert "misspelt" not in producer.list_topics(timeout=10).topics


@pytest.mark.parametrize("protocol", ["SSL", "SASL_PLAINTEXT", "SASL_SSL"])
def test_a_secure_listener_lets_the_right_client_in(broker: Kafka, authority: tuple[Path, Path, Path], protocol: str) -> None:
    metadata = AdminClient(_client(broker, authority, protocol, PASSWORD)).list_topics(timeout=15)
    # The broker leads back to the same listener, not to the plain one.
    assert [f"{b.host}:{b.port}" for b in metadata.brokers.values()] == [broker.secure_addresses[protocol]]


def test_a_wrong_password_is_refused(broker: Kafka, authority: tuple[Path, Path, Path]) -> None:
    errors: list[str] = []
    config = _client(broker, authority, "SASL_PLAINTEXT", "wrong") | {"error_cb": lambda error: errors.append(error.name())}
    admin = AdminClient(config)
    with pytest.raises(KafkaException):
        admin.list_topics(timeout=3)
    admin.poll(5)
    assert "_AUTHENTICATION" in errors


def _client(broker: Kafka, authority: tuple[Path, Path, Path], protocol: str, password: str) -> dict[str, Any]:
    config: dict[str, Any] = {
        "bootstrap.servers": broker.secure_addresses[protocol],
        "security.protocol": protocol,
        "ssl.ca.location": str(authority[0]),
        "log_level": 0,
    }
    if protocol.startswith("SASL"):
        config |= {"sasl.mechanism": "PLAIN", "sasl.username": "meterline", "sasl.password": password}
    return config


def test_nothing_is_left_in_the_temporary_folder(broker: Kafka) -> None:
    assert broker.child is not None
    assert not list(Path(tempfile.gettempdir()).glob(f"hsperfdata_*/{broker.child.pid}"))


def test_the_secrets_in_the_configuration_are_not_for_everybody(broker: Kafka) -> None:
    assert (broker.home / "server.properties").stat().st_mode & 0o077 == 0


def test_a_client_that_asked_for_the_ends_before_a_kill_gets_them_after_it(broker: Kafka) -> None:
    """Else the counters' freshness stands still for a quarter of an hour after a broker came back."""
    _create(broker, "ends")
    admin = AdminClient({"bootstrap.servers": broker.address})
    assert topic_state.log_ends(admin, "ends", 1) == [0]
    broker.kill()
    broker.start()
    producer = Producer({"bootstrap.servers": broker.address, "acks": "all"})
    producer.produce("ends", b"x")
    assert producer.flush(15) == 0
    assert topic_state.log_ends(admin, "ends", 1) == [1]
    assert topic_state.log_starts(admin, "ends", 1) == [0]
