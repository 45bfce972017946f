"""`meterline consume`."""

from __future__ import annotations

import os

import click


@click.command()
def command() -> None:
    """Admit each event once, from Kafka into ClickHouse.

    Reads the events topic, decides each record (admitted, duplicate, conflict, invalid), stores the rows, announces
    what they add, and commits; a crash at any point repeats work, never numbers. Run as many as there are partitions.
    """
    from cli.stage import stage
    from consumers.app import run

    with stage("consume", os.environ) as (settings, stop):
        run(settings, stop)
