"""multipart/form-data: how a client sends long parameters, and tables that live for one query (external data)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from deploy.embedded.clickhouse.failures import Failure
from deploy.embedded.clickhouse.statements import format_name, tokens_of

FORM_BYTES_MAX = 64 << 20
PARTS_MAX = 1000
_BOUNDARY = re.compile(r'boundary="?([^";]{1,200})"?', re.IGNORECASE)
_DISPOSITION = re.compile(rb'(?:^|;)\s*(name|filename)="((?:[^"\\]|\\.)*)"', re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}\Z")
_EXPRESSIONS = (
    b"DEFAULT",
    b"MATERIALIZED",
    b"ALIAS",
    b"EPHEMERAL",
    b"CODEC",
    b"TTL",
    b"CONSTRAINT",
    b"INDEX",
    b"PROJECTION",
    b"AS",
)


@dataclass(frozen=True, slots=True)
class External:
    """A table that exists for one query."""

    name: str
    structure: str
    format: str
    rows: bytes = field(repr=False)


def is_form(content_type: str) -> bool:
    return content_type.lower().startswith("multipart/form-data")


def read_form(content_type: str, body: bytes) -> tuple[dict[str, str], dict[str, bytes]]:
    """The fields and the files of a form. Raises Failure when it cannot be read."""
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise Failure(36, "multipart/form-data without a boundary")
    separator = b"--" + found.group(1).encode("latin-1", errors="replace")
    parts = (b"\r\n" + body).split(b"\r\n" + separator)
    if len(parts) > PARTS_MAX:
        raise Failure(36, f"a form of more than {PARTS_MAX} parts")
    fields: dict[str, str] = {}
    files: dict[str, bytes] = {}
    for part in parts[1:]:
        if part.startswith(b"--"):
            return fields, files
        head, gap, value = part.partition(b"\r\n\r\n")
        disposition = next((line for line in head.split(b"\r\n") if line.lower().startswith(b"content-disposition:")), b"")
        named = {key.lower(): text.decode(errors="surrogateescape") for key, text in _DISPOSITION.findall(disposition)}
        if not gap or b"name" not in named:
            raise Failure(36, "a part of the form has no name")
        if b"filename" in named:
            files[named[b"name"]] = value
        else:
            fields[named[b"name"]] = value.decode(errors="surrogateescape")
    raise Failure(36, "the form ends too early")


def external_tables(files: Mapping[str, bytes], given: dict[str, str]) -> tuple[External, ...]:
    """The tables that a form brings; their `<name>_format`, `_structure` and `_types` are taken out of `given`."""
    tables = []
    for name, rows in files.items():
        if not _NAME.match(name):
            raise Failure(36, f"{name[:64]!r} cannot be the name of an external table")
        structure, types = given.pop(f"{name}_structure", ""), given.pop(f"{name}_types", "")
        if not structure:
            structure = ", ".join(f"_{at} {kind}" for at, kind in enumerate(_split(types), 1))
        _check(name, structure)
        tables.append(External(name, structure, format_name(given.pop(f"{name}_format", "TabSeparated")), rows))
    return tuple(tables)


def _split(types: str) -> list[str]:
    """Split at the commas that stand outside parentheses."""
    parts, depth, current = [], 0, ""
    for character in types:
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            parts.append(current)
            current = ""
        else:
            current += character
    return [part.strip() for part in [*parts, current] if part.strip()]


def _check(name: str, structure: str) -> None:
    """Only names and types: a structure becomes part of a CREATE, so it must not be able to end it or to compute."""
    depth = 0
    tokens = list(tokens_of(structure.encode(errors="surrogateescape")))
    for token in tokens:
        depth += (token.text == b"(") - (token.text == b")")
        allowed = token.kind in ("word", "quoted", "number", "string") or token.text in (b"(", b")", b",", b"=", b"-")
        if depth < 0 or not allowed or token.is_word(*_EXPRESSIONS):
            raise Failure(36, f"the structure of the external table {name} may hold only names and types")
    if not tokens or depth:
        raise Failure(36, f"the external table {name} needs {name}_structure or {name}_types")
