"""What upstream services would send in the demonstration. Pure: a seed and a time give the same records again."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from meterline_schemas.draft import EventDraft

TENANTS = 60
USAGE_TYPES = ("PHOTO_ANALYSIS_DEEP", "PHOTO_ANALYSIS_QUICK", "STORAGE", "RENDER", "API_CALL")
PLANS = ("starter", "studio", "enterprise")
DUPLICATES, CONFLICTS, INVALID, LATE = 0.10, 0.005, 0.005, 0.03

BROKEN = (
    b'{"tenantId":"demo_001","sourceService":"foreign","sourceEntityId":"x","usageType":"STORAGE"',
    b'{"tenantId":"demo_001","sourceService":"foreign","sourceEntityId":"x","usageType":"STORAGE","quantity":"-4"}',
    b'{"tenantId":"demo_001","sourceService":"foreign","sourceEntityId":"x","usageType":"STORAGE","quantity":1e400}',
    b'{"tenantId":"demo_001","sourceService":"foreign","sourceEntityId":"x","usageType":"STORAGE","quantity":"1","qty":2}',
    b'{"tenantId":"demo_001","sourceService":"foreign","sourceEntityId":"","usageType":"STORAGE","quantity":"1"}',
    b"\xff\xfe not text at all",
    b"",
)
"""Records of a client that does not use our SDK, which would have refused to send them."""


@dataclass(frozen=True)
class Broken:
    """A record that breaks a rule, as raw bytes."""

    value: bytes


def tenant(number: int) -> str:
    return f"demo_{number:03d}"


def tenants() -> dict[str, str]:
    """Tenant -> plan. The first of each plan uses nearly nothing, so that some checks are allowed on every plan."""
    return {tenant(number): PLANS[number % len(PLANS)] for number in range(TENANTS)}


def share(number: int, events: int, seed: int, now: datetime) -> Iterator[EventDraft | Broken]:
    """The records of one producer process, in order. Shares never meet: each has source entities of its own."""
    chance = random.Random(f"{seed}/{number}")  # noqa: S311 - made up on purpose, and again the same
    past: list[EventDraft] = []
    last_month = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
    for count in range(events):
        draw = chance.random()
        if past and draw < DUPLICATES:
            again = chance.choice(past)
            # Half of the retries carry a new clock, as real ones do.
            yield again if chance.random() < 0.5 else replace(again, occurred_at=_text(now))
        elif past and draw < DUPLICATES + CONFLICTS:
            yield replace(chance.choice(past), quantity=_quantity(chance, whole=False))
        elif draw < DUPLICATES + CONFLICTS + INVALID:
            yield Broken(BROKEN[count % len(BROKEN)])
        else:
            late = chance.random() < LATE
            day = last_month - timedelta(hours=chance.randrange(600)) if late else now - timedelta(seconds=chance.randrange(240))
            usage_type = chance.choice(USAGE_TYPES)
            draft = EventDraft(
                tenant_id=tenant(_skewed(chance)),
                source_service="demo-worker",
                source_entity_id=f"job-{seed}-{number}-{count}",
                usage_type=usage_type,
                quantity=_quantity(chance, whole=usage_type not in ("STORAGE", "RENDER")),
                occurred_at=_text(day),
            )
            past.append(draft)
            yield draft


def _skewed(chance: random.Random) -> int:
    """A few tenants make most of the usage, and the first three next to none."""
    number = min(int(chance.expovariate(0.08)) + len(PLANS), TENANTS - 1)
    return number if chance.random() < 0.9 else chance.randrange(len(PLANS), TENANTS)


def _quantity(chance: random.Random, *, whole: bool) -> str:
    if whole:
        return str(chance.randrange(1, 4))
    return f"{chance.randrange(0, 12)}.{chance.randrange(1, 1_000_000):06d}"


def _text(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
