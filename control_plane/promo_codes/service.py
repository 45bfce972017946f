"""Promo codes: made and mirrored to the provider, validated, redeemed.

Redeeming locks the code's row, so that of any number who ask at once exactly as many succeed as uses are left. A use that was
taken for a subscription that the provider then refuses is given back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID, uuid4

from sqlalchemy import Row
from sqlalchemy.exc import IntegrityError

from control_plane.promo_codes import repository
from control_plane.promo_codes.schemas import PromoCode, PromoCodeOrder, Redemption, Validity
from control_plane.provider import values
from control_plane.provider.observing import ticket
from control_plane.provider.port import Provider
from control_plane.refusals import Refusal, not_found
from control_plane.unit import Actor, Unit, Units
from metering.promotions import SAYS, Reason, refused
from store.audit import Entry

CODES_OF_COUPON_MAX: Final = 100

_TERMS: Final = ("percent_off", "amount_off", "currency", "duration", "duration_months", "max_redemptions",
                 "max_per_organization", "plan_ids", "starts_at", "expires_at", "name")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Redeemed:
    """A use that is the subscription's."""

    redemption_id: UUID
    promo_code_id: UUID
    provider_code_id: str
    redeemed_at: datetime
    new: bool
    """False: it was the subscription's before."""


def create(units: Units, provider: Provider, actor: Actor, order: PromoCodeOrder) -> PromoCode:
    """Makes a code and has the provider make it, in steps that can be resumed: ordering the same again goes on.

    1. our row, with the id under which the provider is asked; 2. the provider's code and coupon; 3. their ids in our row.
    Raises Refusal where an active code has this text and other terms, ProviderError where the provider refuses.
    """
    # 1.
    with units.begin(actor) as unit:
        row, new = _mine(unit, provider.name, order)
    if row.provider_code_id is None:
        # 2. Under our id. What an earlier try made long ago is found, not made again.
        seen = ticket(units, actor)
        made = None if new else provider.find_promotion_code(row.code)
        if made is None or made.reference != str(row.promo_code_id):
            seen = ticket(units, actor)
            made = provider.create_promotion_code(_provider_order(row), f"promo-code-{row.promo_code_id}")
        # 3.
        with units.begin(actor) as unit:
            converge(unit, provider.name, made, seen)
    with units.begin(actor) as unit:
        return show(unit, row.promo_code_id)


def deactivate(units: Units, provider: Provider, actor: Actor, promo_code_id: UUID) -> PromoCode:
    """Nobody gets the code any more; who has it keeps it. Ours first, so that a provider that is away stops nothing."""
    with units.begin(actor) as unit:
        row = repository.by_id(unit, promo_code_id, lock=True)
        if row is None:
            raise not_found("promo code")
        if row.active:
            repository.change(unit, promo_code_id, active=False)
            unit.audit(Entry("promo_code.deactivated", str(promo_code_id), {"active": True}, {"active": False}))
    if row.provider_code_id is not None and row.provider_active:
        seen = ticket(units, actor)
        found = provider.deactivate_promotion_code(row.provider_code_id, f"promo-code-off-{promo_code_id}")
        with units.begin(actor) as unit:
            converge(unit, provider.name, found, seen)
    with units.begin(actor) as unit:
        return show(unit, promo_code_id)


def show(unit: Unit, promo_code_id: UUID) -> PromoCode:
    """The code. Raises Refusal."""
    row = repository.by_id(unit, promo_code_id)
    if row is None:
        raise not_found("promo code")
    return PromoCode.of(row)


def listed(unit: Unit, after: tuple[datetime, UUID] | None, limit: int) -> Sequence[PromoCode]:
    """Up to `limit` + 1 codes, newest first: one more than a page tells whether there is a next one."""
    return [PromoCode.of(row) for row in repository.page(unit, after, limit + 1)]


def place_of(after: tuple[str | int, ...] | None) -> tuple[datetime, UUID] | None:
    """The place in the list that a cursor names. Raises Refusal."""
    if after is None:
        return None
    at, promo_code_id = after
    try:
        return datetime.fromisoformat(str(at)), UUID(str(promo_code_id))
    except ValueError:
        raise Refusal("invalid", "bad_cursor", "This is no cursor of this list; send the last page's nextCursor.") from None


def validate(unit: Unit, tenant_id: str, code: str, plan_id: str | None, currency: str | None) -> Validity:
    """Whether the tenant may redeem it now. Takes nothing."""
    row = repository.by_code(unit, code)
    if row is None:
        return Validity(valid=False, reason="unknown_code", message=_UNKNOWN, code=code)
    reason = _reason(unit, row, tenant_id, plan_id, currency)
    return Validity(
        valid=reason is None,
        reason=reason,
        message=None if reason is None else SAYS[reason],
        code=row.code,
        percent_off=row.percent_off,
        amount_off=row.amount_off,
        currency=row.currency,
        duration=row.duration,
        duration_months=row.duration_months,
    )


def redeem(unit: Unit, tenant_id: str, code: str, *, plan_id: str | None, currency: str | None, subscription_id: str) -> Redeemed:
    """Takes a use of the code for the subscription, once: asked again, it answers the same use.

    Raises Refusal, and then nothing was taken.
    """
    row = repository.by_code(unit, code, lock=True)
    if row is None:
        raise Refusal("precondition", "promo_code_unknown_code", _UNKNOWN)
    held = repository.redemption(unit, row.promo_code_id, subscription_id)
    if held is not None:
        return Redeemed(held.redemption_id, row.promo_code_id, row.provider_code_id, held.redeemed_at, False)
    reason = _reason(unit, row, tenant_id, plan_id, currency)
    if reason is not None:
        raise Refusal("precondition", f"promo_code_{reason}", SAYS[reason])
    redemption_id = uuid4()
    repository.redeem(unit, redemption_id, row.promo_code_id, tenant_id, subscription_id)
    unit.audit(
        Entry(
            "promo_code.redeemed",
            str(row.promo_code_id),
            after={"code": row.code, "subscription_id": subscription_id},
            tenant_id=tenant_id,
        )
    )
    taken = repository.redemption(unit, row.promo_code_id, subscription_id)
    assert taken is not None
    return Redeemed(redemption_id, row.promo_code_id, row.provider_code_id, taken.redeemed_at, True)


def redemption(unit: Unit, code: str, subscription_id: str) -> Redemption:
    """The use that a subscription holds of a code. Raises Refusal."""
    row = repository.by_code(unit, code)
    held = None if row is None else repository.redemption(unit, row.promo_code_id, subscription_id)
    if row is None or held is None:
        raise not_found("redemption")
    return Redemption(
        id=held.redemption_id,
        code=row.code,
        organization_id=held.tenant_id,
        subscription_id=subscription_id,
        redeemed_at=held.redeemed_at,
    )


def release(unit: Unit, redemption_id: UUID) -> None:
    """Gives a use back; nothing where that was done before."""
    row = repository.release(unit, redemption_id)
    if row is not None:
        entry = Entry(
            "promo_code.released", str(row.promo_code_id), {"subscription_id": row.subscription_id}, None, row.tenant_id
        )
        unit.audit(entry)


def converge(unit: Unit, provider: str, found: values.PromotionCode, seen: int) -> bool:
    """Takes over what was read of the provider with the ticket `seen`; whether it was news. One not made here is left alone."""
    row = repository.by_provider(unit, provider, found.id, _uuid(found.reference))
    if row is None:
        return False
    news = {
        "provider_code_id": found.id,
        "provider_coupon_id": found.coupon_id,
        "provider_active": found.active,
        "provider_redeemed": found.redeemed,
    }
    return _mirror(unit, row, news, seen)


def forget(unit: Unit, provider: str, code_id: str, seen: int) -> bool:
    """The provider gives it to nobody any more, for the code or what it gives is gone; whether that was news."""
    row = repository.by_provider(unit, provider, code_id, None)
    return row is not None and _mirror(unit, row, {"provider_active": False}, seen)


def _mirror(unit: Unit, row: Row[Any], news: dict[str, Any], seen: int) -> bool:
    if row.provider_seen >= seen:
        return False
    before = {name: getattr(row, name) for name in news}
    repository.change(unit, row.promo_code_id, **news, provider_seen=seen)
    if before == news:
        return False
    unit.audit(Entry("promo_code.mirrored", str(row.promo_code_id), before, news))
    return True


def provider_codes_of(unit: Unit, coupon_id: str) -> list[str]:
    """The provider's ids of our codes that give this coupon."""
    return repository.of_coupon(unit, coupon_id, CODES_OF_COUPON_MAX)


_UNKNOWN: Final = "There is no such code; check its spelling."


def _reason(unit: Unit, row: Row[Any], tenant_id: str, plan_id: str | None, currency: str | None) -> Reason | None:
    used = repository.used_by(unit, row.promo_code_id, tenant_id)
    return refused(repository.terms_of(row), datetime.now(UTC), used, plan_id, currency)


def _mine(unit: Unit, provider: str, order: PromoCodeOrder) -> tuple[Row[Any], bool]:
    """(the row of this order, whether it is new and not an earlier try's)."""
    found = repository.by_code(unit, order.code, lock=True)
    if found is not None and found.active:
        if any(getattr(found, name) != getattr(order, name) for name in _TERMS):
            raise _taken(order.code)
        return found, False
    promo_code_id = uuid4()
    terms = {name: getattr(order, name) for name in _TERMS}
    try:
        with unit.sql.begin_nested():
            repository.add(unit, {"promo_code_id": promo_code_id, "code": order.code, "provider": provider, **terms})
    except IntegrityError:
        # Somebody ordered the same text at the same time.
        raise _taken(order.code) from None
    unit.audit(Entry("promo_code.created", str(promo_code_id), after=order.model_dump(mode="json")))
    row = repository.by_id(unit, promo_code_id)
    assert row is not None
    return row, True


def _taken(code: str) -> Refusal:
    return Refusal(
        "conflict",
        "promo_code_exists",
        f"There is an active code {code} with other terms; deactivate it, or choose another text.",
    )


def _provider_order(row: Row[Any]) -> values.PromotionCodeOrder:
    return values.PromotionCodeOrder(
        reference=str(row.promo_code_id),
        code=row.code,
        percent_off=row.percent_off,
        amount_off=row.amount_off,
        # Of a percentage the currency is our restriction alone.
        currency=row.currency if row.amount_off is not None else None,
        duration=row.duration,
        duration_months=row.duration_months,
        max_redemptions=row.max_redemptions,
        expires_at=row.expires_at,
    )


def _uuid(reference: str | None) -> UUID | None:
    try:
        return None if reference is None else UUID(reference)
    except ValueError:
        return None
