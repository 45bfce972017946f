"""How commands answer: one JSON document for programs, tables for people."""

from __future__ import annotations

import getpass
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table


def print_json(document: Mapping[str, Any]) -> None:
    """One line on standard output."""
    click.echo(json.dumps(document, ensure_ascii=False))


def console() -> Console:
    """Standard output. A file or a pipe has no width to keep to."""
    return Console() if sys.stdout.isatty() else Console(width=200)


def plain(text: object) -> str:
    """What was sent to us, safe to show: no markup, and no character that moves the cursor."""
    return escape("".join(char if char.isprintable() else repr(char)[1:-1] for char in str(text)))


def print_table(title: str, headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table with a title; nothing when there are no rows. Cells are shown as they are, folded and never cut."""
    table = Table(title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(plain("" if cell is None else cell) for cell in row))
    if table.row_count:
        console().print(table)


def who() -> str:
    """Who runs the command, for the audit trail."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"  # a container may run as a user without a name
