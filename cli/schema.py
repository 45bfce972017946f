"""Making empty servers into a system: schema, topics, catalog, the local service secret, the local Stripe's objects."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg

from runtime import postgres
from runtime.settings import Settings
from store import catalog, service_secrets, topics
from store.catalog_file import read_catalog
from store.migrate import migrate_clickhouse, migrate_postgres

LOCAL_SECRET = "local"  # noqa: S105 - the name it goes by


def prepare(settings: Settings, plans: Path, secret_file: Path, say: Callable[[str], None]) -> str:
    """Brings the stores to this build's schema and applies the catalog; returns a service secret that may emit for all.

    Everything in it is idempotent, so that every start runs it.
    """
    steps = migrate_postgres(settings) + migrate_clickhouse(settings)
    applied = topics.apply(settings)
    definition, source = read_catalog(plans)
    with postgres.connect(settings) as connection:
        version = catalog.apply(connection, definition, by="up", source=source)
        secret = _local_secret(connection, secret_file)
    say(
        f"  schema: {len(steps)} steps; topics: {len(applied.changed)} changed; catalog: "
        + (f"version {version}" if version is not None else "unchanged")
    )
    return secret


def _local_secret(connection: psycopg.Connection[Any], path: Path) -> str:
    """The secret of this data folder, made anew when the database does not know the remembered one."""
    if path.exists():
        secret = path.read_text("ascii").strip()
        if service_secrets.verify(connection, secret) is not None:
            return secret
    service_secrets.revoke(connection, LOCAL_SECRET, by="up")
    secret = service_secrets.create(connection, LOCAL_SECRET, [service_secrets.EVERY_SERVICE], by="up")
    path.touch(mode=0o600)
    path.write_text(secret, "ascii")
    return secret
