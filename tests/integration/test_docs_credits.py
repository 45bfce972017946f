"""The guide to credits: its rates are applied, and its requests are answered one after the other as it says."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path
from typing import get_args

import pytest
from pydantic import SecretStr

from metering.credits import LOTS_MAX, MOVES, Overrun
from runtime.postgres import connect
from runtime.settings import Settings
from store import catalog
from store.catalog_file import parse_catalog
from tests.fakes.control_plane_server import control_plane_served
from tests.fakes.tokens import USER_SECRET, user_token

GUIDE = (Path(__file__).parents[2] / "docs" / "credits.md").read_text("utf-8")
ASKED = re.compile(r"^```json request (\w+) (\S+) as (\w+)\n(.*?)^```\n\n```json answer\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def applied(migrated: Settings) -> Settings:
    (text,) = re.findall(r"^```yaml\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
    with connect(migrated) as connection:
        catalog.apply(connection, parse_catalog(text), by="reader")
        connection.execute(
            "INSERT INTO users (user_id, tenant_id, email, role) VALUES ('u_ada', 'tnt_docs', 'ada@example.com', 'user'),"
            " ('u_admin', 'tnt_docs', 'admin@example.com', 'admin'), ('u_boss', 'tnt_docs', 'boss@example.com', 'supervisor')"
        )
    return migrated.model_copy(update={"jwt_access_secret": SecretStr(USER_SECRET)})


def test_the_requests_of_the_guide_are_answered_as_it_says(applied: Settings) -> None:
    tokens = {
        "user": user_token("u_ada", tenantId="tnt_docs", email="ada@example.com"),
        "admin": user_token("u_admin", role="admin", tenantId="tnt_docs", email="admin@example.com"),
        "supervisor": user_token("u_boss", role="supervisor", tenantId="tnt_docs", email="boss@example.com"),
    }
    asked = ASKED.findall(GUIDE)
    assert len(asked) == GUIDE.count("```json request") >= 9
    with control_plane_served(applied) as client:
        for method, path, who, body, answer in asked:
            headers = {"Authorization": f"Bearer {tokens[who]}", "Content-Type": "application/json"}
            answered = client.request(method, path, content=body.encode() or None, headers=headers)
            assert answered.is_success, answered.text
            said, promised = (json.loads(text, parse_float=Decimal) for text in (answered.text, answer))
            assert {name: said["data"][name] for name in promised} == promised, path


def test_every_place_bound_and_policy_is_in_the_guide() -> None:
    for place in {place for move in MOVES for place in move} | set(get_args(Overrun)):
        assert f"`{place}`" in GUIDE or f": {place}`" in GUIDE, place
    assert f"{LOTS_MAX:,} lots" in GUIDE
