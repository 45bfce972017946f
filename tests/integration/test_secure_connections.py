"""SASL, TLS and authorities of one's own: resolved once in the settings, and true for every client library we use.

Servers of this file's own, because the shared stack listens in the clear: Kafka with its secure listeners, Postgres behind
a TLS front (its packaged build has none), and the ClickHouse gateway with a certificate. Kafka's mechanism here is PLAIN;
SCRAM needs users that are made in a running broker, and is the brokers' part, not ours.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import psycopg
import pytest
import trustme
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError as AioKafkaError
from clickhouse_connect.driver.exceptions import ClickHouseError
from confluent_kafka import KafkaError, KafkaException, Message, Producer
from confluent_kafka import TopicPartition as Place
from confluent_kafka.cimpl import NewTopic
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from cli import checks
from deploy.embedded.kafka import Kafka, SecureListener
from deploy.embedded.postgres import Postgres
from deploy.embedded.processes import Child, Starting, free_port, run_all, spawn, until
from deploy.embedded.tls_front import TlsFront
from runtime import clickhouse, kafka, postgres
from runtime.settings import Settings, load_settings

ROOT = Path(__file__).parents[2]
USER, PASSWORD = "meterline", 'pass "word" with \\ and ; and %41'
PROTOCOLS = ["SSL", "SASL_PLAINTEXT", "SASL_SSL"]
TLS_PROTOCOLS = ["SSL", "SASL_SSL"]
SASL_PROTOCOLS = ["SASL_PLAINTEXT", "SASL_SSL"]


@dataclass(frozen=True)
class Servers:
    """Where they answer, and the files to trust and not to trust them by."""

    kafka: dict[str, str]
    postgres: str
    clickhouse: str
    authority: Path
    stranger: Path

    def settings(self, **over: str) -> Settings:
        """With the right authority everywhere; no Kafka protocol yet."""
        return load_settings(
            {
                "METERLINE_POSTGRES_URL": self.postgres,
                "METERLINE_POSTGRES_CA_FILE": str(self.authority),
                "METERLINE_CLICKHOUSE_URL": self.clickhouse,
                "METERLINE_CLICKHOUSE_USER": USER,
                "METERLINE_CLICKHOUSE_PASSWORD": PASSWORD,
                "METERLINE_CLICKHOUSE_CA_FILE": str(self.authority),
                "METERLINE_POSTGRES_TIMEOUT_S": "10",
                "METERLINE_CLICKHOUSE_TIMEOUT_S": "10",
            }
            | over
        )

    def kafka_settings(self, protocol: str, **over: str) -> Settings:
        """To that listener, with what it wants."""
        wanted = {"METERLINE_KAFKA_URL": self.kafka[protocol], "METERLINE_KAFKA_SECURITY_PROTOCOL": protocol}
        if protocol.endswith("SSL"):
            wanted["METERLINE_KAFKA_CA_FILE"] = str(self.authority)
        if protocol.startswith("SASL"):
            wanted["METERLINE_KAFKA_SASL_MECHANISM"] = "PLAIN"
            wanted["METERLINE_KAFKA_SASL_USERNAME"] = USER
            wanted["METERLINE_KAFKA_SASL_PASSWORD"] = PASSWORD
        return self.settings(**(wanted | over))


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    folder = tmp_path_factory.mktemp("secure")
    authority, stranger = trustme.CA(), trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    stranger.cert_pem.write_to_path(str(folder / "stranger.pem"))
    certificate, key = folder / "cert.pem", folder / "key.pem"
    certificate.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
    private = load_pem_private_key(issued.private_key_pem.bytes(), None)
    key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    users = {USER: PASSWORD}
    broker = Kafka(
        folder / "kafka",
        log=print,
        listeners=[
            SecureListener("SSL", certificate=certificate, key=key),
            SecureListener("SASL_PLAINTEXT", users=users),
            SecureListener("SASL_SSL", users=users, certificate=certificate, key=key),
        ],
    )
    database = Postgres(folder / "postgres", log=print, durable=False)
    front = TlsFront(folder, to_port=database.port, certificate=certificate, key=key)
    port, gateway = free_port(), list[Child]()
    try:
        run_all(
            {
                "kafka": broker.starting(),
                "postgres": database.starting(),
                "front": front.starting(),
                "clickhouse": _gateway(folder / "clickhouse", port, certificate, key, folder / "ca.pem", gateway),
            }
        )
        _create_topics(broker)
        yield Servers(
            kafka=broker.secure_addresses,
            postgres=database.url.replace(f":{database.port}/", f":{front.port}/"),
            clickhouse=f"https://127.0.0.1:{port}/default",
            authority=folder / "ca.pem",
            stranger=folder / "stranger.pem",
        )
    finally:
        for child in gateway:
            child.stop(10)
        front.stop()
        database.stop()
        broker.stop()


def _gateway(home: Path, port: int, certificate: Path, key: Path, authority: Path, made: list[Child]) -> Starting[None]:
    """The ClickHouse gateway with a certificate; appends the child to `made` as soon as there is one."""
    home.mkdir()
    (home / "password").write_text(PASSWORD, "utf-8")
    program = ["-m", "deploy.embedded.clickhouse", "--data", str(home / "data"), "--port", str(port)]
    login = ["--user", USER, "--password-file", str(home / "password")]
    command = [sys.executable, *program, *login, "--tls-cert", str(certificate), "--tls-key", str(key)]
    child = spawn("ClickHouse", command, log=home / "server.log", cwd=ROOT)
    made.append(child)
    context = ssl.create_default_context(cafile=str(authority))

    def answers() -> bool:
        try:
            with urlopen(f"https://127.0.0.1:{port}/ping", timeout=2, context=context) as answer:
                return bool(answer.status == 200)
        except (URLError, OSError):
            return False

    yield from until(answers, 60, child)


def _create_topics(broker: Kafka) -> None:
    names = [f"{library}.{protocol}" for library in ("librdkafka", "aiokafka") for protocol in PROTOCOLS]
    admin = kafka.admin(load_settings({"METERLINE_KAFKA_URL": broker.address}))
    for future in admin.create_topics([NewTopic(name, num_partitions=1, replication_factor=1) for name in names]).values():
        future.result(timeout=15)


# -- Kafka by librdkafka -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_librdkafka_writes_reads_and_asks_over_a_secure_listener(servers: Servers, protocol: str) -> None:
    settings, topic = servers.kafka_settings(protocol), f"librdkafka.{protocol}"
    delivered: list[tuple[KafkaError | None, Message]] = []
    producer = kafka.producer(settings)
    producer.produce(topic, b"value", b"key", on_delivery=lambda error, message: delivered.append((error, message)))
    assert producer.flush(15) == 0
    assert [error for error, _ in delivered] == [None]

    consumer = kafka.consumer(settings, **{"group.id": "reader"})
    try:
        consumer.assign([Place(topic, 0, 0)])
        (message,) = consumer.consume(1, timeout=15)
        assert (message.key(), message.value()) == (b"key", b"value")
    finally:
        consumer.close()

    found = kafka.admin(settings).list_topics(timeout=15)
    assert [f"{one.host}:{one.port}" for one in found.brokers.values()] == [servers.kafka[protocol]]


def _librdkafka_refusal(settings: Settings) -> list[int]:
    """The codes that the client reports while it cannot come in."""
    said: list[int] = []
    quiet = logging.getLogger("tests.quiet")
    producer: Producer = kafka.producer(settings, error_cb=lambda error: said.append(error.code()), logger=quiet)
    with pytest.raises(KafkaException):
        producer.list_topics(timeout=3)
    producer.poll(0)
    return said


@pytest.mark.parametrize("protocol", TLS_PROTOCOLS)
def test_librdkafka_refuses_a_broker_whose_authority_it_does_not_know(servers: Servers, protocol: str) -> None:
    settings = servers.kafka_settings(protocol, METERLINE_KAFKA_CA_FILE=str(servers.stranger))
    assert KafkaError._SSL in _librdkafka_refusal(settings)


@pytest.mark.parametrize("protocol", SASL_PROTOCOLS)
def test_a_broker_refuses_a_wrong_password_of_librdkafka(servers: Servers, protocol: str) -> None:
    settings = servers.kafka_settings(protocol, METERLINE_KAFKA_SASL_PASSWORD="wrong")
    assert KafkaError._AUTHENTICATION in _librdkafka_refusal(settings)


# -- Kafka by aiokafka, as Faust uses it ---------------------------------------------------------------------------


async def _transports_closed() -> None:
    """aiokafka asks its transports to close and does not wait: they need some turns of the loop, or warn when collected."""
    for _ in range(20):
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_aiokafka_writes_and_reads_over_a_secure_listener(servers: Servers, protocol: str) -> None:
    settings, topic = servers.kafka_settings(protocol), f"aiokafka.{protocol}"

    async def write_and_read() -> tuple[bytes | None, bytes | None]:
        security = kafka.aiokafka_security(settings)
        async with AIOKafkaProducer(bootstrap_servers=settings.kafka_url, acks="all", **security) as producer:
            await producer.send_and_wait(topic, b"value", key=b"key")
        async with AIOKafkaConsumer(bootstrap_servers=settings.kafka_url, **security) as consumer:
            consumer.assign([TopicPartition(topic, 0)])
            await consumer.seek_to_beginning()
            record = await asyncio.wait_for(consumer.getone(), 15)
        await _transports_closed()
        return record.key, record.value

    assert asyncio.run(write_and_read()) == (b"key", b"value")


def _aiokafka_refusal(settings: Settings, caplog: pytest.LogCaptureFixture) -> str:
    """What it raises and logs while it cannot come in."""

    async def start() -> None:
        producer = AIOKafkaProducer(bootstrap_servers=settings.kafka_url, **kafka.aiokafka_security(settings))
        try:
            await asyncio.wait_for(producer.start(), 15)
        finally:
            await producer.stop()
            await _transports_closed()

    with pytest.raises(AioKafkaError) as refused:
        asyncio.run(start())
    return f"{refused.value!r}\n{caplog.text}"


@pytest.mark.parametrize("protocol", TLS_PROTOCOLS)
def test_aiokafka_refuses_a_broker_whose_authority_it_does_not_know(
    servers: Servers, protocol: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = servers.kafka_settings(protocol, METERLINE_KAFKA_CA_FILE=str(servers.stranger))
    assert "certificate verify failed" in _aiokafka_refusal(settings, caplog).lower()


@pytest.mark.parametrize("protocol", SASL_PROTOCOLS)
def test_a_broker_refuses_a_wrong_password_of_aiokafka(servers: Servers, protocol: str, caplog: pytest.LogCaptureFixture) -> None:
    settings = servers.kafka_settings(protocol, METERLINE_KAFKA_SASL_PASSWORD="wrong")
    assert "authentication failed" in _aiokafka_refusal(settings, caplog).lower()


# -- Postgres ------------------------------------------------------------------------------------------------------


def test_postgres_is_verified_by_its_authority_and_name(servers: Servers) -> None:
    with postgres.connect(servers.settings()) as connection:
        assert connection.pgconn.ssl_in_use
        assert connection.execute("SELECT 6 * 7").fetchone() == (42,)
    with postgres.pool(servers.settings()) as pool, pool.connection() as connection:
        assert connection.pgconn.ssl_in_use


def test_psycopg_refuses_a_server_whose_authority_it_does_not_know(servers: Servers) -> None:
    with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
        postgres.connect(servers.settings(METERLINE_POSTGRES_CA_FILE=str(servers.stranger)))


def test_an_authority_cannot_be_talked_out_of_by_the_url(servers: Servers) -> None:
    lax = servers.settings(METERLINE_POSTGRES_URL=f"{servers.postgres}?sslmode=disable")
    with postgres.connect(lax) as connection:
        assert connection.pgconn.ssl_in_use


def test_postgres_refuses_a_wrong_password_over_tls(servers: Servers) -> None:
    head, _, tail = servers.postgres.partition("@")
    wrong = f"{head.rpartition(':')[0]}:wrong@{tail}"
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        postgres.connect(servers.settings(METERLINE_POSTGRES_URL=wrong))


# -- ClickHouse ----------------------------------------------------------------------------------------------------


def test_clickhouse_is_verified_by_its_authority(servers: Servers) -> None:
    client = clickhouse.client(servers.settings())
    try:
        assert client.command("SELECT 6 * 7") == 42
    finally:
        client.close()


def test_the_client_refuses_a_clickhouse_whose_authority_it_does_not_know(servers: Servers) -> None:
    with pytest.raises(ClickHouseError, match=r"(?i)certificate verify failed"):
        clickhouse.client(servers.settings(METERLINE_CLICKHOUSE_CA_FILE=str(servers.stranger)))


def test_clickhouse_refuses_a_wrong_password_over_tls(servers: Servers) -> None:
    with pytest.raises(ClickHouseError, match=r"(?i)authentication failed"):
        clickhouse.client(servers.settings(METERLINE_CLICKHOUSE_PASSWORD="wrong"))


# -- the doctor's words --------------------------------------------------------------------------------------------


def test_the_doctor_finds_secure_connections_well(servers: Servers) -> None:
    settings = servers.kafka_settings("SASL_SSL")
    assert checks.authorities(settings)[0] == "ok"
    for look in (checks.kafka_connection, checks.clickhouse_connection, checks.postgres_connection):
        status, found, _ = look(settings)
        assert status == "ok", found
    assert "TLS" in checks.postgres_connection(settings)[1]
    assert "SASL_SSL" in checks.kafka_connection(settings)[1]


@pytest.mark.parametrize(
    ("protocol", "over", "named"),
    [
        ("SASL_SSL", "METERLINE_KAFKA_SASL_PASSWORD", "METERLINE_KAFKA_SASL_USERNAME, _PASSWORD"),
        ("SSL", "METERLINE_KAFKA_CA_FILE", "METERLINE_KAFKA_CA_FILE"),
    ],
)
def test_the_doctor_says_why_kafka_does_not_let_us_in(servers: Servers, protocol: str, over: str, named: str) -> None:
    wrong = str(servers.stranger) if over.endswith("FILE") else "wrong"
    status, _, remedy = checks.kafka_connection(servers.kafka_settings(protocol, **{over: wrong}))
    assert status == "failed"
    assert named in remedy


def test_the_doctor_hints_at_the_protocol_when_a_secure_listener_is_met_in_the_clear(servers: Servers) -> None:
    settings = servers.settings(METERLINE_KAFKA_URL=servers.kafka["SSL"])
    status, _, remedy = checks.kafka_connection(settings)
    assert status == "failed"
    assert "METERLINE_KAFKA_SECURITY_PROTOCOL" in remedy
