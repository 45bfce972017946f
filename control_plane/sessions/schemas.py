"""Streaming sessions as requests and answers have them."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictInt

from control_plane.credits.tokens import TokensGiven
from control_plane.sessions.repository import Row
from control_plane.sessions.service import Outcome
from metering.rates import Tokens
from store.holds import decimal_of

TTL_MAX_S: Final = 3_600
NAME_BYTES_MAX: Final = 256


def _name(value: str) -> str:
    if not 1 <= len(value.encode(errors="replace")) <= NAME_BYTES_MAX or not value.isprintable():
        raise ValueError(f"want 1 to {NAME_BYTES_MAX} bytes of printable text")
    return value


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


Name = Annotated[str, AfterValidator(_name)]


class InitializeBody(_Body):
    """Begin a session. The sessionId is the request's idempotency key, too."""

    sessionId: Name
    modelId: Name
    estimatedTokens: TokensGiven
    ttlSeconds: Annotated[StrictInt, Field(ge=1, le=TTL_MAX_S)] | None = None


class FinalizeBody(_Body):
    """The stream has ended."""

    sessionId: Name
    actualTokens: TokensGiven


class AbortBody(_Body):
    """The stream was cut off."""

    sessionId: Name
    tokensGenerated: TokensGiven


class HeartbeatBody(_Body):
    """The stream goes on."""

    sessionId: Name
    tokensGenerated: TokensGiven = 0


class TokensShown(BaseModel):
    """Tokens by kind."""

    input: int
    output: int
    cached: int


class SessionShown(BaseModel):
    """A session as it stands."""

    sessionId: str
    id: str
    """Names it in the ledger and in its event."""
    userId: str
    modelId: str
    state: Literal["active", "finalized", "aborted", "expired"]
    estimatedTokens: TokensShown
    allocatedCredits: Decimal
    createdAt: datetime
    expiresAt: datetime
    reportedTokens: TokensShown
    endedAt: datetime | None
    usedTokens: TokensShown | None
    chargedCredits: Decimal | None
    refundedCredits: Decimal | None
    uncollectedCredits: Decimal | None
    late: bool
    """It had expired and was swept before its owner ended it."""


class OutcomeShown(SessionShown):
    """The same, and what its owner has now."""

    balance: Decimal
    repeated: bool
    """It stood so before this request."""


def shown(row: Row) -> dict[str, object]:
    """As SessionShown has it."""
    agreed, session, paid = row.agreed, row.session, row.paid
    return {
        "sessionId": agreed.session_id,
        "id": str(row.id),
        "userId": agreed.owner.user_id,
        "modelId": agreed.model_id,
        "state": session.state.value,
        "estimatedTokens": _tokens(agreed.estimated),
        "allocatedCredits": decimal_of(agreed.held),
        "createdAt": session.created_at,
        "expiresAt": session.expires_at,
        "reportedTokens": _tokens(session.reported),
        "endedAt": row.ended_at or row.swept_at,
        "usedTokens": None if paid is None else _tokens(paid.used),
        "chargedCredits": None if paid is None else decimal_of(paid.charged),
        "refundedCredits": None if paid is None else decimal_of(paid.refunded),
        "uncollectedCredits": None if paid is None else decimal_of(paid.uncollected),
        "late": session.late,
    }


def outcome_shown(outcome: Outcome) -> dict[str, object]:
    """As OutcomeShown has it."""
    return {**shown(outcome.row), "balance": decimal_of(outcome.balance), "repeated": outcome.repeated}


def _tokens(tokens: Tokens) -> dict[str, int]:
    return {"input": tokens.input, "output": tokens.output, "cached": tokens.cached}
