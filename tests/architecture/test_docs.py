"""What the documents name exists: commands, settings, links, exit codes, paths."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest

from cli.main import COMMANDS
from runtime.exits import Exit
from runtime.settings import variables
from tests.architecture.source import ROOT

TRACKED = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
).stdout.split()
DOCUMENTS = sorted(ROOT / name for name in TRACKED if (ROOT / name).exists())
RUN_COMMANDS = {"setup", "test", "check", "lock", "bench", "chaos", "export-chaos", "mutants"}
RUN_VARIABLES = {"METERLINE_PYTHON", "METERLINE_MAVEN_REPOSITORY", "METERLINE_CACHE_DIR", "METERLINE_CRASH_AT", "METERLINE_STAMP"}

named = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def code_of(text: str) -> list[str]:
    """Every command line and inline piece of code."""
    blocks = re.findall(r"^```(?:console|sh|bash)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return lines + [" ".join(piece.split()) for piece in re.findall(r"`([^`]+)`", prose)]


def problem_of(words: list[str]) -> str | None:
    """What is wrong with a command line after `meterline`: a command or an option that there is not."""
    at: click.Command | None = None
    name = "meterline"
    for word in words:
        if word.startswith("--"):
            options = {name for one in (at.params if at else []) for name in one.opts} | {"--help", "--version"}
            if word.partition("=")[0] not in options:
                return f"{name} has no option {word}"
        elif at is None:
            if word not in COMMANDS:
                return f"no command {word}"
            at, name = importlib.import_module(f"cli.commands.{COMMANDS[word][0]}").command, word
        elif isinstance(at, click.Group):
            if word.isupper() or word in ("...", "|"):
                return None
            if word not in at.commands:
                return f"{name} has no command {word}"
            at, name = at.commands[word], word
    return None


@named
def test_every_command_that_a_document_names_exists(document: Path) -> None:
    problems = []
    for piece in code_of(document.read_text("utf-8")):
        found = re.match(r"(?:\S+=\S+ )*(\./run|meterline)\b(?![-.:/_\[])(.*)", piece.partition(" #")[0])
        if found is None:
            continue
        words = shlex.split(found[2].replace("'", ""))
        if found[1] == "./run" and words and (words[0] in RUN_COMMANDS or words[0].isupper() or words[0] == "--help"):
            continue
        if words and (words[0].isupper() or words[0] in ("...", "X")):
            continue
        if (problem := problem_of(words)) is not None:
            problems.append(f"{piece}: {problem}")
    assert problems == []


def test_a_command_that_there_is_not_would_be_found() -> None:
    assert problem_of(["export", "run", "--period", "2026-11"]) is None
    assert problem_of(["exprot"]) == "no command exprot"
    assert problem_of(["export", "rnu"]) == "export has no command rnu"
    assert problem_of(["up", "--detached"]) == "up has no option --detached"


@named
def test_every_variable_that_a_document_names_is_a_setting(document: Path) -> None:
    known = {name for names in variables().values() for name in names} | RUN_VARIABLES
    found = set(re.findall(r"METERLINE_[A-Z][A-Z_]*[A-Z]", document.read_text("utf-8")))
    assert sorted(found - known) == []


@named
def test_every_relative_link_leads_to_a_file(document: Path) -> None:
    text = re.sub(r"^```.*?^```", "", document.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert [link for link in links if link and not (document.parent / link).exists()] == []


def test_the_manual_has_the_exit_codes_that_there_are() -> None:
    rows = re.findall(r"^\| (\d+) \| ([A-Z_]+) \|", (ROOT / "docs" / "operations.md").read_text("utf-8"), re.MULTILINE)
    documented = {(int(value), name) for value, name in rows}
    assert documented == {(code.value, code.name) for code in Exit if code > Exit.USAGE}
