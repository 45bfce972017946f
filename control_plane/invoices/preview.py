"""What the running period's invoice would be by the usage so far: counters x overage prices + what is paid in advance.

Exact: a quantity is billed in the meter's units, as the provider's graduated price does, and each line is rounded once, half
away from zero, to the currency's smallest unit. What comes late for periods that are closed, and the fraction of a unit that
those left, is added when the period closes.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import ROUND_HALF_UP, Context, Decimal, localcontext
from typing import Any

from control_plane.customers import repository as customers
from control_plane.refusals import Refusal, not_found
from control_plane.subscriptions import repository as subscriptions
from control_plane.subscriptions.states import is_alive
from control_plane.unit import Unit
from metering.overage import CannotExpress, graduated
from metering.periods import Period, billing_period

_EXACT = Context(prec=100)

_USED = """
SELECT e.usage_type, e.quantity, e.price, m.scale, coalesce(u.quantity, 0)
  FROM (
       SELECT usage_type, quantity, overage_price AS price FROM tenant_limits WHERE tenant_id = %(tenant)s AND NOT hard
        UNION ALL
       SELECT l.usage_type, l.quantity, coalesce(o.price, l.overage_price)
         FROM plan_limits l
         LEFT JOIN plan_overage_prices o
           ON o.plan_id = l.plan_id AND o.usage_type = l.usage_type AND o.currency = %(currency)s
        WHERE l.plan_id = %(plan)s AND NOT l.hard
          AND NOT EXISTS (SELECT FROM tenant_limits t WHERE t.tenant_id = %(tenant)s AND t.usage_type = l.usage_type)
       ) e
  JOIN usage_types t USING (usage_type)
  LEFT JOIN meters m ON m.meter = t.meter
  LEFT JOIN LATERAL (
       SELECT sum(c.quantity) AS quantity FROM usage_counters c
        WHERE c.tenant_id = %(tenant)s AND c.usage_type = e.usage_type AND c.day >= %(start)s AND c.day < %(end)s
       ) u ON true
 WHERE e.quantity IS NOT NULL AND e.price > 0
 ORDER BY e.usage_type
"""


@dataclass(frozen=True)
class UsageLine:
    """What was used of a usage type in the period, and what of it is paid for."""

    usage_type: str
    used: Decimal
    included: Decimal
    overage: Decimal
    unit_price: Decimal
    """Of one unit, in the currency's major unit."""
    exact_amount: Decimal
    """In the smallest unit, before it is rounded."""
    amount: int


@dataclass(frozen=True)
class BaseLine:
    """Seats or another price that is paid in advance, for the period that comes next."""

    price_id: str | None
    quantity: int
    unit_amount: Decimal
    amount: int


@dataclass(frozen=True)
class InvoicePreview:
    """The invoice as it would be. Amounts are in the currency's smallest unit."""

    organization_id: str
    plan_id: str
    currency: str
    period_start: date
    period_end: date
    base: tuple[BaseLine, ...]
    usage: tuple[UsageLine, ...]
    base_total: int
    usage_total: int
    total: int


def preview(unit: Unit, tenant_id: str, today: date) -> InvoicePreview:
    """Of the billing period that `today` lies in. Raises Refusal for a tenant that is on no plan."""
    tenant = customers.tenant(unit, tenant_id)
    if tenant is None:
        raise not_found("organization")
    period = billing_period(today, tenant.anchor_day)
    rows = [row for row in subscriptions.of_tenant(unit, tenant_id) if row.status not in ("canceled", "incomplete_expired")]
    plan_id = rows[0].plan_id if rows and rows[0].plan_id is not None else tenant.plan_id
    if plan_id is None:
        raise Refusal(
            "precondition", "no_subscription", "This organization is on no plan, so nothing is billed; subscribe it first."
        )
    currency = rows[0].currency if rows else _currency(unit, plan_id)
    usage = _usage(unit, tenant_id, plan_id, currency, period)
    base = _base(unit, rows[0].subscription_id, period) if rows else ()
    base_total, usage_total = sum(line.amount for line in base), sum(line.amount for line in usage)
    return InvoicePreview(
        organization_id=tenant_id,
        plan_id=plan_id,
        currency=currency,
        period_start=period.start,
        period_end=period.end,
        base=base,
        usage=usage,
        base_total=base_total,
        usage_total=usage_total,
        total=base_total + usage_total,
    )


def usage_line(usage_type: str, used: Decimal, included: Decimal, price: Decimal, scale: int, currency: str) -> UsageLine:
    """What is billed of a usage type. Raises Refusal for a price that the provider cannot bill exactly."""
    try:
        billed = graduated(included, price, scale, currency)
    except CannotExpress as error:
        raise Refusal("precondition", "overage_not_priced", f"{usage_type}: {error}") from error
    with localcontext(_EXACT):
        units = int((used * scale).to_integral_value(rounding="ROUND_FLOOR"))
        exact = max(units - billed.included, 0) * billed.unit_amount
        amount = int(exact.quantize(Decimal(1), rounding=ROUND_HALF_UP))
        return UsageLine(usage_type, used, included, max(used - included, Decimal(0)), price, exact, amount)


def _usage(unit: Unit, tenant_id: str, plan_id: str, currency: str, period: Period) -> tuple[UsageLine, ...]:
    asked = {"tenant": tenant_id, "plan": plan_id, "currency": currency, "start": period.start, "end": period.end}
    rows: list[tuple[Any, ...]] = unit.pg.execute(_USED.encode(), asked).fetchall()
    return tuple(
        usage_line(usage_type, used, included, price, 1_000_000 if scale is None else scale, currency)
        for usage_type, included, price, scale, used in rows
    )


def _base(unit: Unit, subscription_id: str, period: Period) -> tuple[BaseLine, ...]:
    """What is paid in advance on the invoice at the period's end: of every part whose own period ends with it and goes on."""
    lines = []
    for part in subscriptions.parts(unit, subscription_id):
        if not is_alive(part) or part.cancel_at_period_end or part.period_end.date() != period.end:
            continue
        for item in part.items:
            if item.quantity is not None and item.unit_amount is not None:
                with localcontext(_EXACT):
                    amount = int((item.unit_amount * item.quantity).quantize(Decimal(1), rounding=ROUND_HALF_UP))
                lines.append(BaseLine(item.price_id, item.quantity, item.unit_amount, amount))
    return tuple(lines)


def _currency(unit: Unit, plan_id: str) -> str:
    row = unit.pg.execute(
        "SELECT coalesce(p.currency, (SELECT min(currency) FROM plan_prices c WHERE c.plan_id = p.plan_id), 'usd')"
        " FROM plans p WHERE plan_id = %s",
        (plan_id,),
    ).fetchone()
    assert row is not None, "a tenant's plan is one of the catalog"
    return str(row[0])
