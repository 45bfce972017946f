"""The constants that decide a verdict, by rules version.

Which version is in force at a position stands in Postgres (`rules_from`); what a version means stands here and never
changes once released: whoever reads the same log must decide the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

_DAY_MS: Final = 86_400_000


@dataclass(frozen=True, slots=True)
class Rules:
    """One version's limits. Each is inclusive: a value equal to the limit is taken."""

    version: int
    schema_versions: frozenset[int]
    event_bytes_max: int
    nesting_max: int
    id_bytes_max: int
    metadata_bytes_max: int
    past_ms_max: int
    ahead_ms_max: int
    forwarded_ms_max: int
    """How much earlier than its record a forwarded event may have been taken; see `meterline_schemas.ingest`."""


NEWEST_RULES: Final = 1

RULES: Final[Mapping[int, Rules]] = MappingProxyType(
    {
        1: Rules(
            version=1,
            schema_versions=frozenset({1}),
            event_bytes_max=64 << 10,
            nesting_max=32,
            id_bytes_max=256,
            metadata_bytes_max=32 << 10,
            past_ms_max=400 * _DAY_MS,
            ahead_ms_max=5 * 60_000,
            forwarded_ms_max=31 * _DAY_MS,
        ),
    }
)
