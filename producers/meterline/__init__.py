"""Use Meterline from a service: ask what a tenant may use, hold it, and tell what was used.

Over HTTP, which needs no Kafka client:

    from meterline import Meter

    meter = Meter("http://127.0.0.1:8080", secret="...")
    if meter.check("tnt_123", "PHOTO_ANALYSIS_DEEP", 1).allowed:
        ...

Straight to the log, which is the extra `[kafka]`:

    from meterline import EventDraft, Producer

    with Producer("localhost:9092", spool_dir="/var/lib/app/spool") as producer:
        receipt = producer.emit(
            EventDraft("tnt_123", "analysis-worker", "job_abc_123", "PHOTO_ANALYSIS_DEEP", "1.5")
        ).result()

`receipt.state` is `acked` (the log has it, at `receipt.position`) or `spooled` (it lies on disk here and will be sent).
`meterline.testing` answers the same calls in memory, for unit tests.
"""

from meterline.answers import (
    Check,
    Held,
    LogPosition,
    Period,
    Recorded,
    RecordedMany,
    RecordedOne,
    Settled,
    Summary,
    SummaryLine,
)  # fmt: skip
from meterline.calls import Ask
from meterline.errors import (
    Closed,
    DeliveryFailed,
    EmitError,
    EventTooLarge,
    MeterError,
    MeterRefused,
    MeterUnavailable,
    QueueFull,
    ReservationDenied,
    SpoolBroken,
    SpoolFull,
)  # fmt: skip
from meterline.meter import AsyncMeter, Meter
from meterline.producer import Producer
from meterline.receipts import Position, Receipt
from meterline.reserving import AsyncReservation, Reservation
from meterline_schemas.draft import EventDraft, InvalidEvent
from meterline_schemas.reasons import Reason

__all__ = [
    "Meter", "AsyncMeter", "Ask", "Check", "Reservation", "AsyncReservation", "Held", "Settled", "Recorded", "RecordedMany",
    "RecordedOne", "LogPosition", "Summary", "SummaryLine", "Period",
    "MeterError", "MeterUnavailable", "MeterRefused", "ReservationDenied",
    "Producer", "EventDraft", "Receipt", "Position",
    "EmitError", "QueueFull", "SpoolFull", "SpoolBroken", "DeliveryFailed", "EventTooLarge", "Closed",
    "InvalidEvent", "Reason",
]  # fmt: skip
