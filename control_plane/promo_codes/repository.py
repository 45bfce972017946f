"""The tables of promo codes, and the statements on them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Integer,
    Numeric,
    Row,
    Table,
    Text,
    Uuid,
    func,
    insert,
    select,
    tuple_,
    update,
)

from control_plane.metadata import METADATA
from control_plane.unit import Unit
from metering.promotions import Terms

CODES: Final = Table(
    "promo_codes",
    METADATA,
    Column("promo_code_id", Uuid, primary_key=True),
    Column("code", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("percent_off", Numeric(5, 2)),
    Column("amount_off", BigInteger),
    Column("currency", Text),
    Column("duration", Text, nullable=False),
    Column("duration_months", Integer),
    Column("max_redemptions", Integer),
    Column("max_per_organization", Integer, nullable=False),
    Column("redeemed", Integer, nullable=False),
    Column("plan_ids", ARRAY(Text), nullable=False),
    Column("starts_at", DateTime(timezone=True)),
    Column("expires_at", DateTime(timezone=True)),
    Column("active", Boolean, nullable=False),
    Column("provider", Text, nullable=False),
    Column("provider_code_id", Text),
    Column("provider_coupon_id", Text),
    Column("provider_active", Boolean, nullable=False),
    Column("provider_redeemed", Integer, nullable=False),
    Column("provider_seen", BigInteger, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
)

REDEMPTIONS: Final = Table(
    "promo_redemptions",
    METADATA,
    Column("redemption_id", Uuid, primary_key=True),
    Column("promo_code_id", Uuid, nullable=False),
    Column("tenant_id", Text, nullable=False),
    Column("subscription_id", Text, nullable=False),
    Column("redeemed_at", DateTime(timezone=True), nullable=False),
    Column("released_at", DateTime(timezone=True)),
)

_HELD = REDEMPTIONS.c.released_at.is_(None)


def terms_of(row: Row[Any]) -> Terms:
    """What the rules look at."""
    return Terms(
        row.active and row.provider_active,
        row.provider_code_id is not None,
        row.starts_at,
        row.expires_at,
        row.max_redemptions,
        row.redeemed,
        row.max_per_organization,
        frozenset(row.plan_ids),
        row.currency,
    )


def add(unit: Unit, values: dict[str, Any]) -> None:
    """Adds a code. Raises sqlalchemy.exc.IntegrityError where an active one has the same text."""
    unit.sql.execute(insert(CODES).values(values))


def by_id(unit: Unit, promo_code_id: UUID, *, lock: bool = False) -> Row[Any] | None:
    """The code; `lock` until the unit ends."""
    found = select(CODES).where(CODES.c.promo_code_id == promo_code_id)
    return unit.sql.execute(found.with_for_update() if lock else found).first()


def by_code(unit: Unit, code: str, *, lock: bool = False) -> Row[Any] | None:
    """The active code of this text, else the newest one that was."""
    found = (
        select(CODES)
        .where(func.lower(CODES.c.code) == code.lower())
        .order_by(CODES.c.active.desc(), CODES.c.created_at.desc())
        .limit(1)
    )
    return unit.sql.execute(found.with_for_update() if lock else found).first()


def by_provider(unit: Unit, provider: str, code_id: str, reference: UUID | None) -> Row[Any] | None:
    """The code that the provider has under this id, or that is ours by reference and not yet known to be the provider's."""
    mine = (CODES.c.provider == provider) & (CODES.c.provider_code_id == code_id)
    if reference is not None:
        mine |= (CODES.c.provider == provider) & (CODES.c.promo_code_id == reference) & CODES.c.provider_code_id.is_(None)
    return unit.sql.execute(select(CODES).where(mine).with_for_update()).first()


def of_coupon(unit: Unit, coupon_id: str, most: int) -> list[str]:
    """The provider's ids of the codes that give this coupon."""
    found = select(CODES.c.provider_code_id).where(CODES.c.provider_coupon_id == coupon_id).limit(most)
    return [str(code_id) for code_id in unit.sql.scalars(found) if code_id is not None]


def change(unit: Unit, promo_code_id: UUID, **values: Any) -> None:
    """Sets columns of a code."""
    unit.sql.execute(update(CODES).where(CODES.c.promo_code_id == promo_code_id).values(values))


def page(unit: Unit, after: tuple[datetime, UUID] | None, count: int) -> Sequence[Row[Any]]:
    """Codes, newest first, behind a place."""
    found = select(CODES).order_by(CODES.c.created_at.desc(), CODES.c.promo_code_id.desc()).limit(count)
    if after is not None:
        found = found.where(tuple_(CODES.c.created_at, CODES.c.promo_code_id) < after)
    return unit.sql.execute(found).all()


def used_by(unit: Unit, promo_code_id: UUID, tenant_id: str) -> int:
    """How often the tenant has redeemed it, what was given back left out."""
    counted = select(func.count()).where(
        _HELD, REDEMPTIONS.c.promo_code_id == promo_code_id, REDEMPTIONS.c.tenant_id == tenant_id
    )
    return unit.sql.scalar(counted) or 0


def redemption(unit: Unit, promo_code_id: UUID, subscription_id: str) -> Row[Any] | None:
    """What the subscription holds of the code."""
    return unit.sql.execute(
        select(REDEMPTIONS).where(
            _HELD, REDEMPTIONS.c.promo_code_id == promo_code_id, REDEMPTIONS.c.subscription_id == subscription_id
        )
    ).first()


def redeem(unit: Unit, redemption_id: UUID, promo_code_id: UUID, tenant_id: str, subscription_id: str) -> None:
    """Takes a use; the code's row is locked by the caller."""
    unit.sql.execute(
        insert(REDEMPTIONS).values(
            redemption_id=redemption_id, promo_code_id=promo_code_id, tenant_id=tenant_id, subscription_id=subscription_id
        )
    )
    unit.sql.execute(update(CODES).where(CODES.c.promo_code_id == promo_code_id).values(redeemed=CODES.c.redeemed + 1))


def release(unit: Unit, redemption_id: UUID) -> Row[Any] | None:
    """Gives a use back; what it was, None where it is back already. The code's row first, as whoever redeems locks it."""
    mine = REDEMPTIONS.c.redemption_id == redemption_id
    code = select(REDEMPTIONS.c.promo_code_id).where(mine).scalar_subquery()
    unit.sql.execute(select(CODES.c.promo_code_id).where(CODES.c.promo_code_id == code).with_for_update())
    released = unit.sql.execute(
        update(REDEMPTIONS).where(mine, _HELD).values(released_at=func.now()).returning(*REDEMPTIONS.c)
    ).first()
    if released is not None:
        given_back = CODES.c.redeemed - 1
        unit.sql.execute(update(CODES).where(CODES.c.promo_code_id == released.promo_code_id).values(redeemed=given_back))
    return released
