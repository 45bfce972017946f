"""Every noun that is offered over HTTP."""

from __future__ import annotations

from typing import Final

from control_plane.audit import endpoints as audit
from control_plane.credits import endpoints as credits
from control_plane.http.routes import Routes
from control_plane.invoices import endpoints as invoices
from control_plane.payment_methods import endpoints as payment_methods
from control_plane.plans import endpoints as plans
from control_plane.promo_codes import endpoints as promo_codes
from control_plane.sessions import endpoints as sessions
from control_plane.subscriptions import endpoints as subscriptions
from control_plane.usage import endpoints as usage
from control_plane.usage_records import endpoints as usage_records
from control_plane.webhooks import endpoints as webhooks

NOUNS: Final[tuple[Routes, ...]] = (
    credits.routes,
    plans.routes,
    subscriptions.routes,
    invoices.routes,
    payment_methods.routes,
    promo_codes.routes,
    usage_records.routes,
    audit.routes,
    webhooks.routes,
    sessions.routes,
    usage.routes,
)
