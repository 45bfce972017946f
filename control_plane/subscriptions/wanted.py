"""What the provider is to hold for a subscription, and what has to be changed for it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from control_plane.provider.values import ItemChange, ItemOrder, Subscription
from control_plane.subscriptions.states import Cycle

PartInterval = Literal["month", "year"]


@dataclass(frozen=True)
class WantedPart:
    """One subscription at the provider. `base`: the part that is paid for in advance, and may be refused."""

    interval: PartInterval
    items: tuple[ItemOrder, ...]
    base: bool


def parts_of(
    cycle: Cycle, base_price_id: str, quantity: int, overage_price_ids: Sequence[str], addons: Sequence[ItemOrder]
) -> tuple[WantedPart, ...]:
    """The parts of a subscription, what cannot be refused first. Usage is billed by the month, so a year has a part beside it."""
    paid = (ItemOrder(base_price_id, quantity), *addons)
    usage = tuple(ItemOrder(price_id) for price_id in overage_price_ids)
    if cycle == "monthly":
        return (WantedPart("month", (*paid, *usage), base=True),)
    yearly = WantedPart("year", paid, base=True)
    return (WantedPart("month", usage, base=False), yearly) if usage else (yearly,)


def item_changes(current: Subscription, wanted: Sequence[ItemOrder]) -> tuple[ItemChange, ...]:
    """What leads from the items that are there to those that are wanted; nothing where they are the same.

    A price that gives way to another of its kind (seats to seats) is changed in place, so that what was paid for it is
    made good in one proration.
    """
    changes: list[ItemChange] = []
    missing = {item.price_id: item for item in wanted}
    leaving = []
    for item in current.items:
        order = missing.pop(item.price_id, None)
        if order is None:
            leaving.append(item)
        elif order.quantity is not None and order.quantity != item.quantity:
            changes.append(ItemChange(id=item.id, quantity=order.quantity))
    coming = list(missing.values())
    for item in leaving:
        heir = next((order for order in coming if item.quantity is not None and order.quantity is not None), None)
        if heir is None:
            changes.append(ItemChange(id=item.id, deleted=True))
        else:
            coming.remove(heir)
            changes.append(ItemChange(id=item.id, price_id=heir.price_id, quantity=heir.quantity))
    changes += [ItemChange(price_id=order.price_id, quantity=order.quantity) for order in coming]
    return tuple(changes)


def reference_of(subscription_id: str, operation_id: str, interval: PartInterval) -> str:
    """By which a part is found again at the provider: whose it is, and which operation made it."""
    return f"{subscription_id}.{operation_id}.{interval}"


def subscription_of(reference: str | None) -> tuple[str, str] | None:
    """(subscription, operation) of a reference that is ours, None of any other."""
    pieces = (reference or "").split(".")
    return (pieces[0], pieces[1]) if len(pieces) == 3 and pieces[0].startswith("sub_") else None
