"""The migration files themselves, and how a file is cut into statements."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from hypothesis import given
from hypothesis import strategies as st

import store.migrate
from store.migrate import clickhouse_files, clickhouse_too_old
from store.statements import split_statements

POSTGRES = Path(store.migrate.__file__).with_name("postgres")


@pytest.mark.parametrize(
    ("sql", "statements"),
    [
        ("", []),
        (" ;; ; \n", []),
        ("-- only a comment;\n/* ; */", []),
        ("SELECT 1", ["SELECT 1"]),
        ("SELECT 1;\nSELECT 2;\n", ["SELECT 1", "SELECT 2"]),
        ("SELECT ';' ; SELECT 2", ["SELECT ';'", "SELECT 2"]),
        (r"SELECT 'it\'s; here'; SELECT 2", [r"SELECT 'it\'s; here'", "SELECT 2"]),
        ("SELECT 'it''s; here'; SELECT 2", ["SELECT 'it''s; here'", "SELECT 2"]),
        ('SELECT "a;b", `c;d`; SELECT 2', ['SELECT "a;b", `c;d`', "SELECT 2"]),
        ("SELECT 1 -- it's; one\n+ 1; SELECT 2", ["SELECT 1 -- it's; one\n+ 1", "SELECT 2"]),
        ("SELECT /* it's; one */ 1; SELECT 2", ["SELECT /* it's; one */ 1", "SELECT 2"]),
        ("SELECT $a$ ; ' $a$; SELECT 2", ["SELECT $a$ ; ' $a$", "SELECT 2"]),
        ("-- about it\nSELECT 1;", ["-- about it\nSELECT 1"]),
        ("SELECT '--'; SELECT '/*'", ["SELECT '--'", "SELECT '/*'"]),
    ],
)
def test_a_semicolon_ends_a_statement_only_where_it_is_code(sql: str, statements: list[str]) -> None:
    assert split_statements(sql) == statements


@pytest.mark.parametrize("sql", ["SELECT 1;\nSELECT 'a", "\nSELECT /* a", '\nSELECT "a', "\nSELECT `a\n;"])
def test_what_is_not_closed_is_told_with_its_line(sql: str) -> None:
    with pytest.raises(ValueError, match=r"line 2: .* is not closed"):
        split_statements(sql)


@given(st.lists(st.text(max_size=20), max_size=5))
def test_any_strings_survive_the_cut(texts: list[str]) -> None:
    quoted = ["SELECT '" + text.replace("\\", "\\\\").replace("'", "\\'") + "'" for text in texts]
    assert split_statements(";".join(quoted)) == quoted


def test_the_clickhouse_files_are_numbered_without_a_gap() -> None:
    files = clickhouse_files()
    assert [file.version for file in files] == list(range(1, len(files) + 1))
    assert files


def test_a_gap_in_the_numbers_is_refused(tmp_path: Path) -> None:
    (tmp_path / "0001_a.sql").write_text("SELECT 1")
    (tmp_path / "0003_b.sql").write_text("SELECT 1")
    with pytest.raises(ValueError, match=r"0003_b\.sql: want 0002_<name>\.sql"):
        clickhouse_files(tmp_path)


@pytest.mark.parametrize(
    ("version", "too_old"), [("26.5.9.1", True), ("25.12.1.1", True), ("26.6.1.1", False), ("27.1.1.1", False), ("26.10", False)]
)
def test_a_clickhouse_before_26_6_is_too_old(version: str, too_old: bool) -> None:
    said = clickhouse_too_old(version)
    assert (said is not None) is too_old
    assert said is None or said.startswith(f"ClickHouse {version} is too old: upgrade it to 26.6 or newer")


REPEATABLE = re.compile(
    r"(CREATE (TABLE|VIEW) IF NOT EXISTS |CREATE OR REPLACE VIEW "
    r"|ALTER TABLE \w+\s+(ADD|DROP) (COLUMN|PROJECTION|INDEX|CONSTRAINT) IF (NOT )?EXISTS |ALTER TABLE \w+ MODIFY "
    r"|ALTER TABLE \w+\s+MATERIALIZE (INDEX|PROJECTION) )"
)


@pytest.mark.parametrize("file", clickhouse_files(), ids=lambda file: file.name)
def test_every_clickhouse_statement_may_be_run_twice(file: store.migrate.SqlFile) -> None:
    for statement in split_statements(file.sql):
        code = re.sub(r"--[^\n]*\n", "", statement).lstrip()
        assert REPEATABLE.match(code), f"{file.name}: a run that was cut could not be repeated: {code[:80]}"


def test_every_postgres_file_is_one_revision_and_they_make_one_line() -> None:
    script = ScriptDirectory(str(POSTGRES))
    line = [Path(revision.path).stem for revision in script.walk_revisions()][::-1]
    files = sorted(path.stem for path in (POSTGRES / "versions").glob("*.sql"))
    assert line == [f"v{name}" for name in files]
    assert len(script.get_heads()) == 1


def test_no_revision_offers_a_way_down() -> None:
    for path in (POSTGRES / "versions").glob("v*.py"):
        assert "downgrade" not in path.read_text()
