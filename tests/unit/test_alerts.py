"""Thresholds, the waits between tries, and what a webhook is signed with."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import time
from pathlib import Path
from typing import Any

import pytest

from entitlements.webhooks import signature
from metering.alerts import ATTEMPTS_MAX, reached, wait_s
from metering.limits import Limit
from meterline_schemas.alert import decode_alert
from meterline_schemas.types import Micros
from runtime.settings import SettingsError, load_settings

DAY_S = 86_400
SECRETS = ["whsec_" + base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2, 3)]


@pytest.mark.parametrize(
    ("used", "limit", "expected"),
    [
        (0, 10, []),
        (-5, 10, []),
        (7_999_999, 10_000_000, []),
        (8_000_000, 10_000_000, [80]),
        (9_999_999, 10_000_000, [80]),
        (10_000_000, 10_000_000, [80, 100]),
        (11_999_999, 10_000_000, [80, 100]),
        (12_000_000, 10_000_000, [80, 100, 120]),
        (1, 1, [80, 100]),
        (1, 0, [80, 100, 120]),
        (0, 0, []),
        (10**40, None, []),
    ],
)
def test_a_threshold_is_reached_to_a_millionth(used: int, limit: int | None, expected: list[int]) -> None:
    assert reached(Micros(used), Limit(None if limit is None else Micros(limit), hard=True), [120, 80, 100]) == expected


def test_the_waits_grow_for_about_a_day_and_end() -> None:
    waits = [wait_s(attempts) for attempts in range(1, ATTEMPTS_MAX + 2)]
    assert waits[ATTEMPTS_MAX - 1 :] == [None, None]
    some = [wait for wait in waits if wait is not None]
    assert some == sorted(some)
    assert len(some) == ATTEMPTS_MAX - 1
    assert DAY_S * 0.9 < sum(some) < DAY_S * 1.1


def test_each_secret_signs_id_time_and_body() -> None:
    settings = load_settings({"METERLINE_ALERT_WEBHOOK_SECRETS": f"{SECRETS[0]}, {SECRETS[1]}"})
    said = signature(settings.alert_webhook_keys, "msg_1", 1_700_000_000, b'{"a":1}')
    codes = []
    for secret in SECRETS[:2]:
        key = base64.b64decode(secret.removeprefix("whsec_"))
        digest = hmac.new(key, b'msg_1.1700000000.{"a":1}', hashlib.sha256).digest()
        codes.append("v1," + base64.b64encode(digest).decode())
    assert said.split(" ") == codes


@pytest.mark.parametrize(
    "url", ["https://hooks.example.com/usage?x=1", "http://127.0.0.1:9/x", "http://localhost/x", "http://[::1]:8/"]
)
def test_webhooks_go_to_https_or_to_this_machine(url: str) -> None:
    settings = load_settings({"METERLINE_ALERT_WEBHOOK_URL": url, "METERLINE_ALERT_WEBHOOK_SECRETS": SECRETS[0]})
    assert settings.alert_webhook_url == url


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.com/",
        "http://169.254.169.254/latest/meta-data",
        "http://127.0.0.1.example.com/",
        "https://user:password@hooks.example.com/",
        "ftp://hooks.example.com/",
        "file:///etc/passwd",
        "hooks.example.com",
    ],
)
def test_other_addresses_are_refused_at_the_start(url: str) -> None:
    with pytest.raises(SettingsError, match="ALERT_WEBHOOK_URL"):
        load_settings({"METERLINE_ALERT_WEBHOOK_URL": url, "METERLINE_ALERT_WEBHOOK_SECRETS": SECRETS[0]})


@pytest.mark.parametrize(
    "secrets", ["secret", "whsec_", "whsec_c2hvcnQ=", "whsec_!" + "a" * 40, ",".join(SECRETS), SECRETS[0] + ","]
)
def test_secrets_that_are_none_are_refused_and_not_shown(secrets: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings({"METERLINE_ALERT_WEBHOOK_SECRETS": secrets})
    assert SECRETS[0].removeprefix("whsec_") not in str(refused.value)


def test_nothing_is_posted_unsigned() -> None:
    with pytest.raises(SettingsError, match="SECRETS"):
        load_settings({"METERLINE_ALERT_WEBHOOK_URL": "https://hooks.example.com/"})


DOCUMENT = (Path(__file__).parents[2] / "docs" / "alerts.md").read_text("utf-8")


def _block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
    return str(found)


def test_the_documents_receiver_takes_what_is_signed_and_nothing_else() -> None:
    names: dict[str, Any] = {}
    exec(compile(_block("python"), "docs/alerts.md", "exec"), names)  # noqa: S102 - our own document
    verify, now = names["verify"], int(time.time())
    keys = load_settings({"METERLINE_ALERT_WEBHOOK_SECRETS": f"{SECRETS[0]},{SECRETS[1]}"}).alert_webhook_keys

    def headers(at: int) -> dict[str, str]:
        return {"webhook-id": "m", "webhook-timestamp": str(at), "webhook-signature": signature(keys, "m", at, b"{}")}

    for secret in SECRETS[:2]:
        verify(headers(now), b"{}", secret)
    for wrong in ((headers(now), b"{ }", SECRETS[0]), (headers(now), b"{}", SECRETS[2]), (headers(now - 301), b"{}", SECRETS[0])):
        with pytest.raises(ValueError, match=r"signed|old"):
            verify(*wrong)


def test_the_documents_record_is_an_alert() -> None:
    alert = decode_alert(_block("json").encode())
    assert (alert.threshold, alert.used, alert.limit) == (80, 16_000_000, 20_000_000)
