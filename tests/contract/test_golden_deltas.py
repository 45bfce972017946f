"""Every golden record of `usage.deltas` reads as it says, and what is wrong is refused."""

from __future__ import annotations

import json
import re

import pytest

from meterline_schemas.delta import Delta, decode_delta, encode_delta
from meterline_schemas.quantity import format_quantity
from tests.contract.golden import documents

VALID = documents("usage.deltas/valid")
INVALID = documents("usage.deltas/invalid")


def _shown(delta: Delta) -> dict[str, object]:
    return {
        "epoch": delta.epoch,
        "partition": delta.partition,
        "fromOffset": delta.from_offset,
        "toOffset": delta.to_offset,
        "rulesVersion": delta.rules_version,
        "cumulative": {
            "admitted": delta.cumulative.admitted,
            "duplicate": delta.cumulative.duplicate,
            "conflict": delta.cumulative.conflict,
            "invalid": delta.cumulative.invalid,
            "void": delta.cumulative.void,
            "hashSum": str(delta.cumulative.hash_sum),
        },
        "lines": [
            [line.tenant_id, line.usage_type, line.day, format_quantity(line.quantity), line.events] for line in delta.lines
        ],
    }


@pytest.mark.parametrize("name", VALID)
def test_a_valid_delta_reads_as_it_says_and_is_written_to_the_same_bytes(name: str) -> None:
    value = VALID[name]["value"].encode()
    delta = decode_delta(value)
    assert _shown(delta) == VALID[name]["delta"]
    assert json.loads(encode_delta(delta)) == json.loads(value)
    assert decode_delta(encode_delta(delta)) == delta


@pytest.mark.parametrize("name", INVALID)
def test_a_delta_that_is_wrong_anywhere_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=re.escape(INVALID[name]["errorHolds"])):
        decode_delta(INVALID[name]["value"].encode())
