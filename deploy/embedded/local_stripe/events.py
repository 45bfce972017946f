"""Events: what happened to an object, on record and on its way to whoever asked for it.

Snapshot events (`/v1/events`) carry the object; thin ones (`/v2/core/events`) name it, and go to event destinations.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

from deploy.embedded.local_stripe import forms, objects
from deploy.embedded.local_stripe.identity import new_id
from deploy.embedded.local_stripe.objects import Body
from deploy.embedded.local_stripe.paging import PAGING
from deploy.embedded.local_stripe.problems import Answer
from deploy.embedded.local_stripe.state import State

API_VERSION = "2026-10-28.endive"


def record(state: State, kind: str, body: Body, before: Body | None = None) -> None:
    """A snapshot event of `kind` about an object as it is now; `before` is how it was."""
    changed = None if before is None else {name: value for name, value in before.items() if body.get(name) != value}
    event: Body = {
        "id": new_id("evt", 24),
        "object": "event",
        "api_version": API_VERSION,
        "created": state.clock.now(),
        "data": {"object": body} | ({"previous_attributes": changed} if changed else {}),
        "livemode": False,
        "pending_webhooks": 0,
        "request": {"id": None, "idempotency_key": None},
        "type": kind,
    }
    wanted = [one for one in objects.find(state, "webhook_endpoint", status="enabled") if _wants(one, kind)]
    event["pending_webhooks"] = len(wanted)
    objects.insert(state, "event", event, name=kind)
    for endpoint in wanted:
        send(state, str(event["id"]), str(endpoint["id"]))


def record_thin(state: State, kind: str, about: Body, data: Body) -> None:
    """A thin event of `kind`. What is sent names the object; `data` has to be fetched."""
    event: Body = {
        "id": new_id("evt", 24),
        "object": "v2.core.event",
        "context": None,
        "created": instant(state.clock.now()),
        "data": data,
        "livemode": False,
        "reason": None,
        "related_object": about,
        "type": kind,
    }
    objects.insert(state, "thin_event", event, name=kind)
    for destination in objects.find(state, "event_destination", status="enabled"):
        if _wants(destination, kind):
            send(state, str(event["id"]), str(destination["id"]))


def send(state: State, event: str, endpoint: str) -> None:
    """Puts an event on its way."""
    state.database.execute("INSERT INTO deliveries (event, endpoint, next_at) VALUES (?, ?, ?)", (event, endpoint, time.time()))


def instant(at: int) -> str:
    """Seconds since 1970 as `/v2` writes them."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def retrieve(state: State, params: forms.Params, event: str) -> Answer:
    """GET /v1/events/{id}"""
    forms.only(params, ())
    return Answer(200, objects.get(state, "event", event))


def list_all(state: State, params: forms.Params) -> Answer:
    """GET /v1/events; `type` filters exactly."""
    forms.only(params, (*PAGING, "type"))
    return Answer(200, objects.page(state, "event", "/v1/events", params, name=forms.text_of(params, "type")))


def retrieve_thin(state: State, params: forms.Params, event: str) -> Answer:
    """GET /v2/core/events/{id}"""
    forms.only(params, ())
    return Answer(200, objects.get(state, "thin_event", event))


def _wants(endpoint: Body, kind: str) -> bool:
    return "*" in endpoint["enabled_events"] or kind in endpoint["enabled_events"]
