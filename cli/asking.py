"""Before something is changed that cannot be taken back: the person at the terminal is asked."""

from __future__ import annotations

import sys

import click

from runtime.exits import Exit, MeterlineExit


def confirmed(question: str, yes: bool, as_json: bool) -> None:
    """Returns when it is to be done. Raises MeterlineExit where nobody can be asked, Abort when the answer is no."""
    if yes:
        return
    if as_json or not sys.stdin.isatty():
        raise MeterlineExit(Exit.USAGE, "nobody can be asked here: repeat with --yes, or with --dry-run to see the plan")
    if not click.confirm(question):
        raise click.Abort
