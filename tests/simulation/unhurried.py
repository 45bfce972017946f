"""Settings of the state machines: a busy machine may take its time over a step."""

from __future__ import annotations

from hypothesis import HealthCheck, settings


def unhurried(examples: int, steps: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
