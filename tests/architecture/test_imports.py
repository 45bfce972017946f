"""Who may import whom: the contracts in pyproject.toml are complete, and third-party packages stay where they belong."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.architecture.source import FOLDERS, ROOT, imported, sources

# The architecture's column "may import", in the positive. `cli` and `tests` may import everything.
MAY_IMPORT: dict[str, set[str]] = {
    "meterline_schemas": set(),
    "meterline": {"meterline_schemas"},
    "metering": {"meterline_schemas"},
    "runtime": {"meterline_schemas"},
    "deploy": {"runtime"},
    "store": {"runtime", "metering", "meterline_schemas"},
    "access": {"store", "runtime", "meterline_schemas"},
    "consumers": {"metering", "store", "runtime", "meterline_schemas"},
    "aggregator": {"metering", "store", "runtime", "meterline_schemas"},
    "billing_exporter": {"metering", "store", "runtime", "meterline_schemas"},
    "entitlements": {"metering", "store", "runtime", "meterline_schemas", "access", "meterline"},
    "control_plane": {"metering", "store", "runtime", "meterline_schemas", "access", "meterline"},
}

# Folders that other teams install, or that must stay pure: what they may take from elsewhere, and nothing more.
THIRD_PARTY: dict[str, set[str]] = {
    "meterline_schemas": {"msgspec", "xxhash"},
    "meterline": {"confluent_kafka", "httpx", "msgspec"},  # the extra [kafka], and what meterline-schemas brings along
    "metering": {"numpy", "pyarrow"},
}

# A rule has no way to learn the time, to draw a number, or to speak to anybody. (`datetime` is arithmetic on instants.)
NOT_PURE = {
    *("asyncio", "concurrent", "http", "logging", "multiprocessing", "os", "pathlib", "random", "secrets", "select"),
    *("shutil", "signal", "socket", "sqlite3", "ssl", "subprocess", "tempfile", "threading", "time", "urllib"),
}
READS_A_CLOCK = {"now", "utcnow", "today"}


def _contracts() -> dict[str, dict[str, Any]]:
    configuration = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]
    assert set(configuration["root_packages"]) == set(FOLDERS)
    return {contract["id"]: contract for contract in configuration["contracts"]}


def test_every_contract_of_the_architecture_is_kept(tmp_path: Path) -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    command = [str(linter), "--config", str(ROOT / "pyproject.toml"), "--cache-dir", str(tmp_path)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_a_folder_is_forbidden_everything_that_the_architecture_does_not_allow_it(package: str) -> None:
    contract = _contracts()[package]
    assert contract["source_modules"] == [package]
    assert set(contract["forbidden_modules"]) == set(FOLDERS) - MAY_IMPORT[package] - {package}
    assert "ignore_imports" not in contract


def test_only_the_command_line_has_no_contract() -> None:
    assert set(FOLDERS) - set(MAY_IMPORT) == {"cli"}
    assert set(_contracts()) == {*MAY_IMPORT, "stages", "faust", "stripe"}


def test_an_exemption_is_one_line_that_is_explained_beside_it() -> None:
    lines = (ROOT / "pyproject.toml").read_text("utf-8").splitlines()
    exempted = [number for number, line in enumerate(lines) if " -> " in line and line.strip().startswith('"')]
    assert {lines[number].strip().strip('",') for number in exempted} == {
        "aggregator.app -> faust",
        "billing_exporter.stripe_gateway -> stripe",
        "control_plane.provider.stripe -> stripe",
    }
    for number in exempted:
        assert lines[number - 1].strip().startswith("#"), f"line {number + 1} of pyproject.toml is not explained"


@pytest.mark.parametrize("package", sorted(THIRD_PARTY))
def test_a_light_package_imports_only_what_it_declares(package: str) -> None:
    allowed = THIRD_PARTY[package] | MAY_IMPORT[package] | {package} | sys.stdlib_module_names
    strangers = [
        f"{source.name}:{line} imports {name}"
        for source in sources(package)
        for name, line in imported(source.tree)
        if name not in allowed
    ]
    assert not strangers, "\n".join(strangers)


@pytest.mark.parametrize("package", ["metering", "meterline_schemas"])
def test_the_rules_have_no_clock_and_no_input_or_output(package: str) -> None:
    found = []
    for source in sources(package):
        found += [f"{source.name}:{line} imports {name}" for name, line in imported(source.tree) if name in NOT_PURE]
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Call):
                called = node.func
                name = called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""
                if name in READS_A_CLOCK | {"open", "print", "input"}:
                    found.append(f"{source.name}:{node.lineno} calls {name}()")
    assert not found, "\n".join(found)
