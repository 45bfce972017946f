"""The SQL of the HTTP endpoint, one described statement a file."""

from __future__ import annotations

from importlib import resources


def statement(name: str) -> bytes:
    """The text of `<name>.sql` without its comments and indentation; read once, when the application is built.

    psycopg keeps what it made of a statement only while that is shorter than 4,096 bytes; a longer one it would take apart
    anew for each request.
    """
    lines = (
        line.partition(b"--")[0].strip() for line in resources.files(__name__).joinpath(f"{name}.sql").read_bytes().splitlines()
    )
    return b"\n".join(line for line in lines if line)
