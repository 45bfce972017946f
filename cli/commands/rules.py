"""`meterline rules show|activate`."""

from __future__ import annotations

import json
import os

import click

from cli.asking import confirmed
from cli.output import who
from meterline_schemas.rules import RULES
from runtime import postgres
from runtime.exits import Exit, MeterlineExit
from runtime.settings import load_settings
from store import rules_change
from store.epochs import all_epochs, rules_at
from store.remedies import postgres_answers
from store.rules_change import RulesPlan


@click.group(help="The rules that decide what an event is: which are in force, and the next ones.")
def command() -> None:
    """A version of the rules, and from where on it decides."""


@command.command(help="Show which version of the rules decides from which position on.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line on standard output.")
def show(as_json: bool) -> None:
    settings = load_settings(dict(os.environ))
    with postgres_answers(settings), postgres.connect(settings) as connection:
        epochs = all_epochs(connection)
        if not epochs:
            raise MeterlineExit(Exit.TOPIC_REPLACED, "no epoch is recorded: run `meterline topics apply` first")
        changes = [
            {"epoch": epoch.epoch, "partition": partition, "from_offset": from_offset, "version": version}
            for epoch in epochs
            for partition in range(epoch.partitions)
            for from_offset, version in rules_at(connection, epoch.epoch, partition)
        ]
        standing = rules_change.in_force(connection, epochs[-1])
    if as_json:
        click.echo(json.dumps({"in_force": standing, "known": sorted(RULES), "from": changes}))
        return
    click.echo(f"rules version {standing} is in force; this build knows {', '.join(map(str, sorted(RULES)))}")
    for change in changes:
        click.echo("epoch {epoch} partition {partition}: version {version} from offset {from_offset} on".format(**change))


@command.command(help="Let VERSION of the rules decide from the log's end on; the plan is shown first.")
@click.argument("version", type=click.IntRange(min=1))
@click.option("--yes", is_flag=True, help="Do it without asking; needed where nobody can be asked.")
@click.option("--dry-run", is_flag=True, help="Show what would be done, and change nothing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line on standard output.")
def activate(version: int, yes: bool, dry_run: bool, as_json: bool) -> None:
    settings = load_settings(dict(os.environ))
    plan = rules_change.plan(settings, version)
    if dry_run or not plan.changes:
        _answer(plan, "planned" if plan.changes else "unchanged", as_json)
        return
    if not as_json:
        click.echo(_told(plan, "planned"))
    confirmed(f"Let rules version {version} decide from there on?", yes, as_json)
    _answer(rules_change.activate(settings, version, who()), "activated", as_json)


def _answer(plan: RulesPlan, outcome: str, as_json: bool) -> None:
    if not as_json:
        click.echo(_told(plan, outcome))
        return
    told = {"outcome": outcome, "version": plan.wanted, "before": plan.in_force, "epoch": plan.epoch.epoch, "from": plan.ends}
    click.echo(json.dumps(told))


def _told(plan: RulesPlan, outcome: str) -> str:
    if outcome == "unchanged":
        return f"nothing to do: rules version {plan.wanted} is in force"
    where = ", ".join(f"{partition}: {end}" for partition, end in enumerate(plan.ends))
    if outcome == "activated":
        return f"rules version {plan.wanted} decides epoch {plan.epoch.epoch} from these offsets on: {where}"
    return (
        f"rules version {plan.wanted} would decide in place of {plan.in_force}, in epoch {plan.epoch.epoch}, from the log's end"
        f" on (now {where})\nevery consumer must run a build that knows it before: one that does not leaves with exit status"
        f" {Exit.RULES_UNKNOWN.value} {Exit.RULES_UNKNOWN.name}"
    )
