"""`meterline down`."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import click

from cli.options import DATA_FOLDER
from runtime.exits import Exit, MeterlineExit

STOPPED_WITHIN_S = 45.0


@click.command()
@DATA_FOLDER
def command(data: Path) -> None:
    """Stop what `up` started on the data folder. The data is kept."""
    stack_file = data.absolute() / "stack.json"
    try:
        pid = int(json.loads(stack_file.read_text("utf-8"))["supervisor"])
    except FileNotFoundError:
        click.echo(f"nothing is up on {data}")
        return
    if not _is_supervisor(pid):
        stack_file.unlink(missing_ok=True)
        click.echo("it had ended already (its children end with it); forgot its addresses")
        return
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOPPED_WITHIN_S
    while _is_supervisor(pid):
        if time.monotonic() > deadline:
            raise MeterlineExit(
                Exit.FAILED, f"process {pid} did not stop within {STOPPED_WITHIN_S:.0f} s; its log is in {data}/logs"
            )
        time.sleep(0.05)
    click.echo("stopped; the data is kept")


def _is_supervisor(pid: int) -> bool:
    """Whether the process runs and is ours: a pid is used again after its process has gone."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text("utf-8").rsplit(")", 1)[1].split()[0]
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, IndexError):
        return False
    return status != "Z" and b"up" in words
