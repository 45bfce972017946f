"""What a read-only user may not ask for, beyond what the engine itself refuses under readonly=1.

The engine's readonly leaves open: reading files by the scalar `file()`, schema inference of `DESCRIBE url(...)`,
Python objects of this process, INTO OUTFILE, and KILL QUERY.
"""

from __future__ import annotations

from itertools import pairwise

from deploy.embedded.clickhouse.failures import READONLY, Failure
from deploy.embedded.clickhouse.statements import Statement

_VERBS = frozenset({"SELECT", "WITH", "FROM", "(", "SHOW", "DESCRIBE", "DESC", "EXISTS", "EXPLAIN", "USE", "CHECK"})
_TABLE_FUNCTIONS = frozenset(
    {
        "numbers", "numbers_mt", "zeros", "zeros_mt", "generateseries", "generate_series", "primes", "values",
        "sqlstandardvalues", "view", "merge", "null", "format", "generaterandom", "fuzzjson", "fuzzquery",
        "mergetreeindex", "mergetreeprojection",
    }
)  # fmt: skip
"""Table functions that make their rows themselves, or read tables that can be read anyway."""

_SCALARS = frozenset({"file", "getclienthttpheader", "catboostevaluate", "showcertificate", "python"})


def forbidden_functions(table_functions: frozenset[str], functions: frozenset[str]) -> frozenset[str]:
    """The lower-case names that a read-only user may not call, from what the engine says it has."""
    fetching = {name.lower() for name in functions if name.lower().startswith("ai") and not name.lower().startswith("airy")}
    outside = {name.lower() for name in table_functions} - _TABLE_FUNCTIONS
    return frozenset(outside | _SCALARS | fetching)


def refuse_python(statement: Statement) -> None:
    """`python()` would read objects of this process by name: nobody may. Raises Failure."""
    for name in _called(statement):
        if name == "python":
            raise Failure(446, "the table function python() does not exist on a server")


def refuse_writes(statement: Statement, query_class: str, forbidden: frozenset[str]) -> None:
    """Raise Failure (164) unless a read-only user may run this. `query_class` is what the engine's parser says of it."""
    allowed_class = query_class in ("READ_ONLY", "UNKNOWN") or statement.verb == "USE"
    if statement.verb not in _VERBS or statement.kind not in ("read", "statement") or not allowed_class:
        raise Failure(READONLY, f"Cannot execute query in readonly mode: {statement.verb[:32]}")
    for name in _called(statement):
        if name == "" or name in forbidden:
            raise Failure(
                READONLY, f"Cannot execute query in readonly mode: the function {name or '(escaped name)'} is not allowed"
            )


def _called(statement: Statement) -> list[str]:
    """Every name that stands before an opening parenthesis, in lower case."""
    tokens = statement.tokens
    return [name.lower() for before, token in pairwise(tokens) if token.text == b"(" and (name := before.name()) is not None]
