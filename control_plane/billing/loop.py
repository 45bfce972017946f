"""The billing workflow beside the control plane's server: on Postgres, or on Temporal where an address is set."""

from __future__ import annotations

import threading

from control_plane.billing.invoices import MirroredInvoices
from control_plane.billing.runners import PostgresRunner, Runner
from control_plane.billing.steps import Workflow
from control_plane.parts import Parts
from control_plane.unit import Units
from runtime.settings import Settings, SettingsError


def runner_of(settings: Settings, units: Units) -> Runner:
    """The runner of the settings. Raises SettingsError where Temporal is asked for and its client is not installed."""
    workflow = Workflow(units, MirroredInvoices())
    if settings.temporal_address is None:
        return PostgresRunner(workflow, settings.billing_pause_s)
    try:
        from control_plane.billing.temporal_runner import TemporalRunner
    except ImportError as error:
        raise SettingsError(
            "METERLINE_TEMPORAL_ADDRESS is set and Temporal's client is not installed: install meterline-server[temporal],"
            " or unset it, and the workflow runs on Postgres"
        ) from error
    return TemporalRunner(workflow, settings.temporal_address, settings.temporal_namespace, settings.billing_pause_s)


def run(parts: Parts, stop: threading.Event) -> None:
    """Until the event is set."""
    runner_of(parts.settings, parts.units).run(stop)
