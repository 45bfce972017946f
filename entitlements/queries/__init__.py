"""The SQL of the HTTP endpoint, one described statement a file."""

from __future__ import annotations

from importlib import resources


def statement(name: str) -> bytes:
    """The text of `<name>.sql`; read once, when the application is built."""
    return resources.files(__name__).joinpath(f"{name}.sql").read_bytes()
