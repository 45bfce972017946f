"""The demonstration's proof: each figure that differs is a difference, by name, and ends it with status 1."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from cli.commands.demo import command
from cli.demo import run
from cli.demo.proof import Proof
from cli.demo.run import Outcome


def agreeing() -> Proof:
    return Proof(
        sent=100,
        by_verdict={"admitted": 80, "duplicate": 10, "conflict": 4, "invalid": 5},
        void=1,
        clickhouse_rows=80,
        clickhouse_rejects={"duplicate": 3, "conflict": 4, "invalid": 5},
        clickhouse_quantity=Decimal("120.5"),
        postgres_events=80,
        postgres_quantity=Decimal("120.500000"),
        stripe_quantity=Decimal("120.50"),
    )


def outcome(proof: Proof, **changes: Any) -> Outcome:
    proof.compare()
    made = replace(
        Outcome(proof, 99, 2, 7, 3, ["2026-11"], {"kafka": "apache-4.3.1"}, 30.0, list(proof.differences)),
        **changes,
    )
    made.differences += made.missing()
    return made


def test_figures_that_agree_differ_in_nothing() -> None:
    proof = agreeing()
    proof.compare()
    assert proof.differences == []
    assert outcome(agreeing()).ok


DIFFERENT: list[tuple[dict[str, Any], str]] = [
    ({"sent": 101}, "records in the log: 101, verdicts of the fences: 100"),
    ({"void": 2}, "verdicts of the fences: 101"),
    ({"clickhouse_rows": 79}, "rows in ClickHouse: 79, admitted by the fences: 80 (difference -1)"),
    ({"postgres_events": 81}, "events in the counters: 81"),
    ({"clickhouse_rejects": {"conflict": 4, "invalid": 6}}, "invalid in ClickHouse: 6"),
    ({"clickhouse_rejects": {"invalid": 5}}, "conflict in ClickHouse: 0, conflict by the fences: 4"),
    ({"clickhouse_quantity": Decimal("120.500001")}, "ClickHouse's quantity: 120.500001"),
    ({"postgres_quantity": Decimal("120.499999")}, "Postgres' quantity: 120.499999"),
    ({"stripe_quantity": Decimal("0")}, "Stripe's quantity: 0 (difference 120.500000)"),
    ({"by_verdict": {"admitted": 80, "duplicate": 9, "conflict": 4, "invalid": 5}}, "verdicts of the fences: 99"),
]


@pytest.mark.parametrize(("change", "told"), DIFFERENT)
def test_each_figure_that_differs_is_told(change: dict[str, Any], told: str) -> None:
    proof = replace(agreeing(), **change)
    proof.compare()
    assert any(told in line for line in proof.differences), proof.differences


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"acked": 101}, "acknowledged is not in the log"),
        ({"allowed": 0}, "no check was allowed"),
        ({"denied": 0}, "no check was denied"),
        ({"kills": 1}, "not both killed"),
    ],
)
def test_a_demonstration_in_which_something_did_not_happen_proves_nothing(change: dict[str, Any], told: str) -> None:
    assert any(told in line for line in outcome(agreeing(), **change).differences)


def test_a_verdict_that_never_fell_proves_nothing() -> None:
    proof = replace(
        agreeing(),
        sent=96,
        by_verdict={"admitted": 80, "duplicate": 10, "conflict": 0, "invalid": 5},
        clickhouse_rejects={"invalid": 5},
    )
    assert outcome(proof, acked=96).differences == ["no record was conflict"]


@pytest.fixture(params=[{}, {"stripe_quantity": Decimal(1)}], ids=["agrees", "differs"])
def ended(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Outcome:
    """A demonstration that has ended, in which all agrees or one figure differs."""
    made = outcome(replace(agreeing(), **request.param))
    monkeypatch.setattr(run.Demo, "run", lambda self, examples: made)
    return made


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_the_exit_status_and_the_last_line_say_whether_all_agreed(ended: Outcome, options: list[str], tmp_path: Path) -> None:
    ran = CliRunner().invoke(command, [*options, "--data", str(tmp_path / "demo")], standalone_mode=False)
    assert ran.exception is None
    assert ran.return_value == (0 if ended.ok else 1)
    assert ("DIFFERS: Postgres' quantity" in ran.stderr + ran.stdout) is not ended.ok
    if options:
        assert json.loads(ran.stdout)["ok"] is ended.ok
        assert ran.stdout.count("\n") == 1


def test_the_table_shows_what_every_store_answered() -> None:
    console = Console(width=140, record=True, file=StringIO())
    console.print(agreeing().table())
    shown = console.export_text()
    for figure in ("100", "80", "10", "4", "5", "120.500000"):
        assert figure in shown
