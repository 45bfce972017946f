"""`--stack=containers`, as far as it can be shown without an engine: what would be started, and what is said without one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.exits import Exit
from tests.container_stack import SERVERS, environment, services

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_is_started_with_what_the_compose_file_says(name: str) -> None:
    made = environment(name, "127.0.0.1", 40_000, "pass")
    assert set(services()[name]["environment"]) <= set(made)
    assert not [value for value in made.values() if "$" in value]
    if name != "kafka":
        assert "pass" in made.values()


def test_kafka_leads_clients_to_the_port_of_this_run() -> None:
    assert environment("kafka", "docker.internal", 40_000, "")["KAFKA_ADVERTISED_LISTENERS"].endswith(
        "HOST://docker.internal:40000"
    )


def _pytest(tmp_path: Path, *paths: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--stack=containers", *paths],
        cwd=ROOT,
        env=os.environ | {"DOCKER_HOST": f"unix://{tmp_path}/no.sock", "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_without_an_engine_no_test_is_run_and_the_status_and_the_words_say_so(tmp_path: Path) -> None:
    ran = _pytest(tmp_path, "tests/integration/test_embedded_stack.py")
    assert ran.returncode == Exit.UNREACHABLE
    assert "no test was run" in ran.stderr
    assert "no Docker engine answers" in ran.stderr
    assert "Remedy: start Docker" in ran.stderr
    assert "passed" not in ran.stdout


def test_tests_that_need_no_servers_need_no_engine(tmp_path: Path) -> None:
    ran = _pytest(tmp_path, "tests/unit/test_container_stack.py::test_kafka_leads_clients_to_the_port_of_this_run")
    assert ran.returncode == 0, ran.stdout
    assert "1 passed" in ran.stdout
