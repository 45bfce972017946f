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


class Closed(EmitError):
    """The producer was closed before the event came."""
