"""`./run bench`: the frame round the benches, with benches that measure nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import pytest

from tests.bench import place, record, registry
from tests.bench.__main__ import main
from tests.bench.figures import Figure, at_least, at_most, reported
from tests.bench.place import Place
from tests.bench.registry import Measure

Run = Generator[Sequence[Figure], None, None]


def of_three_runs(_: Place) -> Run:
    for rate, wait in ((300, 30), (100, 10), (200, 40)):
        yield [
            at_least("tiny", rate, "events/s", 0.2, 1000, "the raw rate"),
            at_most("tiny.wait", wait, "ms", 25, "the limit of 25 ms"),
            reported("tiny.raw", 1000, "events/s", 1000, "itself"),
        ]


def that_fails(_: Place) -> Run:
    yield []
    raise RuntimeError("the server is away")


def benches(**found: Measure) -> dict[str, Callable[[], Measure]]:
    def giving(measure: Measure) -> Callable[[], Measure]:
        return lambda: measure

    return {name: giving(measure) for name, measure in found.items()}


def test_the_last_line_holds_the_medians_of_the_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json"], benches(tiny=of_three_runs)) == 0
    shown = capsys.readouterr()
    against = {"tiny": "the raw rate", "tiny.wait": "the limit of 25 ms", "tiny.raw": "itself"}
    expected = [
        {"name": "tiny", "value": 200, "unit": "events/s", "ratio": 0.2, "target": 0.2, "met": True},
        {"name": "tiny.wait", "value": 30, "unit": "ms", "ratio": 25 / 30, "target": 1.0, "met": False},
        {"name": "tiny.raw", "value": 1000, "unit": "events/s", "ratio": 1.0, "target": None, "met": True},
    ]
    last = json.loads(shown.out.splitlines()[-1])
    assert last == {"benches": [row | {"against": against[str(row["name"])]} for row in expected]}
    assert "run 3 of 3: tiny 200 events/s (0.2)" in shown.err


def test_a_missed_target_fails_only_when_asked_to(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tiny"], benches(tiny=of_three_runs)) == 0
    assert main(["tiny", "--strict"], benches(tiny=of_three_runs)) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["figure", "value", "ratio", "against", "target", "met"]
    assert lines[2].startswith("tiny.wait  30 ms (10 - 40)  ")
    assert lines[2].endswith("  NO")


def test_a_bench_that_cannot_run_is_told_and_the_others_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json"], benches(broken=that_fails, tiny=of_three_runs)) == 1
    shown = capsys.readouterr()
    assert [row["name"] for row in json.loads(shown.out)["benches"]] == ["tiny", "tiny.wait", "tiny.raw"]
    assert "RuntimeError: the server is away" in shown.err
    assert "broken could not run" in shown.err


def test_fewer_runs_than_asked_for_or_a_strange_name_is_no_result(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--runs", "4"], benches(tiny=of_three_runs)) == 1
    assert "tiny ended after 3 of 4 runs" in capsys.readouterr().err
    assert main([], benches(other=of_three_runs)) == 1
    assert "a figure's name begins with its bench's, other" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nope"], "no bench nope; there are tiny"),
        (["--runs", "0"], "--runs 0: at least 1"),
        (["--runs", "2", "--record"], "3 for a record"),
        (["--swiftly"], "unrecognized arguments: --swiftly"),
        (["--runs", "many"], "invalid int value"),
    ],
)
def test_a_wrong_call_says_what_is_right(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments, benches(tiny=of_three_runs))
    assert left.value.code == 2
    assert said in capsys.readouterr().err


def test_a_run_that_measured_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        reported("tiny", float("nan"), "s", 1, "itself")


def test_the_bench_is_closed_and_its_folder_removed_however_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "PLACES", tmp_path / "bench")
    seen: list[str] = []

    def endless(where: Place) -> Run:
        (where.folder / "file").write_text("x")
        try:
            while True:
                yield [reported("endless", 1, "s", 1, "itself")]
        finally:
            seen.append(where.folder.parent.name)

    assert main(["--runs", "2"], benches(endless=endless, broken=that_fails)) == 1
    assert seen == ["bench"]
    assert list((tmp_path / "bench").iterdir()) == []


def test_a_record_replaces_the_benches_that_ran_and_keeps_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path / "benchmarks.json")
    monkeypatch.setattr(record, "PAGE", tmp_path / "benchmarks.md")
    monkeypatch.setattr(registry, "summary", lambda name: f"What {name} measures.")
    (tmp_path / "benchmarks.json").write_text("{}")
    assert main(["--record"], benches(tiny=of_three_runs)) == 0
    monkeypatch.setattr(record, "_machine", lambda: {"processor": "Z", "cores": 1, "memory_gib": 1, "system": "S"})
    assert main(["--record", "tiny2"], benches(tiny2=lambda _: (([reported("tiny2", 5, "s", 5, "it")]) for _ in range(3)))) == 0
    found = record.read()
    assert set(found) == {"tiny", "tiny2"}
    assert found["tiny"]["figures"][0]["values"] == [300, 100, 200]
    assert found["tiny"]["runs"] == 3
    assert found["tiny2"]["machine"]["processor"] == "Z"
    page = (tmp_path / "benchmarks.md").read_text()
    assert page == record.page(found)
    assert "| tiny.wait | 30 ms (10 - 40) | 0.833 | the limit of 25 ms | 1 | NO |" in page
    found["tiny"]["figures"][1]["met"] = True
    with pytest.raises(ValueError, match="says met: True"):
        record.page(found)


def test_the_page_of_benchmarks_is_the_file_of_results() -> None:
    assert record.PAGE.read_text("utf-8") == record.page(record.read())


def test_every_bench_says_what_it_measures_and_every_recorded_one_is_there() -> None:
    for name in registry.names():
        assert registry.summary(name).endswith("."), name
        assert callable(registry.load(name))
    assert set(record.read()) <= set(registry.names())
