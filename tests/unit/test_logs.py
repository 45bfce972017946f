"""Log lines: one parseable object each, with the fields that were bound around them."""

from __future__ import annotations

import io
import json
import logging
import sys
import threading

import pytest

from runtime.logs import HumanLines, JsonLines, bound, configure_logging
from runtime.settings import Settings


@pytest.fixture
def lines() -> tuple[logging.Logger, io.StringIO]:
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(JsonLines("meterline", "consume"))
    logger = logging.Logger("tests.lines")
    logger.addHandler(handler)
    return logger, text


def test_a_line_says_when_where_and_what_with_its_fields(lines: tuple[logging.Logger, io.StringIO]) -> None:
    logger, text = lines
    logger.warning("taken %s", "over", extra={"partition": 3})
    line = json.loads(text.getvalue())
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "warning",
        "service": "meterline",
        "stage": "consume",
        "logger": "tests.lines",
        "message": "taken over",
        "partition": 3,
    }


def test_bound_fields_stand_in_every_line_of_the_block_and_in_no_other(lines: tuple[logging.Logger, io.StringIO]) -> None:
    logger, text = lines
    with bound(request_id="r1"), bound(traceparent="t"):
        logger.info("inside")
        elsewhere = threading.Thread(target=logger.info, args=("on another thread",))
        elsewhere.start()
        elsewhere.join()
    logger.info("after")
    inside, other, after = (json.loads(line) for line in text.getvalue().splitlines())
    assert (inside["request_id"], inside["traceparent"]) == ("r1", "t")
    assert "request_id" not in other
    assert "request_id" not in after


def test_whatever_is_logged_stays_one_line_of_json(lines: tuple[logging.Logger, io.StringIO]) -> None:
    logger, text = lines
    logger.info("two\nlines \x00 \u2028", extra={"problem": ValueError("no\nway"), "bytes": b"\xff"})
    try:
        raise RuntimeError("boom")
    except RuntimeError:
        logger.exception("failed")
    first, second = (json.loads(line) for line in text.getvalue().split("\n") if line)
    assert first["message"] == "two\nlines \x00 \u2028"
    assert first["problem"] == "no\nway"
    assert "RuntimeError: boom" in second["error"]


def test_lines_for_people_are_one_readable_line_with_the_fields_behind() -> None:
    record = logging.makeLogRecord({"msg": "partition taken", "levelname": "INFO", "partition": 3})
    text = HumanLines("consume").format(record)
    assert text.endswith("info    consume  partition taken  partition=3")


@pytest.mark.parametrize(("log_format", "formatter"), [("json", JsonLines), ("human", HumanLines), ("auto", JsonLines)])
def test_the_form_is_chosen_by_the_setting_and_json_where_nobody_looks(
    log_format: str, formatter: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    configure_logging(Settings(log_format=log_format, log_level="error"), "consume")  # type: ignore[arg-type]
    (handler,) = root.handlers
    assert type(handler.formatter) is formatter
    assert root.level == logging.ERROR


def test_settings_that_are_taken_but_unused_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    root, text = logging.getLogger(), io.StringIO()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    monkeypatch.setattr(sys, "stderr", text)
    configure_logging(Settings(log_format="json", redis_url="redis://somewhere"), "consume")
    assert json.loads(text.getvalue())["setting"] == "REDIS_URL"
    assert "somewhere" not in text.getvalue()
