"""Billing meters: how events of one name are added up. Only the display name of a meter ever changes."""

from __future__ import annotations

import json

from deploy.embedded.local_stripe import forms
from deploy.embedded.local_stripe.identity import new_id
from deploy.embedded.local_stripe.paging import PAGING, list_table
from deploy.embedded.local_stripe.problems import Answer, Problem, absent, missing, wrong
from deploy.embedded.local_stripe.state import State

FORMULAS = ("sum", "count", "last")
WINDOWS = {"day": 86_400, "hour": 3_600}
NAME_CHARS_MAX = 100
_FIELDS = ("display_name", "event_name", "default_aggregation", "customer_mapping", "value_settings", "event_time_window")


def create(state: State, params: forms.Params) -> Answer:
    """POST /v1/billing/meters"""
    forms.only(params, _FIELDS)
    display_name = forms.required_text(params, "display_name", most=250)
    event_name = forms.required_text(params, "event_name", most=NAME_CHARS_MAX)
    formula = _inner(params, "default_aggregation", {"formula"}).get("formula")
    if formula is None:
        raise missing("default_aggregation[formula]")
    if formula not in FORMULAS:
        raise wrong("default_aggregation[formula]", f"must be one of {', '.join(FORMULAS)}")
    mapping = _inner(params, "customer_mapping", {"type", "event_payload_key"})
    if mapping.get("type", "by_id") != "by_id":
        raise wrong("customer_mapping[type]", "must be by_id")
    value_settings = _inner(params, "value_settings", {"event_payload_key"})
    window = forms.choice_of(params, "event_time_window", WINDOWS)
    taken = state.database.execute("SELECT id FROM meters WHERE event_name = ? AND status = 'active'", (event_name,)).fetchone()
    if taken is not None:
        raise Problem(f"The active meter {taken[0]} already has the event name {event_name}.", param="event_name")
    now = state.clock.now()
    body: dict[str, object] = {
        "id": new_id("mtr", 24),
        "object": "billing.meter",
        "created": now,
        "customer_mapping": {"event_payload_key": mapping.get("event_payload_key") or "stripe_customer_id", "type": "by_id"},
        "default_aggregation": {"formula": formula},
        "display_name": display_name,
        "event_name": event_name,
        "event_time_window": window,
        "livemode": False,
        "status": "active",
        "status_transitions": {"deactivated_at": None},
        "updated": now,
        "value_settings": {"event_payload_key": value_settings.get("event_payload_key") or "value"},
    }
    state.database.execute(
        "INSERT INTO meters (id, event_name, status, body) VALUES (?, ?, 'active', ?)", (body["id"], event_name, json.dumps(body))
    )
    return Answer(200, body)


def retrieve(state: State, params: forms.Params, meter: str) -> Answer:
    """GET /v1/billing/meters/{id}"""
    forms.only(params, ())
    return Answer(200, body_of(state, meter))


def update(state: State, params: forms.Params, meter: str) -> Answer:
    """POST /v1/billing/meters/{id}: the display name, and nothing else."""
    forms.only(params, ("display_name",))
    body = body_of(state, meter)
    if (name := forms.text_of(params, "display_name", most=250)) is not None:
        body["display_name"] = name
    return _saved(state, body)


def deactivate(state: State, params: forms.Params, meter: str) -> Answer:
    """POST /v1/billing/meters/{id}/deactivate: it takes no more events."""
    forms.only(params, ())
    body = body_of(state, meter)
    if body["status"] != "active":
        raise Problem(f"The meter {meter} is not active.", param="id")
    body["status"], body["status_transitions"] = "inactive", {"deactivated_at": state.clock.now()}
    return _saved(state, body)


def reactivate(state: State, params: forms.Params, meter: str) -> Answer:
    """POST /v1/billing/meters/{id}/reactivate: refused while another active meter has its event name."""
    forms.only(params, ())
    body = body_of(state, meter)
    if body["status"] == "active":
        raise Problem(f"The meter {meter} is active already.", param="id")
    if active(state, str(body["event_name"])) is not None:
        raise Problem(f"Another active meter has the event name {body['event_name']}.", param="id")
    body["status"], body["status_transitions"] = "active", {"deactivated_at": None}
    return _saved(state, body)


def list_all(state: State, params: forms.Params) -> Answer:
    """GET /v1/billing/meters; `status` filters."""
    forms.only(params, (*PAGING, "status"))
    status = forms.choice_of(params, "status", ("active", "inactive"))
    where: dict[str, object] = {"status": status} if status else {}
    return Answer(200, list_table(state.database, "meters", "meter", "/v1/billing/meters", params, where))


def body_of(state: State, meter: str) -> dict[str, object]:
    """The meter's document."""
    row = state.database.execute("SELECT body FROM meters WHERE id = ?", (meter,)).fetchone()
    if row is None:
        raise absent("billing meter", meter)
    body = json.loads(row[0])
    assert isinstance(body, dict)
    return body


def active(state: State, event_name: str) -> dict[str, dict[str, str]] | None:
    """The active meter of an event name."""
    row = state.database.execute("SELECT body FROM meters WHERE event_name = ? AND status = 'active'", (event_name,)).fetchone()
    return None if row is None else json.loads(row[0])


def _saved(state: State, body: dict[str, object]) -> Answer:
    body["updated"] = state.clock.now()
    state.database.execute("UPDATE meters SET status = ?, body = ? WHERE id = ?", (body["status"], json.dumps(body), body["id"]))
    return Answer(200, body)


def _inner(params: forms.Params, name: str, known: set[str]) -> dict[str, str]:
    given = forms.map_of(params, name)
    for key, value in given.items():
        if key not in known:
            raise wrong(f"{name}[{key}]", "no such field")
        if len(value) > NAME_CHARS_MAX:
            raise wrong(f"{name}[{key}]", f"want at most {NAME_CHARS_MAX} characters")
    return given
