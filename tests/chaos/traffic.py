"""What the producers send: record number `n` of producer `p` is a pure function of the seed.

So the checker can make every record anew and compare it with what the log holds, and knows without the product's codec
which of them break a rule.
"""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass
from typing import Final

HEADER: Final = "chaos"
"""Names the record, as `<producer>:<number>`."""
_MILLIS_DAY = 86_400_000


@dataclass(frozen=True)
class Claim:
    """What makes two valid records of a key the same event; `day` and `quantity` are what the first one adds."""

    tenant: str
    usage_type: str
    entity: str
    quantity: int
    day: int


@dataclass(frozen=True)
class Made:
    """One record. `claim` is None for one that breaks a rule; one `astray` is good, but sent to any partition."""

    value: bytes
    key: bytes
    claim: Claim | None
    astray: bool = False


@dataclass(frozen=True)
class Traffic:
    """All records of a run. `began_ms` fixes their times of occurrence."""

    seed: int
    began_ms: int

    def record(self, producer: int, number: int) -> Made:
        """Two of three are new events; the others repeat, contradict, or break a rule."""
        dice = random.Random(f"{self.seed}/{producer}/{number}")
        what = dice.random()
        if number > 20 and what < 0.20:
            # Of any producer, so that a repeat may even come before what it repeats.
            other, earlier = dice.randrange(4), number - dice.randrange(1, min(number, 2_000))
            return self._event(other, earlier, vary="conflict" if what < 0.05 else "differ" if what < 0.08 else "")
        if what < 0.26:
            return self._broken(producer, number, dice)
        return self._event(producer, number)

    def _event(self, producer: int, number: int, vary: str = "") -> Made:
        dice = random.Random(f"{self.seed}/{producer}/{number}/event")
        entity, usage_type = f"e{producer}-{number}", dice.choice(("PHOTO", "TEXT", "AUDIO"))
        tenant, quantity = f"tnt_{dice.randrange(40)}", dice.randrange(0, 5_000_000_000)
        # One in ten is months late.
        age_ms = dice.randrange(3 * _MILLIS_DAY) if dice.random() < 0.9 else dice.randrange(300 * _MILLIS_DAY)
        occurred_ms = self.began_ms - age_ms
        metadata: dict[str, object] = {"n": number}
        if vary == "conflict":
            quantity += 1
        elif vary == "differ":
            metadata["again"] = True
        value = _encoded(tenant, entity, usage_type, quantity, occurred_ms, metadata)
        return Made(value, _key(entity, usage_type), Claim(tenant, usage_type, entity, quantity, occurred_ms // _MILLIS_DAY))

    def _broken(self, producer: int, number: int, dice: random.Random) -> Made:
        entity = f"b{producer}-{number}"
        claim = Claim("tnt_0", "PHOTO", entity, 1_000_000, self.began_ms // _MILLIS_DAY)
        good = _encoded("tnt_0", entity, "PHOTO", 1_000_000, self.began_ms, {})
        key = _key(entity, "PHOTO")
        value = dice.choice(
            (
                good[:-7],
                bytes(dice.randrange(256) for _ in range(40)),
                good.replace(b'"quantity"', b'"quantitiy"'),
                good.replace(b'"1.000000"', b'"1e6"'),
                good.replace(b'"1.000000"', b'"-1"'),
                good.replace(b"tnt_0", b""),
                _encoded("tnt_0", entity, "PHOTO", 1_000_000, self.began_ms - 500 * _MILLIS_DAY, {}),
                b'{"metadata":' + b"[" * 60 + b"]" * 60 + b"}",
                good,
            )
        )
        return Made(value, key, claim if value == good else None, astray=value == good)


def _key(entity: str, usage_type: str) -> bytes:
    service = "chaos-worker"
    return "".join(f"{len(part)}:{part}," for part in (service, entity, usage_type)).encode()


def _encoded(tenant: str, entity: str, usage_type: str, quantity: int, occurred_ms: int, metadata: dict[str, object]) -> bytes:
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(occurred_ms // 1000))
    event = {
        "tenantId": tenant,
        "sourceService": "chaos-worker",
        "sourceEntityId": entity,
        "usageType": usage_type,
        "quantity": f"{quantity // 1_000_000}.{quantity % 1_000_000:06}",
        "occurredAt": f"{moment}.{occurred_ms % 1000:03}Z",
        "metadata": metadata,
    }
    return json.dumps(event, separators=(",", ":")).encode()
