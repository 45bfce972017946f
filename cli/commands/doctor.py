"""`meterline doctor`."""

from __future__ import annotations

import json
import logging
import os
import sys
from dataclasses import asdict

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cli.checkup import Finding, examine
from runtime.exits import Exit
from runtime.settings import load_settings

_STYLE = {"ok": "green", "warning": "yellow", "failed": "bold red", "not checked": "dim"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON line on standard output.")
def command(as_json: bool) -> int:
    """Check every connection and setting; each failure with its remedy.

    Changes nothing. Exit status 1 when a check fails; a warning does not fail it. Each check has a time limit.
    """
    settings = load_settings(dict(os.environ))
    logging.getLogger().addHandler(logging.NullHandler())  # what a client library would print, the findings say
    # After the settings, so that a wrong one is told without loading every client library.
    from cli.checks import CHECKS

    findings = examine(settings, CHECKS)
    well = all(finding.status in ("ok", "warning") for finding in findings)
    if as_json:
        click.echo(json.dumps({"ok": well, "checks": [asdict(finding) for finding in findings]}))
    else:
        _print(findings)
    return Exit.OK if well else Exit.FAILED


def _print(findings: list[Finding]) -> None:
    # A pipe has no width to keep to.
    console = Console() if sys.stdout.isatty() else Console(width=160)
    table = Table("check", "status", show_lines=False)
    table.add_column("found, and what to do about it", overflow="fold")
    for finding in findings:
        text = escape(finding.found)
        if finding.remedy:
            text += f"\n[bold]remedy:[/] {escape(finding.remedy)}"
        table.add_row(finding.check, f"[{_STYLE[finding.status]}]{finding.status}[/]", text)
    console.print(table)
    counts = {status: sum(finding.status == status for finding in findings) for status in _STYLE}
    console.print(", ".join(f"{count} {status}" for status, count in counts.items() if count), highlight=False)
