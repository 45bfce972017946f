"""Brings Postgres and ClickHouse to this build's schema. Both may be run at any time, by several at once.

Postgres: Alembic; a revision runs the SQL file of its name; all of them in one transaction under an advisory lock.
ClickHouse: numbered SQL files; each statement may be repeated, so a run that was cut, or that meets another one, does no
harm; `schema_versions` keeps what was applied with the digest of its file.

There is no way down: the tables are records of money. The way back is a restored backup.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.script.revision import RevisionError
from alembic.util import CommandError
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, OperationalError
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.exc import DBAPIError

from runtime import clickhouse, postgres
from runtime.exits import Exit, MeterlineExit
from runtime.locks import AdvisoryLock
from runtime.settings import Settings
from store.grants import grant
from store.remedies import clickhouse_away, one_line, postgres_away
from store.statements import split_statements

Progress = Callable[[str], None]
"""Told each step before it begins."""


LOCK_TIMEOUT_S = 120
STATEMENT_TIMEOUT_S = 900
"""A migration of a large table is slow; one that is slower than this hangs."""

CLICKHOUSE_OLDEST = (26, 6)
"""The first version whose tables can leave projections to the merges."""

_POSTGRES = Path(__file__).with_name("postgres")
_CLICKHOUSE = Path(__file__).with_name("clickhouse")


def _silent(step: str) -> None:
    pass


# -- Postgres ------------------------------------------------------------------------------------------------------


def migrate_postgres(settings: Settings, to: str = "head", progress: Progress = _silent) -> list[str]:
    """Brings Postgres to revision `to`, creating the database when it is absent; returns the revisions it ran.

    All or nothing: one transaction holds every revision. Raises MeterlineExit with the remedy when the server is away,
    the database cannot be created, another migration holds the lock, or the database is ahead of `to`.
    """
    _create_postgres_database(settings, progress)
    script = ScriptDirectory(str(_POSTGRES))
    options = f"-c statement_timeout={STATEMENT_TIMEOUT_S * 1000} -c lock_timeout={LOCK_TIMEOUT_S * 1000} -c TimeZone=UTC"
    engine = create_engine(
        "postgresql+psycopg://", creator=lambda: postgres.connect(settings, options=options), poolclass=NullPool
    )
    try:
        with engine.connect() as connection, connection.begin():
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": AdvisoryLock.MIGRATE.value})
            before = MigrationContext.configure(connection).get_current_revision()
            wanted = _revisions_up_to(script, before, to)
            for revision in wanted:
                progress(f"Postgres: {revision}")
            if wanted:
                config = Config()
                config.set_main_option("script_location", str(_POSTGRES).replace("%", "%%"))
                config.attributes["connection"] = connection
                command.upgrade(config, to)
            if settings.postgres_app_role is not None and to == "head":
                driver = connection.connection.driver_connection
                assert isinstance(driver, psycopg.Connection)
                grant(driver, settings.postgres_app_role)
            return wanted
    except (psycopg.Error, DBAPIError) as error:
        # SQLAlchemy wraps the driver's error; whoever reads the message wants the driver's.
        cause = getattr(error, "orig", error)
        if isinstance(cause, psycopg.errors.LockNotAvailable):
            raise MeterlineExit(
                Exit.FAILED, f"another migration has held Postgres for {LOCK_TIMEOUT_S} s; wait for it, or end it, and run again"
            ) from error
        if isinstance(cause, psycopg.errors.InsufficientPrivilege):
            raise MeterlineExit(
                Exit.SETTINGS, f"Postgres does not let this user migrate ({one_line(cause)}); migrate as the database's owner"
            ) from error
        if isinstance(cause, psycopg.OperationalError):
            raise postgres_away(settings, cause) from error
        raise MeterlineExit(
            Exit.FAILED,
            f"Postgres refused a migration: {one_line(cause)}; nothing was changed, for all of it is one transaction: "
            "correct the cause and run `meterline migrate` again",
        ) from error
    finally:
        engine.dispose()


def postgres_revision(settings: Settings) -> tuple[str | None, str]:
    """The revision that the database is at, and the newest of this build."""
    newest = ScriptDirectory(str(_POSTGRES)).get_current_head()
    assert newest is not None
    with postgres.connect(settings) as connection:
        if connection.execute("SELECT to_regclass('alembic_version')").fetchone() == (None,):
            return None, newest
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return (str(row[0]) if row else None), newest


def _revisions_up_to(script: ScriptDirectory, current: str | None, to: str) -> list[str]:
    """The names of the revisions after `current` up to `to`, oldest first."""
    try:
        if current is not None:
            script.get_revision(current)
        target = script.get_revision(to)
    except (CommandError, RevisionError):
        raise MeterlineExit(
            Exit.FAILED,
            f"Postgres is at revision {current}, and the wanted one is {to}: this build does not know both. "
            "There is no way down: run the build that made it, or restore a backup from before",
        ) from None
    line = [revision.revision for revision in script.walk_revisions("base", target.revision)]
    if current is not None and current not in line:
        raise MeterlineExit(
            Exit.FAILED,
            f"Postgres is at revision {current}, later than {target.revision}, and there is no way down: "
            "restore a backup from before",
        )
    names = [Path(revision.path).stem.removeprefix("v") for revision in script.walk_revisions("base", target.revision)]
    return list(reversed(names[: line.index(current)] if current is not None else names))


def _create_postgres_database(settings: Settings, progress: Progress) -> None:
    """Creates the database of the URL if the server has none of that name."""
    try:
        postgres.connect(settings).close()
    except psycopg.OperationalError as error:
        # libpq says "does not exist" in the server's language only, so the server's own list is asked.
        name = str(conninfo_to_dict(postgres.conninfo(settings)).get("dbname", ""))
        try:
            maintenance = postgres.connect(settings, autocommit=True, dbname="postgres")
        except psycopg.OperationalError:
            raise postgres_away(settings, error) from error
        with maintenance:
            if not name or maintenance.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone():
                raise postgres_away(settings, error) from error
            progress(f"Postgres: create database {name}")
            try:
                maintenance.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name)))
            except (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
                return  # somebody else has just created it
            except psycopg.errors.InsufficientPrivilege as refused:
                raise MeterlineExit(
                    Exit.SETTINGS,
                    f"Postgres has no database {name} and this user may not create one; have an administrator run: "
                    f'CREATE DATABASE "{name}" OWNER this_user',
                ) from refused


# -- ClickHouse ----------------------------------------------------------------------------------------------------

_SCHEMA_VERSIONS = """
CREATE TABLE IF NOT EXISTS schema_versions
(
    version UInt32, name String, digest FixedString(64) COMMENT 'SHA-256 of the file, in hex', applied_at DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree ORDER BY version
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1
"""


@dataclass(frozen=True)
class SqlFile:
    """One numbered file."""

    version: int
    name: str
    digest: str
    sql: str


def clickhouse_files(folder: Path = _CLICKHOUSE) -> list[SqlFile]:
    """The numbered files, in order. Raises ValueError for a name that does not follow 0001_name.sql, or a gap."""
    files = []
    for number, path in enumerate(sorted(folder.glob("*.sql")), start=1):
        match = re.fullmatch(r"(\d{4})_[a-z0-9_]+", path.stem)
        if match is None or int(match[1]) != number:
            raise ValueError(f"{path.name}: want {number:04d}_<name>.sql")
        content = path.read_bytes()
        files.append(SqlFile(number, path.stem, hashlib.sha256(content).hexdigest(), content.decode()))
    return files


def migrate_clickhouse(
    settings: Settings, to: int | None = None, progress: Progress = _silent, files: list[SqlFile] | None = None
) -> list[str]:
    """Brings ClickHouse to version `to` (the newest by default), then sets how long rejects are kept; returns what it did.

    Creates the database when it is absent. Raises MeterlineExit with the remedy when the server is away or too old, an
    applied file has changed since, the database is ahead of this build, or a statement is refused.
    """
    known = clickhouse_files() if files is None else files
    wanted = [file for file in known if to is None or file.version <= to]
    done: list[str] = []
    step = "connect"
    try:
        _create_clickhouse_database(settings, progress)
        client = clickhouse.client(settings, timeout_s=STATEMENT_TIMEOUT_S)
        try:
            client.command(_SCHEMA_VERSIONS)
            applied = _applied(client)
            _refuse_other_history(applied, known, wanted)
            for file in wanted:
                if file.version in applied:
                    continue
                progress(f"ClickHouse: {file.name}")
                for number, statement in enumerate(split_statements(file.sql), start=1):
                    step = f"{file.name}.sql, statement {number}"
                    client.command(statement)
                client.command(
                    "INSERT INTO schema_versions VALUES ({v:UInt32}, {n:String}, {d:String}, now64(3))",
                    parameters={"v": file.version, "n": file.name, "d": file.digest},
                )
                done.append(file.name)
            step = "retention of usage_rejects"
            if any("usage_rejects" in file.name for file in wanted):
                done.extend(_keep_rejects_for(client, settings.rejects_keep_days, progress))
        finally:
            client.close()
    except OperationalError as error:
        raise clickhouse_away(settings, error) from error
    except ClickHouseError as error:
        raise MeterlineExit(
            Exit.FAILED,
            f"ClickHouse refused {step}: {one_line(error)}; nothing is half done that a second run does not finish: "
            "correct the cause (most often rights or an older server) and run `meterline migrate` again",
        ) from error
    return done


def clickhouse_too_old(server_version: str | None) -> str | None:
    """What is wrong with a server that reports itself as this, for one 26.9.2.1, and the remedy; None when nothing is."""
    major, minor = str(server_version).split(".")[:2]
    if (int(major), int(minor)) >= CLICKHOUSE_OLDEST:
        return None
    oldest = ".".join(map(str, CLICKHOUSE_OLDEST))
    return f"ClickHouse {server_version} is too old: upgrade it to {oldest} or newer; docker-compose.yml names one that is tested"


def clickhouse_version(settings: Settings) -> tuple[int, int]:
    """The version that the database is at (0: empty), and the newest of this build."""
    client = clickhouse.client(settings)
    try:
        if not client.command("EXISTS TABLE schema_versions"):
            return 0, len(clickhouse_files())
        return max(_applied(client), default=0), len(clickhouse_files())
    finally:
        client.close()


def _applied(client: Client) -> dict[int, tuple[str, str]]:
    rows = client.query("SELECT version, name, toString(digest) FROM schema_versions FINAL ORDER BY version").result_rows
    return {int(version): (str(name), str(digest)) for version, name, digest in rows}


def _refuse_other_history(applied: dict[int, tuple[str, str]], known: list[SqlFile], wanted: list[SqlFile]) -> None:
    digests = {file.version: file.digest for file in known}
    for version, (name, digest) in applied.items():
        if version not in digests or version > max((file.version for file in wanted), default=0):
            raise MeterlineExit(
                Exit.FAILED,
                f"ClickHouse is at version {max(applied)}, ahead of what is wanted, and there is no way down: "
                "run the build that made it, or restore a backup from before",
            )
        if digests[version] != digest:
            raise MeterlineExit(
                Exit.FAILED,
                f"{name}.sql was changed after it was applied to this database (SHA-256 {digest[:12]}... then, "
                f"{digests[version][:12]}... now); put the file back as it was and write the change as a new numbered file",
            )


def _create_clickhouse_database(settings: Settings, progress: Progress) -> None:
    name = clickhouse.database(settings)
    client = clickhouse.client(settings, in_database=False)
    try:
        too_old = clickhouse_too_old(client.server_version)
        if too_old is not None:
            raise MeterlineExit(Exit.FAILED, too_old)
        # Asked first: a user who may not create databases may well have been given one.
        found = client.query("SELECT 1 FROM system.databases WHERE name = {name:String}", parameters={"name": name})
        if not found.row_count:
            progress(f"ClickHouse: create database {name}")
            client.command("CREATE DATABASE IF NOT EXISTS {name:Identifier}", parameters={"name": name})
    finally:
        client.close()


def _keep_rejects_for(client: Client, days: int, progress: Progress) -> list[str]:
    """Makes the table's TTL what the setting says; nothing when it is so already."""
    definition = str(client.query("SHOW CREATE TABLE usage_rejects").result_rows[0][0])
    found = re.search(r"\bTTL toDateTime\(ingested_at\) \+ toIntervalDay\((\d+)\)", definition)
    if days == 0:
        if found is None:
            return []
        progress("ClickHouse: keep rejects for ever")
        client.command("ALTER TABLE usage_rejects REMOVE TTL")
        return ["rejects are kept for ever"]
    if found is not None and int(found[1]) == days:
        return []
    progress(f"ClickHouse: keep rejects for {days} days")
    client.command(f"ALTER TABLE usage_rejects MODIFY TTL toDateTime(ingested_at) + toIntervalDay({int(days)})")
    return [f"rejects are kept for {days} days"]
