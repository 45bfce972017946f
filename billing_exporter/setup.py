"""Makes Stripe hold what an export needs: a meter for each of the catalog's, a customer for each tenant.

Idempotent: what is there is adopted, what was half done is finished. A customer is found again by the tenant in its
metadata, so a crash between creating it and writing its id down makes no second one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, assert_never

from psycopg import Connection

from billing_exporter.gateway import Gateway, GatewayAway, GatewayError, GatewayHalted, StripeMeter
from runtime import postgres
from runtime.exits import Exit, MeterlineExit
from runtime.settings import Settings

TENANTS_MAX = 1_000_000

Action = Literal["ok", "create", "reactivate", "adopt", "wrong"]


@dataclass(frozen=True)
class MeterStep:
    """What a meter of the catalog needs at Stripe."""

    meter: str
    formula: Literal["last", "sum"]
    action: Action
    stripe_id: str | None
    reason: str = ""


@dataclass(frozen=True)
class CustomerStep:
    """What a tenant needs at Stripe."""

    tenant_id: str
    name: str
    action: Action
    customer_id: str | None
    reason: str = ""


@dataclass(frozen=True)
class SetupPlan:
    """All steps; `wrong` ones need a person."""

    meters: tuple[MeterStep, ...]
    customers: tuple[CustomerStep, ...]

    @property
    def steps(self) -> list[MeterStep | CustomerStep]:
        """Meters first."""
        return [*self.meters, *self.customers]

    @property
    def wrong(self) -> list[MeterStep | CustomerStep]:
        """What setup cannot put right."""
        return [step for step in self.steps if step.action == "wrong"]

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """How many steps of each kind."""
        return {
            "meters": dict(Counter(step.action for step in self.meters)),
            "customers": dict(Counter(step.action for step in self.customers)),
        }

    @property
    def changes(self) -> bool:
        """Whether applying would do anything."""
        return any(step.action in ("create", "reactivate", "adopt") for step in self.steps)


def ensure_meters_and_customers(settings: Settings, gateway: Gateway) -> SetupPlan:
    """Plans and applies in one go; returns the plan that was applied. Raises MeterlineExit with the remedy.

    A live key is refused: creating customers at the real Stripe is not for a program to decide alone.
    """
    with postgres.connect(settings) as connection:
        plan = plan_setup(connection, gateway)
        connection.commit()
        apply_setup(connection, gateway, plan)
    return plan


def plan_setup(connection: Connection[Any], gateway: Gateway, *, live: bool = False) -> SetupPlan:
    """What setup would do; reads only. Raises MeterlineExit for a live key without `live`, a wrong key, and a Stripe that is
    away."""
    refuse_by_mode(gateway.livemode, live)
    try:
        meters = tuple(_meter_steps(connection, gateway.meters()))
        customers = tuple(_customer_steps(connection, gateway))
    except GatewayError as error:
        raise as_exit(error) from error
    return SetupPlan(meters, customers)


def refuse_by_mode(livemode: bool, live: bool) -> None:
    """A live key needs the word, and the word a live key. Raises MeterlineExit."""
    if livemode and not live:
        raise MeterlineExit(
            Exit.SETTINGS,
            "METERLINE_STRIPE_SECRET_KEY is a live key, and without --live setup works with a test key only: try it with one,"
            " then repeat with --live",
        )
    if live and not livemode:
        raise MeterlineExit(
            Exit.SETTINGS, "--live was given, and METERLINE_STRIPE_SECRET_KEY is a test key: leave out one of them"
        )


def apply_setup(connection: Connection[Any], gateway: Gateway, plan: SetupPlan) -> None:
    """Does what can be done, committing each customer's id as soon as Stripe has given it. Raises MeterlineExit, at the
    end for what is wrong: one tenant's trouble keeps nobody else from being set up."""
    try:
        for meter in plan.meters:
            _apply_meter(gateway, meter)
        for customer in plan.customers:
            _apply_customer(connection, gateway, customer)
    except GatewayError as error:
        raise as_exit(error) from error
    if plan.wrong:
        raise MeterlineExit(Exit.FAILED, "; ".join(step.reason for step in plan.wrong[:10]))


def _meter_steps(connection: Connection[Any], at_stripe: list[StripeMeter]) -> Iterator[MeterStep]:
    found: dict[str, StripeMeter] = {}
    for there in sorted(at_stripe, key=lambda meter: meter.active):
        found[there.meter] = there
    wanted = connection.execute("SELECT meter, mode FROM meters ORDER BY meter").fetchall()
    for meter, mode in wanted:
        held = found.get(meter)
        if held is None:
            yield MeterStep(meter, mode, "create", None)
        elif held.formula != mode:
            yield MeterStep(
                meter,
                mode,
                "wrong",
                held.id,
                f"meter {meter} adds up by {held.formula} at Stripe and by {mode} in the catalog, and Stripe's never changes:"
                " deactivate it there, or give the catalog's another name",
            )
        else:
            yield MeterStep(meter, mode, "ok" if held.active else "reactivate", held.id)


def _customer_steps(connection: Connection[Any], gateway: Gateway) -> Iterator[CustomerStep]:
    tenants = connection.execute(
        "SELECT tenant_id, name, stripe_customer_id FROM tenants ORDER BY tenant_id LIMIT %s", (TENANTS_MAX,)
    ).fetchall()
    ids: set[str] = set()
    of_tenant: dict[str, list[str]] = {}
    for customer in gateway.customers():
        ids.add(customer.id)
        if customer.tenant_id is not None:
            of_tenant.setdefault(customer.tenant_id, []).append(customer.id)
    for tenant, name, customer_id in tenants:
        named = of_tenant.get(tenant, [])
        if customer_id is not None:
            gone = f"tenant {tenant}: Stripe has no customer {customer_id} (deleted, or of another account)"
            yield (
                CustomerStep(tenant, name, "ok", customer_id)
                if customer_id in ids
                else CustomerStep(tenant, name, "wrong", customer_id, gone)
            )
        elif not named:
            yield CustomerStep(tenant, name, "create", None)
        elif len(named) == 1:
            yield CustomerStep(tenant, name, "adopt", named[0])
        else:
            yield CustomerStep(
                tenant, name, "wrong", None, f"tenant {tenant}: several customers name it ({', '.join(named[:5])})"
            )


def _apply_meter(gateway: Gateway, step: MeterStep) -> None:
    match step.action:
        case "create":
            gateway.create_meter(step.meter, step.meter, step.formula)
        case "reactivate":
            assert step.stripe_id is not None
            gateway.reactivate_meter(step.stripe_id)
        case "ok" | "adopt" | "wrong":
            pass
        case _:
            assert_never(step.action)


def _apply_customer(connection: Connection[Any], gateway: Gateway, step: CustomerStep) -> None:
    if step.action not in ("create", "adopt"):
        return
    customer_id = step.customer_id or gateway.create_customer(step.tenant_id, step.name).id
    connection.execute(
        "UPDATE tenants SET stripe_customer_id = %s WHERE tenant_id = %s AND stripe_customer_id IS NULL",
        (customer_id, step.tenant_id),
    )
    connection.commit()


def as_exit(error: GatewayError) -> MeterlineExit:
    """How a command ends when Stripe refuses or is away, with the remedy."""
    if isinstance(error, GatewayHalted):
        return MeterlineExit(Exit.SETTINGS, f"Stripe refuses the key ({error}); set METERLINE_STRIPE_SECRET_KEY right")
    if isinstance(error, GatewayAway):
        return MeterlineExit(Exit.UNREACHABLE, f"Stripe does not answer ({error}); run again when it does")
    return MeterlineExit(Exit.FAILED, f"Stripe refused ({error})")
