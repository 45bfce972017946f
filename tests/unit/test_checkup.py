"""The doctor's examination: order, needs, time limits; and the checks that need no server."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest
import trustme

from cli import checks
from cli.checkup import Answer, Check, Finding, examine, failed, ok, warning
from runtime.settings import Settings, load_settings


def _fine(settings: Settings) -> Answer:
    return ok("fine")


def _broken(settings: Settings) -> Answer:
    return failed("broken", "mend it")


def test_findings_come_in_the_order_of_the_checks() -> None:
    found = examine(Settings(), [Check("b", _fine, ("a",)), Check("a", _fine)])
    assert [finding.check for finding in found] == ["b", "a"]
    assert {finding.status for finding in found} == {"ok"}


def test_what_a_failed_check_carries_is_not_checked_and_says_what_it_needs() -> None:
    found = examine(Settings(), [Check("a", _broken), Check("b", _fine, ("a",)), Check("c", _fine, ("b",))])
    assert found == [
        Finding("a", "failed", "broken", "mend it"),
        Finding("b", "not checked", "needs a"),
        Finding("c", "not checked", "needs b"),
    ]


def test_a_warning_carries_on() -> None:
    found = examine(Settings(), [Check("a", lambda settings: warning("hm", "look")), Check("b", _fine, ("a",))])
    assert [finding.status for finding in found] == ["warning", "ok"]


def test_a_check_that_hangs_fails_within_its_time_and_the_others_are_shown() -> None:
    released = threading.Event()

    def hangs(settings: Settings) -> Answer:
        released.wait(30)
        return ok("late")

    began = time.monotonic()
    found = examine(Settings(), [Check("hangs", hangs), Check("a", _fine)], 0.2)
    released.set()
    assert time.monotonic() - began < 5
    assert [finding.status for finding in found] == ["failed", "ok"]
    assert found[0].found == "no answer within 0.2 s"
    assert found[0].remedy


def test_a_check_that_breaks_is_a_finding_too() -> None:
    def breaks(settings: Settings) -> Answer:
        raise LookupError("no such thing")

    (found,) = examine(Settings(), [Check("a", breaks)])
    assert found.status == "failed"
    assert "LookupError: no such thing" in found.found


def test_a_failure_without_a_remedy_cannot_be_made() -> None:
    with pytest.raises(AssertionError):
        Finding("a", "failed", "broken")
    with pytest.raises(AssertionError):
        Finding("a", "ok", "fine", "needless")


def test_checks_that_wait_for_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="wait for each other"):
        examine(Settings(), [Check("a", _fine, ("b",)), Check("b", _fine, ("a",))])


def test_servers_get_less_time_than_a_stage_would_give_them() -> None:
    seen: list[float] = []

    def look(settings: Settings) -> Answer:
        seen.extend((settings.postgres_timeout_s, settings.clickhouse_timeout_s))
        return ok("fine")

    examine(load_settings({"METERLINE_POSTGRES_TIMEOUT_S": "300"}), [Check("a", look)], servers_s=2.5)
    assert seen == [2.5, 2.5]


def test_unused_settings_are_named() -> None:
    settings = load_settings({"REDIS_URL": "redis://cache", "NODE_ENV": "production"})
    status, found, _ = checks.unused_settings(settings)
    assert status == "warning"
    assert "REDIS_URL and NODE_ENV" in found
    assert checks.unused_settings(Settings())[0] == "ok"


def test_an_authority_must_be_a_readable_file_of_certificates(tmp_path: Path) -> None:
    good, empty = tmp_path / "good.pem", tmp_path / "empty.pem"
    trustme.CA().cert_pem.write_to_path(str(good))
    empty.write_text("nothing", "ascii")
    assert checks.authorities(load_settings({"METERLINE_KAFKA_CA_FILE": str(good)}))[0] == "ok"
    for path in (empty, tmp_path / "absent.pem"):
        status, found, remedy = checks.authorities(load_settings({"METERLINE_POSTGRES_CA_FILE": str(path)}))
        assert status == "failed"
        assert str(path) in found
        assert "METERLINE_POSTGRES_CA_FILE" in remedy


def test_an_authority_that_goes_unused_is_told(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(file))
    settings = load_settings({"METERLINE_CLICKHOUSE_CA_FILE": str(file), "CLICKHOUSE_URL": "http://localhost:8123/m"})
    assert checks.authorities(settings)[0] == "warning"


@pytest.mark.parametrize(
    ("environment", "status"),
    [
        ({}, "ok"),
        ({"METERLINE_EVENTS_KEEP_DAYS": "7"}, "failed"),
        ({"METERLINE_EVENTS_KEEP_DAYS": "8", "METERLINE_DELTAS_KEEP_DAYS": "8"}, "ok"),
        ({"METERLINE_BACKUP_DAYS_MAX": "30"}, "failed"),
        ({"METERLINE_BACKUP_DAYS_MAX": "29", "METERLINE_DELTAS_KEEP_DAYS": "30"}, "ok"),
        ({"METERLINE_BACKUP_DAYS_MAX": "14"}, "warning"),
        ({"METERLINE_EVENTS_KEEP_DAYS": "10"}, "warning"),
        ({"METERLINE_EVENTS_KEEP_DAYS": "14"}, "ok"),
        ({"METERLINE_REJECTS_KEEP_DAYS": "399"}, "warning"),
        ({"METERLINE_REJECTS_KEEP_DAYS": "0"}, "ok"),
    ],
)
def test_retention_is_held_against_the_rules_and_against_backups(environment: dict[str, str], status: str) -> None:
    assert checks.retention(load_settings(environment))[0] == status


def test_the_spool_may_be_made_later_but_not_where_a_file_stands(tmp_path: Path) -> None:
    absent, file = tmp_path / "not" / "yet", tmp_path / "file"
    file.touch()
    assert checks.spool(load_settings({"METERLINE_SPOOL_DIR": str(absent)}))[0] == "ok"
    assert not absent.exists()
    for below_a_file in (file, file / "spool"):
        status, _, remedy = checks.spool(load_settings({"METERLINE_SPOOL_DIR": str(below_a_file)}))
        assert status == "failed"
        assert "METERLINE_SPOOL_DIR" in remedy


def test_a_spool_larger_than_the_disk_is_told(tmp_path: Path) -> None:
    settings = load_settings({"METERLINE_SPOOL_DIR": str(tmp_path), "METERLINE_SPOOL_BYTES_MAX": str(1 << 60)})
    assert checks.spool(settings)[0] == "warning"


@pytest.mark.parametrize(
    ("environment", "status"),
    [
        ({}, "warning"),
        ({"STRIPE_SECRET_KEY": "sk_test_51abcdefghijk"}, "ok"),
        ({"STRIPE_SECRET_KEY": "rk_live_51abcdefghijk"}, "ok"),
        ({"STRIPE_SECRET_KEY": "pk_test_51abcdefghijk"}, "failed"),
        ({"STRIPE_SECRET_KEY": "whsec_51abcdefghijk"}, "failed"),
        ({"STRIPE_SECRET_KEY": "sk_test_"}, "failed"),
        ({"STRIPE_SECRET_KEY": "sk_live_51abcdefghijk", "METERLINE_STRIPE_API_BASE": "http://127.0.0.1:1"}, "failed"),
        ({"STRIPE_SECRET_KEY": "sk_test_51abcdefghijk", "METERLINE_STRIPE_API_BASE": "http://127.0.0.1:1"}, "failed"),
        ({"STRIPE_SECRET_KEY": "sk_test_51abcdefghijk", "METERLINE_STRIPE_API_BASE": "https://proxy.invalid"}, "warning"),
    ],
)
def test_a_stripe_key_is_judged_by_its_shape(environment: dict[str, str], status: str) -> None:
    assert checks.stripe_key(load_settings(environment))[0] == status


def test_stripe_itself_is_never_called(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_connection(*_: object, **__: object) -> None:
        raise AssertionError("the doctor connects")

    monkeypatch.setattr(socket, "getaddrinfo", no_connection)
    assert checks.stripe_key(load_settings({"STRIPE_SECRET_KEY": "sk_live_51abcdefghijk"}))[0] == "ok"
