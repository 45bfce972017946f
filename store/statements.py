"""A file of ClickHouse SQL cut into statements, for the server takes one at a time."""

from __future__ import annotations

import re

_TOKEN = re.compile(
    r"""
    (?P<comment> --[^\n]* | \#(?=[ !])[^\n]* | /\*.*?\*/ )
  | (?P<heredoc> \$(?P<tag>\w*)\$ .*? \$(?P=tag)\$ )
  | (?P<quoted> '(?:[^'\\]|\\.|'')*' | "(?:[^"\\]|\\.|"")*" | `(?:[^`\\]|\\.|``)*` )
  | (?P<end> ; )
  | (?P<open> /\* | ['"`] )
  | (?P<other> . )
    """,
    re.VERBOSE | re.DOTALL,
)


def split_statements(sql: str) -> list[str]:
    """The statements of `sql`, without the semicolons between them and without those that are only comments.

    A semicolon inside a string, a quoted name, a comment or a heredoc ends nothing. Comments within a statement stay.
    Raises ValueError, with the line, where a string, a quoted name or a comment does not end.
    """
    statements: list[str] = []
    text: list[str] = []
    holds_code = False
    for token in _TOKEN.finditer(sql):
        if token.lastgroup == "open" or token["open"]:
            line = sql.count("\n", 0, token.start()) + 1
            raise ValueError(f"line {line}: {token[0]} is not closed")
        if token["end"]:
            if holds_code:
                statements.append("".join(text).strip())
            text, holds_code = [], False
            continue
        text.append(token[0])
        holds_code = holds_code or not (token["comment"] or token[0].isspace())
    if holds_code:
        statements.append("".join(text).strip())
    return statements
