"""Accounts as they stand, in the caller's unit. How they are made: `creating`."""

from __future__ import annotations

from control_plane.accounts import repository
from control_plane.accounts.schemas import Account
from control_plane.refusals import not_found
from control_plane.unit import Unit


def show(unit: Unit, app_id: str) -> Account:
    """The account with its organization and keys. Raises Refusal where there is none."""
    found = repository.account(unit, app_id)
    if found is None:
        raise not_found("account")
    return found
