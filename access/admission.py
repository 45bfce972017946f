"""Before a server listens: whom it would let in, and what somebody should know of that."""

from __future__ import annotations

import logging

import psycopg

from access.gates import somebody_may_come_in, told_of
from runtime.exits import Exit, MeterlineExit
from runtime.http_server import require_loopback
from runtime.postgres import connect
from runtime.settings import Settings

logger = logging.getLogger(__name__)


def before_listening(settings: Settings, host: str, *, dev: bool) -> None:
    """Blocks for one look at Postgres. Raises MeterlineExit: nobody could come in, or `dev` on an address that others reach."""
    if dev:
        require_loopback(host)
        logger.warning("development server: whoever reaches it may do everything, without credentials", extra={"host": host})
    else:
        _require_credentials(settings)
    for told in told_of(settings):
        logger.warning(told)


def _require_credentials(settings: Settings) -> None:
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
