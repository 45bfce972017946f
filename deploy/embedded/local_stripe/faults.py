"""Where faults are set: what goes wrong between a request and its answer, on purpose.

So far one: a delay before each answer. More belong here, each as a field that `POST /__local/faults` sets and
`app.serve` asks for; handlers and state know nothing of them.
"""

from __future__ import annotations

from dataclasses import dataclass

LATENCY_MS_MAX = 60_000


@dataclass
class Faults:
    """The faults in force; they end with the process."""

    latency_ms: int = 0

    def set(self, wanted: dict[str, object]) -> None:
        """Replaces all faults. Raises ValueError naming what is wrong."""
        latency = wanted.get("latency_ms", 0)
        if set(wanted) - {"latency_ms"}:
            raise ValueError(f"known faults: latency_ms; not {', '.join(sorted(set(wanted) - {'latency_ms'}))}")
        if not isinstance(latency, int) or isinstance(latency, bool) or not 0 <= latency <= LATENCY_MS_MAX:
            raise ValueError(f"latency_ms: want a whole number from 0 to {LATENCY_MS_MAX}")
        self.latency_ms = latency

    def shown(self) -> dict[str, object]:
        """As `GET /__local/faults` answers."""
        return {"latency_ms": self.latency_ms}
