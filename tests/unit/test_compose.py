"""docker-compose.yml, held to the Compose format, to our command lines, settings and health checks; without an engine.

That the images behave as their documents say is not shown here: `./run test --stack=containers` shows it for the servers
where an engine runs.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from importlib.metadata import distribution, requires, version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import click
import pytest
import yaml
from jsonschema import Draft202012Validator
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from packaging.requirements import Requirement

from cli.main import group
from control_plane.http.server import PORT_DEFAULT as CONTROL_PLANE_PORT
from entitlements.server import PORT_DEFAULT
from runtime.life import serve_health
from runtime.settings import Settings, load_settings, variables
from tests.unit.compose_format import COMPOSE_FORMAT

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text("utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
APP = {name: service for name, service in SERVICES.items() if "build" in service}
SERVERS = {name: service for name, service in SERVICES.items() if "build" not in service}
GIVEN = {"POSTGRES_PASSWORD": "p0stgres", "CLICKHOUSE_PASSWORD": "cl1ckhouse"}
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text("utf-8")

_VARIABLE = re.compile(r"\$\{([A-Z_]+)(:-([^}]*)|:\?([^}]+))?\}|\$(\w+)")


def _interpolated(value: object, given: dict[str, str]) -> str:
    """As compose would: a default after :-, an error after :? where nothing was given."""

    def replace(match: re.Match[str]) -> str:
        assert match[5] is None, f"{match[0]}: write ${{...}}"
        found = given.get(match[1]) or match[3]
        assert found is not None, f"{match[1]} is required: {match[4]}"
        return found

    return _VARIABLE.sub(replace, str(value))


def _environment(service: dict[str, Any]) -> dict[str, str]:
    return {name: _interpolated(value, GIVEN) for name, value in service.get("environment", {}).items()}


def _command_lines(service: dict[str, Any]) -> Iterator[list[str]]:
    """Each program that a service runs, as its words."""
    command = service["command"]
    if command[:2] == ["/bin/sh", "-ec"]:
        (script,) = command[2:]
        for part in script.split("&&"):
            yield shlex.split(part)
    else:
        yield command


def _seconds(duration: str) -> float:
    match = re.fullmatch(r"(\d+)s", duration)
    assert match is not None, duration
    return int(match[1])


def published_schema() -> Validator:
    """The Compose specification's own JSON Schema, as a package of the development set carries it."""
    carried = distribution("check-jsonschema").locate_file("check_jsonschema/builtin_schemas/vendor/compose-spec.json")
    schema = json.loads(Path(str(carried)).read_text("utf-8"))
    return validator_for(schema)(schema)


def test_the_file_is_valid_by_the_published_schema_of_compose_which_refuses_a_wrong_one() -> None:
    assert [error.message for error in published_schema().iter_errors(COMPOSE)] == []
    wrong = {**COMPOSE, "services": {**SERVICES, "kafka": {**SERVICES["kafka"], "healthchek": {}}}}
    assert not published_schema().is_valid(wrong)


def test_the_file_keeps_to_the_part_of_the_format_that_it_means_to_use() -> None:
    Draft202012Validator.check_schema(COMPOSE_FORMAT)
    assert [error.message for error in Draft202012Validator(COMPOSE_FORMAT).iter_errors(COMPOSE)] == []


@pytest.mark.parametrize(
    ("service", "key", "value"),
    [
        ("kafka", "restart", "sometimes"),
        ("kafka", "healthchek", {}),
        ("setup", "depends_on", {"kafka": {"condition": "service_ready"}}),
        ("consumer", "stop_grace_period", 30),
        ("consumer", "healthcheck", {"interval": "5s"}),
    ],
)
def test_the_format_refuses_what_compose_refuses(service: str, key: str, value: object) -> None:
    changed = {**COMPOSE, "services": {**SERVICES, service: {**SERVICES[service], key: value}}}
    assert not Draft202012Validator(COMPOSE_FORMAT).is_valid(changed)


def test_it_runs_the_three_servers_the_setup_and_every_stage() -> None:
    assert set(SERVERS) == {"kafka", "clickhouse", "postgres"}
    assert set(APP) == {"setup", "consumer", "aggregator", "entitlements", "control-plane", "grpc", "exporter"}
    assert {service["image"] for service in APP.values()} == {"meterline-server:local"}
    assert [name for name, service in SERVICES.items() if "profiles" in service] == ["exporter"]


def test_the_servers_are_the_versions_that_the_tests_run_on() -> None:
    lock = (ROOT / "deploy" / "embedded" / "kafka.lock.toml").read_text("utf-8")
    (kafka,) = re.findall(r'^artifactId = "kafka_2\.13"\nversion = "([\d.]+)"$', lock, re.MULTILINE)
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{kafka}"
    engine = ".".join(version("chdb-core").split(".")[:2])
    assert SERVICES["clickhouse"]["image"] == f"clickhouse/clickhouse-server:{engine}"
    (postgres,) = set(re.findall(r"pginstall(\d+)", (ROOT / "deploy" / "embedded" / "postgres.py").read_text("utf-8")))
    assert SERVICES["postgres"]["image"] == f"postgres:{postgres}"


@pytest.mark.parametrize("name", sorted(APP))
def test_a_service_runs_a_command_that_exists_with_arguments_that_it_takes(name: str) -> None:
    lines = list(_command_lines(APP[name]))
    assert lines
    for words in lines:
        _must_parse(words)


def test_the_commands_in_the_files_own_manual_are_real() -> None:
    shown = re.findall(r"^#.* docker compose run --rm ([a-z]+)(?: (meterline .+?))?(?:  .*)?$", TEXT, re.MULTILINE)
    assert {service for service, _ in shown} == {"setup", "entitlements", "exporter"}
    assert {service for service, _ in shown} <= set(APP)
    commands = [shlex.split(line) for _, line in shown if line]
    assert len(commands) == 2
    for words in commands:
        _must_parse(words)


def _must_parse(words: list[str]) -> None:
    """Through the real command line, down to the command that would run; it is not run."""
    program, *arguments = words
    assert program == "meterline"
    command: click.Command = group
    while isinstance(command, click.Group):
        with click.Context(command) as context:
            found = command.get_command(context, arguments.pop(0))
        assert found is not None, f"{shlex.join(words)}: no such command"
        command = found
    # The catalog lies elsewhere here than in the container.
    arguments = [str(ROOT / "examples" / "plans.yaml") if word.startswith("/etc/meterline/") else word for word in arguments]
    with command.make_context(shlex.join(words), arguments):
        pass
    with click.Context(command, info_name=shlex.join(words)) as context:
        assert "Usage: " in command.get_help(context)


def test_the_script_of_the_setup_is_one_that_a_shell_takes() -> None:
    (script,) = SERVICES["setup"]["command"][2:]
    assert subprocess.run(["sh", "-n", "-c", script], timeout=10, check=False).returncode == 0
    assert [shlex.join(words) for words in _command_lines(SERVICES["setup"])] == [
        "meterline migrate",
        "meterline topics apply",
        "meterline plans apply /etc/meterline/plans.yaml --yes",
    ]


@pytest.mark.parametrize("name", sorted(APP))
def test_a_service_sets_only_settings_that_exist_and_that_are_valid(name: str) -> None:
    environment = _environment(APP[name])
    known = {variable for names in variables().values() for variable in names}
    assert set(environment) - known == {"PGPASSWORD"}
    settings = load_settings(environment)
    assert settings.http_host == "0.0.0.0"  # noqa: S104 - a container's own address
    assert settings.clickhouse_password.get_secret_value() == GIVEN["CLICKHOUSE_PASSWORD"]


@pytest.mark.parametrize("name", sorted(APP))
def test_a_service_finds_the_servers_where_they_listen(name: str) -> None:
    settings = load_settings(_environment(APP[name]))
    kafka = _environment(SERVICES["kafka"])
    assert f"INTERNAL://{settings.kafka_url}" in kafka["KAFKA_ADVERTISED_LISTENERS"].split(",")
    assert f"INTERNAL://:{settings.kafka_url.partition(':')[2]}" in kafka["KAFKA_LISTENERS"].split(",")
    clickhouse, postgres = urlsplit(settings.clickhouse_url), urlsplit(settings.postgres_url.get_secret_value())
    assert {clickhouse.hostname, postgres.hostname, settings.kafka_url.partition(":")[0]} == set(SERVERS)
    assert SERVICES["clickhouse"]["ports"][0].endswith(f":{clickhouse.port}")
    assert SERVICES["postgres"]["ports"][0].endswith(f":{postgres.port}")
    assert settings.clickhouse_user == _environment(SERVICES["clickhouse"])["CLICKHOUSE_USER"]
    database = _environment(SERVICES["postgres"])
    assert (postgres.username, postgres.path) == (database["POSTGRES_USER"], f"/{database['POSTGRES_DB']}")
    assert postgres.password is None
    assert _environment(APP[name])["PGPASSWORD"] == database["POSTGRES_PASSWORD"]


def test_no_secret_has_a_default_and_a_missing_one_is_told_with_its_remedy() -> None:
    seen = {match[1]: match for match in _VARIABLE.finditer(TEXT) if match[1]}
    assert "$$" not in TEXT
    for name, match in seen.items():
        if name.endswith(("PASSWORD", "SECRET", "SECRET_KEY")):
            assert match[3] in (None, ""), f"{name} has a default"
    required = {name: match[4] for name, match in seen.items() if match[4]}
    assert set(required) == set(GIVEN)
    assert all(name in remedy and ".env" in remedy for name, remedy in required.items())
    with pytest.raises(AssertionError, match="POSTGRES_PASSWORD is required: put POSTGRES_PASSWORD="):
        _interpolated(SERVICES["postgres"]["environment"]["POSTGRES_PASSWORD"], {})


def test_ports_are_published_to_this_machine_only() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(published) == {"kafka", "clickhouse", "postgres", "entitlements", "control-plane", "grpc"}
    for ports in published.values():
        assert [port for port in ports if not port.startswith("127.0.0.1:${")] == []


def test_a_stage_waits_for_a_setup_that_waits_for_healthy_servers() -> None:
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[other], f"{name} waits for the health of {other}, which has none"
            else:
                assert SERVICES[other]["restart"] == "no", f"{name} waits for the end of {other}, which starts again"
    assert set(SERVICES["setup"]["depends_on"]) == set(SERVERS)
    assert all(set(service["depends_on"]) == {"setup"} for name, service in APP.items() if name != "setup")


def test_what_runs_for_long_is_started_again_and_watched() -> None:
    for name, service in SERVICES.items():
        once = name in ("setup", "exporter")
        assert service["restart"] == ("no" if once else "unless-stopped")
        assert ("healthcheck" in service) is not once
    for name in ("kafka", "clickhouse", "postgres", "consumer", "aggregator", "entitlements", "control-plane", "grpc"):
        check = SERVICES[name]["healthcheck"]
        assert _seconds(check["timeout"]) <= _seconds(check["interval"]), f"{name}: checks would pile up"


@pytest.mark.parametrize("name", ["consumer", "aggregator", "grpc"])
def test_the_health_check_of_a_stage_asks_a_path_and_port_that_it_serves(name: str) -> None:
    url = _asked(SERVICES[name])
    assert url.port == load_settings(_environment(SERVICES[name])).metrics_port
    with serve_health(Settings(metrics_port=0), {}) as port, urlopen(f"http://127.0.0.1:{port}{url.path}", timeout=5) as answer:
        assert answer.status == 200


@pytest.mark.parametrize(
    ("name", "default", "routes"),
    [
        ("entitlements", PORT_DEFAULT, "entitlements/app.py"),
        ("control-plane", CONTROL_PLANE_PORT, "control_plane/http/app.py"),
    ],
)
def test_the_health_check_of_a_server_asks_a_path_and_port_that_it_serves(name: str, default: int, routes: str) -> None:
    url = _asked(SERVICES[name])
    settings = load_settings(_environment(SERVICES[name]))
    assert url.port == settings.http_port == default
    assert f'"{url.path}"' in (ROOT / routes).read_text("utf-8")


def test_the_grpc_services_are_published_on_the_ports_that_they_listen_on() -> None:
    settings = load_settings(_environment(SERVICES["grpc"]))
    inside = {int(port.rpartition(":")[2]) for port in SERVICES["grpc"]["ports"]}
    assert inside == {settings.grpc_account_port, settings.grpc_payment_port}


def _asked(service: dict[str, Any]) -> Any:
    """The URL in a health check that is a line of Python, which must compile."""
    kind, program, option, code = service["healthcheck"]["test"]
    assert (kind, program, option) == ("CMD", "python", "-c")
    compile(code, "healthcheck", "exec")
    found = re.search(r"'(http://127\.0\.0\.1:\d+/\w+)', timeout=(\d+)", code)
    assert found is not None
    assert int(found[2]) < _seconds(service["healthcheck"]["timeout"])
    return urlsplit(found[1])


def test_the_health_check_of_a_server_is_a_program_of_its_image_and_asks_where_it_listens() -> None:
    kafka, clickhouse, postgres = (SERVICES[name]["healthcheck"]["test"][1:] for name in ("kafka", "clickhouse", "postgres"))
    assert kafka[0] == "/opt/kafka/bin/kafka-broker-api-versions.sh"
    port = kafka[-1].removeprefix("localhost:")
    assert f"INTERNAL://:{port}" in _environment(SERVICES["kafka"])["KAFKA_LISTENERS"]
    assert clickhouse[0] == "wget"
    assert clickhouse[-1] == "http://127.0.0.1:8123/ping"
    assert postgres[0] == "pg_isready"
    assert "--host=127.0.0.1" in postgres


def test_data_lies_in_named_volumes_and_each_is_used() -> None:
    mounted = {
        name: volume.partition(":")
        for name, service in SERVICES.items()
        for volume in service.get("volumes", [])
        if isinstance(volume, str)
    }
    assert {source for source, _, _ in mounted.values()} == set(COMPOSE["volumes"])
    targets = {name: target for name, (_, _, target) in mounted.items()}
    assert targets["kafka"] == _environment(SERVICES["kafka"])["KAFKA_LOG_DIRS"]
    # The image's volume; a mount below it is refused by the image since 18.
    assert targets["postgres"] == "/var/lib/postgresql"
    assert targets["clickhouse"] == "/var/lib/clickhouse"
    (home,) = re.findall(r"METERLINE_DATA_DIR=(\S+)", DOCKERFILE)
    assert targets["aggregator"] == targets["entitlements"] == home
    assert f"METERLINE_SPOOL_DIR={home}/" in DOCKERFILE


def test_the_catalog_that_is_mounted_is_the_one_that_is_applied() -> None:
    (mount,) = SERVICES["setup"]["volumes"]
    assert mount["read_only"] is True
    assert (ROOT / _interpolated(mount["source"], {})).is_file()
    assert mount["target"] in SERVICES["setup"]["command"][2]


def test_a_stage_has_time_to_end_by_itself_and_no_more_rights_than_it_needs() -> None:
    for name, service in APP.items():
        assert _seconds(service["stop_grace_period"]) > load_settings(_environment(service)).stop_within_s, name
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


# -- the image -----------------------------------------------------------------------------------------------------


def test_the_image_is_built_from_the_file_that_is_there() -> None:
    for service in APP.values():
        assert (ROOT / service["build"]["context"] / service["build"]["dockerfile"]).is_file()


def test_everything_that_is_copied_exists_and_enters_the_build() -> None:
    taken = {line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")}
    copied = {source for line in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE) for source in line.split()}
    assert copied == taken
    assert [source for source in copied if not (ROOT / source).exists()] == []


def test_every_package_of_the_distribution_is_copied() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]["targets"]["wheel"]
    copied = set(re.findall(r"^COPY (\w+) \w+$", DOCKERFILE, re.MULTILINE))
    assert copied == {*wheel["packages"], "schemas", "producers"}


def test_the_image_installs_with_hashes_and_without_asking_a_network_for_our_own() -> None:
    installs = [
        " ".join(line.split()) for line in DOCKERFILE.replace("\\\n", " ").splitlines() if "pip" in line and "install" in line
    ]
    locked = [line for line in installs if "-r " in line]
    assert len(locked) == 2
    assert all("--require-hashes" in line and "--only-binary :all:" in line for line in locked)
    (own,) = [line for line in installs if "-e ." in line]
    assert all(option in own for option in ("--no-index", "--no-deps", "--no-build-isolation", "-e schemas", "-e producers"))


def test_the_build_backend_comes_whole_out_of_the_lock() -> None:
    (names,) = re.findall(r"\^\(([a-z|-]+)\)==", DOCKERFILE)
    (program,) = re.findall(r"awk '([^']+)'", DOCKERFILE)
    lock = ROOT / "requirements" / "dev.txt"
    ran = subprocess.run(["awk", program, str(lock)], capture_output=True, text=True, timeout=30, check=True)
    wanted = set(names.split("|"))
    assert set(re.findall(r"^([a-z-]+)==", ran.stdout, re.MULTILINE)) == wanted
    assert all("--hash=sha256:" in block for block in re.split(r"\n(?=[a-z])", ran.stdout.strip()))
    for name in wanted:
        needed = [Requirement(text) for text in requires(name) or []]
        missing = {one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})} - wanted
        assert not missing, f"{name} needs {missing}"


def test_the_image_runs_as_nobody_special_and_installs_nothing_more() -> None:
    final = DOCKERFILE[DOCKERFILE.rindex("\nFROM ") :]
    (user,) = re.findall(r"^USER (\d+):(\d+)$", final, re.MULTILINE)
    assert user[0] != "0"
    assert f"--uid {user[0]}" in final
    assert "pip uninstall" in final
    assert "/opt/backend" not in final


def test_the_image_has_the_oldest_python_that_is_promised() -> None:
    (python,) = re.findall(r"^ARG PYTHON=(3\.\d+)$", DOCKERFILE, re.MULTILINE)
    assert tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["requires-python"] == f">={python}"
