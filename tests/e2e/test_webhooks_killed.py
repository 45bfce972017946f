"""A webhook that was acknowledged is worked off, though the process dies between the work and the note that it is done."""

from __future__ import annotations

import json
import signal
import time

import httpx
import psycopg
from pydantic import SecretStr

from runtime.settings import Settings
from store import inbox, reconcile_requests
from store.service_secrets import create
from tests.e2e.seed_operations import seed
from tests.fakes.pipeline import wait_until
from tests.fakes.webhook_senders import stripe_header
from tests.integration.serving import serving, start

SECRET = "whsec_of_this_run"


def post(url: str, event_id: str, off_s: int = 0) -> httpx.Response:
    event = {"object": "v2.core.event", "id": event_id, "type": "v1.billing.meter.no_meter_found", "livemode": False}
    body = json.dumps({**event, "related_object": None}).encode()
    headers = {"Stripe-Signature": stripe_header(body, SECRET, int(time.time()) + off_s)}
    return httpx.post(f"{url}/api/webhooks/stripe", content=body, headers=headers, timeout=20)


@seed("003", "POST /api/webhooks/stripe", "used", "bad input", "repeated")
def test_a_webhook_survives_a_kill_behind_its_work(migrated: Settings) -> None:
    settings = migrated.model_copy(update={"stripe_webhook_secret": SecretStr(SECRET)})
    with psycopg.connect(settings.postgres_url.get_secret_value(), autocommit=True) as connection:
        create(connection, "operator", ["*"], "test")
        doomed = start(
            settings, role="control-plane", over={"METERLINE_CRASH_AT": "webhooks.handled:1", "METERLINE_LOG_FORMAT": "json"}
        )
        assert doomed.stderr is not None
        port = next(json.loads(line)["port"] for line in doomed.stderr if '"message": "listening"' in line)
        assert post(f"http://127.0.0.1:{port}", "evt_1").json()["data"] == {"id": "evt_1", "repeated": False}
        doomed.stderr.read()
        assert doomed.wait(timeout=30) == -signal.SIGKILL
        doomed.stderr.close()
        assert [(row.state, row.attempts) for row in inbox.listed(connection, None, None, 9)] == [("waiting", 1)]
        # Its lease, which nobody holds any more, is over.
        connection.execute("UPDATE inbox SET next_try_at = now()")
        with serving(settings, secret=None, role="control-plane") as server:
            url = f"http://127.0.0.1:{server.port}"
            wait_until("worked off", lambda: inbox.listed(connection, None, None, 9)[0].state == "done")
            assert post(url, "evt_1").json()["data"]["repeated"]
            assert post(url, "evt_2", off_s=900).json()["error"]["code"] == "stale_signature"
        assert [row.name.message_id for row in inbox.listed(connection, None, None, 9)] == ["evt_1"]
        assert len(reconcile_requests.waiting(connection)) == 2
