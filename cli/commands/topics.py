"""`meterline topics show|apply`."""

from __future__ import annotations

import json
import os
from dataclasses import asdict

import click
from rich.console import Console
from rich.table import Table

from runtime.settings import load_settings
from store import topics
from store.topics import Difference


@click.group(help="Create the topics and show how they differ from their declarations.")
def command() -> None:
    """Topics as they are declared in schemas/topics."""


@command.command(help="Show what differs from the declarations; change nothing. Exit status 1 when something does.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line on standard output.")
def show(as_json: bool) -> int:
    differences = topics.plan(load_settings(dict(os.environ)))
    if as_json:
        click.echo(json.dumps({"differences": [asdict(difference) for difference in differences]}))
    elif differences:
        _print(differences)
    else:
        click.echo("every topic is as declared")
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


def _print(differences: list[Difference]) -> None:
    if not differences:
        return
    table = Table("topic", "what", "found", "wanted", "action")
    for difference in differences:
        action = f"{difference.action}: {difference.remedy}" if difference.remedy else difference.action
        table.add_row(difference.topic, difference.what, difference.found, difference.wanted, action)
    Console().print(table)
