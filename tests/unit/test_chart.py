"""The chart, without an engine: the templates use nothing but values and one kind of `if`, which a few lines here fill in."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from cli.main import COMMANDS
from runtime.settings import variables

CHART = Path(__file__).parents[2] / "deploy" / "chart"
TEMPLATES = sorted((CHART / "templates").glob("*.yaml"))


def values() -> dict[str, Any]:
    found = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
    assert isinstance(found, dict)
    return found


def at(path: str, told: dict[str, Any]) -> Any:
    """A value by its path, as `.Values.exporter.kind`."""
    found: Any = {"Values": told, "Release": {"Name": "billing"}}
    for name in path.strip(".").split("."):
        found = found[name]
    return found


def rendered(told: dict[str, Any]) -> list[dict[str, Any]]:
    """Every document of the chart. An expression of another form fails the test: no engine would have read it here."""
    made = []
    for template in TEMPLATES:
        text = template.read_text("utf-8")
        match = re.fullmatch(r'\{\{- if eq (\S+) "(\w+)" \}\}\n(.*)\{\{- end \}\}\n', text, re.DOTALL)
        assert match is not None, template.name
        if at(match[1], told) == match[2]:
            filled = re.sub(r"\{\{ (\.\S+) \}\}", lambda found: str(at(found[1], told)), match[3])
            assert "{{" not in filled, template.name
            made.append(yaml.safe_load(filled))
    return made


def containers(document: dict[str, Any]) -> list[dict[str, Any]]:
    spec = document["spec"]
    pod = spec["jobTemplate"]["spec"]["template"] if document["kind"] == "CronJob" else spec["template"]
    found: list[dict[str, Any]] = pod["spec"]["containers"]
    return found


@pytest.mark.parametrize(("kind", "made"), [("deployment", "Deployment"), ("cronjob", "CronJob")])
def test_the_exporter_is_a_process_or_a_job_and_never_both(kind: str, made: str) -> None:
    told = values()
    told["exporter"]["kind"] = kind
    assert [document["kind"] for document in rendered(told)] == [made]


@pytest.mark.parametrize("kind", ["deployment", "cronjob"])
def test_what_a_container_is_told_is_a_command_and_settings_that_there_are(kind: str) -> None:
    told = values()
    told["exporter"]["kind"] = kind
    names = {name for of_one in variables().values() for name in of_one}
    for document in rendered(told):
        for container in containers(document):
            program, group, command, *options = container["args"]
            assert program == "meterline"
            at_command = importlib.import_module(f"cli.commands.{COMMANDS[group][0]}").command
            assert isinstance(at_command, click.Group)
            known = {option for one in at_command.commands[command].params for option in one.opts}
            assert set(options) <= known
            assert {variable["name"] for variable in container.get("env", [])} <= names
            assert all(isinstance(variable["value"], str) for variable in container.get("env", []))


def test_both_kinds_run_at_the_same_times_and_probes_ask_the_port_that_is_served() -> None:
    told = values()
    (deployment,) = rendered(told)
    (container,) = containers(deployment)
    env = {variable["name"]: variable["value"] for variable in container["env"]}
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert str(ports[container["readinessProbe"]["httpGet"]["port"]]) == env["METERLINE_METRICS_PORT"]
    told["exporter"]["kind"] = "cronjob"
    (job,) = rendered(told)
    assert job["spec"]["schedule"] == env["METERLINE_EXPORT_CRON"]
    assert job["spec"]["concurrencyPolicy"] == "Forbid"
