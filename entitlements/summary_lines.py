"""One line of a summary, from its rows: what the counters, the limit, the grants and the holds of a usage type come to."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple, assert_never

from entitlements.models import Projection, SummaryLine, SummaryPeriod, number, number_or_unlimited
from metering import periods
from metering.alerts import reached
from metering.grants import Cover, Grant
from metering.limits import NOTHING_GRANTED, ZERO, Limit, overage, remaining
from metering.outlook import percent, projected
from metering.periods import Period, PeriodKind
from meterline_schemas.types import Micros


class Shown(NamedTuple):
    """The days that a summary is of, by the period of the limit."""

    day: Period
    month: Period
    billing_period: Period

    def of(self, kind: PeriodKind | None) -> Period:
        """Of a limit's period; what has no limit is shown by the month."""
        match kind:
            case "day":
                return self.day
            case "billing_period":
                return self.billing_period
            case "lifetime":
                return periods.lifetime()
            case "month" | None:
                return self.month
            case _:
                assert_never(kind)


class _Cover(NamedTuple):
    """What the grants come to in the days shown."""

    added: Micros
    """To the limit, on the newest day."""
    overage: Micros
    """Of a daily limit: what each day used above its limit and its grants, added up."""


def summary_line(rows: Sequence[tuple[Any, ...]], days: Shown, today: date, counted_until: datetime) -> SummaryLine:
    """One usage type from its counted days."""
    usage_type, in_plan, limit_micros, hard, kind, held_micros, held_newest_micros, thresholds, anchor_day = rows[0][:9]
    period = days.of(kind)
    limit = Limit(None if limit_micros is None else Micros(int(limit_micros)), hard) if in_plan else NOTHING_GRANTED
    newest_day = min(today, period.end - timedelta(days=1))
    by_day = {day: Micros(int(micros)) for *_, day, micros in rows if micros is not None}
    used, reserved = Micros(sum(by_day.values())), Micros(int(held_micros or 0))
    cover = _cover(limit, kind, anchor_day, rows[0][9], rows[0][10], period, newest_day)
    allowed = None if limit.quantity is None else Micros(limit.quantity + cover.added)
    if kind == "day":
        # A daily limit says nothing about a month's sum: each day is held against it.
        over = cover.overage if rows[0][9] else Micros(sum(overage(limit.quantity, of_day) for of_day in by_day.values()))
        newest = by_day.get(newest_day.isoformat(), ZERO)
        left = remaining(allowed, newest, Micros(int(held_newest_micros or 0)))
    else:
        over, newest = overage(allowed, used), used
        left = remaining(allowed, used, reserved)
    runs = kind != "lifetime" and period.holds(today) and (kind != "day" or (period.end - period.start).days == 1)
    return SummaryLine(
        usage_type=usage_type,
        used=number(used),
        reserved=number(reserved),
        limit=number_or_unlimited(allowed),
        granted=number(cover.added),
        remaining=number_or_unlimited(left),
        overage=number(over),
        is_exceeded=over > 0,
        used_percent=number_or_unlimited(percent(newest, allowed)),
        thresholds=thresholds or [],
        threshold_reached=max(reached(newest, Limit(allowed, limit.hard), thresholds or []), default=None) if in_plan else None,
        projection=_projection(used, allowed, period, counted_until) if runs else None,
        hard_stop=limit.hard,
        in_plan=in_plan,
        limit_period=kind,
        period=SummaryPeriod(None, None) if kind == "lifetime" else SummaryPeriod(str(period.start), str(period.end)),
    )


def _projection(used: Micros, allowed: Micros | None, period: Period, counted_until: datetime) -> Projection:
    at_end = projected(used, period, counted_until)
    return Projection(
        method="linear",
        used=number(at_end),
        overage=number(overage(allowed, at_end)),
        percent=number_or_unlimited(percent(at_end, allowed)),
    )


def _cover(
    limit: Limit,
    kind: PeriodKind | None,
    anchor_day: int,
    grants: list[list[str]] | None,
    used: list[list[str]] | None,
    period: Period,
    newest_day: date,
) -> _Cover:
    if not grants or limit.quantity is None or kind is None:
        return _Cover(ZERO, ZERO)
    made = [Grant(Micros(int(micros)), date.fromisoformat(since), date.fromisoformat(until)) for micros, since, until in grants]
    by_day = {date.fromisoformat(day): int(micros) for day, micros in used or ()}
    begins = {grant.valid_from for grant in made}
    cover = Cover(limit.quantity, kind, anchor_day, made)
    over = 0
    for day in sorted(day for day in begins | by_day.keys() | {newest_day} if day <= newest_day):
        cover.use(day, by_day.get(day, 0))
        if period.holds(day):
            over += overage(Micros(limit.quantity + cover.added(day)), Micros(by_day.get(day, 0)))
    return _Cover(cover.added(newest_day), Micros(over))
