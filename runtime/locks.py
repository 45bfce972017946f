"""Every advisory lock of the system, once: two that share a number would wait for each other for no reason."""

from __future__ import annotations

from enum import IntEnum


class AdvisoryLock(IntEnum):
    """The first argument of pg_advisory_lock; the high bytes spell the product, so that others' locks are not met."""

    MIGRATE = 0x6D65_7465_7201
    """One migration at a time."""
    RULES = 0x6D65_7465_7202
    """Shared: a consumer reads rules_from. Exclusive: `rules activate` writes it."""
    TOPICS = 0x6D65_7465_7203
    """One `topics apply` at a time."""
    CATALOG = 0x6D65_7465_7204
    """One change of the catalog at a time."""
    SAMPLER = 0x6D65_7465_7205
    """Held by the aggregator that samples freshness, as long as it runs."""
    FREEZE_MAPPINGS = 0x6D65_7465_7206
    """Two planners must not freeze one usage type into two meters."""
    ALERTS = 0x6D65_7465_7208
    """One look for thresholds at a time."""
    FORWARDER = 0x6D65_7465_7207
    """Held by the consumer that forwards what late producers send to an ended epoch's topic, as long as it runs."""
    CLERK = 0x6D65_7465_7209
    """One of Clerk's messages is applied at a time."""
    EXPORT_FINALS = 0x6D65_7465_720A
    """Shared: periods are closed. Exclusive: an invoice is found to be final."""
    EXPORT_RUN = 0x6D65_7465_720B
    """Held by the exporter's schedule while it runs: one run at a time."""
