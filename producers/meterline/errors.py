"""What can keep an event from being taken. Each says whether sending it again is right: it always is safe."""

from __future__ import annotations


class EmitError(Exception):
    """The event was neither acknowledged by the log nor kept in the spool. Emitting it again is safe: its key is its identity."""


class QueueFull(EmitError):
    """More events wait for the broker than the queue holds, and none left it in time: slow down, or raise queue_events_max."""


class SpoolFull(EmitError):
    """The spool holds as many bytes as it may, and keeps them. Bring Kafka back, or raise spool_bytes_max."""


class SpoolBroken(EmitError):
    """The disk refused to keep the event; the operating system's answer is in the message."""


class DeliveryFailed(EmitError):
    """The broker did not acknowledge the event within the delivery timeout, and there is no spool. It may have been written."""


class EventTooLarge(EmitError):
    """The event is valid, and larger than the topic or the client takes. Not spooled: it would only be refused again. Raise
    the topic's max.message.bytes (`meterline topics apply`) or the client's message.max.bytes, then emit it again."""


class Closed(EmitError):
    """The producer was closed before the event came."""


class MeterError(Exception):
    """A call to the endpoint did not get the answer it asked for."""


class MeterUnavailable(MeterError):
    """No usable answer came within the time limit, attempts included. The call may be made again: each one is idempotent."""


class MeterRefused(MeterError):
    """The endpoint refused the request as it is. `code` is stable and for programs, the message says what to do."""

    def __init__(self, status: int, code: str, detail: str, request_id: str = "") -> None:
        super().__init__(f"{code}: {detail}" + (f" (request {request_id})" if request_id else ""))
        self.status = status
        self.code = code
        self.detail = detail
        self.request_id = request_id

    def __reduce__(self) -> tuple[type[MeterRefused], tuple[int, str, str, str]]:
        return type(self), (self.status, self.code, self.detail, self.request_id)


class ReservationDenied(MeterRefused):
    """The limit does not hold the quantity, or the tenant may not use this at all: `code` says which, as a check would."""
