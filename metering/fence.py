"""What the aggregator does with a delta, given the fence. Pure."""

from __future__ import annotations

from enum import StrEnum

from metering.line_columns import events_of
from meterline_schemas.delta import HASH_MODULUS, Delta, Figures


class FenceAction(StrEnum):
    """skip: counted already. add: it continues the fence. recompute: an overlap or a gap."""

    SKIP = "skip"
    ADD = "add"
    RECOMPUTE = "recompute"


class FiguresDisagree(Exception):
    """The delta's events are not the difference between its cumulative figures and those of the fence row."""


def action(delta: Delta, next_offset: int) -> FenceAction:
    """By position alone."""
    if delta.to_offset <= next_offset:
        return FenceAction.SKIP
    return FenceAction.ADD if delta.from_offset == next_offset else FenceAction.RECOMPUTE


def check_continues(delta: Delta, fence: Figures) -> None:
    """A delta that is added as it is must hold exactly the events that its cumulative figures say.

    Raises FiguresDisagree. I1 is checked in passing: every offset of the range got exactly one verdict.
    """
    events = events_of(delta.lines)
    try:
        grown = delta.cumulative.minus(fence)
    except ValueError as error:
        raise FiguresDisagree(str(error)) from error
    if events != grown.admitted:
        raise FiguresDisagree(f"{events} events in the lines, {grown.admitted} by the cumulative count")
    if grown.offsets != delta.to_offset - delta.from_offset:
        raise FiguresDisagree(f"{grown.offsets} verdicts for {delta.to_offset - delta.from_offset} offsets")


def explains(events: int, hash_sum: int, fence: Figures, target: Figures) -> bool:
    """Whether rows read back from ClickHouse are exactly those between the two cumulative figures."""
    return events == target.admitted - fence.admitted and hash_sum == (target.hash_sum - fence.hash_sum) % HASH_MODULUS
