"""What every long-running command does first: settings once, logs, signals, and the test's crash point."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from runtime import crash
from runtime.life import Stop
from runtime.logs import configure_logging
from runtime.settings import Settings, SettingsError, load_settings


@contextmanager
def stage(name: str, environment: Mapping[str, str]) -> Iterator[tuple[Settings, Stop]]:
    """The frozen settings and the stop event of a process. Raises SettingsError before anything connects."""
    settings = load_settings(dict(environment))
    if spec := environment.get("METERLINE_CRASH_AT"):
        try:
            crash.arm(spec)
        except ValueError as error:
            raise SettingsError(str(error)) from error
    configure_logging(settings, name)
    yield settings, Stop.install()
