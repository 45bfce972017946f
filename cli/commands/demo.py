"""`meterline demo`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click

from runtime.exits import Exit

EXAMPLES = Path(__file__).parents[2] / "examples" / "plans.yaml"


@click.command()
@click.option(
    "--json", "as_json", is_flag=True, help="End with one line of JSON on standard output; the story goes to standard error."
)
@click.option("--events", type=click.IntRange(10_000, 5_000_000), default=100_000, show_default=True, help="Records to send.")
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed sends the same records.")
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    default=lambda: Path(os.environ.get("METERLINE_DATA_DIR", ".meterline")) / "demo",
    show_default=".meterline/demo",
    help="Data folder.",
)
def command(as_json: bool, events: int, seed: int, data: Path) -> int:
    """Run the whole path on real parts, kill things on the way, and prove the numbers.

    Starts everything on an empty data folder, sends records with duplicates, conflicts, bad and late ones from four
    processes, kills the consumer and the aggregator once each, checks entitlements, exports every month to a local
    Stripe, and compares what each store itself answers. Exit status 1 when any figure differs.
    """
    from rich.console import Console

    from cli.demo.run import Demo

    def say(line: str) -> None:
        click.echo(line, err=as_json)

    outcome = Demo(data, events, seed, say).run(EXAMPLES)
    Console(stderr=as_json, width=None if sys.stdout.isatty() else 120).print(outcome.proof.table())
    for difference in outcome.differences:
        say(f"DIFFERS: {difference}")
    if outcome.ok:
        say(f"The same quantity in ClickHouse, Postgres and Stripe, after {outcome.kills} kills, in {outcome.seconds:.0f} s.")
    if as_json:
        click.echo(json.dumps(outcome.as_json()))
    return Exit.OK if outcome.ok else Exit.FAILED
