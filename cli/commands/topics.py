"""`meterline topics show|apply|repartition|retire`."""

from __future__ import annotations

import json
import os
from dataclasses import asdict

import click
from rich.console import Console
from rich.table import Table

from cli.asking import confirmed
from cli.output import who
from runtime.settings import load_settings
from store import repartition as repartitioning
from store import retiring, topics
from store.epoch_lives import lives
from store.topics import Difference


@click.group(help="The topics: create them, compare them with their declarations, change their partitions.")
def command() -> None:
    """Topics as they are declared in schemas/topics."""


@command.command(help="Show what differs from the declarations, and the epochs. Exit status 1 when something differs.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line on standard output.")
def show(as_json: bool) -> int:
    settings = load_settings(dict(os.environ))
    differences = topics.plan(settings)
    epochs = lives(settings)
    if as_json:
        click.echo(
            json.dumps(
                {"differences": [asdict(difference) for difference in differences], "epochs": [life.as_json() for life in epochs]}
            )
        )
        return 1 if differences else 0
    if differences:
        _print(differences)
    else:
        click.echo("every topic is as declared")
    for life in epochs:
        click.echo(life.line())
    return 1 if differences else 0


@command.command(help="Create and alter topics, and begin epoch 1 on the first run.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line on standard output.")
def apply(as_json: bool) -> None:
    applied = topics.apply(load_settings(dict(os.environ)))
    if as_json:
        click.echo(
            json.dumps(
                {
                    "changed": [asdict(difference) for difference in applied.changed],
                    "left": [asdict(difference) for difference in applied.left],
                    "epoch": asdict(applied.epoch),
                    "epoch_begun": applied.epoch_begun,
                }
            )
        )
        return
    _print(applied.changed + applied.left)
    if not applied.changed:
        click.echo("nothing to alter: every topic is as declared")
    epoch = applied.epoch
    begun = "begun" if applied.epoch_begun else "goes on"
    click.echo(f"epoch {epoch.epoch} {begun}: {epoch.topic}, {epoch.partitions} partitions, topic id {epoch.topic_id}")


@command.command(help="End the running epoch and begin the next one with PARTITIONS partitions; the plan is shown first.")
@click.argument("partitions", type=click.IntRange(min=1))
@click.option("--yes", is_flag=True, help="Do it without asking; needed where nobody can be asked.")
@click.option("--dry-run", is_flag=True, help="Show what would be done, and change nothing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line on standard output.")
def repartition(partitions: int, yes: bool, dry_run: bool, as_json: bool) -> None:
    settings = load_settings(dict(os.environ))
    plan = repartitioning.plan(settings, partitions)
    if as_json and dry_run:
        click.echo(json.dumps({"plan": asdict(plan)}))
        return
    if not as_json:
        _print_plan(plan)
    if dry_run:
        return
    confirmed(f"End epoch {plan.ending.epoch} and begin epoch {plan.number}?", yes, as_json)
    done = repartitioning.repartition(settings, partitions, who())
    if as_json:
        click.echo(json.dumps({"ended": asdict(done.ended), "begun": asdict(done.begun)}))
        return
    ends = ", ".join(map(str, done.ended.ends or ()))
    click.echo(f"epoch {done.ended.epoch} ends at {ends}; epoch {done.begun.epoch} begins in {done.begun.topic}")
    click.echo(f"move producers to {done.begun.topic}; until then what they send to {done.ended.topic} is forwarded")


@command.command(help="Close the topic of the ended EPOCH for good, once it is forwarded; its state is shown first.")
@click.argument("epoch", type=click.IntRange(min=1))
@click.option("--yes", is_flag=True, help="Do it without asking; needed where nobody can be asked.")
@click.option("--dry-run", is_flag=True, help="Show how it stands, and change nothing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line on standard output.")
def retire(epoch: int, yes: bool, dry_run: bool, as_json: bool) -> None:
    settings = load_settings(dict(os.environ))
    found = retiring.standing(settings, epoch)
    if not as_json:
        click.echo(
            f"{found.epoch.topic}: {found.late} records came after epoch {epoch} had ended, {found.waiting} of them wait to be "
            "forwarded; it will take no more, and a producer that still sends there is refused"
        )
    if not dry_run:
        confirmed(f"Retire epoch {epoch}?", yes, as_json)
        found = retiring.retire(settings, epoch, who())
    if as_json:
        told = {"outcome": "planned" if dry_run else "retired", "epoch": epoch, "topic": found.epoch.topic}
        click.echo(json.dumps(told | {"late": found.late, "waiting": found.waiting}))
    elif not dry_run:
        click.echo(f"epoch {epoch} is retired; {found.epoch.topic} is kept for as long as its retention says")


def _print_plan(plan: repartitioning.Plan) -> None:
    old = plan.ending
    click.echo(f"epoch {old.epoch} in {old.topic} with {old.partitions} partitions ends where its log ends")
    click.echo(f"epoch {plan.number} begins in {plan.topic} with {plan.partitions}, under rules version {plan.rules_version}")
    if plan.deltas_to > plan.deltas_from:
        click.echo(f"the deltas topic grows from {plan.deltas_from} to {plan.deltas_to} partitions")
    click.echo("counting pauses until every partition has come to the end; nothing is refused meanwhile, and nothing is lost")


def _print(differences: list[Difference]) -> None:
    if not differences:
        return
    table = Table("topic", "what", "found", "wanted", "action")
    for difference in differences:
        action = f"{difference.action}: {difference.remedy}" if difference.remedy else difference.action
        table.add_row(difference.topic, difference.what, difference.found, difference.wanted, action)
    Console().print(table)
