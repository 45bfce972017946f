"""An event that was forgotten and is sent again: known by its pseudonym, so that it is not counted a second time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from consumers.deciding import Recognise
from metering.pseudonyms import Asked, OtherKey, recognised
from metering.ranges import Claim
from runtime.exits import Exit, MeterlineExit
from runtime.settings import Settings
from store.forgotten import pseudonyms_of


def recogniser(settings: Settings) -> Recognise:
    """Recognises with the settings' key; what it returns raises MeterlineExit where a row was forgotten with another one."""
    pseudonyms = pseudonyms_of(settings)

    def recognise(claims: Mapping[bytes, Claim], asked: Iterable[Asked]) -> dict[bytes, Claim]:
        try:
            return recognised(claims, asked, pseudonyms)
        except OtherKey as error:
            raise MeterlineExit(
                Exit.SETTINGS,
                f"{error}. Set METERLINE_FORGET_KEY to the key that `meterline forget` was run with; without it the event would "
                "be counted a second time",
            ) from error

    return recognise
