"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path

import click

DATA_FOLDER = click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".meterline"),
    envvar="METERLINE_DATA_DIR",
    show_default=True,
    help="Data folder.",
)
