"""Emit usage events to Meterline.

    from meterline import EventDraft, Producer

    with Producer("localhost:9092", spool_dir="/var/lib/app/spool") as producer:
        receipt = producer.emit(
            EventDraft("tnt_123", "analysis-worker", "job_abc_123", "PHOTO_ANALYSIS_DEEP", "1.5")
        ).result()

`receipt.state` is `acked` (the log has it, at `receipt.position`) or `spooled` (it lies on disk here and will be sent).
Kafka is the extra `[kafka]`; importing this package needs nothing but `meterline-schemas`.
"""

from meterline.errors import Closed, DeliveryFailed, EmitError, QueueFull, SpoolBroken, SpoolFull
from meterline.producer import Producer
from meterline.receipts import Position, Receipt
from meterline_schemas.draft import EventDraft, InvalidEvent
from meterline_schemas.reasons import Reason

__all__ = [
    "Producer", "EventDraft", "Receipt", "Position",
    "EmitError", "QueueFull", "SpoolFull", "SpoolBroken", "DeliveryFailed", "Closed",
    "InvalidEvent", "Reason",
]  # fmt: skip
