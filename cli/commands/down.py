"""`meterline down`."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import click

from cli.options import DATA_FOLDER
from cli.stack_file import STACK_FILE, remove, supervisor_of
from runtime.exits import Exit, MeterlineExit

STOPPED_WITHIN_S = 45.0


@click.command()
@DATA_FOLDER
def command(data: Path) -> None:
    """Stop what `up` started on the data folder. The data is kept.

    It stops an `up` that is still starting, too.
    """
    folder = data.absolute()
    pid = supervisor_of(folder)
    if pid is None:
        if not (folder / STACK_FILE).exists():
            click.echo(f"nothing is up on {data}")
            return
        remove(folder)
        click.echo("it had ended already (its children end with it); forgot its addresses")
        return
    try:
        os.kill(pid, signal.SIGTERM)
    except PermissionError as error:
        raise MeterlineExit(
            Exit.FAILED, f"process {pid}, which runs on {data}, belongs to another user: stop it as that one"
        ) from error
    except ProcessLookupError:
        pass  # it ended in between
    deadline = time.monotonic() + STOPPED_WITHIN_S
    while supervisor_of(folder) == pid:
        if time.monotonic() > deadline:
            raise MeterlineExit(
                Exit.FAILED, f"process {pid} did not stop within {STOPPED_WITHIN_S:.0f} s; its log is in {data}/logs"
            )
        time.sleep(0.05)
    click.echo("stopped; the data is kept")
