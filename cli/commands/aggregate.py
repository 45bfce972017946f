"""`meterline aggregate`."""

from __future__ import annotations

import os

import click


@click.command()
def command() -> None:
    """Count range deltas into Postgres.

    Reads the deltas topic and adds each range to the counters in the transaction that moves its fence, so that a range
    is counted once whatever is repeated; samples the log's end, so that a check can say how fresh it is.
    """
    from aggregator.app import run
    from cli.stage import stage

    with stage("aggregate", os.environ) as (settings, stop):
        run(settings, stop)
