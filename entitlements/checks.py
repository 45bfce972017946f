"""POST /v1/billing/entitlements/check and /check/batch: may this tenant use this much more?"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeVar

import msgspec
from msgspec import UNSET

from access.principals import Principal, require_tenant
from entitlements.bodies import asked_quantity, parse, parse_items, readable, valid_name
from entitlements.freshness import Freshness
from entitlements.last_known import LastKnown, Remembered
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
from entitlements.store import StoreAway
from metering.limits import (
    NOTHING_GRANTED,
    Decision,
    Limit,
    Standing,
    WhenUnavailable,
    decide,
    decide_away,
    decide_feature,
)
from metering.limits import Reason as CheckReason
from meterline_schemas.reasons import Reason
from meterline_schemas.types import Micros
from runtime import metrics

_ONE = msgspec.json.Decoder(CheckRequest)
_BATCH = msgspec.json.Decoder(CheckBatchRequest)
_COUNTED = {reason: metrics.CHECKS.labels(reason.value) for reason in CheckReason}
_NOTHING_KNOWN = Standing(tenant_known=False)

_T = TypeVar("_T")


class Question(NamedTuple):
    """A check that may be answered: valid and within the principal's scope."""

    ask: Ask
    quantity: Micros


def _question(request: CheckRequest, principal: Principal) -> Question:
    """Raises Problem 400 for what is not valid, AccessRefused 404 for another's tenant."""
    tenant_id = valid_name("tenantId", request.tenant_id)
    user_id = None if request.user_id is UNSET else valid_name("userId", request.user_id)
    quantity = asked_quantity(request.quantity)
    if request.usage_type is not UNSET and request.feature is UNSET:
        ask = Ask(tenant_id, valid_name("usageType", request.usage_type), None, user_id)
    elif request.feature is not UNSET and request.usage_type is UNSET:
        ask = Ask(tenant_id, None, valid_name("feature", request.feature))
    else:
        code = Reason.MISSING_FIELD if request.feature is UNSET else Reason.UNKNOWN_FIELD
        raise Problem(400, code.value, "Send usageType or feature, one of the two.")
    require_tenant(principal, tenant_id)
    return Question(ask, quantity)


def _asked(body: bytes, principal: Principal) -> Question:
    return _question(parse(_ONE, body), principal)


def answer(question: Question, found: Found, as_of: str | None) -> CheckAnswer:
    """What a check says, from what was found. Raises Problem 400 where credits would pay and nobody is named."""
    standing = found.standing
    if standing.credits is not None and question.ask.user_id is None:
        raise Problem(400, "user_required", "This usage type is priced in credits; send userId, whose credits would pay.")
    decision = decide_feature(standing) if question.ask.usage_type is None else decide(standing, question.quantity)
    return _said(question, standing, decision, found.resets_on, as_of)


def answer_away(
    question: Question, remembered: Remembered | None, now: float, otherwise: WhenUnavailable | None
) -> CheckAnswer | None:
    """What a check says while the counters cannot be read; None when nobody said what, so that it is refused."""
    standing = None if remembered is None else remembered.found.standing
    quantity = None if question.ask.usage_type is None else question.quantity
    decision = decide_away(standing, quantity, otherwise)
    if decision is None:
        return None
    if remembered is None:
        return _said(question, _NOTHING_KNOWN, decision, None, None)
    said = _said(question, remembered.found.standing, decision, remembered.found.resets_on, remembered.as_of)
    said.age_seconds = remembered.age_s(now)
    return said


def _said(question: Question, standing: Standing, decision: Decision, resets_on: str | None, as_of: str | None) -> CheckAnswer:
    _COUNTED[decision.reason].inc()
    by_feature = question.ask.usage_type is None
    granted = Limit(None, hard=True) if by_feature and decision.allowed else standing.limit or NOTHING_GRANTED
    return CheckAnswer(
        allowed=decision.allowed,
        remaining=number_or_unlimited(decision.remaining),
        reason=decision.reason,
        used=number(standing.used),
        reserved=number(standing.reserved),
        limit=number_or_unlimited(granted.quantity),
        # Only a soft limit lets more pass; every other cause of a denial is a stop.
        hard_stop=granted.hard or not decision.allowed,
        is_exceeded=decision.is_exceeded,
        resets_at=None if resets_on is None else f"{resets_on}T00:00:00Z",
        as_of=as_of,
    )


class Checks:
    """Answers checks. Raises Problem, AccessRefused or StoreAway.

    While Postgres is away it answers what the limit says is to be answered then, from what it remembers, and says so.
    """

    def __init__(
        self, standings: Standings, freshness: Freshness, last_known: LastKnown, otherwise: WhenUnavailable | None
    ) -> None:
        self._standings = standings
        self._freshness = freshness
        self._last_known = last_known
        self._otherwise = otherwise

    async def one(self, body: bytes, principal: Principal) -> CheckAnswer:
        question = _asked(readable(body), principal)
        # Read before the counters: they then hold at least what it says.
        as_of = self._freshness.as_of
        try:
            found = await self._standings.one(question.ask)
        except StoreAway:
            said = self._away(question)
            if said is None:
                raise
            return said
        self._last_known.keep(question.ask, found, as_of)
        return answer(question, found, as_of)

    async def batch(self, body: bytes, principal: Principal) -> CheckBatchAnswer:
        """All or none: a check that is not valid refuses the batch, by its index, for nothing is lost by asking again."""
        items = parse_items(_BATCH, "checks", CHECKS_MAX, readable(body))
        questions = [_numbered(index, partial(_asked, item, principal)) for index, item in enumerate(items)]
        as_of = self._freshness.as_of
        try:
            found = await self._standings.many([question.ask for question in questions])
        except StoreAway:
            said = [self._away(question) for question in questions]
            answered = [one for one in said if one is not None]
            if len(answered) < len(said):
                raise
            return CheckBatchAnswer(answered)
        for question, standing in zip(questions, found, strict=True):
            self._last_known.keep(question.ask, standing, as_of)
        return CheckBatchAnswer(
            [
                _numbered(index, partial(answer, question, standing, as_of))
                for index, (question, standing) in enumerate(zip(questions, found, strict=True))
            ]
        )

    def _away(self, question: Question) -> CheckAnswer | None:
        return answer_away(question, self._last_known.of(question.ask), self._last_known.now(), self._otherwise)


def _numbered(index: int, made: Callable[[], _T]) -> _T:
    """What is made of one check of a batch; a problem with it names its place."""
    try:
        return made()
    except Problem as problem:
        raise Problem(problem.status, problem.code, f"checks[{index}]: {problem.detail}") from None
