"""The restore guide, followed: its commands, run as they stand there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

from runtime.settings import Settings
from tests.fakes.pipeline import ROOT, environment_of

GUIDE = ROOT / "docs" / "restore.md"
COMMAND_WITHIN_S = 120.0


def commands(heading: str, guide: Path = GUIDE) -> list[list[str]]:
    """The words after `meterline` of each command below a heading of the guide; "" is what stands before the first."""
    section = re.split(r"^## ", guide.read_text("utf-8"), flags=re.MULTILINE)
    (text,) = [part for part in section[1:] if part.startswith(f"{heading}\n")] if heading else [section[0]]
    blocks = re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    assert lines
    assert all(line.startswith("$ meterline ") for line in lines)
    return [shlex.split(line)[2:] for line in lines]


def run(settings: Settings, *words: str) -> subprocess.CompletedProcess[str]:
    """One command as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "cli", *words],
        env=environment_of(settings),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=COMMAND_WITHIN_S,
        check=False,
    )


def follow(settings: Settings, heading: str) -> str:
    """Runs every command of a section, in order; each must end well. What they said."""
    said = ""
    for words in commands(heading):
        ended = run(settings, *words)
        assert ended.returncode == 0, f"meterline {' '.join(words)}: {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
        said += ended.stdout
    return said
