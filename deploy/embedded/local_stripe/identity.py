"""Ids in Stripe's form."""

from __future__ import annotations

import secrets
import string

_LETTERS = string.ascii_letters + string.digits


def new_id(prefix: str, length: int = 14) -> str:
    """`cus_...`, `req_...`: random, never used twice in practice."""
    return f"{prefix}_" + "".join(secrets.choice(_LETTERS) for _ in range(length))
