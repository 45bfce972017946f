"""`meterline serve`."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from runtime.life import Stop
    from runtime.settings import Settings

ROLES: Final = ("entitlements", "control-plane", "grpc")


@click.command(help="Serve the entitlement endpoint, the control plane, its gRPC services, or all of them in one process.")
@click.argument("role", type=click.Choice(ROLES), required=False)
@click.option("--host", help="Address to listen on; METERLINE_HTTP_HOST by default.")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    help="Port to listen on, 0 for a free one; METERLINE_HTTP_PORT, or 8080 for entitlements and 3006 for the control plane.",
)
@click.option("--dev", is_flag=True, help="Let in requests without credentials. Listens on this machine only.")
def command(role: str | None, host: str | None, port: int | None, dev: bool) -> None:
    """Without a role every role is served, each on its own default port. /docs shows an API, /ready what it waits for."""
    from cli.stage import stage

    if role is None and port is not None:
        raise click.UsageError("--port is for one role: name it, or leave --port out.")
    with stage(f"serve {role}" if role else "serve", os.environ) as (settings, stop):
        if role is None:
            if settings.http_port is not None:
                raise click.UsageError("METERLINE_HTTP_PORT (PORT) is for one role: name it, or unset the variable.")
            _together([partial(_runs(name), settings, stop, host=host, dev=dev) for name in ROLES], stop)
        else:
            _runs(role)(settings, stop, host=host, port=port, dev=dev)


def _runs(role: str) -> Callable[..., None]:
    if role == "control-plane":
        from control_plane.http import server as control_plane

        return control_plane.run
    if role == "grpc":
        from control_plane.grpc import server as grpc

        return partial(_without_port, grpc.run)
    from entitlements import server as entitlements

    return entitlements.run


def _without_port(run: Callable[..., None], settings: Settings, stop: Stop, *, port: int | None = None, **how: Any) -> None:
    """gRPC serves two ports, which have settings of their own."""
    if port is not None:
        raise click.UsageError("gRPC serves two ports: set METERLINE_GRPC_ACCOUNT_PORT and METERLINE_GRPC_PAYMENT_PORT.")
    run(settings, stop, **how)


def _together(serving: list[Callable[[], None]], stop: Stop) -> None:
    """Each in a thread. The first that ends, ends all; raises what it raised."""
    raised: list[BaseException] = []

    def serve(run: Callable[[], None]) -> None:
        try:
            run()
        except BaseException as error:  # noqa: BLE001 - raised again in the main thread
            raised.append(error)
        finally:
            stop.set()

    threads = [threading.Thread(target=serve, args=(run,)) for run in serving]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if raised:
        raise raised[0]
