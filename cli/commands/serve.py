"""`meterline serve`."""

from __future__ import annotations

import os

import click


@click.command(help="Serve HTTP: the entitlement endpoint.")
@click.argument("role", type=click.Choice(["entitlements"]), default="entitlements")
@click.option("--host", help="Address to listen on; METERLINE_HTTP_HOST by default.")
@click.option("--port", type=click.IntRange(0, 65_535), help="Port to listen on, 0 for a free one; METERLINE_HTTP_PORT, or 8080.")
@click.option("--dev", is_flag=True, help="Let in requests without credentials. Listens on this machine only.")
def command(role: str, host: str | None, port: int | None, dev: bool) -> None:
    """Answers checks, takes usage, shows summaries. /docs shows the API, /ready what it waits for."""
    from cli.stage import stage
    from entitlements.server import run

    with stage(f"serve {role}", os.environ) as (settings, stop):
        run(settings, stop, host=host, port=port, dev=dev)
