"""/api/credits: a user's own by their token; what others have, for supervisors and admins of their tenant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from access.principals import Who
from control_plane.credits import service
from control_plane.credits.schemas import (
    AdjustBody,
    AllocateBody,
    BalanceShown,
    CalculateBody,
    ChangedShown,
    CheckBody,
    CheckShown,
    CostShown,
    RemoveBody,
    SetBody,
)
from control_plane.credits.tokens import tokens_of
from control_plane.http.calls import Call, Here
from control_plane.http.envelope import Answer, Success, success
from control_plane.http.people import SUPERVISORS, USERS, UserGiven, of_tenant, own
from control_plane.http.routes import Routes
from store import credits
from store.credits import By, Done, Owner
from store.holds import decimal_of
from store.steps import Steps

CALCULATORS: Final[frozenset[Who]] = USERS | {"service"}

routes = Routes("credits")


@routes.get("/api/credits/balance", USERS, shows=Success[BalanceShown])
def own_balance(call: Here) -> Answer:
    """What the caller has."""
    owner = own(call)
    with call.unit() as unit:
        return success(BalanceShown.of(owner.user_id, service.balance(unit, owner)))


@routes.get("/api/credits/balance/{userId}", SUPERVISORS, shows=Success[BalanceShown])
def balance_of_user(call: Here, userId: UserGiven) -> Answer:
    """What a user of the caller's tenant has."""
    owner = _owner(call, userId)
    with call.unit() as unit:
        return success(BalanceShown.of(owner.user_id, service.balance(unit, owner)))


@routes.post("/api/credits/check", USERS, shows=Success[CheckShown])
def check(call: Here, body: CheckBody) -> Answer:
    """Whether the caller's credits pay for so much now. Holds nothing: initialize a session, or reserve, for that."""
    with call.unit() as unit:
        stands = service.balance(unit, own(call))
    return success(
        CheckShown(
            sufficient=stands.spendable >= body.requiredCredits,
            requiredCredits=decimal_of(body.requiredCredits),
            balance=decimal_of(stands.balance),
        )
    )


@routes.post("/api/credits/calculate", CALCULATORS, shows=Success[CostShown])
def calculate(call: Here, body: CalculateBody) -> Answer:
    """What a model's tokens or an operation cost today: exact, rounded up once to a millionth of a credit."""
    with call.unit() as unit:
        if body.modelId is not None:
            assert body.tokens is not None, "the body has both or neither"
            cost, model = service.cost_of_tokens(unit, body.modelId, tokens_of(body.tokens))
            return success(CostShown(credits=decimal_of(cost), price=model.as_json()))
        assert body.operation is not None
        cost, operation = service.cost_of_operation(unit, body.operation, body.times)
        return success(CostShown(credits=decimal_of(cost), price=operation.as_json()))


@routes.post("/api/credits/allocate", SUPERVISORS, shows=Success[ChangedShown], status=201)
def allocate(call: Here, body: AllocateBody) -> Answer:
    """Gives a user credits, which expire after `expiryDays` where it is said."""

    def steps(owner: Owner, by: By, key: str) -> Steps[Done]:
        return credits.grant(owner, body.credits, by=by, key=key, expires_in=body.lives_for(), note=body.notes)

    return _change(call, body.userId, steps, status=201)


@routes.post("/api/credits/set", SUPERVISORS, shows=Success[ChangedShown])
def set_absolute(call: Here, body: SetBody) -> Answer:
    """Makes a user's balance so much: the lots that there are go, for a new one. What is held stays held."""

    def steps(owner: Owner, by: By, key: str) -> Steps[Done]:
        return credits.set_balance(owner, body.credits, by=by, key=key, expires_in=body.lives_for(), note=body.notes)

    return _change(call, body.userId, steps)


@routes.delete("/api/credits/remove", SUPERVISORS, shows=Success[ChangedShown])
def remove(call: Here, body: RemoveBody) -> Answer:
    """Takes credits away from a user: all of them or, where there are not as many, none."""

    def steps(owner: Owner, by: By, key: str) -> Steps[Done]:
        return credits.remove(owner, body.credits, by=by, key=key, note=body.notes)

    return _change(call, body.userId, steps)


@routes.put("/api/credits/adjust", SUPERVISORS, shows=Success[ChangedShown])
def adjust(call: Here, body: AdjustBody) -> Answer:
    """Adds credits where the adjustment is positive, and takes them away where it is negative."""

    def steps(owner: Owner, by: By, key: str) -> Steps[Done]:
        return credits.adjust(owner, body.adjustment, by=by, key=key, expires_in=body.lives_for(), note=body.notes)

    return _change(call, body.userId, steps)


def _owner(call: Call, id_or_email: str) -> Owner:
    user = of_tenant(call, id_or_email)
    return Owner(call.tenant(), user.user_id)


def _change(call: Call, id_or_email: str, steps: Callable[[Owner, By, str], Steps[Done]], status: int = 200) -> Answer:
    owner = _owner(call, id_or_email)

    def act() -> Answer:
        with call.unit() as unit:
            done = service.change(unit, owner, steps(owner, service.by(unit), call.key_for("credits")))
        return success(ChangedShown.of(owner.user_id, done), status)

    return call.once(act)
