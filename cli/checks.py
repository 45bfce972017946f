"""The checks of `meterline doctor`, in the order in which they are shown."""

from __future__ import annotations

import logging
import os
import re
import shutil
import ssl
import time
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import psycopg
from clickhouse_connect.driver.exceptions import ClickHouseError
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from access.gates import somebody_may_come_in, told_of
from billing_exporter import finalization
from cli.checkup import SERVER_LIMIT_S, Answer, Check, failed, ok, warning
from meterline_schemas.rules import NEWEST_RULES, RULES
from runtime import clickhouse, kafka, postgres
from runtime.exits import MeterlineExit
from runtime.settings import Settings, SettingsError, variables
from store import catalog, forgotten, topics
from store.epoch_lives import lives
from store.epochs import current_epoch
from store.migrate import clickhouse_too_old, clickhouse_version, postgres_revision
from store.remedies import one_line, postgres_away
from store.rules_change import in_force

DAY_MS = 86_400_000
LOOPBACK = ("localhost", "127.0.0.1", "::1")


# -- settings that need no server ----------------------------------------------------------------------------------


def unused_settings(settings: Settings) -> Answer:
    """What was set and does nothing."""
    unused = ("redis_url", "node_env", "clerk_secret_key")
    names = {field: aliases[1] for field, aliases in variables().items() if field in unused}
    found = [names[field] for field in names if getattr(settings, field) is not None]
    if found:
        return warning(f"{' and '.join(found)} set, and not used by anything here", "remove what nothing else needs")
    return ok("every setting that is set has a use")


def authorities(settings: Settings) -> Answer:
    """The PEM files of the authorities."""
    files = {field: getattr(settings, field) for field in ("kafka_ca_file", "clickhouse_ca_file", "postgres_ca_file")}
    given = {field: path for field, path in files.items() if path is not None}
    for field, path in given.items():
        name = variables()[field][0]
        try:
            ssl.create_default_context(cafile=str(path))
        except (OSError, ssl.SSLError) as error:
            return failed(
                f"{path}: {one_line(error)}", f"set {name} to a PEM file that this user can read and that holds certificates"
            )
    if settings.clickhouse_ca_file is not None and not settings.clickhouse_url.startswith("https:"):
        return warning(
            "METERLINE_CLICKHOUSE_CA_FILE is set, and the URL is not https: it goes unused",
            "write METERLINE_CLICKHOUSE_URL=https://..., or remove the file's setting",
        )
    return ok(f"{len(given)} authority files hold certificates" if given else "none set: what the system trusts is trusted")


def retention(settings: Settings) -> Answer:
    """How long things are kept, against what the rules and a restored backup need."""
    past_days = RULES[NEWEST_RULES].past_ms_max // DAY_MS
    if settings.events_keep_days <= settings.backup_days_max:
        return failed(
            f"the events topic is kept {settings.events_keep_days} days, and a backup may be {settings.backup_days_max} days "
            "old: what came between would be lost after a restore",
            f"set METERLINE_EVENTS_KEEP_DAYS to more than {settings.backup_days_max}, or METERLINE_BACKUP_DAYS_MAX to the age of "
            "the oldest backup that you would restore",
        )
    if settings.deltas_keep_days > settings.events_keep_days:
        return warning(
            f"deltas are kept {settings.deltas_keep_days} days, longer than the events they were made from "
            f"({settings.events_keep_days})",
            "set METERLINE_DELTAS_KEEP_DAYS to METERLINE_EVENTS_KEEP_DAYS or less",
        )
    if settings.deltas_keep_days <= settings.backup_days_max:
        return warning(
            f"deltas are kept {settings.deltas_keep_days} days, and a backup may be {settings.backup_days_max} days old: a "
            "restored ClickHouse would be read in again from the start of the epoch, if the log still has it",
            f"set METERLINE_DELTAS_KEEP_DAYS to more than {settings.backup_days_max}",
        )
    if settings.rejects_keep_days and settings.rejects_keep_days < past_days:
        return warning(
            f"an event may come {past_days} days late (rules version {NEWEST_RULES}), and a reject, which could be replayed "
            f"as long, is kept {settings.rejects_keep_days} days",
            f"set METERLINE_REJECTS_KEEP_DAYS={past_days} or 0, for ever",
        )
    return ok(
        f"events {settings.events_keep_days} days, backups {settings.backup_days_max} at most; rejects can be replayed "
        f"{past_days} days"
    )


def spool(settings: Settings) -> Answer:
    """Where events wait while Kafka is away."""
    folder = settings.spool_dir.absolute()
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        what = f"{folder} cannot be written to" if nearest == folder else f"{folder} cannot be made: {nearest} is closed"
        return failed(what, "set METERLINE_SPOOL_DIR to a folder that this user may write to, or give it the rights")
    free = shutil.disk_usage(nearest).free
    if free < settings.spool_bytes_max:
        return warning(
            f"{folder} may take {settings.spool_bytes_max >> 20} MB, and its disk has {free >> 20} MB free",
            "free some, set METERLINE_SPOOL_DIR to a larger disk, or lower METERLINE_SPOOL_BYTES_MAX",
        )
    return ok(f"{_short(folder)} can be written to, up to {settings.spool_bytes_max >> 20} MB")


def stripe_key(settings: Settings) -> Answer:
    """The shape of the key. A local Stripe is asked whether it takes it; Stripe itself is never called from here."""
    if settings.stripe_secret_key is None:
        return warning("no key: nothing can be exported", "set METERLINE_STRIPE_SECRET_KEY, if this installation bills by Stripe")
    key = settings.stripe_secret_key.get_secret_value()
    shape = re.fullmatch(r"(sk|rk)_(test|live)_[A-Za-z0-9_-]{8,}", key)
    if shape is None:
        return failed(
            "the key has not the shape of a secret key",
            "set METERLINE_STRIPE_SECRET_KEY to one that begins with sk_test_, sk_live_, rk_test_ or rk_live_",
        )
    base = settings.stripe_api_base
    if base is None:
        return ok(f"the shape of a {shape[2]} key (not tried: the doctor does not call Stripe)")
    if shape[2] == "live":
        return failed(
            f"a live key would be sent to {base}", "unset METERLINE_STRIPE_API_BASE for Stripe's own address, or take a test key"
        )
    if urlsplit(base).scheme not in ("http", "https") or urlsplit(base).hostname not in LOOPBACK:
        return warning(f"requests go to {base}, which is neither Stripe nor this machine", "unset METERLINE_STRIPE_API_BASE")
    request = Request(f"{base.rstrip('/')}/v1/account", headers={"Authorization": f"Bearer {key}"})  # noqa: S310 - checked above
    try:
        with urlopen(request, timeout=SERVER_LIMIT_S):  # noqa: S310
            return ok(f"the local Stripe at {base} takes the key")
    except HTTPError as error:
        with error:
            return failed(
                f"the local Stripe at {base} answers {error.code}", "set METERLINE_STRIPE_SECRET_KEY to the key it was given"
            )
    except (URLError, OSError) as error:
        return failed(
            f"the local Stripe at {base} does not answer: {one_line(error)}", "start it, or unset METERLINE_STRIPE_API_BASE"
        )


def stripe_finalization(settings: Settings) -> Answer:
    """A period's last total is at Stripe before its invoice is final."""
    if settings.stripe_secret_key is None:
        return ok("nothing is exported without a key")
    problem = finalization.problem(settings, None)
    if problem is not None:
        return failed(problem.what, problem.remedy)
    return ok(
        f"a period's last total comes within {finalization.needed_s(settings):.0f} s of its end,"
        f" its invoice is a draft for {settings.stripe_finalization_grace_s:.0f} s"
    )


# -- Kafka ---------------------------------------------------------------------------------------------------------


def kafka_connection(settings: Settings) -> Answer:
    """A broker answers and lets us in."""
    said: list[KafkaError] = []
    quiet = logging.getLogger("meterline.doctor.kafka")
    quiet.addHandler(logging.NullHandler())
    quiet.propagate = False
    # The client tells why it cannot connect by this callback only, and goes on trying; a call just runs out of time.
    client = AdminClient(kafka.librdkafka_config(settings) | {"error_cb": said.append, "logger": quiet})
    deadline = time.monotonic() + SERVER_LIMIT_S
    while True:
        try:
            found = client.list_topics(timeout=0.5)
            break
        except KafkaException as error:
            client.poll(0)
            if any(reason.code() in _CONCLUSIVE for reason in said) or time.monotonic() > deadline:
                return _no_kafka(settings, [*said, error.args[0]])
    brokers = len(found.brokers)
    return ok(f"{settings.kafka_url}: {brokers} {'broker' if brokers == 1 else 'brokers'} ({settings.kafka_security_protocol})")


_KAFKA_REMEDIES = {
    KafkaError._AUTHENTICATION: "set METERLINE_KAFKA_SASL_USERNAME, _PASSWORD and _MECHANISM to a login that the brokers know",
    KafkaError._SSL: (
        "set METERLINE_KAFKA_CA_FILE to the PEM file of the authority behind the brokers' certificates, and METERLINE_KAFKA_URL "
        "to the names in them"
    ),
    KafkaError._RESOLVE: "set METERLINE_KAFKA_URL to host names that this machine can resolve",
}
_CONCLUSIVE = {*_KAFKA_REMEDIES, KafkaError._ALL_BROKERS_DOWN}


def _no_kafka(settings: Settings, said: list[KafkaError]) -> Answer:
    for reason in said:
        if remedy := _KAFKA_REMEDIES.get(reason.code()):
            return failed(f"{settings.kafka_url}: {one_line(reason.str())}", remedy)
    return failed(
        f"{settings.kafka_url}: {one_line(said[0].str())}",
        "start it, or set METERLINE_KAFKA_URL to brokers that run; where they want TLS or a login, set "
        "METERLINE_KAFKA_SECURITY_PROTOCOL too",
    )


def topics_as_declared(settings: Settings) -> Answer:
    """The topics of this build."""
    try:
        differences = topics.plan(settings)
    except MeterlineExit as error:
        return failed(f"not usable ({error.code.name})", str(error))
    refused = [difference for difference in differences if difference.action == "refuse"]
    if refused:
        return failed(refused[0].line(), refused[0].remedy or "run `meterline topics show`")
    if any(difference.action == "create" for difference in differences):
        return failed(_differ(differences), "run `meterline topics apply`")
    if differences:
        return warning(_differ(differences), "`meterline topics show` tells which; `meterline topics apply` settles what it can")
    return ok(f"{settings.topic_events}, {settings.topic_deltas} and {settings.topic_alerts} are as declared")


def _differ(differences: list[topics.Difference]) -> str:
    shown = ", ".join(f"{difference.topic} {difference.what}" for difference in differences[:3])
    return f"{len(differences)} differences: {shown}{', ...' if len(differences) > 3 else ''}"


def epoch(settings: Settings) -> Answer:
    """From where events are counted."""
    with postgres.connect(settings) as connection:
        standing = current_epoch(connection)
        if standing is None:
            return failed("no epoch is recorded: consumers do not know from where to count", "run `meterline topics apply`")
        version = in_force(connection, standing)
    if version not in RULES:
        return failed(f"rules version {version} is in force, which this build lacks", "deploy a build that knows it")
    found = [life for life in lives(settings) if life.state != "retired"]
    told = "; ".join(life.line() for life in found)
    if any(life.to_forward for life in found):
        return warning(told, "see that a consumer runs, for it forwards; move producers to the newest topic")
    return ok(told)


# -- ClickHouse ----------------------------------------------------------------------------------------------------


def clickhouse_connection(settings: Settings) -> Answer:
    """The server answers, takes the login, and is new enough."""
    try:
        client = clickhouse.client(settings, in_database=False)
    except SettingsError as error:
        return failed("the URL cannot be used", str(error))
    except ClickHouseError as error:
        return failed(
            f"{_place(settings.clickhouse_url)}: {one_line(error)}",
            "start it, or set METERLINE_CLICKHOUSE_URL, _USER and _PASSWORD to one that runs and to a login it knows; "
            "for https with an authority of your own set METERLINE_CLICKHOUSE_CA_FILE",
        )
    try:
        too_old = clickhouse_too_old(client.server_version)
        if too_old is not None:
            what, _, remedy = too_old.partition(": ")
            return failed(f"{_place(settings.clickhouse_url)}: {what}", remedy)
        return ok(f"{_place(settings.clickhouse_url)}: ClickHouse {client.server_version}")
    finally:
        client.close()


def clickhouse_schema(settings: Settings) -> Answer:
    """The tables are those of this build."""
    try:
        at, newest = clickhouse_version(settings)
    except ClickHouseError as error:
        return failed(f"database {clickhouse.database(settings)}: {one_line(error)}", "run `meterline migrate`")
    return _schema(f"version {at}", f"version {newest}", at == newest, at < newest)


# -- Postgres ------------------------------------------------------------------------------------------------------


def postgres_connection(settings: Settings) -> Answer:
    """The server answers, takes the login, and has the database or lacks only that."""
    try:
        with postgres.connect(settings) as connection:
            row = connection.execute("SELECT current_setting('server_version'), current_database()").fetchone()
            tls = "TLS" if connection.pgconn.ssl_in_use else "no TLS"
    except psycopg.OperationalError as error:
        return failed(one_line(error), str(postgres_away(settings, "")).partition("; ")[2])
    assert row is not None
    return ok(f"PostgreSQL {row[0].split()[0]}, database {row[1]}, {tls}")


def postgres_schema(settings: Settings) -> Answer:
    """The tables are those of this build."""
    at, newest = postgres_revision(settings)
    return _schema(f"revision {at}", f"revision {newest}", at == newest, at is None or at < newest)


def catalog_applied(settings: Settings) -> Answer:
    """There are plans to check against."""
    with postgres.connect(settings) as connection:
        version = catalog.current_version(connection)
    if version is None:
        return warning("no catalog: every check answers unknown_tenant", "run `meterline plans apply FILE`")
    return ok(f"version {version}")


def service_secrets(settings: Settings) -> Answer:
    """Somebody can come in."""
    with postgres.connect(settings) as connection:
        row = connection.execute("SELECT count(*) FROM service_secrets WHERE expires_at IS NULL OR expires_at > now()").fetchone()
        somebody = somebody_may_come_in(settings, connection)
    assert row is not None
    if not somebody:
        return warning("no service secret is valid: nobody can call the HTTP endpoint", "run `meterline secrets create NAME`")
    told = told_of(settings)
    return warning("credentials are accepted, but", "; ".join(told)) if told else ok(f"{row[0]} valid")


def forget_key(settings: Settings) -> Answer:
    """The key of the pseudonyms is the one that others were forgotten with."""
    pseudonyms = forgotten.pseudonyms_of(settings)
    with postgres.connect(settings) as connection:
        rows = connection.execute("SELECT DISTINCT split_part(pseudonym, ':', 2) FROM forgotten").fetchall()
    used = {str(key_id) for (key_id,) in rows}
    if not used:
        return ok("nobody was forgotten yet" + ("" if pseudonyms else "; METERLINE_FORGET_KEY is needed before the first"))
    if pseudonyms is None or used != {pseudonyms.key_id}:
        return failed(
            f"somebody was forgotten with key {', '.join(sorted(used))}, and "
            + ("none is set" if pseudonyms is None else f"{pseudonyms.key_id} is set")
            + ": their events would be taken for new ones",
            "set METERLINE_FORGET_KEY to the key that `meterline forget` was run with, for every stage",
        )
    return ok(f"key {pseudonyms.key_id}")


def _schema(at: str, newest: str, same: bool, behind: bool) -> Answer:
    if same:
        return ok(at)
    if behind:
        return failed(f"{at.replace('revision None', 'empty')}; this build wants {newest}", "run `meterline migrate`")
    return failed(f"{at}, which this build (at {newest}) does not know", "run the build that made it; there is no way down")


def _place(url: str) -> str:
    """host:port of a URL that may hold a password."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}:{parts.port or (8443 if parts.scheme == 'https' else 8123)}"


def _short(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


CHECKS = (
    Check("unused settings", unused_settings),
    Check("authorities", authorities),
    Check("retention", retention),
    Check("spool", spool),
    Check("Kafka", kafka_connection),
    Check("ClickHouse", clickhouse_connection),
    Check("Postgres", postgres_connection),
    Check("Stripe key", stripe_key),
    Check("Stripe finalization", stripe_finalization),
    Check("ClickHouse schema", clickhouse_schema, ("ClickHouse",)),
    Check("Postgres schema", postgres_schema, ("Postgres",)),
    Check("topics", topics_as_declared, ("Kafka", "Postgres schema")),
    Check("epoch", epoch, ("Postgres schema",)),
    Check("catalog", catalog_applied, ("Postgres schema",)),
    Check("forget key", forget_key, ("Postgres schema",)),
    Check("service secrets", service_secrets, ("Postgres schema",)),
)
