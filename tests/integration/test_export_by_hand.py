"""What a person does about an export that stands still, by the commands: `retry` and `resolve`."""

from __future__ import annotations

import json
from typing import Any

from runtime import postgres
from runtime.exits import Exit
from runtime.settings import Settings
from tests.fakes.local_stripe_server import LocalStripeServer
from tests.integration.test_export_cli import counted, meterline, server

__all__ = ["counted", "server"]  # fixtures


def test_what_stripe_refused_is_taken_up_again_and_what_is_manual_is_settled_by_name(
    counted: Settings, server: LocalStripeServer
) -> None:
    def json_of(*words: str, status: int = 0) -> dict[str, Any]:
        code, out, err = meterline(counted, server, *words, "--json")
        assert code == status, err
        document: dict[str, Any] = json.loads(out)
        return document

    with postgres.connect(counted) as connection:
        connection.execute("UPDATE usage_counters SET quantity = 3 WHERE tenant_id = 'b'")
    assert meterline(counted, server, "stripe", "setup", "--yes")[0] == 0
    meters = server.client().v1.billing.meters
    (meter,) = meters.list().data
    meters.deactivate(meter.id)
    refused = json_of("export", "run", status=1)
    assert set(refused["states"]) == {"rejected"}
    meters.reactivate(meter.id)

    assert [row["tenant"] for row in json_of("export", "retry", "--tenant", "b")["planned_anew"]] == ["b"]
    assert json_of("export", "retry", "--tenant", "nobody") | {"account": None} == {
        "account": None,
        "planned_anew": [],
        "due_now": [],
    }
    code, out, _ = meterline(counted, server, "export", "retry")
    assert (code, "planned anew by the next run" in out) == (0, True)
    assert json_of("export", "run", "--all-periods")["ok"]
    assert json_of("export", "reconcile")["by_verdict"] == {"equal": 4}

    def resolve(number: int, how: str) -> tuple[int, str, str]:
        return meterline(counted, server, "export", "resolve", str(number), "--as", how, "--reason", "seen there", "--json")

    with postgres.connect(counted) as connection:
        # As after a total of Stripe's that is another than ours and stays so.
        row = connection.execute(
            "UPDATE export_ledger SET state = 'manual', reason = 'Stripe shows another total'"
            " WHERE tenant_id = 'b' AND state = 'confirmed' RETURNING id"
        ).fetchone()
    assert row is not None
    number: int = row[0]
    status, _, err = resolve(999_999, "arrived")
    assert (status, "export status" in err) == (Exit.FAILED, True), err
    assert resolve(number, "guessed")[0] == Exit.USAGE
    status, out, err = resolve(number, "arrived")
    assert (status, json.loads(out)["state"]) == (0, "accepted"), err
    assert resolve(number, "settled")[0] == Exit.FAILED
    assert json_of("export", "reconcile")["by_verdict"] == {"equal": 4}
    with postgres.connect(counted) as connection:
        audited = connection.execute(
            "SELECT actor IS NOT NULL, reason LIKE '%seen there%' FROM export_transitions"
            " WHERE from_state = 'manual' AND to_state = 'accepted'"
        ).fetchall()
    assert audited == [(True, True)]
