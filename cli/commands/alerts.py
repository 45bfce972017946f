"""`meterline alerts list|replay`."""

from __future__ import annotations

import json
import os
import uuid
from typing import Any

import click

from cli.output import print_json, print_table, who
from meterline_schemas.alert import encode_alert
from meterline_schemas.instants import format_instant
from runtime.exits import Exit, MeterlineExit
from runtime.postgres import connect
from runtime.settings import load_settings
from store import alerts, audit
from store.alerts import Raised
from store.remedies import postgres_answers

ROWS_MAX = 1_000


@click.group(help="Threshold alerts: list them, tell of them again.")
def command() -> None:
    """What was raised, and whether the webhook was taken."""


@command.command("list", help="List alerts, the newest first.")
@click.option("--state", type=click.Choice(["waiting", "delivered", "dead", "record_only"]), help="Of the webhook.")
@click.option("--tenant", help="Of this tenant only.")
@click.option("--limit", "rows_max", type=click.IntRange(1, ROWS_MAX), default=100, show_default=True, help="Most alerts shown.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def list_(state: alerts.State | None, tenant: str | None, rows_max: int, as_json: bool) -> None:
    settings = load_settings(dict(os.environ))
    with postgres_answers(settings), connect(settings) as connection:
        found = alerts.list_alerts(connection, state, tenant, rows_max)
    if as_json:
        print_json({"alerts": [_shown(one) for one in found]})
        return
    rows = []
    for one in found:
        said = json.loads(encode_alert(one.alert))
        reached = f"{said['threshold']} %: {said['used']} of {said['limit']}"
        rows.append((one.alert_id, said["raisedAt"], said["tenantId"], said["usageType"], reached, one.state, one.last_error))
    print_table("Alerts", ("alert", "raised", "tenant", "usage type", "reached", "webhook", "last error"), rows)
    if not rows:
        click.echo("no alerts")


@command.command("replay", help="Post an alert again, or all whose webhook is dead. Receivers know a repeat by its id.")
@click.argument("alert_id", type=click.UUID, required=False)
@click.option("--dead", is_flag=True, help="Every alert whose webhook was given up.")
def replay(alert_id: uuid.UUID | None, dead: bool) -> None:
    if (alert_id is None) is not dead:
        raise click.UsageError("name one alert, or --dead for all that were given up")
    settings = load_settings(dict(os.environ))
    if settings.alert_webhook_url is None:
        raise MeterlineExit(Exit.SETTINGS, "METERLINE_ALERT_WEBHOOK_URL is not set, so there is nowhere to post alerts to")
    with postgres_answers(settings), connect(settings) as connection:
        again = alerts.replay(connection, alert_id)
        if again:
            subject = "all that were dead" if alert_id is None else str(alert_id)
            audit.record(connection, who(), [audit.Entry("alerts.replayed", subject, after={"alerts": again})])
    if not again and alert_id is not None:
        raise MeterlineExit(
            Exit.FAILED, f"there is no alert {alert_id} that is not waiting already; `meterline alerts list` has them"
        )
    click.echo(f"{again} to be posted again by `meterline serve entitlements`")


def _shown(one: Raised) -> dict[str, Any]:
    at = one.next_try_at
    return {
        **json.loads(encode_alert(one.alert)),
        "state": one.state,
        "attempts": one.attempts,
        "nextTryAt": None if at is None else format_instant(round(at.timestamp() * 1000)),
        "lastError": one.last_error,
    }
