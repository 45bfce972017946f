"""The stack of `--stack=containers`: the servers of docker-compose.yml by testcontainers, the local Stripe as our own child.

`python -m tests.container_stack --prepare` asks whether an engine answers and fetches the images; its exit status is
named (runtime.exits). Without that option it starts the servers, writes their addresses, and holds them until SIGTERM,
as `python -m deploy.embedded` does for the embedded stack.

Images, settings and health checks are those of docker-compose.yml, so a run on containers tries that file's too. What
differs: ports are any free ones, and sessions of consumer groups may be short, as on the embedded broker.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker  # type: ignore[import-untyped]
import psycopg
import yaml
from docker.errors import DockerException  # type: ignore[import-untyped]
from testcontainers.core.container import DockerContainer
from testcontainers.core.docker_client import DockerClient
from testcontainers.core.wait_strategies import ExecWaitStrategy

from deploy.embedded.processes import free_port
from deploy.embedded.stack import EmbeddedStack, StackAddresses
from runtime.exits import Exit
from runtime.life import Stop
from tests.running_stack import clickhouse_query

ROOT = Path(__file__).parents[1]
SERVERS = ("kafka", "clickhouse", "postgres")
USER, READER = "meterline", "analyst"
ENGINE_ANSWERS_WITHIN_S = 20
PREPARED_WITHIN_S = 1800
READY_WITHIN_S = 120
LOOK_EVERY_S = 0.5


def prepare() -> tuple[Exit, str]:
    """Run by pytest's controlling process before anything else: an engine that answers, and the images; or why not.

    A process of its own, because the engine's client leaves sockets open when it fails.
    """
    try:
        ran = subprocess.run(
            [sys.executable, "-m", "tests.container_stack", "--prepare"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            timeout=PREPARED_WITHIN_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Exit.UNREACHABLE, f"the images were not fetched within {PREPARED_WITHIN_S} s"
    return (Exit.OK if ran.returncode == 0 else Exit.UNREACHABLE), ran.stdout.strip()


def services() -> dict[str, dict[str, Any]]:
    """The servers as docker-compose.yml describes them."""
    described: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]
    return {name: described[name] for name in SERVERS}


def environment(name: str, host: str, port: int, password: str) -> dict[str, str]:
    """What that server is started with: the file's own variables, with this run's port and password in them."""
    given = {key: str(value) for key, value in services()[name]["environment"].items()}
    over = {
        "kafka": {
            "KAFKA_ADVERTISED_LISTENERS": f"INTERNAL://localhost:19092,HOST://{host}:{port}",
            "KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS": "1000",
        },
        "clickhouse": {"CLICKHOUSE_PASSWORD": password},
        "postgres": {"POSTGRES_PASSWORD": password},
    }
    whole = given | over[name]
    open_ends = [key for key, value in whole.items() if "${" in value]
    assert not open_ends, f"docker-compose.yml leaves {', '.join(open_ends)} open, and nothing is given for it here"
    return whole


def container(name: str, host: str, port: int, password: str) -> DockerContainer:
    """Not started yet. It is ready when the file's own health check says so."""
    service = services()[name]
    inside = int(service["ports"][0].rpartition(":")[2])
    made = DockerContainer(service["image"], env=environment(name, host, port, password)).with_bind_ports(inside, port)
    if name == "postgres":
        made.with_command("postgres -c max_connections=200 -c fsync=off")
    check = service["healthcheck"]["test"][1:]
    return made.waiting_for(ExecWaitStrategy(check).with_startup_timeout(READY_WITHIN_S).with_poll_interval(0.5))


@contextmanager
def running(data: Path) -> Iterator[StackAddresses]:
    """All of them, while the block runs."""
    password = secrets.token_hex(16)
    with ExitStack() as held:
        stripe = EmbeddedStack(data, log=say, servers=("stripe",), durable=False)
        held.callback(stripe.forget)
        local = stripe.start()
        host = _host()
        ports = {}
        for name in SERVERS:
            ports[name] = free_port()
            say(f"starting {services()[name]['image']}")
            held.enter_context(container(name, host, ports[name], password))
        addresses = StackAddresses(
            kafka=f"{host}:{ports['kafka']}",
            clickhouse=f"http://{USER}:{password}@{host}:{ports['clickhouse']}/",
            clickhouse_readonly=f"http://{READER}:{password}@{host}:{ports['clickhouse']}/",
            postgres=f"postgresql://{USER}:{password}@{host}:{ports['postgres']}/postgres",
            stripe=local.stripe,
            stripe_key=local.stripe_key,
            pids=local.pids,
        )
        yield _with_versions(addresses, password)


def _host() -> str:
    """Where published ports are found; another machine when DOCKER_HOST names one."""
    client = DockerClient()
    try:
        return client.host()
    finally:
        client.client.close()


def _with_versions(addresses: StackAddresses, password: str) -> StackAddresses:
    """Makes the reader, and asks what runs there; Kafka's protocol does not tell, so its image does."""
    clickhouse_query(addresses, f"CREATE USER {READER} IDENTIFIED BY '{password}' SETTINGS readonly = 1")
    clickhouse_query(addresses, f"GRANT SELECT ON *.* TO {READER}")
    with psycopg.connect(addresses.postgres) as connection:
        row = connection.execute("SHOW server_version").fetchone()
    assert row is not None
    versions = {
        "kafka": "apache-" + services()["kafka"]["image"].rpartition(":")[2],
        "clickhouse": clickhouse_query(addresses, "SELECT version()").strip(),
        "postgres": str(row[0]).split()[0],
    }
    return replace(addresses, versions=versions)


def say(line: str) -> None:
    """To the log of the run."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _fetch() -> tuple[Exit, str]:
    """The engine's answer, then the images that it lacks."""
    try:
        client = docker.from_env(timeout=ENGINE_ANSWERS_WITHIN_S)
    except DockerException as error:
        return Exit.UNREACHABLE, f"no Docker engine answers ({' '.join(str(error).split())})"
    try:
        client.ping()
        client.api.timeout = PREPARED_WITHIN_S
        for name, service in services().items():
            if not client.images.list(name=service["image"]):
                say(f"fetching {service['image']} for {name}")
                client.images.pull(service["image"])
    except DockerException as error:
        return Exit.UNREACHABLE, f"Docker does not give the images ({' '.join(str(error).split())})"
    finally:
        client.close()
    return Exit.OK, ""


def main() -> int:
    """The process."""
    parser = argparse.ArgumentParser(prog="python -m tests.container_stack")
    parser.add_argument("--prepare", action="store_true", help="only ask for an engine and fetch the images")
    parser.add_argument("--data", type=Path, help="where the local Stripe keeps its data")
    parser.add_argument("--write", type=Path, help="the file for the addresses, mode 0600")
    given = parser.parse_args()
    if given.prepare:
        code, why = _fetch()
        sys.stdout.write(why)
        return code
    if given.data is None or given.write is None:
        parser.error("--data and --write are needed")
    stop = Stop.install()
    with running(given.data) as addresses:
        new = given.write.with_suffix(".new")
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            json.dump(addresses.as_json(), file)
        new.replace(given.write)
        while not stop.wait(LOOK_EVERY_S):
            pass
    return Exit.OK


if __name__ == "__main__":
    sys.exit(main())
