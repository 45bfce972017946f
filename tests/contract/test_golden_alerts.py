"""Every golden record of `usage.alerts` reads as it says, and what is wrong is refused."""

from __future__ import annotations

import json
import re

import pytest

from meterline_schemas.alert import Alert, decode_alert, encode_alert
from tests.contract.golden import documents

VALID = documents("usage.alerts/valid")
INVALID = documents("usage.alerts/invalid")


def _shown(alert: Alert) -> dict[str, object]:
    return {
        "alertId": str(alert.alert_id),
        "tenantId": alert.tenant_id,
        "usageType": alert.usage_type,
        "threshold": alert.threshold,
        "usedMicros": str(alert.used),
        "limitMicros": str(alert.limit),
        "limitPeriod": alert.limit_period,
        "periodStart": None if alert.period_start is None else alert.period_start.isoformat(),
        "periodEnd": None if alert.period_end is None else alert.period_end.isoformat(),
        "hardStop": alert.hard_stop,
        "raisedAtMs": alert.raised_at_ms,
    }


@pytest.mark.parametrize("name", VALID)
def test_a_valid_alert_reads_as_it_says_and_is_written_to_the_same_bytes(name: str) -> None:
    value = VALID[name]["value"].encode()
    alert = decode_alert(value)
    assert _shown(alert) == VALID[name]["alert"]
    assert json.loads(encode_alert(alert)) == json.loads(value)
    assert decode_alert(encode_alert(alert)) == alert


@pytest.mark.parametrize("name", INVALID)
def test_an_alert_that_is_wrong_anywhere_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=re.escape(INVALID[name]["errorHolds"])):
        decode_alert(INVALID[name]["value"].encode())
