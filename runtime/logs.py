"""Structured logs: one JSON object a line for programs, one readable line for people at a terminal."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime

from runtime.settings import Settings

_bound: ContextVar[Mapping[str, object]] = ContextVar("log_fields", default={})  # noqa: B039 - never mutated, only replaced
_PLAIN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}


class bound:
    """Adds fields (request_id, range_id, traceparent) to every line that is logged inside the block."""

    __slots__ = ("_fields", "_token")

    def __init__(self, **fields: object) -> None:
        self._fields = fields

    def __enter__(self) -> None:
        self._token = _bound.set({**_bound.get(), **self._fields})

    def __exit__(self, *_: object) -> None:
        _bound.reset(self._token)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    extra = {name: value for name, value in record.__dict__.items() if name not in _PLAIN}
    return {**_bound.get(), **extra}


class JsonLines(logging.Formatter):
    """One object a line: time, level, stage, logger, message, then the fields."""

    def __init__(self, service: str, stage: str) -> None:
        super().__init__()
        self._service, self._stage = service, stage

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "service": self._service,
            "stage": self._stage,
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class HumanLines(logging.Formatter):
    """`12:00:00.123 info  consume  message  field=value`."""

    def __init__(self, stage: str) -> None:
        super().__init__()
        self._stage = stage

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S.%f")[:-3]
        fields = " ".join(f"{name}={value}" for name, value in _fields(record).items())
        line = f"{at} {record.levelname.lower():<7} {self._stage}  {record.getMessage()}"
        if fields:
            line += f"  {fields}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def configure_logging(settings: Settings, stage: str) -> None:
    """Sets the root logger of this process: to standard error, in the form that `log_format` asks for."""
    human = settings.log_format == "human" or (settings.log_format == "auto" and sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(HumanLines(stage) if human else JsonLines(settings.service_name, stage))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    # Libraries that tell of every connection or request at info.
    for chatty in ("httpx", "httpcore", "urllib3", "aiokafka", "faust", "mode", "stripe", "uvicorn.access"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    unused = {"REDIS_URL": settings.redis_url, "NODE_ENV": settings.node_env, "CLERK_SECRET_KEY": settings.clerk_secret_key}
    for name, value in unused.items():
        if value:
            logging.getLogger(__name__).info("setting is accepted but unused", extra={"setting": name})
