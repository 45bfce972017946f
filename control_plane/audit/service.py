"""Reads the audit trail. A tenant's readers see the rows that are their tenant's, and no other."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from pydantic import BaseModel
from sqlalchemy import BigInteger, Column, DateTime, Table, Text, select
from sqlalchemy.dialects.postgresql import JSONB

from control_plane.metadata import METADATA
from control_plane.unit import Unit

AUDIT: Final = Table(
    "audit",
    METADATA,
    Column("id", BigInteger, primary_key=True),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("who", Text, nullable=False),
    Column("what", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("before", JSONB),
    Column("after", JSONB),
    Column("request_id", Text),
    Column("tenant_id", Text),
)


class AuditEntry(BaseModel):
    """One change. `before` and `after` hold no secret."""

    id: int
    at: datetime
    who: str
    what: str
    subject: str
    organization_id: str | None
    before: Any
    after: Any
    request_id: str | None


def entries(unit: Unit, tenant_id: str | None, before_id: int | None, limit: int) -> Sequence[AuditEntry]:
    """Up to `limit` + 1 entries, newest first, below an id; of every tenant and none where `tenant_id` is None."""
    found = select(AUDIT).order_by(AUDIT.c.id.desc()).limit(limit + 1)
    if tenant_id is not None:
        found = found.where(AUDIT.c.tenant_id == tenant_id)
    if before_id is not None:
        found = found.where(AUDIT.c.id < before_id)
    return [
        AuditEntry(
            id=row.id,
            at=row.at,
            who=row.who,
            what=row.what,
            subject=row.subject,
            organization_id=row.tenant_id,
            before=row.before,
            after=row.after,
            request_id=row.request_id,
        )
        for row in unit.sql.execute(found)
    ]
