"""What the endpoint says of an event that neither the log nor the spool took."""

from __future__ import annotations

from typing import cast

import pytest

from entitlements.kafka_sink import KafkaSink
from entitlements.log_epochs import LogEpochs
from entitlements.sink import SinkAway
from meterline.errors import EmitError, EventTooLarge, SpoolBroken
from runtime.settings import Settings


@pytest.mark.parametrize(
    ("error", "remedy"),
    [(EventTooLarge("the topic refuses it"), "topics apply"), (SpoolBroken("No space left on device"), "send it again")],
)
def test_what_was_not_taken_is_told_with_the_cause_and_the_remedy(error: EmitError, remedy: str) -> None:
    told = KafkaSink(Settings(), cast(LogEpochs, None))._published(error)
    assert isinstance(told, SinkAway)
    assert str(error) in str(told)
    assert remedy in str(told)
