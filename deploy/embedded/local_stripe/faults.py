"""What goes wrong between a request and its answer, on purpose: set for all requests with rates, or by a header for one."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any, Final

from deploy.embedded.local_stripe.problems import Problem

LATENCY_MS_MAX: Final = 60_000
DELAY_S_MAX: Final = 7 * 86_400
HEADER: Final = "x-local-fault"

FAULTS: Final = {
    "drop": "the request is carried out, and the connection closed without an answer",
    "cut": "the request is carried out, and its answer cut off in the middle",
    "error": "500 and nothing is carried out; kept under the idempotency key, like every result",
    "rate_limit": "429 and nothing is carried out",
    "conflict": "409 and nothing is carried out",
    "slow": "the request is carried out, and its answer waits for slow_ms",
    "reject": "a meter event is answered with 200, found wrong later, never counted, and reported by a thin event",
}

_NUMBERS: Final = {"latency_ms": LATENCY_MS_MAX, "slow_ms": LATENCY_MS_MAX, "aggregation_delay_s": DELAY_S_MAX,
                   "webhook_wait_ms": LATENCY_MS_MAX, "seed": 2**32}  # fmt: skip
_RATES: Final = ("rates", "webhook_repeat")


@dataclass
class Faults:
    """The faults in force; they end with the process."""

    latency_ms: int = 0
    """Before every answer."""
    slow_ms: int = 1_000
    aggregation_delay_s: int = 0
    """Of the clock: a meter event is in no summary before."""
    webhook_wait_ms: int = 0
    """Each webhook waits for a random time up to this, so that they arrive out of order."""
    webhook_repeat: float = 0
    """Share of the webhooks that are posted again although they were taken."""
    seed: int = 0
    path: str = "/v1/"
    """Only POST requests whose path begins with this go wrong by rate."""
    rates: dict[str, float] = field(default_factory=dict)
    """Fault -> share of the requests."""

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)  # noqa: S311 - reproducible, not secret

    @classmethod
    def wanted(cls, document: dict[str, Any]) -> Faults:
        """These faults and no others. Raises ValueError naming what is wrong."""
        unknown = set(document) - {*_NUMBERS, *_RATES, "path"}
        if unknown:
            raise ValueError(f"known: {', '.join([*_NUMBERS, *_RATES, 'path'])}; not {', '.join(sorted(unknown))}")
        for name, most in _NUMBERS.items():
            value = document.get(name, 0)
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
                raise ValueError(f"{name}: want a whole number from 0 to {most}")
        rates = document.get("rates", {})
        if not isinstance(rates, dict) or set(rates) - set(FAULTS):
            raise ValueError(f"rates: want a map of {', '.join(FAULTS)}")
        for name, rate in [*rates.items(), ("webhook_repeat", document.get("webhook_repeat", 0))]:
            if not isinstance(rate, int | float) or isinstance(rate, bool) or not 0 <= rate <= 1:
                raise ValueError(f"{name}: want a share from 0 to 1")
        if sum(rates.values()) > 1:
            raise ValueError("rates: at most 1 in sum, for a request suffers one fault at most")
        if not isinstance(document.get("path", "/v1/"), str):
            raise ValueError("path: want the beginning of a path, such as /v1/billing/meter_events")
        return cls(**document)

    def shown(self) -> dict[str, object]:
        """As `GET /__local/faults` answers."""
        return {name: getattr(self, name) for name in (*_NUMBERS, *_RATES, "path")}

    def drawn(self, path: str, header: str | None) -> str | None:
        """The fault of this POST request. Raises Problem for a header that names none."""
        if header is not None:
            if header not in FAULTS:
                raise Problem(f"{HEADER} names one of {', '.join(FAULTS)}, not {header[:40]}")
            return header
        if not self.rates or not path.startswith(self.path):
            return None
        at = self._random.random()
        for name, rate in self.rates.items():
            if at < rate:
                return name
            at -= rate
        return None

    def webhook_wait_s(self) -> float:
        """How long the next webhook waits."""
        return self._random.random() * self.webhook_wait_ms / 1000

    def webhook_again(self) -> bool:
        """Whether a webhook that was taken is posted once more."""
        return self._random.random() < self.webhook_repeat
