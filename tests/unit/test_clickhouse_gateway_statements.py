"""The gateway's reading of SQL: enough of it, and never fooled by quotes and comments."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.embedded.clickhouse.failures import Failure, from_engine, http_status
from deploy.embedded.clickhouse.guard import forbidden_functions, refuse_writes
from deploy.embedded.clickhouse.statements import analyse, tokens_of

_MAX = 262_144


@pytest.mark.parametrize(
    ("text", "kind", "fmt"),
    [
        (b"SELECT 1", "read", None),
        (b" -- x\n /* y */ select 1 format JSON", "read", "JSON"),
        (b"SELECT 1 FORMAT CSV SETTINGS a = 1;", "read", "CSV"),
        (b"SELECT 'x FORMAT CSV'", "read", None),
        (b"SELECT a AS format FROM t", "read", None),
        (b"WITH 1 AS x SELECT x", "read", None),
        (b"WITH 1 AS x INSERT INTO t SELECT x", "insert_select", None),
        (b"INSERT INTO t SELECT 1", "insert_select", None),
        (b"INSERT INTO t (SELECT 1)", "insert_select", None),
        (b"CREATE TABLE t (a Int8) ENGINE = Memory", "statement", None),
        (b"EXPLAIN SELECT 1", "statement", None),
    ],
)
def test_kinds_and_formats_are_found(text: bytes, kind: str, fmt: str | None) -> None:
    statement = analyse(text, _MAX)
    assert (statement.kind, statement.format) == (kind, fmt)


@pytest.mark.parametrize(
    ("text", "head", "fmt", "rows"),
    [
        (b"INSERT INTO t FORMAT CSV\n1,2", b"INSERT INTO t ", "CSV", b"1,2"),
        (b"INSERT INTO t FORMAT CSV  \r\n\n1", b"INSERT INTO t ", "CSV", b"\n1"),
        (b"INSERT INTO t FORMAT Native\n\x00\xff;'", b"INSERT INTO t ", "Native", b"\x00\xff;'"),
        (b"INSERT INTO t (a, `format`) VALUES (1, ';')", b"INSERT INTO t (a, `format`) ", "Values", b" (1, ';')"),
        (b"INSERT INTO values VALUES (1)", b"INSERT INTO values ", "Values", b" (1)"),
        (b"INSERT INTO d.format FORMAT CSV\n1", b"INSERT INTO d.format ", "CSV", b"1"),
        (b"INSERT INTO format FORMAT CSV\n1", b"INSERT INTO format ", "CSV", b"1"),
        (b"INSERT INTO t", b"INSERT INTO t", "Values", b""),
    ],
)
def test_the_rows_of_an_insert_are_found(text: bytes, head: bytes, fmt: str, rows: bytes) -> None:
    statement = analyse(text, _MAX)
    assert statement.kind == "insert"
    assert statement.data_at is not None
    assert (statement.text, statement.format, text[statement.data_at :]) == (head, fmt, rows)


def test_an_inserts_settings_stand_behind_the_file() -> None:
    statement = analyse(b"INSERT INTO t (a) SETTINGS x = 1 FORMAT CSV\n1", _MAX)
    assert (
        b" ".join(statement.from_file("/f").split())
        == b"INSERT INTO t (a) FROM INFILE '/f' COMPRESSION 'none' SETTINGS x = 1 FORMAT CSV"
    )


def test_input_becomes_a_file() -> None:
    statement = analyse(b"INSERT INTO t SELECT a FROM input('a UInt8') FORMAT CSV\n1", _MAX)
    assert statement.from_file("/f") == b"INSERT INTO t SELECT a FROM file('/f', 'CSV', 'a UInt8') "


@pytest.mark.parametrize("text", [b"SELECT 1; SELECT 2", b"SELECT 1;;x", b"", b";", b"--", b"/* */"])
def test_more_or_less_than_one_statement_is_a_syntax_error(text: bytes) -> None:
    with pytest.raises(Failure) as caught:
        analyse(text, _MAX)
    assert caught.value.code == 62


def test_a_semicolon_inside_quotes_ends_nothing() -> None:
    for text in (
        b"SELECT ';'",
        b'SELECT ";"',
        b"SELECT `;`",
        b"SELECT $x$;$x$",
        b"SELECT 1 -- ;",
        b"SELECT /* ; */ 1",
        b"SELECT '\\';'",
    ):
        assert analyse(text, _MAX).kind == "read"


@pytest.mark.parametrize(
    "text",
    [b"SELECT 1 INTO OUTFILE 'x'", b"select 1 into /* */ outfile 'x'", "SELECT \u2018 ' \u2019 INTO OUTFILE 'x' --'".encode()],
)
def test_into_outfile_is_refused(text: bytes) -> None:
    with pytest.raises(Failure) as caught:
        analyse(text, _MAX)
    assert caught.value.code == 358


def test_a_text_too_long_is_refused_but_rows_are_not_counted() -> None:
    with pytest.raises(Failure):
        analyse(b"SELECT " + b"1," * _MAX, _MAX)
    assert analyse(b"INSERT INTO t FORMAT CSV\n" + b"1\n" * _MAX, _MAX).kind == "insert"


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reading(text: bytes) -> None:
    end = 0
    for token in tokens_of(text):
        assert token.start >= end
        assert text[token.start : token.end] == token.text
        end = token.end
    try:
        statement = analyse(text, _MAX)
    except Failure:
        return
    assert statement.text in text


def test_only_listed_functions_that_make_rows_may_be_read_from() -> None:
    forbidden = forbidden_functions(frozenset({"file", "numbers", "brandNewSource"}), frozenset({"aiGenerate"}))
    assert {"file", "brandnewsource", "aigenerate"} <= forbidden
    assert "numbers" not in forbidden
    with pytest.raises(Failure):
        refuse_writes(analyse(b"SELECT * FROM BrandNewSource()", _MAX), "READ_ONLY", forbidden)
    refuse_writes(analyse(b"SELECT * FROM numbers(1)", _MAX), "READ_ONLY", forbidden)
    with pytest.raises(Failure):
        refuse_writes(analyse(b"SELECT 1", _MAX), "CONTROL", forbidden)


def test_the_engines_errors_are_read_to_the_innermost() -> None:
    failure = from_engine(
        RuntimeError(
            "Code: 117. DB::Exception: Code: 117. DB::Exception: No. (INCORRECT_DATA) (version 26.9.2.1). (INCORRECT_DATA)"
        )
    )
    assert (failure.code, failure.status) == (117, 400)
    assert failure.text.startswith("Code: 117. DB::Exception: No.")
    assert failure.text.endswith("(INCORRECT_DATA)")
    assert from_engine(RuntimeError("something else")).code == 1001


@pytest.mark.parametrize(
    ("code", "status"), [(60, 404), (62, 400), (516, 403), (194, 401), (159, 408), (229, 413), (48, 501), (241, 500), (202, 500)]
)
def test_codes_have_the_servers_status(code: int, status: int) -> None:
    assert http_status(code) == status
