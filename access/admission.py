"""Before a server listens: whether anybody could come in at all."""

from __future__ import annotations

import logging

import psycopg

from access.gates import somebody_may_come_in
from runtime.exits import Exit, MeterlineExit
from runtime.postgres import connect
from runtime.settings import Settings

logger = logging.getLogger(__name__)


def require_credentials(settings: Settings) -> None:
    """Raises MeterlineExit for a server that nobody could use. While Postgres is away that is not known: /ready says so."""
    try:
        with connect(settings) as connection:
            somebody = somebody_may_come_in(settings, connection)
    except psycopg.OperationalError as error:
        logger.warning("postgres does not answer yet; starting all the same", extra={"error": str(error).strip()})
        return
    except psycopg.errors.UndefinedTable:
        logger.warning("the database is not migrated yet; run `meterline migrate`")
        return
    if not somebody:
        raise MeterlineExit(
            Exit.SETTINGS,
            "no verifier is configured: there is no valid service secret or API key, and neither METERLINE_JWT_ACCESS_SECRET "
            "nor METERLINE_CLERK_JWT_KEY or _ISSUER is set, so nobody could come in. "
            "Run `meterline secrets create NAME --emits-for SERVICE`, or start with --dev to try it out on this machine",
        )
