"""What kind of statement a text is, found with the engine's own lexical rules and no more grammar than is needed.

Nothing here decides what is allowed: a text that this module misreads still meets the engine's parser and its settings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from deploy.embedded.clickhouse.failures import SYNTAX_ERROR, UNKNOWN_QUERY_TYPE, Failure

Kind = Literal["read", "insert", "insert_select", "statement"]
"""read: its result can be streamed; insert: rows follow; insert_select: no rows follow, or input() takes them."""

_TOKEN = re.compile(
    rb"""
      (?P<space> [\s\x00]+ | --[^\n]* | \#[\ !][^\n]* | /\*.*?\*/ )
    | (?P<string> '(?:[^'\\]|\\.|'')*' | \xe2\x80\x98.*?\xe2\x80\x99 | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$ )
    | (?P<quoted> "(?:[^"\\]|\\.|"")*" | `(?:[^`\\]|\\.|``)*` | \xe2\x80\x9c.*?\xe2\x80\x9d )
    | (?P<word> [A-Za-z_]\w* )
    | (?P<number> \d[\w.]* )
    | (?P<other> . )
    """,
    re.VERBOSE | re.DOTALL,
)
_FORMAT_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}\Z")
_STREAMED = frozenset({"SELECT", "WITH", "FROM", "SHOW", "DESCRIBE", "DESC", "EXISTS", "("})


@dataclass(frozen=True, slots=True)
class Token:
    kind: str
    text: bytes
    start: int
    end: int

    def is_word(self, *words: bytes) -> bool:
        return self.kind == "word" and self.text.upper() in words

    def name(self) -> str | None:
        """The identifier that this token spells, or None. An escape inside quotes makes it unreadable: empty."""
        if self.kind == "word":
            return self.text.decode()
        if self.kind == "quoted":
            inner = self.text[3:-3] if self.text[:1] == b"\xe2" else self.text[1:-1]
            return "" if b"\\" in inner else inner.decode(errors="replace")
        return None


@dataclass(frozen=True, slots=True)
class Statement:
    kind: Kind
    verb: str
    text: bytes
    """The statement alone, without a closing semicolon and, for an insert, without FORMAT or VALUES and what follows."""
    format: str | None
    tokens: tuple[Token, ...] = field(repr=False)
    format_at: tuple[int, int] | None = None
    data_at: int | None = None
    """Where an insert's rows begin in the text that was analysed; None when it brings none."""
    settings_at: int | None = None

    def into(self, path: str, default_format: str) -> bytes:
        """The text of a read with its result going to `path`, in its own format or the default one."""
        outfile = f"\nINTO OUTFILE '{path}' TRUNCATE FORMAT {self.format or default_format} ".encode()
        start, end = self.format_at or (len(self.text), len(self.text))
        return self.text[:start] + outfile + self.text[end:]

    def from_file(self, path: str) -> bytes:
        """The text of an insert with its rows coming from `path`. Raises Failure for input() without a structure."""
        if self.kind == "insert":
            at = len(self.text) if self.settings_at is None else self.settings_at
            infile = f"\nFROM INFILE '{path}' COMPRESSION 'none' ".encode()
            return self.text[:at] + infile + self.text[at:] + f"\nFORMAT {self.format}".encode()
        text = self.text
        for name, bracket, inside in reversed(list(zip(self.tokens, self.tokens[1:], self.tokens[2:], strict=False))):
            if name.is_word(b"INPUT") and bracket.text == b"(":
                if inside.text == b")":
                    raise Failure(48, "input() needs the structure of the rows here, as in input('a UInt64, b String')")
                text = text[: name.start] + f"file('{path}', '{self.format}', ".encode() + text[bracket.end :]
        return text


def tokens_of(text: bytes) -> Iterator[Token]:
    """Every token that is not space or comment."""
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or "other"
        if kind == "tag":
            kind = "string"
        if kind != "space":
            yield Token(kind, match.group(), match.start(), match.end())


def format_name(name: str) -> str:
    """The name itself, or a Failure (73) when it cannot be a format's name."""
    if not _FORMAT_NAME.match(name):
        raise Failure(73, f"Unknown format {name[:64]!r}")
    return name


def analyse(text: bytes, text_bytes_max: int) -> Statement:
    """Say what `text` is. Raises Failure: empty, too long, several statements, or reading and writing files of the client."""
    stream = tokens_of(text)
    head: list[Token] = []
    for token in stream:
        if token.text != b";":
            head.append(token)
            break
    if not head:
        raise Failure(SYNTAX_ERROR, "Syntax error: failed at position 1 (end of query): empty query")
    first = head[0]
    if first.start > text_bytes_max:
        raise Failure(SYNTAX_ERROR, f"Max query size exceeded: {text_bytes_max} bytes, see the setting max_query_size")
    verb = first.text.upper().decode(errors="replace") if first.kind == "word" else first.text.decode(errors="replace")
    if verb == "INSERT":
        return _insert(text, first, stream, text_bytes_max)
    if len(text) > text_bytes_max:
        raise Failure(
            SYNTAX_ERROR, f"Max query size exceeded: {len(text)} bytes where {text_bytes_max} are allowed (max_query_size)"
        )
    return _other(text, verb, [*head, *stream])


def _insert(text: bytes, first: Token, stream: Iterator[Token], text_bytes_max: int) -> Statement:
    seen = [first]
    depth = 0
    named = False  # whether the table's name is behind us, so that a table called "values" is not a keyword
    name_part: Token | None = None
    selects = False
    settings_at: int | None = None
    for token in stream:
        if token.end > text_bytes_max:
            raise Failure(SYNTAX_ERROR, f"Max query size exceeded before the rows of an INSERT: {text_bytes_max} bytes")
        previous = seen[-1]
        seen.append(token)
        if token.text in (b"(", b"[", b"{"):
            depth += 1
            continue
        if token.text in (b")", b"]", b"}"):
            depth -= 1
            continue
        if token.is_word(b"SELECT", b"WATCH") and (depth == 0 or previous.text == b"("):
            selects = True
        if depth:
            continue
        if not named:
            keyword = token.is_word(b"INTO", b"TABLE", b"FUNCTION") and previous.text != b"."
            named = not keyword and token.kind in ("word", "quoted")
            name_part = token
            continue
        if previous.text == b".":
            name_part = token
            continue
        if token.is_word(b"INFILE") and previous.is_word(b"FROM"):
            raise Failure(
                UNKNOWN_QUERY_TYPE, "INSERT FROM INFILE reads a file of the client: send the rows in the request's body"
            )
        if token.is_word(b"SETTINGS") and settings_at is None:
            settings_at = token.start
        if token.is_word(b"VALUES") and not selects:
            head = text[: token.start]
            return Statement("insert", "INSERT", head, "Values", tuple(seen), data_at=token.end, settings_at=settings_at)
        if (
            previous.is_word(b"FORMAT")
            and previous is not name_part
            and token.kind == "word"
            and (not selects or _calls_input(seen))
        ):
            return Statement(
                "insert_select" if selects else "insert",
                "INSERT",
                text[: previous.start],
                format_name(token.text.decode()),
                tuple(seen),
                data_at=_rows_at(text, token.end),
                settings_at=settings_at,
            )
    if selects:
        return _other(text, "INSERT", seen, kind="insert_select")
    end = next((token.start for token in seen if token.text == b";"), len(text))
    return Statement("insert", "INSERT", text[:end], "Values", tuple(seen), data_at=len(text), settings_at=settings_at)


def _calls_input(tokens: list[Token]) -> bool:
    return any(name.is_word(b"INPUT") and bracket.text == b"(" for name, bracket in pairwise(tokens))


def _rows_at(text: bytes, at: int) -> int:
    """Rows begin after the spaces behind the format's name and at most one end of line."""
    while text[at : at + 1] in (b" ", b"\t", b"\f"):
        at += 1
    if text[at : at + 1] == b"\r":
        at += 1
    return at + 1 if text[at : at + 1] == b"\n" else at


def _other(text: bytes, verb: str, tokens: list[Token], kind: Kind | None = None) -> Statement:
    end = len(tokens)
    while end and tokens[end - 1].text == b";":
        end -= 1
    if any(token.text == b";" for token in tokens[:end]):
        raise Failure(SYNTAX_ERROR, "Syntax error: Multi-statements are not allowed: send one statement a request")
    kept = tokens[:end]
    format_at, name = _format_clause(kept)
    for before, token in pairwise(kept):
        if before.is_word(b"INTO") and token.is_word(b"OUTFILE"):
            raise Failure(358, "INTO OUTFILE is not allowed: the result is the answer's body")
    body = text[: kept[-1].end]
    if kind is None:
        inserts = verb == "WITH" and any(t.is_word(b"INSERT") for t in kept) and any(t.is_word(b"INTO") for t in kept)
        kind = "insert_select" if inserts else "read" if verb in _STREAMED else "statement"
    return Statement(kind, verb, body, name, tuple(kept), format_at=format_at)


def _format_clause(tokens: list[Token]) -> tuple[tuple[int, int] | None, str | None]:
    """The last FORMAT clause: it ends the statement, or only SETTINGS follow it."""
    for at in range(len(tokens) - 2, 0, -1):
        if tokens[at].is_word(b"FORMAT") and tokens[at + 1].kind == "word":
            closes = at + 2 == len(tokens) or tokens[at + 2].is_word(b"SETTINGS")
            if closes and not tokens[at - 1].is_word(b"AS"):
                return (tokens[at].start, tokens[at + 1].end), format_name(tokens[at + 1].text.decode())
    return None, None
