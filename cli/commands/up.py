"""`meterline up`."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import click

from cli.options import DATA_FOLDER
from cli.stack_file import ENVIRONMENT_FILE, STACK_FILE, remove, supervisor_of, write
from runtime.exits import Exit, MeterlineExit

CATALOG = Path(__file__).parents[2] / "examples" / "plans.yaml"
DETACHED_READY_WITHIN_S = 600.0
"""The first start fetches Kafka; every wait within it has a limit of its own."""
STOPPED_WITHIN_S = 45.0


@click.command()
@click.option("--detach", is_flag=True, help="Return once everything is ready; `down` stops it.")
@click.option(
    "--port", type=click.IntRange(1, 65_535), help="Port of the HTTP endpoint. Default: that of last time, or a free one."
)
@DATA_FOLDER
@click.option("--plans", type=click.Path(path_type=Path, exists=True, dir_okay=False), default=CATALOG, help="Catalog to apply.")
def command(detach: bool, port: int | None, data: Path, plans: Path) -> None:
    """Start the embedded stack and all stages, supervised, until Ctrl-C.

    Prints the addresses and a curl that works, and writes them to stack.json and, as settings for a shell, to env in the
    data folder. Data is kept: the next `up` goes on where this one stopped. What ends by itself is started again.
    METERLINE_KAFKA_URL names a broker to use instead of an embedded one; other METERLINE_* settings reach the stages,
    apart from those that name a server.
    """
    if detach:
        _detached(data, port, plans)
    else:
        _attached(data, port, plans)


def _attached(data: Path, port: int | None, plans: Path) -> None:
    from cli.system import LocalSystem
    from runtime.life import Stop

    folder = data.absolute()
    # Until everything runs there is nobody to look at an event: a signal ends the starting wherever it is.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    system = LocalSystem(folder, click.echo, http_port=port)
    ours = False
    try:
        system.start(plans)
        stop = Stop.install()
        ours = True
        path = write(folder, system.as_json(), system.environment)
        click.echo(_welcome(system.http(), system.service_secret, path))
        pids = system.as_json()["processes"]
        while not stop.wait(0.2):
            system.watch()
            if system.as_json()["processes"] != pids:
                pids = system.as_json()["processes"]
                write(folder, system.as_json(), system.environment)
        click.echo("stopping")
    finally:
        if ours:  # else they may be those of another `up`, which has the folder
            remove(folder)
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

Let other commands find it, `./run emit FILE` for one:
  set -a; . {shlex.quote(str(path.with_name(ENVIRONMENT_FILE)))}; set +a

Ctrl-C or `./run down` stops it."""


def _detached(data: Path, port: int | None, plans: Path) -> None:
    """Starts `up` in a session of its own and waits for its stack.json."""
    folder = data.absolute()
    if supervisor_of(folder) is not None:
        raise MeterlineExit(Exit.FAILED, f"something is up on {folder} already; `./run down` stops it")
    stack_file, log = folder / STACK_FILE, folder / "logs" / "up.log"
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        remove(folder)  # what a supervisor left that was killed
        # It shows the service's secret, as the terminal does.
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.fchmod(descriptor, 0o600)
    except OSError as error:
        raise MeterlineExit(Exit.FAILED, f"{folder} cannot be written: {error}. Name another data folder.") from error
    argv = [sys.executable, "-m", "cli", "up", "--data", str(folder), "--plans", str(plans.absolute())]
    if port is not None:
        argv += ["--port", str(port)]
    with os.fdopen(descriptor, "ab") as output:
        shown = output.seek(0, os.SEEK_END)
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, env=os.environ
        )
    try:
        _show_until_ready(process, stack_file, log, shown)
    except BaseException:
        process.terminate()  # nobody would know that it runs
        process.wait(STOPPED_WITHIN_S)
        raise
    click.echo("It runs in the background.")


def _show_until_ready(process: subprocess.Popen[bytes], stack_file: Path, log: Path, shown: int) -> None:
    deadline = time.monotonic() + DETACHED_READY_WITHIN_S
    while not stack_file.exists():
        shown = _show(log, shown)
        status = process.poll()
        if status is not None:
            _show(log, shown)
            code = Exit(status) if status in tuple(Exit) else Exit.FAILED
            raise MeterlineExit(code, f"it ended with status {status} before it was ready; its log is {log}")
        if time.monotonic() > deadline:
            raise MeterlineExit(Exit.FAILED, f"it was not ready after {DETACHED_READY_WITHIN_S:.0f} s; its log is {log}")
        time.sleep(0.1)
    time.sleep(0.1)
    _show(log, shown)


def _show(log: Path, start: int) -> int:
    with log.open("rb") as file:
        file.seek(start)
        text = file.read()
    if text:
        click.echo(text.decode("utf-8", "replace"), nl=False)
    return start + len(text)
