"""Where a bench runs: real servers on a data folder of its own, removed at the end."""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from deploy.embedded.errors import StackRunsElsewhereError
from deploy.embedded.stack import EmbeddedStack, StackAddresses
from deploy.embedded.state import birth
from runtime.settings import Settings
from store.migrate import migrate_clickhouse, migrate_postgres
from store.topics import apply
from tests.running_stack import corner

ROOT = Path(__file__).parents[2]
PLACES = ROOT / ".meterline" / "bench"
_SERVERS = ("kafka", "postgres", "clickhouse")


class Place:
    """One bench's. For the main thread, as the servers are. Use as a context manager."""

    def __init__(self, name: str) -> None:
        PLACES.mkdir(parents=True, exist_ok=True)
        _remove_former_places()
        self.name = name
        self.folder = PLACES / f"run-{os.getpid()}-{secrets.token_hex(3)}"
        """For files of the bench's own."""
        self.folder.mkdir()
        self.servers: EmbeddedStack | None = None
        self._addresses: StackAddresses | None = None
        self._corners = itertools.count(1)
        self._began = time.monotonic()

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        if self.servers is not None:
            self.servers.forget()
        shutil.rmtree(self.folder, ignore_errors=True)

    def say(self, line: str) -> None:
        """Progress, to the person who looks on."""
        sys.stderr.write(f"{time.monotonic() - self._began:7.1f} s  {self.name}: {line}\n")
        sys.stderr.flush()

    def stack(self) -> StackAddresses:
        """The servers, started by the first call; they wait for the disk as in production."""
        if self._addresses is None:
            url = os.environ.get("METERLINE_KAFKA_URL")
            names = [name for name in _SERVERS if not (name == "kafka" and url)]
            self.servers = EmbeddedStack(self.folder / "stack", log=self.say, servers=names)
            self._addresses = self.servers.start()
            if url:
                self._addresses = replace(self._addresses, kafka=url)
        return self._addresses

    def versions(self) -> dict[str, str]:
        """What the servers that were started reported."""
        return dict(self._addresses.versions) if self._addresses is not None else {}

    @contextmanager
    def corner(self, **over: Any) -> Iterator[Settings]:
        """Settings with empty databases and topics of their own, migrated; `over` are settings by field name."""
        number = next(self._corners)
        for made in corner(self.stack(), f"bench{number}", self.folder / f"corner-{number}"):
            settings = Settings.model_validate(dict(made) | over)
            migrate_postgres(settings)
            migrate_clickhouse(settings)
            apply(settings)
            yield settings


def _remove_former_places() -> None:
    """Of processes that were killed: their servers have ended with them, their folders have stayed."""
    for folder in PLACES.glob("run-*-*"):
        if birth(int(folder.name.split("-")[1])) is not None:
            continue
        if (folder / "stack").exists():
            try:
                EmbeddedStack(folder / "stack", log=lambda line: None).forget()
            except StackRunsElsewhereError:
                continue
        shutil.rmtree(folder, ignore_errors=True)
