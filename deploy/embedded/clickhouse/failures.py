"""What went wrong, in ClickHouse's own terms: a numeric code, its name, a message, and the HTTP status that goes with it."""

from __future__ import annotations

import re

UNKNOWN_QUERY_TYPE = 78
SYNTAX_ERROR = 62
READONLY = 164
TOO_MANY_SIMULTANEOUS_QUERIES = 202

NAMES = {
    36: "BAD_ARGUMENTS",
    48: "NOT_IMPLEMENTED",
    62: "SYNTAX_ERROR",
    73: "UNKNOWN_FORMAT",
    78: "UNKNOWN_TYPE_OF_QUERY",
    115: "UNKNOWN_SETTING",
    117: "INCORRECT_DATA",
    159: "TIMEOUT_EXCEEDED",
    164: "READONLY",
    194: "REQUIRED_PASSWORD",
    202: "TOO_MANY_SIMULTANEOUS_QUERIES",
    209: "SOCKET_TIMEOUT",
    210: "NETWORK_ERROR",
    216: "QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING",
    229: "QUERY_IS_TOO_LARGE",
    241: "MEMORY_LIMIT_EXCEEDED",
    271: "CANNOT_DECOMPRESS",
    358: "INTO_OUTFILE_NOT_ALLOWED",
    372: "SESSION_NOT_FOUND",
    373: "SESSION_IS_LOCKED",
    374: "INVALID_SESSION_TIMEOUT",
    394: "QUERY_WAS_CANCELLED",
    446: "FUNCTION_NOT_ALLOWED",
    452: "SETTING_CONSTRAINT_VIOLATION",
    516: "AUTHENTICATION_FAILED",
    779: "UNSUPPORTED_MEDIA_TYPE",
    1001: "STD_EXCEPTION",
}

_BAD_REQUEST = {6, 8, 15, 25, 26, 27, 36, 37, 38, 41, 44, 53, 62, 72, 117, 123, 167, 168, 223, 321, 376, 427, 441, 675, 676}
_NOT_FOUND = {46, 47, 50, 56, 60, 63, 73, 78, 81, 115, 152, 336, 511}
_STATUS = {
    48: 501,
    76: 503,
    159: 408,
    192: 403,
    193: 403,
    194: 401,
    209: 503,
    229: 413,
    381: 411,
    439: 503,
    497: 403,
    512: 403,
    516: 403,
    779: 415,
}


def http_status(code: int) -> int:
    """The HTTP status that a ClickHouse server answers for an exception code; 500 where it has none of its own."""
    if code in _BAD_REQUEST:
        return 400
    if code in _NOT_FOUND:
        return 404
    return _STATUS.get(code, 500)


class Failure(Exception):
    """A refusal with ClickHouse's code; `text` is the body that a server would send, without its version."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.status = http_status(code)
        name = NAMES.get(code)
        self.text = f"Code: {code}. DB::Exception: {message}" + (f" ({name})" if name else "")

    def body(self, version: str) -> bytes:
        """The answer's body, ended as a server ends it."""
        return f"{self.text} (version {version})\n".encode(errors="backslashreplace")


_ENGINE_ERROR = re.compile(r"Code: (\d+)\. DB::(?:[A-Za-z]+)?Exception: (.*)", re.DOTALL)
_VERSION = re.compile(r"\s*\(version [^()]*(?:\([^()]*\))?\)\s*")
_FILE = re.compile(r"\(in file/uri /dev/fd/\d+\):? ?")
_NAME = re.compile(r"\s*\(([A-Z][A-Z0-9_]+)\)\s*$")


def from_engine(error: BaseException) -> Failure:
    """Read the code and message out of what the engine raised. Never raises."""
    text = str(error)
    code, message = 1001, text
    # An error met while settings of the query are applied is wrapped in a second one of the same code: keep the inner.
    while (found := _ENGINE_ERROR.search(message)) is not None:
        code, message = int(found.group(1)), found.group(2)
    message = _FILE.sub("", _VERSION.sub(" ", message)).strip()
    name = None
    while (tail := _NAME.search(message)) is not None:
        name, message = tail.group(1), message[: tail.start()]
    failure = Failure(code, message or "the engine gave no reason")
    if name is not None:
        failure.text = f"Code: {code}. DB::Exception: {message} ({name})"
    return failure
