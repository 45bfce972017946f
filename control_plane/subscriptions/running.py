"""How an operation comes to its end, however often it is begun again.

Each step asks the provider under the operation's own key, then records the answer in a transaction of its own. A step that is
taken again first looks whether it was done. What the provider refuses is undone; what it does not answer is tried later, by
`recover`, until it says one or the other.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from control_plane.customers import repository as customer_rows
from control_plane.customers import service as customers
from control_plane.payment_methods import attaching
from control_plane.promo_codes import service as promo_codes
from control_plane.provider import observing
from control_plane.provider.errors import Ambiguous, NotFound, ProviderError, Refused
from control_plane.provider.port import Provider
from control_plane.provider.refusing import refusal_of
from control_plane.provider.values import Subscription, SubscriptionChange, SubscriptionOrder
from control_plane.refusals import Refusal
from control_plane.subscriptions import operations, prices, repository
from control_plane.subscriptions.converging import converge
from control_plane.subscriptions.operations import Operation
from control_plane.subscriptions.states import is_alive, is_base
from control_plane.subscriptions.wanted import WantedPart, item_changes, reference_of
from control_plane.unit import Actor, Units
from runtime.crash import crash_point

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Work:
    units: Units
    provider: Provider
    operation: Operation
    actor: Actor

    def ask(self, call: Callable[[], Subscription]) -> Subscription:
        """One step: asks, and records the answer before it goes on."""
        seen = observing.ticket(self.units, self.actor)
        found = call()
        crash_point("subscriptions.answered")
        with self.units.begin(self.actor) as unit:
            converge(unit, self.provider.name, found, seen)
            operations.keep(unit, self.operation)
        crash_point("subscriptions.recorded")
        return found

    def living(self) -> list[Subscription]:
        """The parts that are not over, read anew from the provider; the base one last."""
        with self.units.begin(self.actor) as unit:
            known = [part for part in repository.parts(unit, self.operation.subscription_id) if is_alive(part)]
            meanings = prices.meanings(unit, self.provider.name, {item.price_id for part in known for item in part.items})
        fresh = [self.ask(lambda part=part: self.provider.subscription(part.id)) for part in known]  # type: ignore[misc]
        return sorted(
            (part for part in fresh if is_alive(part)),
            key=lambda part: any(is_base(item, meanings) for item in part.items),
        )


def advance(units: Units, provider: Provider, operation: Operation) -> None:
    """Brings the operation to its end. Raises Refusal: for what the provider refused, once it is undone; and `unavailable` for
    what it does not say, which is then tried again by `recover`."""
    work = _Work(units, provider, operation, Actor(operation.who, operation.request_id))
    try:
        if operation.state == "open":
            refusal = _attempt(work)
            if refusal is None:
                with units.begin(work.actor) as unit:
                    operations.finish(unit, operation)
                return
            with units.begin(work.actor) as unit:
                operation = operations.undo(unit, operation, refusal)
        _undo(_Work(units, provider, operation, work.actor))
        with units.begin(work.actor) as unit:
            operations.refused(unit, operation)
            if operation.wanted.redemption_id is not None:
                promo_codes.release(unit, operation.wanted.redemption_id)
    except ProviderError as error:
        # Refused and NotFound while undoing cannot be mended by trying; they are tried all the same, ever more rarely, and seen.
        logger.warning("a subscription's change waits for the provider", extra={"operation": operation.id, "error": error.code})
        with units.begin(work.actor) as unit:
            operations.wait(unit, operation, another_round=isinstance(error, Ambiguous) and error.ended)
        raise refusal_of(error) from error
    assert operation.refusal is not None
    raise Refusal(operation.refusal["kind"], operation.refusal["code"], operation.refusal["message"])  # type: ignore[arg-type]


def _attempt(work: _Work) -> Refusal | None:
    """Every step; what the provider refused. Raises the ProviderErrors that say nothing for good."""
    try:
        match work.operation.kind:
            case "create":
                _create(work)
            case "update":
                _update(work)
            case "cancel":
                _cancel(work)
            case "reactivate":
                part = _lead(work)
                work.ask(lambda: work.provider.reactivate(part.id, work.operation.key("reactivate")))
            case "pause":
                wanted = work.operation.wanted
                for part in work.living():
                    key = work.operation.key(f"pause:{part.id}")
                    work.ask(lambda p=part, k=key: work.provider.pause(p.id, wanted.pause_behavior, wanted.resumes_at, k))  # type: ignore[misc]
            case "resume":
                for part in work.living():
                    if part.pause is not None or part.status == "paused":
                        key = work.operation.key(f"resume:{part.id}")
                        work.ask(lambda p=part, k=key: work.provider.resume(p.id, k))  # type: ignore[misc]
    except (Refused, NotFound) as error:
        return refusal_of(error)
    except Refusal as refusal:
        if refusal.kind == "unavailable":
            raise Ambiguous("customer_unclear", refusal.message, ended=False) from refusal
        return refusal
    return None


def _create(work: _Work) -> None:
    """1. the customer; 2. the payment method; 3. each part."""
    customer_id = _customer(work)
    method_id = _method(work, customer_id)
    for part in work.operation.wanted.parts:
        _create_part(work, customer_id, part, method_id)


def _update(work: _Work) -> None:
    """1. the payment method; 2. parts that are new, as these may be refused; 3. parts that change; 4. parts that go."""
    wanted = work.operation.wanted
    customer_id = _customer(work)
    method_id = _method(work, customer_id)
    current = {part.interval: part for part in work.living()}
    for part in wanted.parts:
        if part.interval not in current:
            made = _create_part(work, customer_id, part, method_id)
            if made.status == "incomplete":
                raise Refusal("payment_required", "payment_failed", "The first payment failed. Use another payment method.")
    for part in wanted.parts:
        if part.interval in current:
            _change_part(work, current[part.interval], part, method_id)
    for interval in current.keys() - {part.interval for part in wanted.parts}:
        _end_part(work, current[interval], prorate=wanted.proration != "none")


def _cancel(work: _Work) -> None:
    """At the period's end the part that is paid for ends, and what bills its usage after it; at once all of them do."""
    wanted = work.operation.wanted
    if wanted.at_period_end:
        part = _lead(work)
        work.ask(lambda: work.provider.cancel_at_period_end(part.id, work.operation.key("cancel")))
        return
    for part in reversed(work.living()):
        _end_part(work, part, prorate=wanted.prorate)


def _undo(work: _Work) -> None:
    """What this operation made is ended."""
    if work.operation.kind not in ("create", "update"):
        return
    with work.units.begin(work.actor) as unit:
        customer_id = customer_rows.provider_id(unit, work.provider.name, work.operation.tenant_id)
    if customer_id is None:
        return
    for part in work.operation.wanted.parts:
        reference = reference_of(work.operation.subscription_id, work.operation.id, part.interval)
        found = work.provider.find_subscription(customer_id, reference)
        if found is not None and is_alive(found):
            _end_part(work, found, prorate=True)


def _create_part(work: _Work, customer_id: str, part: WantedPart, method_id: str | None) -> Subscription:
    operation, wanted = work.operation, work.operation.wanted
    reference = reference_of(operation.subscription_id, operation.id, part.interval)
    order = SubscriptionOrder(
        reference=reference,
        customer_id=customer_id,
        items=part.items,
        currency=wanted.currency,
        anchor_day=wanted.anchor_day,
        trial_end=wanted.trial_end,
        payment_method_id=method_id,
        promotion_code_id=wanted.promotion_code_id if part.base else None,
    )

    def make() -> Subscription:
        # Begun before: perhaps it was made, and its key may be forgotten by now, or replay a failure for ever.
        found = work.provider.find_subscription(customer_id, reference) if operation.tries else None
        return found or work.provider.create_subscription(order, operation.key(part.interval))

    return work.ask(make)


def _change_part(work: _Work, current: Subscription, part: WantedPart, method_id: str | None) -> None:
    wanted = work.operation.wanted
    change = SubscriptionChange(
        items=item_changes(current, part.items),
        proration=wanted.proration,
        payment_method_id=method_id if method_id != current.payment_method_id else None,
        promotion_code_id=wanted.promotion_code_id if part.base else None,
        trial_end=("now" if wanted.end_trial else wanted.trial_end) if current.status == "trialing" or wanted.trial_end else None,
    )
    if change == SubscriptionChange(proration=wanted.proration):
        return
    # The change follows from what is there, so the key does: the same key never goes with another change.
    said = hashlib.sha256(msgspec.json.encode(change)).hexdigest()[:16]
    key = work.operation.key(f"{part.interval}:{said}")
    work.ask(lambda: work.provider.update_subscription(current.id, change, key))


def _end_part(work: _Work, part: Subscription, *, prorate: bool) -> None:
    def end() -> Subscription:
        try:
            return work.provider.cancel_now(part.id, work.operation.key(f"end:{part.id}"), prorate=prorate)
        except NotFound:
            # It is over already, by this very step or by somebody else.
            return work.provider.subscription(part.id)

    work.ask(end)


def _lead(work: _Work) -> Subscription:
    living = work.living()
    if not living:
        raise Refusal("conflict", "subscription_over", "The subscription is over; create a new one.")
    return living[-1]


def _customer(work: _Work) -> str:
    with work.units.begin(work.actor) as unit:
        tenant = customer_rows.tenant(unit, work.operation.tenant_id)
    if tenant is None:
        raise Refusal("not_found", "not_found", "There is no such organization; check its id.")
    return customers.ensure(
        work.units, work.provider, tenant.tenant_id, name=tenant.name or tenant.tenant_id, email=None, actor=work.actor
    )


def _method(work: _Work, customer_id: str) -> str | None:
    token = work.operation.wanted.payment_method_id
    if token is None:
        return None
    return attaching.attach(
        work.units, work.provider, work.operation.tenant_id, customer_id, token,
        key=work.operation.key("method"), default=True, actor=work.actor,
    )  # fmt: skip
