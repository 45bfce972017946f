"""Who wants events: webhook endpoints for snapshots, event destinations for thin events."""

from __future__ import annotations

from urllib.parse import urlsplit

from deploy.embedded.local_stripe import forms, metadata, objects
from deploy.embedded.local_stripe.events import instant
from deploy.embedded.local_stripe.identity import new_id
from deploy.embedded.local_stripe.objects import Body
from deploy.embedded.local_stripe.paging import PAGING, document
from deploy.embedded.local_stripe.problems import Answer, missing, wrong
from deploy.embedded.local_stripe.state import State

EVENTS_MAX = 200


def create(state: State, params: forms.Params) -> Answer:
    """POST /v1/webhook_endpoints; the secret is in this answer only."""
    forms.only(params, ("url", "enabled_events", "description", "metadata", "api_version"))
    body: Body = {
        "id": new_id("we", 24),
        "object": "webhook_endpoint",
        "api_version": forms.text_of(params, "api_version"),
        "created": state.clock.now(),
        "description": forms.text_of(params, "description"),
        "enabled_events": _events(forms.texts_of(params, "enabled_events")),
        "livemode": False,
        "metadata": metadata.of(params),
        "status": "enabled",
        "url": _url(forms.required_text(params, "url")),
    }
    secret = new_id("whsec", 32)
    objects.insert(state, "webhook_endpoint", body, name=secret, status="enabled")
    return Answer(200, {**body, "secret": secret})


def retrieve(state: State, params: forms.Params, endpoint: str) -> Answer:
    """GET /v1/webhook_endpoints/{id}"""
    forms.only(params, ())
    return Answer(200, objects.get(state, "webhook_endpoint", endpoint))


def update(state: State, params: forms.Params, endpoint: str) -> Answer:
    """POST /v1/webhook_endpoints/{id}"""
    forms.only(params, ("url", "enabled_events", "description", "disabled", "metadata"))
    body = objects.get(state, "webhook_endpoint", endpoint)
    if "url" in params:
        body["url"] = _url(forms.required_text(params, "url"))
    if "enabled_events" in params:
        body["enabled_events"] = _events(forms.texts_of(params, "enabled_events"))
    if "description" in params:
        body["description"] = forms.text_of(params, "description") or None
    disabled = forms.flag_of(params, "disabled")
    if disabled is not None:
        body["status"] = "disabled" if disabled else "enabled"
    metadata.change(body, params)
    objects.save(state, body, status=body["status"])
    return Answer(200, body)


def delete(state: State, params: forms.Params, endpoint: str) -> Answer:
    """DELETE /v1/webhook_endpoints/{id}: nothing more is sent there."""
    forms.only(params, ())
    objects.get(state, "webhook_endpoint", endpoint)
    objects.remove(state, endpoint)
    return Answer(200, {"id": endpoint, "object": "webhook_endpoint", "deleted": True})


def list_all(state: State, params: forms.Params) -> Answer:
    """GET /v1/webhook_endpoints"""
    forms.only(params, PAGING)
    return Answer(200, objects.page(state, "webhook_endpoint", "/v1/webhook_endpoints", params))


def create_destination(state: State, params: forms.Params) -> Answer:
    """POST /v2/core/event_destinations: thin events to a URL; the signing secret is in the answer when `include` asks."""
    forms.only(
        params, ("name", "type", "event_payload", "enabled_events", "webhook_endpoint", "include", "description", "metadata")
    )
    if forms.required_text(params, "type") != "webhook_endpoint":
        raise wrong("type", "must be webhook_endpoint")
    if forms.required_text(params, "event_payload") != "thin":
        raise wrong("event_payload", "must be thin; snapshots go to /v1/webhook_endpoints")
    url = forms.map_of(params, "webhook_endpoint").get("url")
    if not url:
        raise missing("webhook_endpoint[url]")
    now = instant(state.clock.now())
    body: Body = {
        "id": new_id("ed_test", 24),
        "object": "v2.core.event_destination",
        "created": now,
        "description": forms.text_of(params, "description") or "",
        "enabled_events": _events(forms.texts_of(params, "enabled_events")),
        "event_payload": "thin",
        "livemode": False,
        "metadata": forms.map_of(params, "metadata"),
        "name": forms.required_text(params, "name", most=250),
        "status": "enabled",
        "type": "webhook_endpoint",
        "updated": now,
        "webhook_endpoint": {"signing_secret": None, "url": _url(url)},
    }
    secret = new_id("whsec_test", 32)
    objects.insert(state, "event_destination", body, name=secret, status="enabled")
    if "webhook_endpoint.signing_secret" in forms.texts_of(params, "include"):
        body = {**body, "webhook_endpoint": {"signing_secret": secret, "url": url}}
    return Answer(200, body)


def list_destinations(state: State, params: forms.Params) -> Answer:
    """GET /v2/core/event_destinations"""
    forms.only(params, ("limit", "include"))
    data = objects.find(state, "event_destination")
    return Answer(200, {"data": document("", data, False)["data"], "next_page_url": None, "previous_page_url": None})


def delete_destination(state: State, params: forms.Params, destination: str) -> Answer:
    """DELETE /v2/core/event_destinations/{id}"""
    forms.only(params, ())
    objects.get(state, "event_destination", destination)
    objects.remove(state, destination)
    return Answer(200, {"id": destination, "object": "v2.core.event_destination", "deleted": True})


def _url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise wrong("url", "want an http or https URL")
    return url


def _events(kinds: list[str]) -> list[str]:
    if not kinds:
        raise missing("enabled_events")
    if len(kinds) > EVENTS_MAX:
        raise wrong("enabled_events", f"at most {EVENTS_MAX}")
    return kinds
