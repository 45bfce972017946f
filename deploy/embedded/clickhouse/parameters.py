"""What a request's query string says: the query, where it runs, how it is answered, and which settings it carries.

A setting's name is checked and its value quoted, so that neither can become SQL. A read-only request may change only
the settings named here, and the limits among them only within their bounds.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation

from deploy.embedded.clickhouse.failures import READONLY, Failure
from deploy.embedded.clickhouse.statements import format_name

PARAMETERS_MAX = 1000
_QUERY_BYTES_DEFAULT = 262_144
_QUERY_BYTES_MOST = 16 * 1024 * 1024
_SESSION_S_DEFAULT, _SESSION_S_MOST = 60, 3600
_SETTING_NAME = re.compile(r"[a-z][a-z0-9_]{0,127}\Z")
_PARAM_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}\Z")
_DIGITS = re.compile(r"[0-9]{1,9}\Z")

_TRANSPORT = frozenset(
    {
        "query", "database", "user", "password", "quota_key", "query_id", "session_id", "session_timeout", "session_check",
        "close_session", "default_format", "wait_end_of_query", "buffer_size", "compress", "decompress", "stacktrace", "role",
        "client_protocol_version", "readonly",
    }
)  # fmt: skip
_SET_ASIDE = frozenset({"log_comment", "send_logs_level", "send_logs_source_regexp", "implicit_select", "log_queries"})
"""Settings that this gateway uses itself, or that would make the engine write to this process' terminal."""

CPUS = os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Bound:
    """A limit of read-only requests: what holds when nothing is asked for, and the most that may be asked for."""

    default: int
    most: int


READONLY_BOUNDS: Mapping[str, Bound] = {
    "max_execution_time": Bound(60, 300),
    "max_memory_usage": Bound(1_000_000_000, 1_000_000_000),
    "max_threads": Bound(max(1, CPUS // 2), CPUS),
    "max_block_size": Bound(65_409, 1_000_000),
}
_READONLY_FREE = frozenset(
    {
        "max_result_rows", "max_result_bytes", "result_overflow_mode", "max_rows_to_read", "max_bytes_to_read",
        "read_overflow_mode",
        "timeout_before_checking_execution_speed", "session_timezone", "date_time_output_format", "date_time_input_format",
        "join_use_nulls", "group_by_use_nulls", "transform_null_in", "final", "extremes", "limit", "offset",
        "do_not_merge_across_partitions_select_final", "optimize_read_in_order", "max_query_size", "enable_http_compression",
        "http_zlib_compression_level", "send_progress_in_http_headers", "http_headers_progress_interval_ms",
        "cancel_http_readonly_queries_on_client_close", "http_response_buffer_size", "use_query_cache",
    }
)  # fmt: skip
_WITHOUT_EFFECT_ON_READS = (
    "insert_",
    "async_insert",
    "wait_for_async_insert",
    "distributed_foreground_insert",
    "select_sequential_consistency",
)


@dataclass(frozen=True, slots=True)
class Parameters:
    query: bytes
    database: str | None
    query_id: str
    default_format: str | None
    session_id: str | None
    session_timeout_s: int
    session_check: bool
    wait_end_of_query: bool
    compress: bool
    readonly: bool
    query_bytes_max: int
    settings: Mapping[str, str] = field(repr=False)
    substitutions: Mapping[str, str] = field(repr=False)


def read(given: Mapping[str, str], *, readonly: bool, threads: int, headers: Mapping[str, str]) -> Parameters:
    """Sort what was given. Raises Failure: unknown or forbidden settings, values out of bounds, malformed transport values."""
    for flag in ("compress", "decompress"):
        if given.get(flag, "0") not in ("0", ""):
            raise Failure(
                48, f"{flag}=1, the native block compression, is not offered here: use Content-Encoding and Accept-Encoding"
            )
    readonly = readonly or given.get("readonly", "0") not in ("0", "")
    settings: dict[str, str] = {}
    substitutions: dict[str, str] = {}
    for name, value in given.items():
        if name in _TRANSPORT:
            continue
        if name.startswith("param_"):
            if not _PARAM_NAME.match(name[6:]):
                raise Failure(36, f"{name[:64]!r} cannot be the name of a query parameter")
            substitutions[name[6:]] = value
            continue
        if not _SETTING_NAME.match(name):
            raise Failure(115, f"Unknown setting {name[:64]!r}")
        if name not in _SET_ASIDE:
            settings[name] = value
    if readonly:
        settings = _within_bounds(settings)
    settings.setdefault("max_threads", str(threads))
    default_format = given.get("default_format") or headers.get("x-clickhouse-format") or None
    return Parameters(
        query=given.get("query", "").encode(errors="surrogateescape"),
        database=given.get("database") or headers.get("x-clickhouse-database") or None,
        query_id=(given.get("query_id") or headers.get("x-clickhouse-query-id") or "")[:128] or str(uuid.uuid4()),
        default_format=format_name(default_format) if default_format else None,
        session_id=given.get("session_id") or None,
        session_timeout_s=_session_timeout(given.get("session_timeout")),
        session_check=_flag(given, "session_check"),
        wait_end_of_query=_flag(given, "wait_end_of_query"),
        compress=_flag(given, "enable_http_compression"),
        readonly=readonly,
        query_bytes_max=_query_bytes_max(given.get("max_query_size")),
        settings=settings,
        substitutions=substitutions,
    )


def _flag(given: Mapping[str, str], name: str) -> bool:
    return given.get(name, "0").lower() in ("1", "true")


def _session_timeout(text: str | None) -> int:
    if text is None:
        return _SESSION_S_DEFAULT
    if not _DIGITS.match(text) or int(text) > _SESSION_S_MOST:
        raise Failure(374, f"Invalid session timeout {text[:32]!r}: want whole seconds, at most {_SESSION_S_MOST}")
    return int(text)


def _query_bytes_max(text: str | None) -> int:
    if text is None or not _DIGITS.match(text):
        return _QUERY_BYTES_DEFAULT
    return min(int(text) or _QUERY_BYTES_MOST, _QUERY_BYTES_MOST)


def _within_bounds(settings: Mapping[str, str]) -> dict[str, str]:
    kept = {name: str(bound.default) for name, bound in READONLY_BOUNDS.items()}
    for name, value in settings.items():
        if name.startswith(_WITHOUT_EFFECT_ON_READS):
            continue
        bound = READONLY_BOUNDS.get(name)
        if bound is None and name not in _READONLY_FREE and not name.startswith("output_format_"):
            raise Failure(READONLY, f"Cannot modify '{name}' setting in readonly mode")
        if bound is not None and not _is_within(value, bound):
            raise Failure(452, f"Setting {name} shouldn't be 0 or greater than {bound.most} in readonly mode, got {value[:32]!r}")
        kept[name] = value
    return kept


def _is_within(value: str, bound: Bound) -> bool:
    try:
        number = Decimal(value)
    except InvalidOperation:
        return False
    return number.is_finite() and 0 < number <= bound.most
