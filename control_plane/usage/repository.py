"""The table of recorded usage. Statements run in the caller's transaction; the caller commits."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from psycopg import Connection

from meterline_schemas.types import Micros
from store.credits import Owner
from store.holds import decimal_of, micros_of


@dataclass(frozen=True)
class Record:
    """What was recorded. Source service and key name it for ever, across tenants, as they name its event."""

    source_service: str
    key: str
    usage_type: str
    owner: Owner
    operation: str
    credits: Micros
    deducted: bool
    digest: bytes
    """Of what was asked, so that a repeat is told from another request."""


_INSERT: Final = """
INSERT INTO recorded_usage (source_service, source_entity_id, usage_type, tenant_id, user_id, operation, credits, deducted,
                            request_digest, recorded_at)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, clock_timestamp())
    ON CONFLICT (source_service, source_entity_id) DO NOTHING
RETURNING recorded_at
"""

_FOUND: Final = """
SELECT source_service, source_entity_id, usage_type, tenant_id, user_id, operation, credits, deducted, request_digest
  FROM recorded_usage WHERE source_service = %s AND source_entity_id = %s
"""


def insert(connection: Connection[Any], record: Record) -> datetime | None:
    """Keeps it, and says when; None where something was recorded under its key, which then is to be seen."""
    parameters = (
        record.source_service,
        record.key,
        record.usage_type,
        record.owner.tenant_id,
        record.owner.user_id,
        record.operation,
        decimal_of(record.credits),
        record.deducted,
        record.digest,
    )
    row = connection.execute(_INSERT, parameters).fetchone()
    return None if row is None else row[0]


def found(connection: Connection[Any], source_service: str, key: str) -> Record | None:
    """What was recorded under the key."""
    row = connection.execute(_FOUND, (source_service, key)).fetchone()
    if row is None:
        return None
    service, entity, usage_type, tenant_id, user_id, operation, amount, deducted, digest = row
    return Record(service, entity, usage_type, Owner(tenant_id, user_id), operation, micros_of(amount), deducted, bytes(digest))
