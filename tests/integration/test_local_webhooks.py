"""The local Stripe of `up` posts to the control plane from its first start on, and to no address of an earlier one."""

from __future__ import annotations

from pathlib import Path

from cli.local_webhooks import tell
from tests.fakes.local_stripe_server import LocalStripeServer


def test_each_start_tells_stripe_anew_where_webhooks_are_taken(tmp_path: Path) -> None:
    with LocalStripeServer(tmp_path) as server:
        first = tell(server.url, server.key, "http://127.0.0.1:3006")
        second = tell(server.url, server.key, "http://127.0.0.1:3007/")
        client = server.client()
        client.v1.webhook_endpoints.create({"url": "http://127.0.0.1:9/elsewhere", "enabled_events": ["*"]})
        tell(server.url, server.key, "http://127.0.0.1:3007")
        urls = {endpoint.url for endpoint in client.v1.webhook_endpoints.list().data}
    assert urls == {"http://127.0.0.1:9/elsewhere", "http://127.0.0.1:3007/api/webhooks/stripe"}
    secrets = [*first.split(","), *second.split(",")]
    assert len(set(secrets)) == 4
    assert all(secret.startswith("whsec_") for secret in secrets)
