"""The Python examples of the documents, run as they stand, apart from the address, the topic and the folder in them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from meterline import Receipt
from meterline_schemas.event import Event, decode
from meterline_schemas.key import dedup_key
from meterline_schemas.rules import NEWEST_RULES, RULES
from runtime.settings import Settings

ROOT = Path(__file__).parents[2]
DOCUMENTS = ("README.md", "producers/README.md", "schemas/README.md", "docs/operations.md", "docs/exactness.md")
INGESTED_MS = 1_795_255_200_000  # 2026-11-21, the day of the examples


def blocks(document: str, language: str) -> list[str]:
    text = (ROOT / document).read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


EXAMPLES = [
    pytest.param(code, id=f"{document} {number}")
    for document in DOCUMENTS
    for number, code in enumerate(blocks(document, "python"))
]


@pytest.mark.parametrize("code", EXAMPLES)
def test_a_python_example_runs_and_its_event_is_acknowledged(code: str, migrated: Settings, tmp_path: Path) -> None:
    assert '"localhost:9092"' in code
    here = code.replace('"localhost:9092"', f'"{migrated.kafka_url}", "{migrated.topic_events}"')
    here = here.replace("/var/lib/app/spool", str(tmp_path / "spool"))
    names: dict[str, object] = {}
    exec(compile(here, "example", "exec"), names)  # noqa: S102 - our own documents
    receipt = names["receipt"]
    assert isinstance(receipt, Receipt)
    assert receipt.state == "acked"


def test_both_readmes_have_an_example() -> None:
    assert len(blocks("README.md", "python")) == 1
    assert len(blocks("producers/README.md", "python")) == 1


def test_the_event_and_the_key_in_the_description_of_the_wire_are_what_the_codec_takes() -> None:
    (text,) = blocks("schemas/README.md", "json")
    event = decode(text.encode(), [("schema-version", b"1")], INGESTED_MS, RULES[NEWEST_RULES])
    assert isinstance(event, Event), event
    names = json.loads(text)
    key = dedup_key(names["sourceService"], names["sourceEntityId"], names["usageType"])
    assert event.key == key
    assert f"`{key.decode()}`" in (ROOT / "schemas" / "README.md").read_text("utf-8")
