"""/api/streaming-sessions: for users by their tokens; what others have is shown to supervisors and admins of their tenant."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Final

from control_plane.credits.tokens import tokens_of
from control_plane.http.calls import Call, Here
from control_plane.http.envelope import Answer, Listed, Success, listed, success
from control_plane.http.paging import Cursor, Limit, after_cursor, cursor_of
from control_plane.http.people import ADMINS, SUPERVISORS, USERS, UserGiven, of_tenant, own
from control_plane.http.routes import Routes
from control_plane.refusals import Refusal
from control_plane.sessions import repository, service
from control_plane.sessions.schemas import (
    AbortBody,
    FinalizeBody,
    HeartbeatBody,
    InitializeBody,
    OutcomeShown,
    SessionShown,
    outcome_shown,
    shown,
)
from metering.rates import Tokens
from metering.sessions import Ended, SessionState

PAGE: Final = 50

routes = Routes("streaming sessions")


@routes.post("/api/streaming-sessions/initialize", USERS, shows=Success[OutcomeShown], status=201)
def initialize(call: Here, body: InitializeBody) -> Answer:
    """Holds what the estimate costs. The same request again answers the same session; another one under its sessionId: 409."""
    settings = call.parts.settings
    ttl = timedelta(seconds=body.ttlSeconds or settings.session_ttl_s)
    order = service.Order(body.sessionId, body.modelId, tokens_of(body.estimatedTokens), ttl)
    with call.unit() as unit:
        outcome = service.initialize(unit, own(call), order, datetime.now(UTC))
    return success(outcome_shown(outcome), 200 if outcome.repeated else 201)


@routes.post("/api/streaming-sessions/finalize", USERS, shows=Success[OutcomeShown])
def finalize(call: Here, body: FinalizeBody) -> Answer:
    """Charges what the stream used, gives the rest of the hold back, and answers with the new balance."""
    return _end(call, body.sessionId, SessionState.FINALIZED, tokens_of(body.actualTokens))


@routes.post("/api/streaming-sessions/abort", USERS, shows=Success[OutcomeShown])
def abort(call: Here, body: AbortBody) -> Answer:
    """Charges what was generated before the end, gives the rest of the hold back, and answers with the new balance."""
    return _end(call, body.sessionId, SessionState.ABORTED, tokens_of(body.tokensGenerated))


@routes.post("/api/streaming-sessions/heartbeat", USERS, shows=Success[OutcomeShown])
def heartbeat(call: Here, body: HeartbeatBody) -> Answer:
    """Keeps the session from expiring, and says how far it is: that much is charged if nothing else is ever heard of it."""
    with call.unit() as unit:
        outcome = service.heartbeat(unit, own(call), body.sessionId, tokens_of(body.tokensGenerated))
    return success(outcome_shown(outcome))


@routes.get("/api/streaming-sessions/active", USERS, shows=Listed[SessionShown])
def active(call: Here, cursor: Cursor = "", limit: Limit = PAGE) -> Answer:
    """The caller's own active sessions, the newest first."""
    return _page(call, own(call).user_id, cursor, limit, only_active=True)


# Before the one with a user in its path, which would take `all` for one.
@routes.get("/api/streaming-sessions/active/all", ADMINS, shows=Listed[SessionShown])
def active_of_all(call: Here, cursor: Cursor = "", limit: Limit = PAGE) -> Answer:
    """All active sessions of the caller's tenant."""
    return _page(call, None, cursor, limit, only_active=True)


@routes.get("/api/streaming-sessions/active/{userId}", SUPERVISORS, shows=Listed[SessionShown])
def active_of_user(call: Here, userId: UserGiven, cursor: Cursor = "", limit: Limit = PAGE) -> Answer:
    """A user's active sessions."""
    return _page(call, of_tenant(call, userId).user_id, cursor, limit, only_active=True)


@routes.get("/api/streaming-sessions/recent", SUPERVISORS, shows=Listed[SessionShown])
def recent(call: Here, cursor: Cursor = "", limit: Limit = PAGE) -> Answer:
    """The sessions of the caller's tenant, active or ended, the newest first."""
    return _page(call, None, cursor, limit, only_active=False)


@routes.get("/api/streaming-sessions/recent/{userId}", SUPERVISORS, shows=Listed[SessionShown])
def recent_of_user(call: Here, userId: UserGiven, cursor: Cursor = "", limit: Limit = PAGE) -> Answer:
    """A user's sessions, active or ended, the newest first."""
    return _page(call, of_tenant(call, userId).user_id, cursor, limit, only_active=False)


def _end(call: Call, session_id: str, state: Ended, tokens: Tokens) -> Answer:
    with call.unit() as unit:
        outcome = service.end(unit, own(call), session_id, state, tokens, call.parts.settings.topic_events)
    return success(outcome_shown(outcome))


def _page(call: Call, user_id: str | None, cursor: str, limit: int, *, only_active: bool) -> Answer:
    after = _after(cursor)
    with call.unit() as unit:
        # One more than the page tells whether there is a next one.
        rows = repository.page(unit.pg, call.tenant(), user_id, only_active=only_active, after=after, count=limit + 1)
    shown_rows = rows[:limit]
    following = None
    if len(rows) > limit:
        last = shown_rows[-1]
        following = cursor_of(last.session.created_at.isoformat(), str(last.id))
    return listed([shown(row) for row in shown_rows], following, limit)


def _after(cursor: str) -> tuple[datetime, uuid.UUID] | None:
    keys = after_cursor(cursor, str, str)
    if keys is None:
        return None
    try:
        at = datetime.fromisoformat(str(keys[0]))
        if at.tzinfo is None:
            raise ValueError(cursor)
        return at, uuid.UUID(str(keys[1]))
    except ValueError:
        raise Refusal(
            "invalid", "bad_cursor", "This is no cursor of this list; send the last page's nextCursor, or none."
        ) from None
