"""The local Stripe of `up` is told where the control plane takes webhooks, as an operator tells Stripe in its dashboard."""

from __future__ import annotations

from typing import Any, Final

import httpx

PATH: Final = "/api/webhooks/stripe"
ANSWER_WITHIN_S: Final = 10.0
_THIN: Final = ("v1.billing.meter.error_report_triggered", "v1.billing.meter.no_meter_found")


def tell(stripe: str, key: str, control_plane: str) -> str:
    """Has whole and thin events posted there, and to nowhere else of ours; the signing secrets, as the setting takes them.

    Raises httpx.HTTPError.
    """
    url = control_plane.rstrip("/") + PATH
    with httpx.Client(
        base_url=stripe, headers={"Authorization": f"Bearer {key}"}, timeout=ANSWER_WITHIN_S, trust_env=False
    ) as client:
        for listed in ("/v1/webhook_endpoints", "/v2/core/event_destinations"):
            for one in _done(client.get(listed))["data"]:
                # Of an earlier start, whose secret is known no more.
                if (one["url"] if "url" in one else one["webhook_endpoint"]["url"]).endswith(PATH):
                    _done(client.delete(f"{listed}/{one['id']}"))
        whole = _done(client.post("/v1/webhook_endpoints", data={"url": url, "enabled_events[0]": "*"}))
        thin = _done(
            client.post(
                "/v2/core/event_destinations",
                json={
                    "name": "meterline",
                    "type": "webhook_endpoint",
                    "event_payload": "thin",
                    "enabled_events": list(_THIN),
                    "webhook_endpoint": {"url": url},
                    "include": ["webhook_endpoint.signing_secret"],
                },
            )
        )
    return f"{whole['secret']},{thin['webhook_endpoint']['signing_secret']}"


def _done(answer: httpx.Response) -> dict[str, Any]:
    answer.raise_for_status()
    found: dict[str, Any] = answer.json()
    return found
