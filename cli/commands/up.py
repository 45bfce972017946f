"""`meterline up`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import click

from cli.options import DATA_FOLDER
from runtime.exits import Exit, MeterlineExit

CATALOG = Path(__file__).parents[2] / "examples" / "plans.yaml"
DETACHED_READY_WITHIN_S = 120.0


@click.command()
@click.option("--detach", is_flag=True, help="Return once everything is ready; `down` stops it.")
@click.option("--port", type=click.IntRange(1, 65_535), help="Port of the HTTP endpoint. Default: a free one.")
@DATA_FOLDER
@click.option("--plans", type=click.Path(path_type=Path, exists=True, dir_okay=False), default=CATALOG, help="Catalog to apply.")
def command(detach: bool, port: int | None, data: Path, plans: Path) -> None:
    """Start the embedded stack and all stages, supervised, until Ctrl-C.

    Prints the addresses and a curl that works, and writes them to stack.json in the data folder. Data is kept: the next
    `up` goes on where this one stopped. A stage that ends is started again.
    """
    if detach:
        _detached(data, port, plans)
    else:
        _attached(data, port, plans)


def _attached(data: Path, port: int | None, plans: Path) -> None:
    from cli.system import LocalSystem, write_stack_file
    from runtime.life import Stop

    stop = Stop.install()
    system = LocalSystem(data, click.echo, http_port=port)
    stack_file = data.absolute() / "stack.json"
    try:
        system.start(plans)
        path = write_stack_file(system)
        click.echo(_welcome(system.http(), system.service_secret, path))
        pids = system.as_json()["processes"]
        while not stop.wait(0.2):
            system.watch()
            if system.as_json()["processes"] != pids:
                pids = system.as_json()["processes"]
                write_stack_file(system)
        click.echo("stopping")
    finally:
        stack_file.unlink(missing_ok=True)
        system.stop()
    click.echo("stopped; the data is kept")


def _welcome(http: str, secret: str, path: Path) -> str:
    return f"""
Meterline is up.
  HTTP      {http}/docs
  details   {path} (addresses, credentials, pids)

Record an event, and wait until it is counted:
  curl -s '{http}/v1/billing/usage?wait=counted&timeout=2s' -H 'X-Service-Secret: {secret}' \\
    -d '{{"tenantId":"tnt_123","usageType":"PHOTO_ANALYSIS_DEEP","quantity":1,
         "sourceService":"analysis-worker","sourceEntityId":"job_1"}}'
Ask what is left:
  curl -s '{http}/v1/billing/entitlements/check' -H 'X-Service-Secret: {secret}' \\
    -d '{{"tenantId":"tnt_123","usageType":"PHOTO_ANALYSIS_DEEP","quantity":1}}'

Ctrl-C stops it."""


def _detached(data: Path, port: int | None, plans: Path) -> None:
    """Starts `up` in a session of its own and waits for its stack.json."""
    data = data.absolute()
    data.mkdir(parents=True, exist_ok=True)
    stack_file, log = data / "stack.json", data / "logs" / "up.log"
    log.parent.mkdir(exist_ok=True)
    if stack_file.exists():
        raise MeterlineExit(Exit.FAILED, f"something is up on {data} already; `./run down` stops it")
    argv = [sys.executable, "-m", "cli", "up", "--data", str(data), "--plans", str(plans.absolute())]
    if port is not None:
        argv += ["--port", str(port)]
    with log.open("ab") as output:
        began_at = output.tell()
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, env=os.environ
        )
    deadline = time.monotonic() + DETACHED_READY_WITHIN_S
    shown = began_at
    while not stack_file.exists():
        shown = _show(log, shown)
        if process.poll() is not None:
            raise MeterlineExit(Exit.FAILED, f"it ended with status {process.returncode} before it was ready; its log is {log}")
        if time.monotonic() > deadline:
            process.terminate()
            raise MeterlineExit(Exit.FAILED, f"it was not ready after {DETACHED_READY_WITHIN_S:.0f} s; its log is {log}")
        time.sleep(0.1)
    time.sleep(0.1)
    _show(log, shown)
    click.echo("It runs in the background; `./run down` stops it.")


def _show(log: Path, start: int) -> int:
    with log.open("rb") as file:
        file.seek(start)
        text = file.read()
    if text:
        click.echo(text.decode("utf-8", "replace"), nl=False)
    return start + len(text)
