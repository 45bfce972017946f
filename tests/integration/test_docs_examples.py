"""The Python examples of the documents, run as they stand, apart from the address, the topic and the folder in them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from meterline import Receipt
from meterline_schemas.event import Event, decode
from meterline_schemas.key import dedup_key
from meterline_schemas.rules import NEWEST_RULES, RULES
from runtime.settings import Settings
from tests.integration.entitlement_data import put_catalog
from tests.integration.serving import Server, execute, serving

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
TO_THE_LOG = [example for example in EXAMPLES if "Producer(" in str(example.values[0])]
OF_THE_CLIENT = [example for example in EXAMPLES if example not in TO_THE_LOG]


@pytest.fixture(scope="module")
def server(migrated: Settings) -> Iterator[Server]:
    secret, _ = put_catalog(migrated)
    plan = "INSERT INTO plan_limits (plan_id, usage_type, quantity, hard, period) VALUES ('pro', %s, 20, true, 'month')"
    execute(
        migrated,
        [
            ("INSERT INTO usage_types (usage_type) VALUES (%s)", ("PHOTO_ANALYSIS_DEEP",)),
            (plan, ("PHOTO_ANALYSIS_DEEP",)),
        ],
    )
    with serving(migrated, secret=secret) as running:
        yield running


@pytest.mark.parametrize("code", OF_THE_CLIENT)
def test_an_example_of_the_client_runs_against_the_real_endpoint(code: str, server: Server) -> None:
    here = code.replace("http://127.0.0.1:8080", f"http://127.0.0.1:{server.port}")
    here = here.replace("the service secret", str(server.secret))
    assert (here != code) == ("memory" not in code.lower())
    exec(compile(here, "example", "exec"), {})  # noqa: S102 - our own documents


@pytest.mark.parametrize("code", TO_THE_LOG)
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
    assert len(blocks("README.md", "python")) == 2
    assert len(blocks("producers/README.md", "python")) == 4


def test_the_event_and_the_key_in_the_description_of_the_wire_are_what_the_codec_takes() -> None:
    (text,) = blocks("schemas/README.md", "json")
    event = decode(text.encode(), [("schema-version", b"1")], INGESTED_MS, RULES[NEWEST_RULES])
    assert isinstance(event, Event), event
    names = json.loads(text)
    key = dedup_key(names["sourceService"], names["sourceEntityId"], names["usageType"])
    assert event.key == key
    assert f"`{key.decode()}`" in (ROOT / "schemas" / "README.md").read_text("utf-8")
