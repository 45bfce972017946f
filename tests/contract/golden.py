"""The golden examples of `schemas/examples`, read from disk as records. The format stands in its README."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meterline_schemas.event import Headers
from meterline_schemas.instants import parse_instant

EXAMPLES = Path(__file__).resolve().parents[2] / "schemas" / "examples"


@dataclass(frozen=True)
class GoldenRecord:
    value: bytes | None
    headers: Headers
    ingested_ms: int


def record_of(document: dict[str, Any]) -> GoldenRecord:
    value: bytes | None
    if "valueBase64" in document:
        value = base64.b64decode(document["valueBase64"], validate=True)
    elif "valueParts" in document:
        value = b"".join(text.encode() * times for text, times in document["valueParts"])
    else:
        value = None if document["value"] is None else document["value"].encode()
    headers = [(name, None if text is None else text.encode()) for name, text in document["headers"]]
    return GoldenRecord(value, headers, parse_instant(document["ingestedAt"]))


def documents(folder: str) -> dict[str, dict[str, Any]]:
    """Name -> document of every example of a folder; never none."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted((EXAMPLES / folder).glob("*.json"))}
    assert found, f"no golden examples in {folder}"
    return found
