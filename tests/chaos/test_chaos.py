"""T3, short: two minutes of faults with a fixed seed, on servers of its own, and not one number is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.acks import Ack, AckFile, read_acks
from tests.chaos.checking import Findings, acknowledged
from tests.chaos.log_truth import LogTruth
from tests.chaos.traffic import Traffic

ROOT = Path(__file__).parents[2]
LAST_LINE = (
    *("ok", "seed", "minutes", "faults", "sent", "acked", "admitted", "duplicate", "conflict", "invalid"),
    *("lost", "double", "drift", "repairs", "recovery_s_max"),
)


@pytest.mark.timeout(600)
def test_two_minutes_of_kills_stops_cuts_and_restarts_change_no_number() -> None:
    command = [sys.executable, "-m", "tests.chaos", "--minutes", "2", "--seed", "7", "--rate", "200", "--json"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=580, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (line,) = ended.stdout.splitlines()
    figures = json.loads(line)
    assert tuple(figures) == LAST_LINE
    assert (figures["ok"], figures["lost"], figures["double"], figures["drift"]) == (True, 0, 0, 0)
    assert set(figures["faults"]) == {"kill", "stop", "cut", "server"}
    assert min(figures["faults"].values()) >= 1
    assert figures["sent"] >= figures["acked"] > 1_000
    assert min(figures[verdict] for verdict in ("admitted", "duplicate", "conflict", "invalid")) > 0
    verdicts = sum(figures[verdict] for verdict in ("admitted", "duplicate", "conflict", "invalid"))
    assert verdicts >= figures["acked"]


def test_what_was_acknowledged_is_remembered_up_to_the_line_that_a_kill_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "acks"
    acks = AckFile(path)
    written = [Ack(number, number % 4, number * 10) for number in range(5)]
    for ack in written:
        acks.add(ack)
    acks.flush()
    acks.add(Ack(5, 0, 50))  # never flushed: not remembered, so nothing was promised
    with path.open("ab") as file:
        file.write(b"\x06\x00\x00")
    assert list(read_acks(path)) == written
    assert list(read_acks(tmp_path / "none")) == []


def test_an_acknowledged_record_that_the_log_does_not_have_there_is_lost(tmp_path: Path) -> None:
    acks = AckFile(tmp_path / "acks-0")
    for ack in (Ack(0, 1, 7), Ack(1, 1, 8), Ack(2, 2, 0)):
        acks.add(ack)
    acks.flush()
    findings = Findings()
    truth = LogTruth(numbers={(1, 7): (0, 0), (1, 8): (0, 2)})
    assert acknowledged(tmp_path, 1, truth, findings) == 3
    assert findings.lost == 2
    assert not findings.none


def test_records_are_a_function_of_the_seed_and_all_kinds_of_them_occur() -> None:
    first, again, other = Traffic(3, 1_000_000_000_000), Traffic(3, 1_000_000_000_000), Traffic(4, 1_000_000_000_000)
    records = [first.record(0, number) for number in range(2_000)]
    assert records == [again.record(0, number) for number in range(2_000)]
    assert records != [other.record(0, number) for number in range(2_000)]
    assert any(made.claim is None for made in records)
    assert any(made.astray for made in records)
    claims: dict[str, set[object]] = {}
    for made in records:
        if made.claim is not None:
            claims.setdefault(made.claim.entity, set()).add(made.claim)
    assert any(len(each) > 1 for each in claims.values()), "conflicts"
    assert len(claims) < sum(made.claim is not None for made in records), "repeats"
