"""What a newcomer does: `up`, one event by HTTP, its row, its counter, its check, `down`; and the demonstration."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import clickhouse_connect
import psycopg
import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(300)


def environment() -> dict[str, str]:
    """Without settings of ours that would point the commands elsewhere."""
    return {name: value for name, value in os.environ.items() if not name.startswith("METERLINE_") or name.endswith("CACHE_DIR")}


def meterline(*words: str, within_s: float = 200) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli", *words],
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=within_s,
        check=False,
    )


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    data = tmp_path_factory.mktemp("up")
    started = meterline("up", "--detach", "--data", str(data))
    assert started.returncode == 0, started.stdout + started.stderr
    try:
        yield json.loads((data / "stack.json").read_text("utf-8")) | {"data": str(data)}
    finally:
        stopped = meterline("down", "--data", str(data))
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert not (data / "stack.json").exists()


def post(
    system: dict[str, Any], path: str, body: bytes | dict[str, Any], secret: str | None = None
) -> tuple[int, dict[str, Any]]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = Request(
        system["http"] + path,
        content,
        {"X-Service-Secret": secret or system["service_secret"], "Content-Type": "application/json"},
    )
    try:
        with urlopen(request, timeout=15) as answer:
            return answer.status, json.loads(answer.read(), parse_float=Decimal)
    except HTTPError as error:
        return error.code, json.loads(error.read())


def event(entity: str, quantity: str = "1.5") -> dict[str, Any]:
    return {
        "tenantId": "tnt_123",
        "usageType": "PHOTO_ANALYSIS_DEEP",
        "quantity": quantity,
        "sourceService": "analysis-worker",
        "sourceEntityId": entity,
    }


def running(pid: int) -> bool:
    """Whether the process is there, a zombie that nobody has reaped yet not counted."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def counted(system: dict[str, Any]) -> tuple[Decimal, int]:
    with psycopg.connect(system["postgres"]) as connection:
        row = connection.execute(
            "SELECT coalesce(sum(quantity), 0), coalesce(sum(events), 0)::bigint FROM usage_counters WHERE tenant_id = 'tnt_123'"
        ).fetchone()
    assert row is not None
    return row[0], row[1]


def rows(system: dict[str, Any], entity: str) -> list[Any]:
    client = clickhouse_connect.get_client(dsn=system["clickhouse"], database="meterline")
    try:
        return list(
            client.query(
                "SELECT quantity, tenant_id FROM usage WHERE source_entity_id = {entity:String}", parameters={"entity": entity}
            ).result_rows
        )
    finally:
        client.close()


def test_an_event_posted_over_http_is_a_row_a_counter_and_a_check_within_two_seconds(system: dict[str, Any]) -> None:
    before, _ = counted(system)
    took_s = []
    for entity in ("job-1", "job-1b", "job-1c"):
        began = time.monotonic()
        status, answer = post(system, "/v1/billing/usage?wait=counted&timeout=10s", event(entity, "0.5"))
        took_s.append(time.monotonic() - began)
        assert (status, answer["state"], answer["counted"]) == (202, "acked", True), answer
    # Of three, for the machine may be busy with other tests.
    assert min(took_s) < 2.0
    assert rows(system, "job-1") == [(Decimal("0.5"), "tnt_123")]
    assert counted(system)[0] == before + Decimal("1.5")
    check = {"tenantId": "tnt_123", "usageType": "PHOTO_ANALYSIS_DEEP", "quantity": 1}
    status, answer = post(system, "/v1/billing/entitlements/check", check)
    assert (status, answer["allowed"], Decimal(answer["used"])) == (200, True, before + Decimal("1.5"))


def test_the_same_event_again_is_counted_once_and_another_body_under_its_key_is_kept_as_a_conflict(
    system: dict[str, Any],
) -> None:
    post(system, "/v1/billing/usage?wait=counted&timeout=10s", event("job-2", "2"))
    after_first = counted(system)
    post(system, "/v1/billing/usage?wait=counted&timeout=10s", event("job-2", "2"))
    status, answer = post(system, "/v1/billing/usage?wait=counted&timeout=10s", event("job-2", "3"))
    assert (status, answer["counted"]) == (202, True)
    assert counted(system) == after_first
    client = clickhouse_connect.get_client(dsn=system["clickhouse"], database="meterline")
    try:
        found = client.query("SELECT verdict, detail FROM usage_rejects FINAL WHERE source_entity_id = 'job-2'").result_rows
    finally:
        client.close()
    assert found == [("conflict", "differs in quantity")]


def test_a_stage_that_is_killed_is_started_again_and_goes_on(system: dict[str, Any]) -> None:
    os.kill(system["processes"]["consumer"], 9)
    status, answer = post(system, "/v1/billing/usage?wait=counted&timeout=10s", event("job-3"))
    assert status == 202, answer
    deadline = time.monotonic() + 60
    while not rows(system, "job-3"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    stack = json.loads((Path(system["data"]) / "stack.json").read_text("utf-8"))
    assert stack["processes"]["consumer"] != system["processes"]["consumer"]


def test_a_wrong_secret_is_refused_with_a_problem_that_says_so(system: dict[str, Any]) -> None:
    status, answer = post(system, "/v1/billing/usage", event("job-4"), secret="mls_wrong")
    assert status == 401
    assert answer["code"]
    assert rows(system, "job-4") == []


def test_a_second_up_on_the_same_folder_is_refused_with_the_remedy(system: dict[str, Any]) -> None:
    again = meterline("up", "--detach", "--data", system["data"])
    assert again.returncode != 0
    assert "down" in again.stderr


def test_everything_ends_with_a_supervisor_that_is_killed_and_the_next_up_finds_the_data(tmp_path: Path) -> None:
    assert meterline("up", "--detach", "--data", str(tmp_path)).returncode == 0
    first = json.loads((tmp_path / "stack.json").read_text("utf-8"))
    try:
        status, answer = post(first, "/v1/billing/usage?wait=counted&timeout=10s", event("job-kept"))
        assert (status, answer["counted"]) == (202, True)
    finally:
        os.kill(first["supervisor"], 9)
    pids = [pid for pid in first["processes"].values() if pid is not None]
    deadline = time.monotonic() + 20
    while left := [pid for pid in pids if running(pid)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
    assert meterline("down", "--data", str(tmp_path)).returncode == 0  # which tidies up after the dead one
    assert meterline("up", "--detach", "--data", str(tmp_path)).returncode == 0
    try:
        second = json.loads((tmp_path / "stack.json").read_text("utf-8"))
        assert second["http"] == first["http"]
        assert rows(second, "job-kept") == [(Decimal("1.5"), "tnt_123")]
    finally:
        assert meterline("down", "--data", str(tmp_path)).returncode == 0


def test_the_demonstration_proves_the_same_quantity_in_every_store(tmp_path: Path) -> None:
    done = meterline("demo", "--json", "--events", "20000", "--data", str(tmp_path / "demo"), within_s=280)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["ok"] is True
    assert result["clickhouse_quantity"] == result["postgres_quantity"] == result["stripe_quantity"]
    assert result["sent"] == 20_000 == sum(result[verdict] for verdict in ("admitted", "duplicate", "conflict", "invalid"))
    assert result["kills"] == 2
    assert min(result["allowed"], result["denied"], result["duplicate"], result["conflict"], result["invalid"]) > 0
    assert not (tmp_path / "demo").exists() or not any((tmp_path / "demo").iterdir())
