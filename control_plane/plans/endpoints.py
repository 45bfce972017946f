"""Plans over HTTP: for everybody who came in."""

from __future__ import annotations

from control_plane.http.calls import Here
from control_plane.http.envelope import Answer, Listed, Success, listed, success
from control_plane.http.paging import Cursor, Limit, after_cursor, cursor_of
from control_plane.http.routes import EVERYBODY, Routes
from control_plane.plans import service
from control_plane.plans.schemas import FeatureShown, LimitShown, PlanShown

routes = Routes("plans")


@routes.get("/api/plans", EVERYBODY, shows=Listed[PlanShown])
def page(call: Here, limit: Limit = 50, cursor: Cursor = "") -> Answer:
    """The plans that there are."""
    keys = after_cursor(cursor, str)
    with call.unit() as unit:
        found = service.page(unit, None if keys is None else str(keys[0]), limit + 1)
    shown = found[:limit]
    goes_on = cursor_of(shown[-1].id) if len(found) > limit else None
    return listed([PlanShown.model_validate(plan, from_attributes=True) for plan in shown], goes_on, limit)


@routes.get("/api/plans/{id}", EVERYBODY, shows=Success[PlanShown])
def show(call: Here, id: str) -> Answer:
    """One plan."""
    with call.unit() as unit:
        return success(PlanShown.model_validate(service.show(unit, id), from_attributes=True))


@routes.get("/api/plans/{id}/features", EVERYBODY, shows=Listed[FeatureShown])
def features(call: Here, id: str) -> Answer:
    """What the plan switches on and off."""
    with call.unit() as unit:
        found = service.show(unit, id).features
    return listed([FeatureShown.model_validate(one, from_attributes=True) for one in found], None, max(len(found), 1))


@routes.get("/api/plans/{id}/limits", EVERYBODY, shows=Listed[LimitShown])
def limits(call: Here, id: str) -> Answer:
    """What the plan grants, and what more costs."""
    with call.unit() as unit:
        found = service.show(unit, id).limits
    return listed([LimitShown.model_validate(one, from_attributes=True) for one in found], None, max(len(found), 1))
