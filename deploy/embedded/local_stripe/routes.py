"""Which handler answers which method and path."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from deploy.embedded.local_stripe import customers, forms, meter_events, meters
from deploy.embedded.local_stripe.problems import Answer
from deploy.embedded.local_stripe.state import State, Work

Handler = Callable[..., Answer]
_ID = "([A-Za-z0-9_]{1,80})"


def account(state: State, params: forms.Params) -> Answer:
    """GET /v1/account: whose key this is."""
    forms.only(params, ())
    return Answer(
        200,
        {
            "id": state.account,
            "object": "account",
            "business_type": None,
            "charges_enabled": True,
            "country": "US",
            "default_currency": "usd",
            "email": None,
            "metadata": {},
            "settings": {"dashboard": {"display_name": "Local Stripe", "timezone": "Etc/UTC"}},
            "type": "standard",
        },
    )


_ROUTES: tuple[tuple[str, re.Pattern[str], Handler], ...] = tuple(
    (method, re.compile(path.replace("{id}", _ID)), handler)
    for method, path, handler in (
        ("GET", "/v1/account", account),
        ("POST", "/v1/customers", customers.create),
        ("GET", "/v1/customers", customers.list_all),
        ("GET", "/v1/customers/{id}", customers.retrieve),
        ("POST", "/v1/customers/{id}", customers.update),
        ("DELETE", "/v1/customers/{id}", customers.delete),
        ("POST", "/v1/billing/meters", meters.create),
        ("GET", "/v1/billing/meters", meters.list_all),
        ("GET", "/v1/billing/meters/{id}", meters.retrieve),
        ("POST", "/v1/billing/meters/{id}", meters.update),
        ("POST", "/v1/billing/meters/{id}/deactivate", meters.deactivate),
        ("POST", "/v1/billing/meters/{id}/reactivate", meters.reactivate),
        ("GET", "/v1/billing/meters/{id}/event_summaries", meter_events.summaries),
        ("POST", "/v1/billing/meter_events", meter_events.create),
    )
)


class Call(NamedTuple):
    """A handler with the ids of its path."""

    handler: Handler
    ids: tuple[str, ...]

    def work(self, params: forms.Params) -> Work:
        """The call as work for the state's thread."""
        return lambda state: self.handler(state, params, *self.ids)


def find(method: str, path: str) -> Call | None:
    """The call that a request means, None where Stripe has no such URL or this local one lacks it."""
    for wanted, pattern, handler in _ROUTES:
        if wanted == method and (match := pattern.fullmatch(path)) is not None:
            return Call(handler, match.groups())
    return None
