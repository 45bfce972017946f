"""Records that no well-behaved client writes, made with the wire format itself."""

from __future__ import annotations

import asyncio

from aiokafka import AIOKafkaProducer
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

from runtime.settings import Settings


class _RawName(str):
    """A header name whose bytes are not UTF-8."""

    raw: bytes

    def encode(self, *_: object, **__: object) -> bytes:
        return self.raw


def send_with_header_name(settings: Settings, topic: str, partition: int, value: bytes, name: bytes) -> None:
    """Writes one record with a header of that name. Returns when the broker has it."""
    header = _RawName("raw")
    header.raw = name

    async def send() -> None:
        producer = AIOKafkaProducer(bootstrap_servers=settings.kafka_url)
        await producer.start()
        try:
            batch = producer.create_batch()
            batch._builder = _DefaultRecordBatchBuilderPy(
                magic=2,
                compression_type=3,  # as the topic has it, so that the broker keeps the bytes
                is_transactional=0,
                producer_id=-1,
                producer_epoch=-1,
                base_sequence=0,
                batch_size=1 << 16,
            )
            assert batch.append(key=None, value=value, timestamp=None, headers=[(header, b"1")]) is not None
            batch.close()
            await (await producer.send_batch(batch, topic, partition=partition))
        finally:
            await producer.stop()

    asyncio.run(send())
