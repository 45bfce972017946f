"""POST /v1/billing/entitlements/check and /check/batch: may this tenant use this much more?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from msgspec import UNSET

from access.principals import Principal, require_tenant
from entitlements.bodies import asked_quantity, parse, parse_items, readable, valid_name
from entitlements.freshness import Freshness
from entitlements.models import (
    CHECKS_MAX,
    CheckAnswer,
    CheckBatchAnswer,
    CheckBatchRequest,
    CheckRequest,
    number,
    number_or_unlimited,
)
from entitlements.problems import Problem
from entitlements.standings import Ask, Found, Standings
from metering.limits import NOTHING_GRANTED, Limit, decide, decide_feature
from meterline_schemas.reasons import Reason
from meterline_schemas.types import Micros
from runtime import metrics

_ONE = msgspec.json.Decoder(CheckRequest)
_BATCH = msgspec.json.Decoder(CheckBatchRequest)


@dataclass(frozen=True, slots=True)
class Question:
    """A check that may be answered: valid and within the principal's scope."""

    ask: Ask
    quantity: Micros


def _question(request: CheckRequest, principal: Principal) -> Question:
    """Raises Problem 400 for what is not valid, AccessRefused 404 for another's tenant."""
    tenant_id = valid_name("tenantId", request.tenant_id)
    if request.user_id is not UNSET:
        valid_name("userId", request.user_id)
    quantity = asked_quantity(request)
    if request.usage_type is not UNSET and request.feature is UNSET:
        ask = Ask(tenant_id, valid_name("usageType", request.usage_type))
    elif request.feature is not UNSET and request.usage_type is UNSET:
        ask = Ask(tenant_id, None, valid_name("feature", request.feature))
    else:
        code = Reason.MISSING_FIELD if request.feature is UNSET else Reason.UNKNOWN_FIELD
        raise Problem(400, code.value, "Send usageType or feature, one of the two.")
    require_tenant(principal, tenant_id)
    return Question(ask, quantity)


def answer(question: Question, found: Found, as_of: str | None) -> CheckAnswer:
    """What a check says, from what was found."""
    standing = found.standing
    by_feature = question.ask.usage_type is None
    decision = decide_feature(standing) if by_feature else decide(standing, question.quantity)
    metrics.CHECKS.labels(decision.reason.value).inc()
    granted = Limit(None, hard=True) if by_feature and decision.allowed else standing.limit or NOTHING_GRANTED
    # Only a soft limit lets more pass; every other cause of a denial is a stop.
    hard_stop = granted.hard or not decision.allowed
    return CheckAnswer(
        allowed=decision.allowed,
        remaining=number_or_unlimited(decision.remaining),
        reason=decision.reason,
        used=number(standing.used),
        reserved=number(standing.reserved),
        limit=number_or_unlimited(granted.quantity),
        hard_stop=hard_stop,
        is_exceeded=decision.is_exceeded,
        resets_at=None if found.resets_on is None else f"{found.resets_on}T00:00:00Z",
        as_of=as_of,
    )


class Checks:
    """Answers checks. Raises Problem, AccessRefused or StoreAway; allows nothing that it could not look up."""

    def __init__(self, standings: Standings, freshness: Freshness) -> None:
        self._standings = standings
        self._freshness = freshness

    async def one(self, body: bytes, principal: Principal) -> CheckAnswer:
        question = _question(parse(_ONE, readable(body)), principal)
        # Read before the counters: they then hold at least what it says.
        as_of = self._freshness.as_of
        return answer(question, await self._standings.one(question.ask), as_of)

    async def batch(self, body: bytes, principal: Principal) -> CheckBatchAnswer:
        """All or none: a check that is not valid refuses the batch, by its index, for nothing is lost by asking again."""
        items = parse_items(_BATCH, "checks", CHECKS_MAX, readable(body))
        questions = [self._item(index, item, principal) for index, item in enumerate(items)]
        as_of = self._freshness.as_of
        found = await self._standings.many([question.ask for question in questions])
        return CheckBatchAnswer(_answers(questions, found, as_of))

    def _item(self, index: int, item: bytes, principal: Principal) -> Question:
        try:
            return _question(parse(_ONE, item), principal)
        except Problem as problem:
            raise Problem(problem.status, problem.code, f"checks[{index}]: {problem.detail}") from None


def _answers(questions: Sequence[Question], found: Sequence[Found], as_of: str | None) -> list[CheckAnswer]:
    return [answer(question, standing, as_of) for question, standing in zip(questions, found, strict=True)]
