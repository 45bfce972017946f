"""`meterline --help` without importing a stage, and errors as exit codes that mean something."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from cli.main import COMMANDS
from runtime.exits import Exit

ROOT = Path(__file__).parents[2]


def _meterline(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("METERLINE_")}
    return subprocess.run(
        [sys.executable, "-m", "cli", *arguments],
        cwd=ROOT,
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _command(name: str) -> click.Command:
    command = importlib.import_module(f"cli.commands.{COMMANDS[name][0]}").command
    assert isinstance(command, click.Command)
    return command


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_command_says_of_itself_what_the_list_of_commands_says(name: str) -> None:
    assert _command(name).get_short_help_str(limit=1000) == COMMANDS[name][1]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_and_each_of_its_own_explains_itself_and_its_options(name: str) -> None:
    def look(command: click.Command, path: str) -> None:
        with click.Context(command, info_name=path) as context:
            assert command.get_help(context).startswith("Usage: "), path
        assert command.help, f"{path} says nothing of itself"
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{path} {parameter.opts[0]} says nothing of itself"
        if isinstance(command, click.Group):
            assert command.commands, f"{path} has no command"
            for name, below in command.commands.items():
                look(below, f"{path} {name}")

    look(_command(name), f"meterline {name}")


def test_every_command_module_is_offered() -> None:
    modules = {path.stem for path in (ROOT / "cli" / "commands").glob("*.py")} - {"__init__"}
    assert modules == {module for module, _ in COMMANDS.values()}


def test_the_list_of_commands_imports_none_of_them() -> None:
    code = (
        "import sys; from cli.main import group\n"
        "try: group.main(['--help'])\n"
        "except SystemExit as left: assert left.code == 0\n"
        "heavy = {'confluent_kafka', 'psycopg', 'clickhouse_connect', 'faust', 'fastapi', 'stripe', 'numpy', 'pyarrow'}\n"
        "loaded = {name.partition('.')[0] for name in sys.modules} & heavy\n"
        "assert not loaded, loaded\n"
        "assert not [name for name in sys.modules if name.startswith('cli.commands.')]\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    shown = " ".join(ran.stdout.split())
    assert [name for name, (_, said) in COMMANDS.items() if f" {name} {said}" not in shown] == []


def test_an_unknown_command_is_refused_by_name() -> None:
    ran = _meterline("consum")
    assert ran.returncode == Exit.USAGE
    assert "No such command 'consum'" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_an_unknown_option_is_refused_by_name() -> None:
    ran = _meterline("consume", "--fast")
    assert ran.returncode == Exit.USAGE
    assert "No such option: --fast" in ran.stderr


@pytest.mark.parametrize(
    "arguments",
    [["consume"], ["aggregate"], ["serve", "entitlements"], ["migrate"], ["topics", "show"], ["plans", "show"], ["doctor"]],
    ids=" ".join,
)
def test_a_wrong_setting_ends_a_command_before_anything_connects(arguments: list[str]) -> None:
    ran = _meterline(*arguments, METERLINE_TOPIC_PARTITIONS="none", KAFKA_URL="nowhere.invalid:9092")
    assert ran.returncode == Exit.SETTINGS
    assert ran.stderr.startswith("meterline: METERLINE_TOPIC_PARTITIONS: ")
    assert len(ran.stderr.splitlines()) == 1


def test_a_crash_point_that_does_not_exist_is_a_wrong_setting() -> None:
    ran = _meterline("consume", METERLINE_CRASH_AT="consumer.asleep:1")
    assert ran.returncode == Exit.SETTINGS
    assert "METERLINE_CRASH_AT" in ran.stderr


def test_an_unreachable_server_is_one_line_with_the_remedy_and_a_named_status() -> None:
    ran = _meterline("plans", "show", METERLINE_POSTGRES_URL="postgresql://127.0.0.1:1/meterline")
    assert ran.returncode == Exit.UNREACHABLE
    assert ran.stderr.startswith("meterline: Postgres at 127.0.0.1:1 cannot be used: ")
    assert "set METERLINE_POSTGRES_URL" in ran.stderr
    assert ran.stderr.rstrip().endswith("(exit 4: UNREACHABLE)")


def test_the_version_is_the_one_of_the_distribution() -> None:
    ran = _meterline("--version")
    assert ran.returncode == 0
    assert ran.stdout.startswith("meterline, version ")
