"""/api/usage: record what a service did for a user, and see what it adds up to."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field

from control_plane.credits.amounts import CreditsGiven
from control_plane.http.calls import Call, Here
from control_plane.http.envelope import Answer, Success, success
from control_plane.http.people import ADMINS, SUPERVISORS, USERS, UserGiven, of_tenant, own
from control_plane.http.routes import Routes
from control_plane.refusals import Refusal
from control_plane.sessions.schemas import Name
from control_plane.usage import service
from control_plane.usage.statistics import days_of, shown, statistics
from store.holds import decimal_of

routes = Routes("usage")

Day = Annotated[date | None, Query(description="A day in UTC, as 2026-10-31; both ends are included.")]


class RecordBody(BaseModel):
    """A piece of work that is done. The header Idempotency-Key names it, once and for ever within the service."""

    model_config = ConfigDict(extra="forbid")

    service: Name
    operation: Name
    credits: CreditsGiven
    metadata: dict[str, Any] = Field(default={}, description="Kept with the event; modelId in it names the model for statistics.")


class RecordedShown(BaseModel):
    """What stands recorded."""

    service: str
    operation: str
    credits: Decimal
    deducted: bool
    usageType: str
    sourceEntityId: str
    """With service and usageType it is the key of the event."""
    balance: Decimal
    repeated: bool


class SumsShown(BaseModel):
    """Credits charged and reported, those charged, and how many events."""

    credits: Decimal
    charged: Decimal
    events: int


class StatsShown(BaseModel):
    """Sums over the days, and the same by day, service, operation and model."""

    startDate: date
    endDate: date
    total: SumsShown
    byDay: list[dict[str, Any]]
    byService: list[dict[str, Any]]
    byOperation: list[dict[str, Any]]
    byModel: list[dict[str, Any]]
    others: dict[str, SumsShown]


class SystemStatsShown(StatsShown):
    """And by user."""

    byUser: list[dict[str, Any]]


@routes.post("/api/usage/record", USERS, shows=Success[RecordedShown], status=201)
def record(call: Here, body: RecordBody) -> Answer:
    """Records it and, for a service that deducts, charges it. The same again under the same key changes nothing."""
    key = call.idempotency_key
    if key is None:
        raise Refusal(
            "invalid",
            "idempotency_key_required",
            "Send the header Idempotency-Key: it names this piece of work, so that a repeat costs nothing. A UUID does well.",
        )
    settings = call.parts.settings
    order = service.Order(body.service, body.operation, body.credits, body.metadata)
    with call.unit() as unit:
        recorded = service.record(
            unit, own(call), key, order, deducting=settings.usage_deduct_services, topic=settings.topic_events
        )
    stands = recorded.record
    answer = {
        "service": stands.source_service,
        "operation": stands.operation,
        "credits": decimal_of(stands.credits),
        "deducted": stands.deducted,
        "usageType": stands.usage_type,
        "sourceEntityId": stands.key,
        "balance": decimal_of(recorded.balance),
        "repeated": recorded.repeated,
    }
    return success(answer, 200 if recorded.repeated else 201)


@routes.get("/api/usage/stats", USERS, shows=Success[StatsShown])
def stats(call: Here, startDate: Day = None, endDate: Day = None) -> Answer:
    """The caller's own; without dates the last 30 days."""
    return _stats(call, own(call).user_id, startDate, endDate)


@routes.get("/api/usage/stats/{userId}", SUPERVISORS, shows=Success[StatsShown])
def stats_of_user(call: Here, userId: UserGiven, startDate: Day = None, endDate: Day = None) -> Answer:
    """A user's."""
    return _stats(call, of_tenant(call, userId).user_id, startDate, endDate)


@routes.get("/api/usage/system-stats", ADMINS, shows=Success[SystemStatsShown])
def system_stats(call: Here, startDate: Day = None, endDate: Day = None) -> Answer:
    """Those of all users of the caller's tenant."""
    return _stats(call, None, startDate, endDate)


def _stats(call: Call, user_id: str | None, start: date | None, end: date | None) -> Answer:
    first, last = days_of(start, end, datetime.now(UTC).date())
    return success(shown(statistics(call.parts.readers, call.tenant(), user_id, first, last)))
