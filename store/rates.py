"""The rates of the catalog: what a model's tokens and an operation cost in credits on a day, and who pays for an overrun."""

from __future__ import annotations

from datetime import date
from typing import Any

from psycopg import Connection

from metering.credits import Overrun
from metering.rates import ModelPrice, OperationPrice, price_units
from store.steps import Ask, Steps, run

_IN_FORCE = """
SELECT r.per_tokens, p.valid_from, p.valid_until, p.input, p.output, p.cached, p.each
  FROM rates r
  LEFT JOIN LATERAL (SELECT * FROM rate_prices o WHERE o.rate = r.rate AND o.valid_from <= %(on)s
                      ORDER BY o.valid_from DESC LIMIT 1) p ON true
 WHERE r.rate = %(rate)s
"""

_OVERRUN = "SELECT p.credit_overrun FROM tenants t JOIN plans p USING (plan_id) WHERE t.tenant_id = %(tenant_id)s"


class RateRefused(Exception):
    """There is no such price on that day; the message names the remedy."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def model_price(connection: Connection[Any], model_id: str, on: date) -> ModelPrice:
    """What the model's tokens cost on that UTC day. Raises RateRefused: unknown_model, rate_not_valid."""
    row = _in_force(connection, model_id, on)
    if row is None or row[0] is None:
        raise RateRefused("unknown_model", f"No model {model_id[:64]!a} has a rate; add it under `rates` in the catalog.")
    per_tokens, valid_from, *_, each = row
    prices = (price_units(price) for price in row[3:6])
    assert each is None
    return ModelPrice(model_id, valid_from, per_tokens, *prices)


def operation_price(connection: Connection[Any], operation: str, on: date) -> OperationPrice:
    """What the operation costs on that UTC day. Raises RateRefused: unknown_operation, rate_not_valid."""
    row = _in_force(connection, operation, on)
    if row is None or row[0] is not None:
        raise RateRefused(
            "unknown_operation", f"No operation {operation[:64]!a} has a rate; add it under `rates` in the catalog."
        )
    return OperationPrice(operation, row[1], price_units(row[6]))


def overrun(tenant_id: str) -> Steps[Overrun]:
    """What pays for more than a hold, as the tenant's plan says; the balance where it has none."""
    rows = yield Ask(_OVERRUN, {"tenant_id": tenant_id})
    return rows[0][0] if rows else "balance"


def overrun_of(connection: Connection[Any], tenant_id: str) -> Overrun:
    """The same, asked at once."""
    return run(connection, overrun(tenant_id))


def _in_force(connection: Connection[Any], rate: str, on: date) -> tuple[Any, ...] | None:
    row = connection.execute(_IN_FORCE, {"rate": rate, "on": on}).fetchone()
    if row is None:
        return None
    _, valid_from, valid_until, *_ = row
    if valid_from is None or (valid_until is not None and valid_until <= on):
        raise RateRefused("rate_not_valid", f"The rate {rate[:64]!a} has no price on {on}; add one under its `prices`.")
    return tuple(row)
